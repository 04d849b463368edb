"""Costs read from the text of compiled programs.

Programs for the CPU are compiled here, and held against closed forms and XLA's own analysis.
`hlo_tpu.txt` and `hlo_gpu.txt` are texts of libtpu 0.0.42.1 (v5e) and jax[cuda13] 0.10.2 (H100),
trimmed by hand; their costs below are derived by hand.
"""

import functools
import itertools
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.objectives.contrastive import clip_loss
from mmjax.parallel.mesh import make_mesh
from mmjax.planning import hlo, hlo_cost

MESH = {"data": 2, "fsdp": 2, "tensor": 2}


def compiled(function, *shapes, dtype=jnp.float32):
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return jax.jit(function).lower(*arrays).compile()


def cost(function, *shapes):
    return hlo.analyse(compiled(function, *shapes).as_text(), {"data": 1})


def compiled_on_mesh(function, *arguments):
    """On 2 × 2 × 2 devices; arguments are (shape, spec of the sharding)."""
    mesh = make_mesh(2, 2, 2)
    arrays = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in arguments
    ]
    with jax.set_mesh(mesh):
        return hlo.analyse(jax.jit(function).lower(*arrays).compile().as_text(), mesh.shape)


def layer(x, w):
    return jnp.tanh(x @ w), None


def test_a_loop_counts_by_its_trips():
    scan = functools.partial(jax.lax.scan, layer)
    one = 2 * 32 * 64 * 64
    assert cost(lambda x, w: layer(x, w)[0], (32, 64), (64, 64)).flops == one
    assert cost(lambda x, w: scan(x, w)[0], (32, 64), (7, 64, 64)).flops == 7 * one


def test_nested_loops():
    def function(x, w):
        def outer(x, _):
            return jax.lax.scan(layer, x, w)[0], None

        return jax.lax.scan(outer, x, length=5)[0]

    assert cost(function, (32, 64), (3, 64, 64)).flops == 15 * 2 * 32 * 64 * 64


def test_a_slice_of_stacked_weights_counts_not_the_stack():
    def traffic(layers):
        x, w = (8, 64), (layers, 64, 64)
        return cost(lambda x, w: jax.lax.scan(layer, x, w)[0], x, w).hbm_bytes

    assert traffic(40) - traffic(20) == traffic(60) - traffic(40)  # linear, not quadratic


def test_the_rows_read_of_a_table_count_not_the_table():
    def traffic(rows):
        return cost(lambda table, x: table[x.astype(int) % 100], (rows, 64), (32,)).hbm_bytes

    assert 2 * 32 * 64 * 4 < traffic(1000) == traffic(2000) < 1000 * 64 * 4


def test_a_loop_that_depends_on_data_counts_once_with_a_warning():
    def function(x, w):
        return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: layer(x, w)[0], x)

    with pytest.warns(UserWarning, match="trips"):
        assert cost(function, (32, 64), (64, 64)).flops == 2 * 32 * 64 * 64


def test_the_costliest_branch_counts():
    def function(x, w):
        branches = [lambda x: x @ w, lambda x: x, lambda x: x @ w @ w]
        return jax.lax.switch(x[0, 0].astype(int), branches, x)

    assert cost(function, (32, 64), (64, 64)).flops == 2 * 2 * 32 * 64 * 64


