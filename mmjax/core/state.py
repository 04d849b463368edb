"""What a run carries from step to step, and how it is made straight in its shards."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mmjax import models
from mmjax.models import Graph
from mmjax.objectives.registry import Objective, Outputs
from mmjax.parallel import rules
from mmjax.params import path_string

HEADS = "objectives"  # in the parameters: those that objectives declare


@flax.struct.dataclass
class TrainState:
    """What changes from step to step, and the teachers, which do not.

    `step`: updates tried so far. `params`: the model's, and under "objectives" those that
    objectives declare. `ema`: an average of `params`, of "objectives" alone, or None.
    `nonfinite`: updates in a row that were skipped, as the loss was not finite or jumped;
    `skipped`: all of them. `loss_mean`: a running mean of the loss, 0 before the first. `memory`:
    objective → the state it declares. `teachers`: name → frozen parameters; they are read from
    their source again, not from the checkpoint.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    ema: Any
    nonfinite: jax.Array
    skipped: jax.Array
    loss_mean: jax.Array
    memory: Any = flax.struct.field(default_factory=dict)
    teachers: Any = flax.struct.field(default_factory=dict)

    def __repr__(self) -> str:
        """In a line, without the arrays."""
        count = sum(math.prod(x.shape) for x in jax.tree.leaves(self.params))
        return f"TrainState(step={self.step}, parameters={count:,})"

    def eval_params(self) -> Any:
        """The model's parameters to evaluate and export: the average, where one is kept."""
        return model_params(self.ema or {}) or model_params(self.params)


def model_params(params: Any) -> Any:
    """`params` without those of objectives."""
    return {name: tree for name, tree in params.items() if name != HEADS}


def like(average: Any, params: Any) -> Any:
    """Those of `params` that the average is of."""
    return {name: params[name] for name in average}


@dataclasses.dataclass(frozen=True)
class Declared:
    """What the objectives of a run keep beside the model: makers of parameters and of state."""

    objectives: Mapping[str, Objective]
    shapes: Outputs  # of the outputs that the objectives read

    def params(self, key: jax.Array) -> Any:
        """{"objectives": {name: parameters}}, or {} if no objective has any."""
        heads = {
            name: objective.params(jax.random.fold_in(key, number), self.shapes)
            for number, (name, objective) in enumerate(sorted(self.objectives.items()))
            if objective.params
        }
        return {HEADS: heads} if heads else {}

    def memory(self) -> Any:
        """{name: state} of the objectives that have one."""
        return {
            name: objective.state(self.shapes)
            for name, objective in self.objectives.items()
            if objective.state
        }


NOTHING_DECLARED = Declared({}, {})


def new_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    *,
    ema: bool,
    ema_of: str = "all",
    memory: Any = None,
) -> TrainState:
    """The state before the first step; it has no teachers yet."""
    kept = {n: tree for n, tree in params.items() if ema_of == "all" or n == HEADS} if ema else {}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, kept) if kept else None,
        nonfinite=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        loss_mean=jnp.zeros((), jnp.float32),
        memory=memory or {},
    )


def with_params(state: TrainState, params: Any) -> TrainState:
    """The state of a fresh run with other parameters; moments are zero whatever they are."""
    ema = None if state.ema is None else jax.tree.map(jnp.copy, like(state.ema, params))
    return state.replace(params=params, ema=ema)  # type: ignore[attr-defined]


def init_params(model: Graph, declared: Declared, key: jax.Array) -> Any:
    """Random float32 parameters of the model and of the objectives."""
    return models.init(model, key) | declared.params(key)


def abstract_state(
    model: Graph,
    optimizer: optax.GradientTransformation,
    *,
    ema: bool,
    ema_of: str = "all",
    mesh: jax.sharding.Mesh,
    declared: Declared = NOTHING_DECLARED,
) -> TrainState:
    """Shapes, dtypes and shardings of the state without teachers; nothing is computed."""

    def create() -> TrainState:
        # The key, too, is made inside: the devices of the mesh may only be described.
        params = init_params(model, declared, jax.random.key(0))
        memory = declared.memory()
        return new_state(params, optimizer, ema=ema, ema_of=ema_of, memory=memory)

    shapes = jax.eval_shape(create)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        rules.state_shardings(shapes, mesh),
    )


def init_state(
    model: Graph,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema: bool,
    ema_of: str = "all",
    mesh: jax.sharding.Mesh,
    declared: Declared = NOTHING_DECLARED,
    wanted: Callable[[str], bool] = lambda path: True,
) -> TrainState:
    """Random parameters, each device computing its own shards; the same for every mesh.

    `wanted`: path of an array in the state ("params/image/…") → whether it is made; of the others
    the state has the shapes, and they take no memory.
    """
    abstract = abstract_state(
        model, optimizer, ema=ema, ema_of=ema_of, mesh=mesh, declared=declared
    )
    leaves, tree = jax.tree_util.tree_flatten_with_path(abstract)
    numbers = [n for n, (path, _) in enumerate(leaves) if wanted(path_string(path))]

    def create(key: jax.Array) -> list[jax.Array]:
        params = init_params(model, declared, key)
        memory = declared.memory()
        state = new_state(params, optimizer, ema=ema, ema_of=ema_of, memory=memory)
        return [x for n, x in enumerate(jax.tree.leaves(state)) if n in numbers]

    shardings = [leaves[n][1].sharding for n in numbers]
    made = jax.jit(create, out_shardings=shardings)(jax.random.key(seed))
    found = [x for _, x in leaves]
    for number, x in zip(numbers, made, strict=True):
        found[number] = x
    return jax.tree.unflatten(tree, found)
