"""Every file in configs/: its step can be built and traced; its smoke form runs.

A smoke run compiles its step, which takes 10 to 20 seconds: here run so many that every objective
is trained for, `make test-recipes` runs them all.
"""

import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from mmjax import config_check, objectives
from mmjax.core.state import model_params
from mmjax.parallel.mesh import make_mesh
from mmjax.params import path_string
from mmjax.runs.stages import phases
from mmjax.training import loop
from mmjax.training.assemble import assemble

GOLDEN = Path(__file__).parents[1] / "golden" / "recipes"
RECIPES = {path.stem: path for path in (Path(__file__).parents[2] / "configs").glob("*.py")}
ALWAYS = (
    "clip_kd",  # an online teacher of pairs
    "coca_b32",  # captions
    "distilbert",  # a tower alone, and an online teacher of tokens
    "flava",  # fusion, and masks in texts and pictures
    "frozen_webvid",  # videos, and infonce
    "milnce_howto100m",  # bags of captions
    "siglip2_b16",  # stages, regions, and a teacher that is the average
)


def golden(name):
    """What the smoke form computed before, on one device (`tests/recipe_goldens.py`)."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def smoke_form(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config("smoke")


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - set(ALWAYS)))
def test_step_of_every_recipe_can_be_traced(name):
    config = smoke_form(name)
    config_check.validate(config)
    mesh = make_mesh(**config.mesh)
    ours = []
    for phase in phases(config):
        with jax.set_mesh(mesh):
            parts = assemble(phase.config, mesh, phase)
            state, metrics = parts.step().eval_shape(parts.state, parts.batch)
        assert jax.tree.structure(state.params) == jax.tree.structure(parts.state.params)
        assert {f"loss/{name}" for name in phase.config.objectives} <= metrics.keys()
        leaves = jax.tree_util.tree_leaves_with_path(model_params(state.params))
        ours.append({path_string(path): list(x.shape) for path, x in leaves})
    assert ours[0] == {path: shape for path, (shape, *_) in golden(name)["params"].items()}


def test_every_objective_of_a_recipe_is_trained_for():
    kinds = {
        recipe: {objectives.kind_of(*item) for item in smoke_form(recipe).objectives.items()}
        for recipe in RECIPES
    }
    trained = set().union(*(kinds[recipe] for recipe in ALWAYS))
    assert trained == set().union(*kinds.values())


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ALWAYS else pytest.mark.recipes)
        for name in sorted(RECIPES)
    ],
)
def test_smoke_form_runs(name, tmp_path):
    config = smoke_form(name)
    state = loop.train(config, tmp_path)
    assert int(state.step) == config.total_steps
    text = (tmp_path / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    losses = {row["step"]: row for row in rows if "loss" in row}
    assert np.isfinite([row["loss"] for row in losses.values()]).all()
    for step, kept in enumerate(golden(name)["losses"], start=1):  # of one device
        for key, value in kept.items() if step in losses else ():
            assert losses[step][key] == pytest.approx(value, rel=1e-4), (step, key)
    for evaluator in config.evals:
        assert f'"{evaluator}/' in text
