"""The state in which a phase of a run begins, out of the one in which the phase before it ended."""

import dataclasses
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mmjax.core.state import TrainState, init_state, like
from mmjax.interop import start
from mmjax.interop.formats import Weights
from mmjax.objectives.registry import EMA, frozen_of
from mmjax.params import path_string
from mmjax.runs.stages import Phase
from mmjax.training.assemble import Parts, owner


def check(before: Parts, after: Parts) -> None:
    """UserError: a stage changes the shape of a parameter that cannot be resized."""
    weights = Weights("the stage before", before.config, read=lambda like: like)
    start.plan(weights, after.config.model)


def carried(
    state: TrainState, before: Parts, after: Parts, phase: Phase, mesh: jax.sharding.Mesh
) -> TrainState:
    """The state at `phase.start`, without teachers, given that of the phase before.

    Parameters, averages and moments stay what they were, resized where the model's are of another
    shape: positions and patches as when weights of another size are loaded. What an objective that
    begins here trains alone is random, with moments and counts of its own, and where it reads the
    averaged parameters these are the parameters, so that teacher and student begin as equals.
    `phase.fresh`: all moments are zero.
    """
    config = after.config
    old = {path_string(path): x for path, x in jax.tree_util.tree_leaves_with_path(state)}
    paths = {path_string(p) for p, _ in jax.tree_util.tree_leaves_with_path(after.state.params)}

    def is_taken(name: str, shape: tuple[int, ...]) -> bool:
        top, of = name.partition("/")[0], _parameter(name, paths)
        if name not in old or (top == "opt_state" and phase.fresh):
            return False
        if top == "loss_mean":  # of another sum of losses
            return False
        if of is None:  # factored moments of another shape have other rows and columns
            return old[name].shape == shape
        return not owner(of, after.objectives, phase.begins)

    abstract = dataclasses.replace(after.state, teachers={})
    taken = {
        path_string(path)
        for path, x in jax.tree_util.tree_leaves_with_path(abstract)
        if is_taken(path_string(path), x.shape)
    }
    # Only what is new is made: two whole states need not fit.
    new = init_state(
        after.model, after.optimizer, seed=config.seed, ema=config.optim.ema > 0,
        ema_of=config.optim.ema_of, mesh=mesh, declared=after.declared,
        wanted=lambda path: path not in taken,
    )  # fmt: skip

    def take(path: Any, made: Any) -> jax.Array:
        name = path_string(path)
        if name not in taken:
            return made
        found, of = old[name], _parameter(name, paths)
        if of is not None and found.shape != made.shape:
            whole = np.asarray(multihost_utils.process_allgather(found, tiled=True))
            resized = start.resized(of, whole, made.shape, before.config.model, config.model)
            if name.startswith("opt_state/"):  # a cubic overshoots; no second moment is negative
                resized = np.clip(resized, whole.min(), whole.max())
            found = resized.astype(made.dtype)
        return jax.device_put(found, made.sharding)

    new = jax.tree_util.tree_map_with_path(take, new)
    if new.ema is not None and (state.ema is None or _reads_average(after, phase.begins)):
        average = jax.tree.map(jnp.copy, like(new.ema, new.params))
        new = new.replace(ema=average)  # type: ignore[attr-defined]
    return new


def _parameter(name: str, paths: Collection[str]) -> str | None:
    """The parameter that a leaf of the state is, or is a moment or an average of."""
    parts = name.split("/")
    ends = ("/".join(parts[at:]) for at in range(1, len(parts)))
    return next((end for end in ends if end in paths), None)


def _reads_average(parts: Parts, names: Collection[str]) -> bool:
    views = (view for name in names for view, _ in parts.objectives[name][0].all_requires())
    return any(frozen_of(view)[0] == EMA for view in views)
