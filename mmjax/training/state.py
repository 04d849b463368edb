"""What a run carries from step to step, and how it is made straight in its shards."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mmjax import models
from mmjax.models import Multimodal
from mmjax.parallel import rules


@flax.struct.dataclass
class TrainState:
    """`step`: updates tried so far. `ema`: an average of `params`, or None. `nonfinite`: updates in
    a row that were skipped, as the loss was not finite or jumped; `skipped`: all of them.
    `loss_mean`: a running mean of the loss, 0 before the first."""

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    ema: Any
    nonfinite: jax.Array
    skipped: jax.Array
    loss_mean: jax.Array

    def eval_params(self) -> Any:
        """The parameters to evaluate and export: the average, where one is kept."""
        return self.params if self.ema is None else self.ema


def new_state(params: Any, optimizer: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        nonfinite=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        loss_mean=jnp.zeros((), jnp.float32),
    )


def with_params(state: TrainState, params: Any) -> TrainState:
    """The state of a fresh run with other parameters; moments are zero whatever they are."""
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return state.replace(params=params, ema=ema)  # type: ignore[attr-defined]


def abstract_state(
    model: Multimodal,
    optimizer: optax.GradientTransformation,
    *,
    ema: bool,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """Shapes, dtypes and shardings of the state; nothing is computed."""
    # The key, too, is made inside: the devices of the mesh may only be described.
    shapes = jax.eval_shape(
        lambda: new_state(models.init(model, jax.random.key(0)), optimizer, ema=ema)
    )
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        rules.state_shardings(shapes, mesh),
    )


def init_state(
    model: Multimodal,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema: bool,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """Random parameters, each device computing its own shards; the same for every mesh."""
    abstract = abstract_state(model, optimizer, ema=ema, mesh=mesh)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)

    def create(key: jax.Array) -> TrainState:
        return new_state(models.init(model, key), optimizer, ema=ema)

    return jax.jit(create, out_shardings=shardings)(jax.random.key(seed))
