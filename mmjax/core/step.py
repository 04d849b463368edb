"""The one train step: (state, batch) -> (state, metrics), pure, for every objective.

The step may choose its batch among the examples that are loaded (`curation.py`). Each view of the
batch goes through the model once; the losses are taken over the whole global batch, also when the
embedding is cut into microbatches; one optimizer update follows. Teachers and the averaged
parameters are views, too, without a gradient.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from mmjax import models
from mmjax.core import curation, optim
from mmjax.core.state import HEADS, Declared, TrainState, like, model_params
from mmjax.core.views import NOTHING, Frozen, Objectives, run_views
from mmjax.models import Graph
from mmjax.objectives.registry import EMA, LOCAL, SELF, TEACHER, Batch, Outputs, Own
from mmjax.parallel import rules

Metrics = dict[str, jax.Array]


class Teacher(Frozen, Protocol):
    """A frozen model that objectives learn from."""

    @property
    def name(self) -> str:
        """That of its entry in the config."""
        ...

    def counted(self) -> "Teacher":
        """The same, as a trace shows all of its products."""
        ...


LOSS_MEAN_STEPS = 50  # that the running mean of the loss looks back


def make_train_step(
    model: Graph,
    objectives: Objectives,
    optimizer: optax.GradientTransformation,
    multipliers: Any,
    config: ConfigDict,
    teachers: Sequence[Teacher] = (),
    steps: tuple[int, int] | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Builds the step. Jit it under the mesh, donating the state.

    `steps`: those over which the learning rate is scheduled, the first and one behind the last;
    None: all of the run.

    A step whose loss or gradient is not finite, or whose loss is above optim.max_spike times its
    running mean, changes no parameter; `state.step` advances all the same, `state.nonfinite` counts
    such steps in a row and `state.skipped` all of them.
    """
    first, end = steps or (0, config.total_steps)
    schedule = optim.schedule(config.optim, end, first)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        batch, chosen = curation.curate(
            config, model, objectives, model_params(state.params),
            frozen_models(model, teachers, state.teachers, None), batch, key,
        )  # fmt: skip

        def loss_fn(params):
            params = jax.tree.map(_stop_frozen, params, multipliers)
            own = owned(objectives, params, state.memory, state.ema)
            now = model_params(params)
            outputs = run_views(
                model, objectives, now, batch, key, own=own,
                frozen=frozen_models(model, teachers, state.teachers, state.ema, now),
                microbatches=config.optim.microbatches,
            )  # fmt: skip
            loss, metrics = total_loss(objectives, outputs, batch, own)
            keepers = {name: o.update for name, (o, _) in objectives.items() if o.update}
            memory = {name: update(own[name], outputs, batch) for name, update in keepers.items()}
            return loss, (metrics, memory)

        (loss, (metrics, memory)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        grad_norm = optax.tree.norm(grads)
        lr = schedule(state.step)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = jax.tree.map(
            lambda p, update, factor: p + (lr * factor * update).astype(p.dtype),
            state.params,
            updates,
            multipliers,
        )
        params = model.clamp(params)
        ema = state.ema
        if ema is not None:
            decay = optim.ema_decay(config.optim, state.step, config.total_steps)
            ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), ema, like(ema, params))

        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        known = state.loss_mean != 0
        if config.optim.max_spike:
            most = state.loss_mean + (config.optim.max_spike - 1) * jnp.abs(state.loss_mean)
            good &= ~known | (loss <= most)
        mean = jnp.where(known, state.loss_mean + (loss - state.loss_mean) / LOSS_MEAN_STEPS, loss)
        old = (state.params, state.opt_state, state.ema, state.loss_mean, state.memory)
        params, opt_state, ema, mean, memory = jax.tree.map(
            lambda new, kept: jnp.where(good, new, kept),
            (params, opt_state, ema, mean, memory),
            old,
        )
        nonfinite = jnp.where(good, 0, state.nonfinite + 1)
        skipped = state.skipped + ~good
        metrics |= {"loss": loss, "grad_norm": grad_norm, "lr": lr}
        metrics |= {"nonfinite": nonfinite, "skipped": skipped, **chosen}
        if config.log.gradient_norms:
            metrics |= gradient_norms(loss_fn, state.params, objectives)
        scales = [name for name in model.of_model(model.outputs()) if name.endswith("/scale")]
        if scales:
            found: Any = model.apply({"params": model_params(params)}, {}, scales)
            metrics |= {name.replace("/", "_"): value for name, value in found.items()}
        new = TrainState(
            state.step + 1, params, opt_state, ema, nonfinite, skipped, mean, memory,
            state.teachers,
        )  # fmt: skip
        return rules.pin_state(new), metrics

    return train_step


