"""The scale of similarities in its two forms: a logarithm, or a temperature."""

import jax
import numpy as np
import pytest

from mmjax import models
from mmjax.errors import UserError
from mmjax.models.parts import check_model, complete
from mmjax.models.scale import Scale


def built(**keys):
    model = complete({"logit": {"kind": "scale", "initial": float(np.log(20)), **keys}})
    module = models.from_config(model)
    return module, module.init(jax.random.key(0), {}, ("logit/scale",))["params"]


@pytest.mark.parametrize(
    ("temperature", "name", "value"),
    [(False, "logit_scale", np.log(20)), (True, "logit_temperature", 1 / 20)],
)
def test_both_forms_begin_at_one_scale(temperature, name, value):
    module, params = built(temperature=temperature)
    assert {key: float(x) for key, x in params.items()} == {name: pytest.approx(value)}
    found = module.apply({"params": params}, {}, ("logit/scale",))
    assert float(found["logit/scale"]) == pytest.approx(20)


@pytest.mark.parametrize("temperature", [False, True])
@pytest.mark.parametrize(("scale", "clamped"), [(0.5, 1), (7, 7), (40, 25)])
def test_both_are_clamped_between_1_and_the_largest(temperature, scale, clamped):
    module, _ = built(temperature=temperature)
    name = "logit_temperature" if temperature else "logit_scale"
    value = np.float32(1 / scale if temperature else np.log(scale))
    params = Scale(max=25.0, temperature=temperature).clamp("logit", {name: jax.numpy.array(value)})
    found = module.apply({"params": params}, {}, ("logit/scale",))
    assert float(found["logit/scale"]) == pytest.approx(clamped, rel=1e-6)


def test_a_temperature_has_a_limit_that_keeps_it_positive():
    assert Scale(max=0.0).clamp("logit", {"logit_scale": jax.numpy.float32(9)}) == {}
    model = complete({"logit": {"kind": "scale", "temperature": True, "max": 0.0}})
    with pytest.raises(UserError, match=r"logit\.temperature=True may fall below 0.*logit\.max"):
        check_model(model)
