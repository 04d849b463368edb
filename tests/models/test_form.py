"""The keys of a block's form: against float64 in PyTorch, and what each says of itself."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pytorch import F, torch

from mmjax import models
from mmjax.errors import UserError
from mmjax.models import rope, zoo
from mmjax.models.form import Form
from mmjax.models.layers import Block, repeat
from mmjax.models.parts import check_model
from mmjax.params import map_roles

ROWS, LENGTH, WIDTH, HEADS = 2, 5, 16, 2
ACTS = {"silu": lambda x: F.silu(x), "gelu": lambda x: F.gelu(x)}
FORMS = {  # form, activation, norm
    "RMSNorm, SwiGLU, no bias": (Form(rms_norm=True, gated=True, qkv_bias="none", bias=False),
                                 "silu", "pre"),
    "QK-norm, LayerScale, halves": (Form(qk_norm=True, layer_scale=0.3, rope_pairs="halves",
                                         qkv_bias="qv"), "gelu", "pre"),
    "EVA-02's, neighbours": (Form(gated=True, inner_norms=True, qkv_bias="qv"), "silu", "pre"),
    "after the sum": (Form(rms_norm=True, qk_norm=True, layer_scale=2.0, gated=True), "gelu",
                      "post"),
}  # fmt: skip


def reference(p, x, form, act, post, angles):
    """The block in PyTorch, from a tree of tensors."""

    def norm(name, y, tree=p):
        if form.rms_norm:
            return y * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * tree[name]["scale"]
        return F.layer_norm(y, y.shape[-1:], tree[name]["scale"], tree[name]["bias"], 1e-5)

    def linear(tree, y):
        return y @ tree["kernel"] + tree.get("bias", 0)

    def turned(y):  # [B, L, H, d], as complex numbers
        d = y.shape[-1]
        a, b = (y[..., : d // 2], y[..., d // 2 :]) if form.rope_pairs == "halves" else (
            y[..., ::2], y[..., 1::2])  # fmt: skip
        z = torch.complex(a, b) * torch.polar(torch.ones_like(angles), angles)[:, :, None]
        if form.rope_pairs == "halves":
            return torch.cat([z.real, z.imag], -1)
        return torch.stack([z.real, z.imag], -1).flatten(-2)

    def attention(y):
        own = p["attention"]
        q, k, v = (linear(own[n], y).reshape(ROWS, LENGTH, HEADS, -1)
                   for n in ("query", "key", "value"))  # fmt: skip
        if form.qk_norm:
            q, k = norm("norm_query", q, own), norm("norm_key", k, own)
        q, k = turned(q), turned(k)
        weights = (torch.einsum("blhd,bmhd->bhlm", q, k) / q.shape[-1] ** 0.5).softmax(-1)
        y = torch.einsum("bhlm,bmhd->blhd", weights, v).reshape(x.shape)
        return linear(own["out"], norm("norm_out", y, own) if form.inner_norms else y)

    def mlp(y):
        own, h = p["mlp"], linear(p["mlp"]["fc1"], y)
        h = ACTS[act](linear(own["gate"], y)) * h if form.gated else ACTS[act](h)
        return linear(own["fc2"], norm("norm", h, own) if form.inner_norms else h)

    for i, branch in ((1, attention), (2, mlp)):
        y = branch(x if post else norm(f"norm{i}", x)) * p.get(f"layer_scale{i}", 1)
        x = norm(f"norm{i}", x + y) if post else x + y
    return x


@pytest.mark.parametrize("name", FORMS)
def test_values_and_gradients_are_those_of_float64(name):
    form, act, norm = FORMS[name]
    block = Block(HEADS, 24, act, norm, 1e-5, False, "xla", 1, jnp.float32, form=form)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
    target = rng.normal(size=x.shape).astype(np.float32)
    angles = rng.uniform(-3, 3, (1, LENGTH, WIDTH // HEADS // 2)).astype(np.float32)
    call = functools.partial(block.apply, method=lambda b, y: b(y, None, angles=angles)[0])
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), x, None, angles=angles))["params"]
    params = jax.tree.map(lambda p: rng.normal(1, 0.4, p.shape).astype(np.float32) / 3, params)

    value, grads = jax.value_and_grad(lambda p: jnp.vdot(call({"params": p}, x), target))(params)
    theirs = jax.tree.map(lambda p: torch.tensor(p).double().requires_grad_(), params)
    result = reference(theirs, torch.tensor(x).double(), form, act, norm == "post",
                       torch.tensor(angles).double())  # fmt: skip
    expected = (result * torch.tensor(target)).sum()
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    for ours, other in zip(jax.tree.leaves(grads), jax.tree.leaves(theirs), strict=True):
        size = other.grad.abs().max().item()
        np.testing.assert_allclose(ours, other.grad.numpy(), atol=2e-5 * max(size, 1))


def test_only_the_distance_counts_on_a_line():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

    def product(i, j, pairs):
        at = [rope.line_angles(jnp.array([[p]]), 8, 100.0) for p in (i, j)]
        return float((rope.rotate(q, at[0], pairs) * rope.rotate(k, at[1], pairs)).sum())

    for pairs in ("interleaved", "halves"):
        assert product(3, 1, pairs) == pytest.approx(product(9, 7, pairs), abs=1e-5)
        assert abs(product(3, 1, pairs) - product(3, 2, pairs)) > 1e-3
    order = np.arange(8).reshape(2, 4).T.reshape(-1)  # neighbours of what halves pair
    angles = rope.line_angles(jnp.array([[5]]), 8, 100.0)
    np.testing.assert_allclose(
        rope.rotate(q[..., order], angles, "interleaved"),
        rope.rotate(q, angles, "halves")[..., order], atol=1e-6,
    )  # fmt: skip


def test_the_three_rules_of_a_grid():
    """A grid of 2 x 3, heads of 8: frequencies 1 and theta^(-1/2)."""
    grid = functools.partial(rope.grid_angles, rows=2, columns=3, head=8, theta=100.0)
    index = grid("index", native=0, first=1, class_token=True)
    assert index.shape == (7, 4)
    assert not index[0].any()
    np.testing.assert_allclose(index[6], [3, 0.3, 2, 0.2], rtol=1e-6)  # x = 3, then y = 2
    np.testing.assert_allclose(grid("index", native=6, first=0, class_token=True)[0],
                               [2, 0.2, 3, 0.3], rtol=1e-6)  # fmt: skip
    np.testing.assert_allclose(grid("index", native=0, first=0, class_token=False)[0], 0)
    np.testing.assert_allclose(grid("scaled", native=6, first=0, class_token=True)[5],
                               [3, 0.3, 4, 0.4], rtol=1e-6)  # fmt: skip
    np.testing.assert_allclose(
        grid("centres", native=0, first=0, class_token=True)[5],
        2 * np.pi * np.array([0.5, 0.05, 2 / 3, 0.2 / 3]), rtol=1e-6,
    )  # fmt: skip


def form_of(depth, drop_path=0.0, **fields):
    """The tiny model with blocks of one modern form in both towers."""
    config = zoo.config("tiny")
    keys = {"rms_norm": True, "qk_norm": True, "gated": True, "bias": False, "layer_scale": 0.5}
    for part in (config.image, config.text):
        part.update(**keys, drop_path=drop_path, depth=depth, unroll=False)
    config.text.update(position="none", rope=True)
    config.image.update(position="none", rope="centres", registers=3, mask_token=True, **fields)
    return config


def test_texts_that_share_a_row_or_are_read_token_by_token_are_turned_alike():
    config = form_of(1)
    del config["image"], config["logit"]
    model = models.from_config(config)
    params = models.init(model, jax.random.key(0))
    map_roles(lambda role, leaf: role.kind, params)  # none is unknown
    rng = np.random.default_rng(0)
    text = rng.integers(1, 500, (1, 6)).astype(np.int32)
    apply = functools.partial(model.apply, {"params": params})
    ones = jnp.ones((1, 6), bool)
    whole = apply({"text": text, "text_mask": ones}, ("text/tokens",))["text/tokens"]
    again = {"text": np.tile(text, 2), "text_mask": jnp.ones((1, 12), bool),
             "text_segment": np.repeat([[0, 1]], 6, axis=1)}  # fmt: skip
    packed = apply(again, ("text/tokens",))["text/tokens"]
    np.testing.assert_allclose(packed, np.tile(whole, (1, 2, 1)), atol=1e-5)

    cache = {"own": (jnp.zeros((1, 1, 6, 4, 16)),) * 2}
    for i in range(6):
        call = functools.partial(
            apply, text[:, i : i + 1], ones & (jnp.arange(6) <= i), cache=cache, position=i,
            method=lambda m, *args, **kwargs: m.text(("tokens",), *args, **kwargs),
        )  # fmt: skip
        found = call()
        cache = found["cache"]
        np.testing.assert_allclose(found["tokens"], whole[:, i : i + 1], atol=1e-5)


def test_registers_are_seen_and_not_pooled():
    config = form_of(1, pool="mean")
    model = models.from_config(config)
    params = models.init(model, jax.random.key(0))
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    out = model.apply({"params": params}, {"image": image}, ("image/tokens", "image/features"))
    tokens = out["image/tokens"]
    assert tokens.shape == (1, 3 + 16, 64)
    kernel = params["image"]["head"]["kernel"]
    np.testing.assert_allclose(out["image/features"], tokens[:, 3:].mean(1) @ kernel, atol=1e-5)
    params["image"]["register_embed"] += 1.0
    moved = model.apply({"params": params}, {"image": image}, ("image/features",))
    assert np.abs(moved["image/features"] - out["image/features"]).max() > 1e-3


def test_dropped_patches_take_their_angles_along():
    tower = models.from_config(form_of(1, patch_dropout=0.5)).module("image")
    x = jnp.broadcast_to(jnp.arange(17.0)[None, :, None], (6, 17, 1))  # the class token is 0
    angles = jnp.concatenate([jnp.zeros((1, 4, 1)), jnp.arange(1.0, 17)[None, :, None]], axis=1)
    drop = functools.partial(tower.apply, {}, x, angles, method="drop_patches")
    tokens, kept = drop(rngs={"dropout": jax.random.key(0)})
    assert tokens.shape == (6, 9, 1)
    assert not kept[:, :4].any()  # the class token and three registers
    np.testing.assert_array_equal(kept[:, 4:], tokens[:, 1:])
    assert (tokens[0] != tokens[1]).any()


def test_blocks_are_left_out_by_example_in_training_only():
    """Two blocks whose LayerScale is 1e3, so that each that is kept shows in the size."""
    fields = {"heads": 1, "mlp_dim": 4, "activation": "gelu", "norm": "pre", "norm_eps": 1e-5,
              "causal": False, "attention": "xla", "depth": 2, "dtype": jnp.float32,
              "form": Form(layer_scale=1e3)}  # fmt: skip

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x, dropped=None):
            return repeat(Block, 2, "none", False, **fields)(x, None, dropped=dropped)[0]

    rows = 400
    x = jax.random.normal(jax.random.key(1), (rows, 1, 4))
    params = Stack().init(jax.random.key(0), x[:1])
    half = jnp.array([0.0, 0.5])

    @jax.jit
    def both(key):
        return (Stack().apply(params, x, half, rngs={"dropout": key}),
                Stack().apply(params, x, jnp.array([0.5, 0.5]), rngs={"dropout": key}))  # fmt: skip

    first, second = both(jax.random.key(2))
    np.testing.assert_array_equal(both(jax.random.key(2))[0], first)
    assert (both(jax.random.key(3))[0] != first).any()
    same = np.abs(np.asarray(second - x)).max(axis=(1, 2)) == 0
    assert 0.03 < same.mean() < 0.1  # of four branches none is kept: 1 / 16
    once = Stack().apply(params, x, jnp.array([0.0, 0.0]), rngs={"dropout": jax.random.key(0)})
    alone = Stack().apply(params, x)
    np.testing.assert_allclose(once, alone, atol=1e-5 * np.abs(alone).max())
    tower = models.from_config(form_of(5, drop_path=0.4)).module("image")
    np.testing.assert_allclose(tower.dropped(5, True), [0, 0.1, 0.2, 0.3, 0.4], atol=1e-6)
    assert tower.dropped(5, False) is None


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("image", {"rope": "index", "heads": 32}, r"image\.rope: .* must be a multiple of 4"),
        ("text", {"rope": True, "heads": 64}, r"text\.rope: .* must be a multiple of 2"),
        ("text", {"rms_norm": True, "centred_norms": True}, r"text\.centred_norms"),
        ("image", {"map_heads": 5}, r"map_heads=5 must divide"),
        ("image", {"layer_scale": 0.0}, r"layer_scale=0\.0 must be"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_sentence(part, changes, said):
    config = zoo.config("tiny")
    config[part].update(changes)
    with pytest.raises(UserError, match=said):
        check_model(config)


def test_frames_of_one_sequence_have_neither_registers_nor_rope():
    config = zoo.config("tiny")
    image = config.image.to_dict()
    del config["image"]
    values = {**image, "kind": "video_vit", "over_time": "joint", "registers": 2}
    config.video = models.parts.complete({"video": values}).video
    with pytest.raises(UserError, match="registers and RoPE are of one image"):
        check_model(config)