def test_batched_product():
    program = compiled(
        lambda a, b: jnp.einsum("bhik,bhjk->bhij", a, b), (3, 5, 16, 8), (3, 5, 9, 8)
    )
    flops = hlo.analyse(program.as_text(), {"data": 1}).flops
    assert flops == 2 * 3 * 5 * 16 * 9 * 8 == program.cost_analysis()["flops"]


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("padding", [(0, 0), (2, 1)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("groups", [1, 4])
def test_convolution(stride, padding, dilation, groups):
    size, kernel, channels, features = 12, 4, 8, 16
    program = compiled(
        lambda x, w: jax.lax.conv_general_dilated(
            x,
            w,
            (stride, stride),
            (padding, padding),
            lhs_dilation=(dilation[0],) * 2,
            rhs_dilation=(dilation[1],) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        ),
        (2, size, size, channels),
        (kernel, kernel, channels // groups, features),
    )
    width = (size - 1) * dilation[0] + 1 + sum(padding)
    outputs = (width - (kernel - 1) * dilation[1] - 1) // stride + 1
    pixels = {padding[0] + dilation[0] * i for i in range(size)}
    taps = sum(
        o * stride + k * dilation[1] in pixels
        for o, k in itertools.product(range(outputs), range(kernel))
    )
    expected = 2 * 2 * taps**2 * features * channels // groups
    assert hlo.analyse(program.as_text(), {"data": 1}).flops == expected


def test_agrees_with_xla_where_there_is_no_loop():
    def mlp(x, w):
        return ((jnp.tanh(x @ w) @ w.T) ** 2).sum()

    program = compiled(jax.grad(mlp, (0, 1)), (512, 256), (256, 384))
    ours, theirs = hlo.analyse(program.as_text(), {"data": 1}), program.cost_analysis()
    assert ours.flops == 6 * 2 * 512 * 256 * 384  # two products forward, four backward
    assert ours.hbm_bytes == pytest.approx(theirs["bytes accessed"], rel=1e-4)
    assert not ours.collectives

    program = compiled(jnp.matmul, (512, 256), (256, 384))
    ours, theirs = hlo.analyse(program.as_text(), {"data": 1}), program.cost_analysis()
    assert ours.flops == theirs["flops"]
    assert ours.hbm_bytes == theirs["bytes accessed"]


def test_gradient_of_replicated_weights_is_reduced_over_data():
    def loss(w, x):
        return ((x @ w) ** 2).sum()

    result = compiled_on_mesh(jax.grad(loss), ((64, 32), P()), ((16, 64), P("data")))
    assert result.flops == 2 * 2 * 8 * 64 * 32  # forward and backward, half of the batch
    size = 64 * 32 * 4
    assert result.collectives == (hlo.Collective("all-reduce", ("data",), 1, 2 * (1 / 2) * size),)


def test_sharded_weights_are_gathered_in_every_trip():
    def function(x, w):
        def body(x, w):
            gathered = jax.lax.with_sharding_constraint(w, P())
            return jax.lax.with_sharding_constraint(layer(x, gathered)[0], P("data")), None

        return jax.lax.scan(body, x, w)[0]

    result = compiled_on_mesh(function, ((16, 64), P("data")), ((3, 64, 64), P(None, "fsdp")))
    size = 64 * 64 * 4
    assert result.collectives == (hlo.Collective("all-gather", ("fsdp",), 3, 3 * (1 / 2) * size),)
    assert result.flops == 3 * 2 * 8 * 64 * 64


def test_sums_over_tensor_and_both_batch_axes():
    def function(x, u, v):
        y = jax.lax.with_sharding_constraint(x @ u @ v, P(("data", "fsdp")))
        return y, y.sum()

    result = compiled_on_mesh(
        function,
        ((16, 32), P(("data", "fsdp"))),
        ((32, 64), P(None, "tensor")),
        ((64, 32), P("tensor")),
    )
    assert result.collectives == (
        hlo.Collective("all-reduce", ("data", "fsdp"), 1, 2 * (3 / 4) * 4),
        hlo.Collective("all-reduce", ("tensor",), 1, 2 * (1 / 2) * 4 * 32 * 4),
    )


def test_ring_loss_passes_tiles_to_the_neighbour():
    rows, width, devices = 8, 16, 4
    loss = functools.partial(clip_loss, implementation="ring")
    embeds = [((devices * rows, width), P(("data", "fsdp")))] * 2
    result = compiled_on_mesh(jax.value_and_grad(loss, (0, 1)), *embeds, ((), P()))
    permutes = [c for c in result.collectives if c.kind == "collective-permute"]
    # Forward: embeddings, ids, a maximum and a sum a column. Backward: the gradients besides.
    numbers = (width + 3) + (2 * width + 4)
    arrays = 4 + 6
    sent = devices * 4 * rows * numbers
    assert permutes == [
        hlo.Collective("collective-permute", ("data", "fsdp"), devices * arrays, sent)
    ]
    assert result.flops == devices * 4 * 2 * rows * rows * width  # one product forward, three back
    assert result.float32_flops == result.flops  # they are worked out exactly


@pytest.mark.parametrize(
    ("notation", "axes", "devices"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ("tensor",), 2),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("data",), 2),
        ("replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}", (), 1),
        ("replica_groups={}", ("data", "fsdp", "tensor"), 8),
        ("replica_groups=[2,4]<=[8]", ("fsdp", "tensor"), 4),
        ("replica_groups=[4,2]<=[4,2]T(1,0)", ("fsdp",), 2),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",), 2),
        ("replica_groups=[2,4]<=[2,2,2]T(1,0,2)", ("data", "tensor"), 4),
        ("replica_groups=mesh['axis_0'=8] {'axis_0'}", ("data", "fsdp", "tensor"), 8),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", ("data", "fsdp"), 4),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", ("data", "tensor"), 4),
        ("replica_groups=mesh['axis_0'=8] {'axis_0':(1)2}", ("data",), 2),
        ("replica_groups=mesh['axis_0'=8] {'axis_0':(2)4}", ("fsdp", "tensor"), 4),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", ("fsdp", "tensor"), 4),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", ("data",), 2),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=(0,1,4,5,2,3,6,7) {'a'}", ("fsdp",), 2),
        ("source_target_pairs={{0,2},{2,0},{1,3},{3,1}}", ("fsdp",), 2),
        ('frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_a="B"}', ("data",), 2),
        ('frontend_attributes={_xla_megascale_target="{1:4}x{0:1}"}', ("data", "fsdp"), 4),
        ("_xla_megascale_target={{100002->200000},{200002->100000}},_xla_a", ("data",), 2),
        ("source_target_pairs={{0,1},{1,2},{2,3},{3,0}}", ("fsdp", "tensor"), 2),
    ],
)
def test_axes_of_a_group(notation, axes, devices):
    attributes = f", channel_id=1, {notation}, use_global_device_ids=true, to_apply=%add"
    assert hlo_cost.group(attributes, MESH) == (axes, devices)


