"""Name tables: both directions, strict about names and shapes."""

import copy

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.interop.table import CONV, LINEAR, Row, from_theirs, to_theirs

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
