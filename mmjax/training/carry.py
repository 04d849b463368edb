"""The state in which a phase of a run begins, out of the one in which the phase before it ended."""

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
    new = init_state(
        after.model, after.optimizer, seed=config.seed, ema=config.optim.ema > 0,
        ema_of=config.optim.ema_of, mesh=mesh, declared=after.declared,
    )  # fmt: skip
    old = {path_string(path): x for path, x in jax.tree_util.tree_leaves_with_path(state)}
    paths = {path_string(p) for p, _ in jax.tree_util.tree_leaves_with_path(new.params)}

    def take(path: Any, fresh: jax.Array) -> jax.Array:
        name = path_string(path)
        top, of = name.partition("/")[0], _parameter(name, paths)
        found = old.get(name)
        anew = of is not None and owner(of, after.objectives, phase.begins)
        if found is None or anew or (top == "opt_state" and phase.fresh):
            return fresh
        if top == "loss_mean":  # of another sum of losses
            return fresh
        if found.shape != fresh.shape:
            if of is None:  # factored moments: of other rows and columns
                return fresh
            whole = np.asarray(multihost_utils.process_allgather(found, tiled=True))
            resized = start.resized(of, whole, fresh.shape, before.config.model, config.model)
            if top == "opt_state":  # a cubic overshoots, and a second moment is never negative
                resized = np.clip(resized, whole.min(), whole.max())
            found = resized.astype(fresh.dtype)
        return jax.device_put(found, fresh.sharding)

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