def test_a_mesh_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="index"):
        hlo_cost.group(", replica_groups={{0,1},{2,3}}", {"data": 2})


def test_tpu():
    """Six trips, to be read from the loop; VMEM (S(1)) and the chain of an async collective."""
    result = hlo.analyse(text("hlo_tpu.txt"), {"data": 2, "fsdp": 2, "tensor": 1})
    matrix = 2 * 8192 * 2048 * 2048
    heads = 2 * (4 * 2) * 64 * 64 * 64  # a product batched over 4 × 2, as a dilated convolution
    assert result.flops == 6 * (2 * matrix + heads)

    shard, saved = 1024 * 2048 * 2, 8192 * 2048 * 2  # of the weights, of the activations
    scalar = 128 * 4  # padded to a tile
    body = shard + saved + shard + scalar + 3 * scalar  # weights, saved, gradients; counter
    padded = 4 * 2 * 64 * 128 * 4  # [4, 2, 64, 64], its minor axis padded to 128
    entry = saved + padded + 6 * shard + 256 * 2 + 2 * scalar
    assert result.hbm_bytes == 6 * body + entry

    sent = 6 * shard  # a half of a whole layer, or the whole of a shard, or 2 (1/2) of it
    assert result.collectives == (
        hlo.Collective("all-gather", ("fsdp",), 6, sent),
        hlo.Collective("all-reduce", ("data",), 6, sent),
        hlo.Collective("reduce-scatter", ("fsdp",), 6, sent),
    )


@pytest.mark.parametrize("kind", ["f32", "bf16"])
@pytest.mark.parametrize("precision", ["", ", operand_precision={highest,highest}"])
def test_float32_products_at_the_highest_precision_count_apart(kind, precision):
    program = f"""
ENTRY %main (x: {kind}[8,4], y: {kind}[8,4]) -> f32[8,8] {{
  %x = {kind}[8,4]{{1,0}} parameter(0)
  %y = {kind}[8,4]{{1,0}} parameter(1)
  ROOT %r = f32[8,8]{{1,0}} convolution(%x, %y), dim_labels=bf_oi->bf{precision}
}}
"""
    result = hlo.analyse(program, {"data": 1})
    assert result.flops == 2 * 8 * 8 * 4
    assert result.float32_flops == (result.flops if kind == "f32" and precision else 0)


