"""The sharding test: every mesh computes what one device computes, and keeps its layout."""

import functools

import jax
import numpy as np
import pytest
import tiny
from jax.extend import core

from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import rules
from mmjax.params import path_string

MESHES = {"1": (1, 1, 1), "data 8": (8, 1, 1), "fsdp 8": (1, 8, 1), "2×2×2": (2, 2, 2)}
MANY = [name for name in MESHES if name != "1"]


@functools.cache
def three_steps(mesh: str):
    """(the run, gradients of the first step, losses of three steps, the state after them)."""
    config = tiny.config()
    run = tiny.run(config, MESHES[mesh])
    batches = [tiny.batch(config.model, seed=seed) for seed in range(3)]
    first, history = run.steps(batches[0])
    run.state = first
    last, more = run.steps(*batches[1:])
    gradient = tiny.first_gradient(first)
    return run, gradient, [metrics["loss"] for metrics in history + more], last


@pytest.mark.parametrize("mesh", MANY)
def test_losses_of_three_steps_are_those_of_one_device(mesh):
    np.testing.assert_allclose(three_steps(mesh)[2], three_steps("1")[2], rtol=1e-5)


@pytest.mark.parametrize("mesh", MANY)
def test_first_gradients_are_those_of_one_device(mesh):
    ours, truth = three_steps(mesh)[1], three_steps("1")[1]
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(truth), strict=True
    ):
        if path_string(path).endswith("key/bias"):  # zero in exact arithmetic
            continue
        assert np.linalg.norm(b) > 0, path_string(path)
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b), path_string(path)


@pytest.mark.parametrize("mesh", MESHES)
def test_the_state_keeps_its_layout_and_the_step_is_compiled_once(mesh):
    run, _, _, last = three_steps(mesh)
    wanted = rules.state_shardings(last, run.mesh)
    wrong = [
        path_string(path)
        for (path, x), sharding in zip(
            jax.tree_util.tree_leaves_with_path(last), jax.tree.leaves(wanted), strict=True
        )
        if x.sharding != sharding
    ]
    assert not wrong
    assert run.jitted._cache_size() == 1


@pytest.mark.parametrize("unroll", [False, True])
def test_every_layer_constrains_its_activations(unroll):
    """Once forward and once backward: the block's input, query, key, value, and the MLP's hidden
    units. Under a mesh set the wrong way these silently vanish (and memory with them)."""
    config = tiny.config()
    config.model.image.unroll = config.model.text.unroll = unroll
    config.model.image.depth = 3
    run = tiny.run(config, (2, 2, 2))
    with jax.set_mesh(run.mesh):
        batch = mesh_lib.put_batch(tiny.batch(config.model), tiny.BATCH)
        traced = run.jitted.trace(run.state, batch)
        lowered = traced.lower().as_text()
    leaves = len(jax.tree.leaves(run.state))  # the new state is pinned, each leaf once
    patches = 2
    assert count_constraints(traced.jaxpr) == (3 + tiny.DEPTH) * 5 * 2 + patches + leaves
    # A layer's computation is written once a tower, whether it loops or is called again; but
    # jax 0.12 writes each unrolled layer.
    written = lowered.count("sdy.sharding_constraint") - patches - leaves
    assert written in ({2 * 5 * 2, (3 + tiny.DEPTH) * 5 * 2} if unroll else {2 * 5 * 2})


def count_constraints(jaxpr) -> int:
    """Sharding constraints that a call of the jaxpr runs, loops counted by their length."""
    total = 0
    for eqn in jaxpr.eqns:
        total += eqn.primitive.name == "sharding_constraint"
        inner = sum(count_constraints(sub) for sub in core.jaxprs_in_params(eqn.params))
        total += inner * eqn.params.get("length", 1)
    return total
