"""The graph of parts: what a plan says, any number of parts of any names, what it cannot give."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import models
from mmjax.models.graph import Function, Graph, Part


def fused():
    config = tiny.config().model
    config.text.update(mlm_head=True, causal=False, mask_padding=True, pool="cls")
    config.fusion = config_lib.entry("model", kind="cross", depth=1)
    return models.from_config(config)


COLUMNS = {name: name for name in ("image", "text", "text_mask")}


def test_a_plan_is_what_the_outputs_need_in_order():
    calls, values = fused().plan(COLUMNS, ("fusion/match",))
    assert [call.function.part for call in calls] == ["text", "image", "fusion"]
    assert list(calls.values()) == [{"tokens"}, {"tokens"}, {"match"}]
    assert values["fusion/match"][1] == "fusion/match"
    calls, _ = fused().plan(COLUMNS, ("text/embed", "text/tokens", "logit/scale"))
    assert {call.function.part: wanted for call, wanted in calls.items()} == {
        "logit": {"scale"}, "text": {"embed", "tokens"}
    }  # fmt: skip


def test_calls_are_the_same_where_all_their_inputs_are():
    """A masked text leaves the image tower's call as it was and changes all that follow it."""
    model, outputs = fused(), ("image/tokens", "text/tokens", "fusion/tokens", "text/lm_head")
    plain, masked = (
        model.plan(columns, outputs) for columns in (COLUMNS, COLUMNS | {"text": "masked"})
    )
    for output in outputs:
        same = output in ("image/tokens", "text/lm_head")
        assert (plain.values[output] == masked.values[output]) == same, output


def test_outputs_that_are_known_are_not_computed():
    known = COLUMNS | {name: name for name in ("image/tokens", "text/tokens")}
    calls, _ = fused().plan(known, ("fusion/match",))
    assert [call.function.part for call in calls] == ["fusion"]
    assert fused().sources(("fusion/match",), known) == {"image/tokens", "text/tokens", "text_mask"}
    assert fused().sources(("image/embed", "logit/scale"), COLUMNS) == {"image"}


def test_what_belongs_to_the_model_is_known():
    model = fused()
    assert model.of_model(model.outputs()) == {"logit/scale", "text/lm_head"}
    assert model.of_model(("text", "image/embed")) == set()
    assert type(model.module("image")).__name__ == "VisionTower"
    assert model.module("audio") is None


@pytest.mark.parametrize(
    ("columns", "outputs", "said"),
    [
        (COLUMNS, ("image/embd",), r"no output 'image/embd': it gives .*image/embed"),
        (COLUMNS, ("audio/embed",), r"no output 'audio/embed'"),
        ({"image": 0}, ("text/embed",), r"text/embed needs the column 'text' of the batch"),
        ({"text": 0}, ("text/tokens",), r"text/tokens needs the column 'text_mask'"),
        ({"text": 0, "text_mask": 1}, ("fusion/match",), r"image/tokens needs the column 'image'"),
        (
            {"image/tokens": 0, "text/tokens": 1}, ("fusion/match",),
            r"fusion/match needs the column 'text_mask'",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(columns, outputs, said):
    with pytest.raises(ValueError, match=said):
        fused().plan(columns, outputs)


def test_a_model_is_known_by_its_value():
    """As a static argument of jit and a key of a cache."""
    one, two = fused(), fused()
    assert one == two
    assert hash(one) == hash(two)
    assert one != models.from_config(tiny.config().model)


class Series(nn.Module):
    """A toy part: float32 [B, T] -> "embed" [B, D]; a mask may be absent."""

    width: int

    def functions(self, name):
        reads = (("series", name), ("mask", f"{name}_mask"))
        return (Function(name, "__call__", reads, ("embed",)),)

    @nn.compact
    def __call__(self, outputs, series, mask=None, train=False):
        x = series if mask is None else jnp.where(mask, series, 0.0)
        return {"embed": nn.Dense(self.width, name="head")(x)}


def test_parts_have_any_names_and_any_number():
    """Two towers of one kind and a part from outside, their parameters under their names."""
    parts = models.from_config(tiny.config().model).parts
    model = Graph({"left": parts["image"], "right": parts["image"], "signal": Part(Series(8))})
    image = tiny.batch(tiny.config().model, size=3)["image"]
    signal = np.random.default_rng(0).normal(size=(3, 5)).astype("f4")
    batch = {"left": image, "right": image, "signal": signal}
    params = tiny.params(model, batch=batch)
    assert set(params) == {"left", "right", "signal"}
    assert model.outputs() == (
        "left/tokens", "left/features", "left/embed", "right/tokens", "right/features",
        "right/embed", "signal/embed",
    )  # fmt: skip
    names = ("left/embed", "right/embed", "signal/embed")
    found = model.apply({"params": params}, batch, names)
    assert np.abs(found["left/embed"] - found["right/embed"]).max() > 0.01
    both = model.apply({"params": params | {"right": params["left"]}}, batch, names)
    np.testing.assert_array_equal(both["left/embed"], both["right/embed"])
    kernel, bias = (params["signal"]["head"][name] for name in ("kernel", "bias"))
    np.testing.assert_allclose(found["signal/embed"], signal @ kernel + bias, atol=1e-6)
    masked = model.apply(
        {"params": params}, batch | {"signal_mask": np.zeros((3, 5), bool)}, ("signal/embed",)
    )
    np.testing.assert_allclose(masked["signal/embed"], np.tile(bias, (3, 1)), atol=1e-6)


def test_initial_parameters_are_those_of_what_is_asked():
    model = fused()
    whole = jax.eval_shape(lambda key: models.init(model, key), jax.random.key(0))
    assert set(whole) == {"image", "text", "fusion", "logit_scale"}
    assert {"dense", "norm", "bias"} == set(whole["text"]["mlm"])