def test_gpu():
    """Products of cuBLAS and cuDNN, -start and -done, a copy to the host."""
    result = hlo.analyse(text("hlo_gpu.txt"), MESH)
    products = 2 * 256 * 256 * 512 + 2 * 32 * 64 * 64 * 64
    patches = 2 * 4 * 8 * 8 * 256 * (16 * 16 * 3)
    attention = 2 * 2 * (2 * 4 * 128 * 256) * 64
    assert result.flops == 3 * products + patches + attention + 2 * 4 * 16 * 256

    x, shard, weights, scores = 4 * 64 * 256 * 2, 128 * 512 * 2, 256 * 512 * 2, 32 * 64 * 64 * 4
    body = 8 + (2 * shard + 4 + shard)  # counter copied; a float32 slice cast to bfloat16
    body += 2 * (shard + weights) + (x + 2 * weights)  # two gathered; multiplied
    body += (2 * weights + scores) + 2 * x + 8  # multiplied; reduced; counter advanced
    body += (x + 4 + x) + 3 * x  # saved in place; added
    small, large = 4 * 16 * 4, 16 * 256 * 4
    entry = 2 * 393216 + 131072 + (large + large // 4)  # convolution; reduce-scatter
    entry += small + large + 2 * (large // 4)  # a product added to what is there
    entry += 2 * (small + large) + 2 * large + large  # permuted; all-to-all; to the host
    entry += 131072 + 2 * 262144 + 131072 + 4096  # attention: q, k, v, out, log-sum-exp
    assert result.hbm_bytes == 3 * body + entry

    assert result.collectives == (
        hlo.Collective("all-gather", ("fsdp",), 3, 3 * 2 * shard),
        hlo.Collective("all-reduce", ("tensor",), 3, 3 * 2 * (1 / 2) * x),
        hlo.Collective("all-to-all", ("data", "fsdp", "tensor"), 1, 7 / 8 * large),
        hlo.Collective("collective-permute", ("data",), 1, small + large),
        hlo.Collective("reduce-scatter", ("data", "fsdp"), 1, 3 / 4 * large),
    )


@pytest.mark.parametrize(
    ("opcode", "transfer", "kind"),
    [
        ("send", "ALL_REDUCE", "all-reduce"),
        ("send", "ONE_TO_ONE", "collective-permute"),
        ("recv", "ALL_REDUCE", "recv"),  # the send has counted
    ],
)
def test_collectives_between_slices(opcode, transfer, kind):
    instruction = hlo_cost.parse(
        f"(f32[64,8,128]{{2,1,0:T(8,128)}}, u32[], token[]) {opcode}(%bitcast.1, %after-all), "
        "channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_target="
        f'"{{1,2}}x{{0:3}}",_xla_megascale_transfer_type="{transfer}"}}'
    )
    assert instruction.kind == kind


@pytest.mark.parametrize(("kernel", "products"), [("fwd_residuals", 2), ("dkv_no_residuals", 5)])
def test_splash_attention(kernel, products):
    instruction = hlo_cost.parse(
        "(f32[2,256,128]{2,1,0:T(8,128)}, bf16[2,4,256,64]{3,2,1,0:T(8,128)(2,1)S(1)}) "
        "custom-call(%constant.6, %constant.12, %q, %k, %v), "
        'custom_call_target="tpu_custom_call", '
        f'metadata={{op_name="jit(f)/splash_mha_{kernel}/pallas_call"}}'
    )
    query, key = (2, 4, 256, 64), (2, 4, 512, 64)
    operands = ((1, 1, 1), (1, 1, 1), query, key, key)
    assert hlo_cost.flops(instruction, operands) == products * 2 * 2 * 4 * 256 * 512 * 64


def test_an_instruction_may_span_lines():
    """As that of a Pallas kernel whose metadata are printed on lines of their own."""
    program = """
ENTRY %main (p: f32[8,4]) -> f32[8,8] {
  %p = f32[8,4]{1,0} parameter(0)
  %kernel = f32[8,4]{1,0} custom-call(%p), custom_call_target="a", attributes={metadata={
"block": "{1}"
}}, metadata={op_name="kernel"}
  ROOT %dot = f32[8,8]{1,0} dot(%kernel, %p), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}
"""
    assert hlo.analyse(program, {"data": 1}).flops == 2 * 8 * 8 * 4


@pytest.mark.parametrize("direction", ["Forward", "BackwardInput", "BackwardFilter"])
def test_convolutions_of_cudnn(direction):
    image, kernel, output = (8, 33, 33, 16), (32, 3, 3, 16), (8, 17, 17, 32)
    result, operands = {
        "Forward": (output, (image, kernel)),
        "BackwardInput": (image, (output, kernel)),
        "BackwardFilter": (kernel, (image, output)),
    }[direction]
    dims = ",".join(map(str, result))
    instruction = hlo_cost.parse(
        f"(bf16[{dims}]{{3,2,1,0}}, u8[0]{{0}}) custom-call(%a, %b), "
        "window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, "
        f'custom_call_target="__cudnn$conv{direction}"'
    )
    taps = 17 * 3 - 2  # padding is met once at either end
    assert hlo_cost.flops(instruction, operands) == 2 * 8 * taps**2 * 32 * 16


def text(name):
    return (pathlib.Path(__file__).parent / name).read_text()