def _stop_frozen(param: jax.Array, factor: float | np.ndarray) -> jax.Array:
    """`param` without a gradient where its factor is 0: frozen layers count in no norm and no clip.

    The backward pass of what is frozen as a whole is never computed.
    """
    stopped = jax.lax.stop_gradient(param)
    if np.ndim(factor) == 0:
        return param if factor else stopped
    return jnp.where(factor == 0, stopped, param)


def gradient_norms(
    loss_fn: Callable[[Any], tuple[jax.Array, tuple[Metrics, Any]]],
    params: Any,
    objectives: Objectives,
) -> Metrics:
    """The norm of the gradient of weight · loss for each objective, as "grad_norm/NAME".

    A backward pass each; the forward pass is the one of the update.
    """

    def parts(params):
        metrics, _ = loss_fn(params)[1]
        return {name: weight * metrics[f"loss/{name}"] for name, (_, weight) in objectives.items()}

    values, pull_back = jax.vjp(parts, params)
    norms = {}
    for name in values:
        one = {other: jnp.asarray(other == name, x.dtype) for other, x in values.items()}
        norms[f"grad_norm/{name}"] = optax.tree.norm(pull_back(one)[0])
    return norms


def frozen_models(
    model: Graph,
    teachers: Sequence[Teacher],
    params: Mapping[str, Any],
    ema: Any,
    now: Any = None,
) -> dict[str, tuple[Frozen, Any]]:
    """What `run_views` may read without a gradient: the teachers, of which `params` are the
    parameters by name, the average, and the model with the parameters that it has `now`."""
    found: dict[str, tuple[Frozen, Any]] = {
        f"{TEACHER}/{teacher.name}": (teacher, params[teacher.name]) for teacher in teachers
    }
    if average := model_params(ema or {}):
        found[EMA] = Itself(model), average
    if now is not None:
        found[SELF] = Itself(model), jax.lax.stop_gradient(now)
    return found


@dataclasses.dataclass(frozen=True)
class Itself:
    """The model itself, with averaged parameters or with those that it has."""

    model: Graph

    def outputs(self, params, batch, view, names, run):
        return run(self.model, params, batch if view is None else view, names)

    def of_model(self, names):
        return self.model.of_model(names)


def declare(
    model: Graph,
    objectives: Objectives,
    batch: Any,
    teachers: Sequence[Teacher],
    frozen: Mapping[str, Any],
) -> Declared:
    """What the objectives keep beside the model, given the shapes of the batch and of the teachers.

    The losses are traced, so that shapes that they cannot take are a UserError here.
    """

    def run(frozen: Any, batch: Batch, objectives: Objectives, own: Any) -> Outputs:
        key = jax.random.key(0)
        params = models.init(model, key)
        frozen = frozen_models(model, teachers, frozen, params, params)
        return run_views(model, objectives, params, batch, key, own=own, frozen=frozen)

    # What an objective declares follows from its outputs, of which `local` is not one yet.
    plain = {name: (dataclasses.replace(objective, local=None), weight)
             for name, (objective, weight) in objectives.items()}  # fmt: skip
    shapes = jax.eval_shape(lambda frozen, batch: run(frozen, batch, plain, {}), frozen, batch)
    declared = Declared({name: objective for name, (objective, _) in objectives.items()}, shapes)

    def loss(frozen: Any, batch: Batch) -> jax.Array:
        heads = declared.params(jax.random.key(0))
        own = owned(objectives, heads, declared.memory(), heads)
        outputs = run(frozen, batch, objectives, own)
        return total_loss(objectives, outputs, batch, own)[0]

    jax.eval_shape(loss, frozen, batch)
    return declared


def total_loss(
    objectives: Objectives, outputs: Outputs, batch: Batch, own: Mapping[str, Own] | None = None
) -> tuple[jax.Array, Metrics]:
    """Σ weight · loss, and the parts as metrics "loss/NAME" and "NAME/METRIC".

    `own`: what objectives declared, by name.
    """
    total, metrics = jnp.zeros((), jnp.float32), {}
    for name, (objective, weight) in objectives.items():
        if objective.local is not None:
            seen: Any = {LOCAL: outputs[f"{LOCAL}/{name}"]}
        else:
            seen = outputs
        loss, extra = objective.loss(seen, batch, (own or {}).get(name, NOTHING))
        total += weight * loss
        metrics[f"loss/{name}"] = loss
        metrics |= {f"{name}/{metric}": value for metric, value in extra.items()}
    return total, metrics


def owned(objectives: Objectives, params: Any, memory: Any, ema: Any = None) -> dict[str, Own]:
    """What each objective declared, out of the parameters, memory and average of a state."""
    heads, averages = params.get(HEADS, {}), (ema or {}).get(HEADS, {})
    return {name: Own(heads.get(name), memory.get(name), averages.get(name)) for name in objectives}
