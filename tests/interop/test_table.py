"""Name tables: both directions, strict about names and shapes."""

import copy

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.errors import UserError
from mmjax.interop.table import CONV, LINEAR, Row, from_theirs, to_theirs
from mmjax.parallel.mesh import make_mesh
from mmjax.params import path_string

TABLE = (
    Row("conv/kernel", "conv.weight", CONV),
    Row("blocks/fc/kernel", "layers.{}.fc.weight", LINEAR),
    Row("blocks/fc/bias", "layers.{}.fc.bias"),
    Row("scale", "scale"),
)


@pytest.fixture
def params():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return {
        "conv": {"kernel": draw(2, 2, 3, 5)},
        "blocks": {"fc": {"kernel": draw(3, 4, 6), "bias": draw(3, 6)}},
        "scale": np.float32(2.5).reshape(()),
    }


def test_writes_their_names_and_layout(params):
    state = to_theirs(params, TABLE, params)
    assert set(state) == {"conv.weight", "scale"} | {
        f"layers.{i}.fc.{kind}" for i in range(3) for kind in ("weight", "bias")
    }
    for p in range(2):
        for q in range(2):
            np.testing.assert_array_equal(
                state["conv.weight"][:, :, p, q], params["conv"]["kernel"][p, q].T
            )
    for i in range(3):
        fc = params["blocks"]["fc"]
        np.testing.assert_array_equal(state[f"layers.{i}.fc.weight"], fc["kernel"][i].T)
        np.testing.assert_array_equal(state[f"layers.{i}.fc.bias"], fc["bias"][i])
    assert state["scale"].shape == ()
    assert all(array.flags.c_contiguous for array in state.values())


def test_there_and_back_is_the_identity(params):
    back = from_theirs(to_theirs(params, TABLE, params), TABLE, params)
    np.testing.assert_equal(back, params)


def test_import_casts_to_the_dtype_of_the_model(params):
    state = {k: v.astype(np.float16) for k, v in to_theirs(params, TABLE, params).items()}
    back = from_theirs(state, TABLE, params)
    assert back["conv"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(
        back["conv"]["kernel"], params["conv"]["kernel"].astype(np.float16).astype(np.float32)
    )


def test_missing_parameter_is_named(params):
    state = to_theirs(params, TABLE, params)
    del state["layers.1.fc.bias"]
    with pytest.raises(UserError, match=r"lack layers\.1\.fc\.bias"):
        from_theirs(state, TABLE, params)
    complete = copy.deepcopy(params)
    del params["blocks"]["fc"]["bias"]
    with pytest.raises(UserError, match="lack blocks/fc/bias"):
        to_theirs(params, TABLE, complete)


def test_unexpected_parameter_is_named(params):
    state = to_theirs(params, TABLE, params) | {"layers.3.fc.bias": np.zeros(6)}
    with pytest.raises(UserError, match=r"hold layers\.3\.fc\.bias"):
        from_theirs(state, TABLE, params)
    with pytest.raises(UserError, match="hold extra"):
        to_theirs(params | {"extra": np.zeros(1)}, TABLE, params)


def test_wrong_shape_names_both_shapes(params):
    state = to_theirs(params, TABLE, params) | {"layers.0.fc.weight": np.zeros((4, 6))}
    with pytest.raises(UserError, match=r"layers\.0\.fc\.weight has shape \(4, 6\).*\(6, 4\)"):
        from_theirs(state, TABLE, params)
    wrong = params | {"scale": np.zeros(1)}
    with pytest.raises(UserError, match=r"scale has shape \(1,\).*\(\)"):
        to_theirs(wrong, TABLE, params)


def test_a_parameter_without_a_row_is_named(params):
    model = params | {"extra": np.zeros(1)}
    with pytest.raises(UserError, match="the parameter extra has no name"):
        to_theirs(model, TABLE, model)


FUSED = (
    Row(("blocks/query", "blocks/key"), "layers.{}.in_weight", LINEAR),
    Row("heads", "heads", None, (4, 2, 3)),
    Row("scale", "scale", None, (1,)),
)


@pytest.fixture
def fused():
    rng = np.random.default_rng(1)
    blocks = {name: rng.normal(size=(2, 4, 6)).astype(np.float32) for name in ("query", "key")}
    heads = rng.normal(size=(4, 6)).astype(np.float32)
    return {"blocks": blocks, "heads": heads, "scale": np.float32(3).reshape(())}


def test_one_of_theirs_may_be_several_of_ours_or_another_shape(fused):
    state = to_theirs(fused, FUSED, fused)
    assert {k: v.shape for k, v in state.items()} == {
        "layers.0.in_weight": (12, 4), "layers.1.in_weight": (12, 4), "heads": (4, 2, 3),
        "scale": (1,),
    }  # fmt: skip
    np.testing.assert_array_equal(state["layers.1.in_weight"][:6], fused["blocks"]["query"][1].T)
    np.testing.assert_array_equal(state["layers.1.in_weight"][6:], fused["blocks"]["key"][1].T)
    np.testing.assert_equal(from_theirs(state, FUSED, fused), fused)
    state["layers.1.in_weight"] = state["layers.1.in_weight"][:6]
    with pytest.raises(UserError, match=r"in_weight has shape \(6, 4\).* \(12, 4\)"):
        from_theirs(state, FUSED, fused)


def test_a_part_of_the_tree_is_read_alone(params):
    state = to_theirs(params, TABLE, params)
    state["layers.1.fc.weight"] = None  # not of the part: never looked at
    part = {"conv": params["conv"]}
    np.testing.assert_equal(from_theirs(state, TABLE, part), part)
    with pytest.raises(UserError, match="hold extra"):
        from_theirs(state | {"extra": np.zeros(1)}, TABLE, part)
    from_theirs(state | {"extra_3": np.zeros(1)}, TABLE, part, ignored=[r"extra_\d"])


def test_parameters_are_put_on_their_devices_one_after_the_other(params):
    mesh = make_mesh(fsdp=8)
    state, read = to_theirs(params, TABLE, params), []

    class Lazy:
        def __init__(self, name):
            self.name, self.shape = name, state[name].shape

        def __array__(self, dtype=None, copy=None):
            read.append(self.name)
            return state[self.name]

    specs = {"conv/kernel": P(), "blocks/fc/kernel": P(None, None, "tensor")}
    like = jax.tree_util.tree_map_with_path(
        lambda path, x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(mesh, specs.get(path_string(path), P()))
        ),
        params,
    )
    found = from_theirs({name: Lazy(name) for name in state}, TABLE, like)
    assert read == [name for row in TABLE for name in row.names((3,))]
    for x, target in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
        assert x.sharding == target.sharding
    np.testing.assert_equal(jax.tree.map(np.asarray, found), params)
