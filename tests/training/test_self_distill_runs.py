"""Whole runs of self-distillation: a teacher that is an average, or the model itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from test_loop import assert_same_bits

from mmjax import config as config_lib
from mmjax.core.state import HEADS, new_state
from mmjax.runs import checkpoint
from mmjax.runs.workdir import restore_for_inference


def config(teacher):
    """As docs/guide/objectives.md has it, in its smoke form; local crops from the middle on."""
    run = config_lib.default()
    run.model = tiny.config().model
    run.model.image.update(mask_token=True, unroll=False, depth=1)
    head = {"teacher": teacher, "prototypes": 32, "hidden": 32, "bottleneck": 16}
    run.objectives.self_distill = config_lib.entry("objectives", **head, koleo=0.1, start=0.5)
    run.objectives.masked_distill = config_lib.entry(
        "objectives", **head, weight=0.25, centring="sinkhorn"
    )
    run.optim.update(lr=1e-2, ema=0.9, ema_of="heads" if teacher == "self" else "all")
    run = config_lib.smoke(run)
    run.update(total_steps=4)
    run.checkpoint.every, run.log.every = 4, 1
    del run.model["text"], run.model["logit"]
    run.evals = {}
    return run


def test_an_average_of_heads_alone_is_saved_and_not_evaluated():
    params = {"image": {"kernel": jnp.ones((2, 3))}, HEADS: {"it": {"kernel": jnp.zeros((3, 2))}}}
    state = new_state(params, optax.adamw(0.1), ema=True, ema_of="heads")
    assert state.ema.keys() == {HEADS}
    items = checkpoint._items(state)
    assert "ema" not in items
    again = checkpoint._state(items)
    assert_same_bits(again, state)
    assert again.eval_params() == {"image": params["image"]}


@pytest.mark.long
@pytest.mark.parametrize("teacher", ["self", "ema"])
def test_a_run_that_was_stopped_goes_on_with_the_same_bits(teacher, tmp_path):
    run = config(teacher)
    assert run.data.crops.count == 2
    whole, metrics = tiny.trained(run, tmp_path / "whole")
    again, _ = tiny.trained(run, tmp_path / "again", stop_after=3)
    assert_same_bits(again, whole)
    for name in run.objectives:
        most = np.log(run.objectives[name].prototypes)
        assert 0 < metrics[f"{name}/entropy"] < most + 1e-3
        assert metrics[f"{name}/divergence"] > 0
    assert np.abs(whole.memory["self_distill"]["centre"]).max() > 0
    assert whole.ema.keys() == (whole.params.keys() if teacher == "ema" else {HEADS})
    heads = whole.params[HEADS], whole.ema[HEADS]
    apart = jax.tree.map(lambda p, e: float(np.abs(p - e).max()), *heads)
    assert max(jax.tree.leaves(apart)) > 1e-4
    evaluated = restore_for_inference(str(tmp_path / "whole"))[2]
    assert_same_bits(evaluated, whole.eval_params())
