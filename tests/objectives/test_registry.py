"""Objectives by name: options from the config, objectives from outside the package, errors."""

import inspect

import jax
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import objectives
from mmjax.errors import UserError
from mmjax.objectives import Own, contrastive


def build(name, **options):
    config = config_lib.default().objectives
    config[name] = config_lib.entry("objectives", **options)
    return objectives.build(config)[name]


@pytest.fixture
def outputs():
    x, y = np.random.default_rng(0).normal(size=(2, 6, 4))
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
    plain = {"image/embed": x, "text/embed": y, "logit/scale": 5.0, "logit/bias": -1.0}
    return {"plain": plain}


BATCH = {"group": np.array([0, 0, 1, 2, 2, 2])}


def test_clip_and_siglip_read_the_models_scale_and_bias(outputs):
    plain = outputs["plain"]
    x, y = plain["image/embed"], plain["text/embed"]
    value, _ = build("clip")[0].loss(outputs, BATCH, Own())
    assert float(value) == pytest.approx(float(contrastive.clip_loss(x, y, 5.0)))
    value, _ = build("siglip")[0].loss(outputs, BATCH, Own())
    assert float(value) == pytest.approx(float(contrastive.siglip_loss(x, y, 5.0, -1.0)))


def test_infonce_has_directions_a_temperature_and_groups(outputs):
    plain = outputs["plain"]
    x, y = plain["image/embed"], plain["text/embed"]
    same = BATCH["group"][:, None] == BATCH["group"][None, :]
    forward = contrastive.infonce_loss(x, y, 5.0)
    back = contrastive.infonce_loss(y, x, 5.0)
    cases = [
        ({}, forward),
        ({"direction": "backward"}, back),
        ({"direction": "both"}, (forward + back) / 2),
        ({"temperature": 0.25}, contrastive.infonce_loss(x, y, 4.0)),
        ({"positives": "group"}, contrastive.infonce_loss(x, y, 5.0, same)),
    ]
    assert len({round(float(expected), 5) for _, expected in cases}) == len(cases)
    for options, expected in cases:
        value, _ = build("infonce", **options)[0].loss(outputs, BATCH, Own())
        assert float(value) == pytest.approx(float(expected), rel=1e-6), options


def test_infonce_both_ways_is_clip(outputs):
    value, _ = build("infonce", direction="both")[0].loss(outputs, BATCH, Own())
    assert float(value) == pytest.approx(
        float(build("clip")[0].loss(outputs, BATCH, Own())[0]), rel=1e-6
    )


def test_a_fixed_temperature_needs_no_scale_from_the_model():
    assert "logit/scale" in build("infonce")[0].requires["plain"]
    assert "logit/scale" not in build("infonce", temperature=0.1)[0].requires["plain"]


def test_an_objective_from_outside_trains_in_the_same_step(monkeypatch):
    monkeypatch.setattr(objectives.registry, "REGISTRY", dict(objectives.REGISTRY))
    # ↓ all that a new objective is

    @objectives.register("uniformity")  # Wang and Isola, 2020
    def uniformity(t: float = 2.0):
        def loss(outputs, batch, own):
            x = outputs["plain"]["image/embed"]
            squared = 2 - 2 * x @ x.T
            return jax.numpy.log(jax.numpy.exp(-t * squared).mean()), {}

        return objectives.Objective({"plain": ("image/embed",)}, loss)

    # ↑
    assert len(inspect.getsource(uniformity).splitlines()) <= 15
    config = tiny.config()
    config.objectives.uniformity = config_lib.entry("objectives", weight=0.5, t=3.0)
    built = objectives.build(config.objectives)
    assert list(built) == ["clip", "uniformity"]
    objective, weight = built["uniformity"]
    assert weight == 0.5
    x = np.eye(4, dtype="f4")
    expected = np.log((4 + 12 * np.exp(-6)) / 16)
    value, _ = objective.loss({"plain": {"image/embed": x}}, {}, Own())
    assert float(value) == pytest.approx(expected, rel=1e-5)
    keys = {key.name: key.default for key in objectives.keys_at("uniformity")}
    assert keys == {"kind": "", "weight": 1.0, "start": 0.0, "stop": 1.0, "t": 2.0}


def test_an_unknown_objective_names_the_nearest():
    with pytest.raises(UserError, match=r"config\.objectives\.clipp.*'clip'"):
        build("clipp")
    with pytest.raises(UserError, match=r"config\.objectives\.siglib.*'siglip'"):
        objectives.kind_of("siglib", {})
    with pytest.raises(UserError, match=r"config\.objectives\.sounds\.kind='clipp'.*'clip'"):
        build("sounds", kind="clipp")
    with pytest.raises(
        UserError, match=r"config\.objectives\.sounds: .*says its kind, e\.g\. kind="
    ):
        build("sounds")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("direction", "up", "forward, backward, both"), ("positives", "all", "pair, group")],
)
def test_a_bad_value_names_the_objective_and_what_is_allowed(option, value, said):
    with pytest.raises(UserError, match=rf"config\.objectives\.infonce.*{said}"):
        build("infonce", **{option: value})


def test_an_unknown_option_names_the_known_ones():
    with pytest.raises(UserError, match=r"config\.objectives\.infonce\.temprature.*temperature"):
        build("infonce", temprature=0.1)
