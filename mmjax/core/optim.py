"""Optimizers by name (optax's own), schedules, and learning rates by parameter.

Weight decay, freezing, rate scales and Muon's dimension numbers all come from the one table
path → role (`params.py`). Patterns are regular expressions matched from the start of a
parameter's path, in which stacked layers carry their number: "text/blocks/[0-5]/", "image/".
"""

import dataclasses
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.params import INPUT, LAYER, STAGE, TOKENS, Role, map_roles
from mmjax.schema import ADJUSTABLE, RESUMABLE
from mmjax.values import COUNT, NATURAL, PATTERN, POSITIVE, POSITIVE_OR_0, Range

NONE: Mapping[str, int] = MappingProxyType({})
DECAY = Range(0, below=1)
Schedule = Literal["cosine", "linear", "constant", "rsqrt"]


@dataclasses.dataclass(frozen=True)
class Optim:
    """The keys of `config.optim`.

    Attributes:
      name: Optimizer (optax's own).
      lr: Peak learning rate.
      schedule: After the warm-up.
      warmup_steps: Steps of linear warm-up from 0.
      cooldown_steps: Steps at the end in which a constant or rsqrt rate falls to 0 linearly, as in
        warmup–stable–decay.
      weight_decay: Decoupled weight decay, on matrices only.
      b1: Decay of the first moment (Muon: of its momentum and Adam's).
      b2: Decay of the second moment.
      eps: Added to the root of the second moment.
      grad_clip: Largest global norm of the gradient; 0: no clipping.
      ema: Decay of an average of the parameters, evaluated and exported; 0: off.
      ema_of: What is averaged: all parameters, or those of objectives alone (heads); then the
        model's parameters are evaluated and exported as they are.
      ema_end: Decay at the end of the run, reached by half a cosine (DINO's is 1); 0: that of ema.
      freeze: Patterns of parameters that stay, e.g. ('image/',) for LiT.
      lr_scale: (pattern, factor) pairs on the learning rate; factors multiply.
      layer_decay: Factor on the learning rate a layer further from the output.
      microbatches: Embed the batch in this many parts; the negatives stay global.
      max_nonfinite: Non-finite losses in a row, each skipped, before stopping.
      max_spike: A loss above this many times its running mean is skipped as a non-finite one is;
        0: none is.
    """

    name: Literal["adamw", "lion", "adafactor", "muon"] = "adamw"
    lr: Annotated[float, ADJUSTABLE, NATURAL] = 1e-3
    schedule: Annotated[Schedule, ADJUSTABLE] = "cosine"
    warmup_steps: Annotated[int, ADJUSTABLE, NATURAL] = 0
    cooldown_steps: Annotated[int, ADJUSTABLE, NATURAL] = 0
    weight_decay: Annotated[float, ADJUSTABLE, NATURAL] = 0.2
    b1: Annotated[float, ADJUSTABLE, DECAY] = 0.9
    b2: Annotated[float, ADJUSTABLE, DECAY] = 0.98
    eps: Annotated[float, ADJUSTABLE, POSITIVE] = 1e-6
    grad_clip: Annotated[float, POSITIVE_OR_0] = 0.0
    ema: Annotated[float, Range(above=0, below=1, also=(0,))] = 0.0
    ema_of: Literal["all", "heads"] = "all"
    ema_end: Annotated[float, Range(above=0, most=1, also=(0,))] = 0.0
    freeze: Annotated[tuple[str, ...], PATTERN] = ()
    lr_scale: tuple[tuple[Annotated[str, PATTERN], Annotated[float, NATURAL]], ...] = ()
    layer_decay: Annotated[float, Range(above=0, most=1)] = 1.0
    microbatches: Annotated[int, RESUMABLE, COUNT] = 1
    max_nonfinite: Annotated[int, RESUMABLE, COUNT] = 10
    max_spike: Annotated[float, RESUMABLE, Range(above=1, also=(0,))] = 0.0


def averages_model(config: ConfigDict) -> bool:
    """Whether the model's parameters are averaged; `config` is `config.optim`."""
    return config.ema > 0 and config.ema_of == "all"


def schedule(config: ConfigDict, last: int, first: int = 0) -> optax.Schedule:
    """Rate of a step: linear warm-up to `optim.lr`, then cosine, linear, constant or rsqrt.

    It begins at the step `first` and ends before `last`; a constant or rsqrt rate ends with the
    linear cooldown of `optim.cooldown_steps`.
    """
    warmup, steps = config.warmup_steps, last - first
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(config.lr, max(1, steps - warmup))
    elif config.schedule == "linear":
        after = optax.linear_schedule(config.lr, 0.0, max(1, steps - warmup))
    elif config.schedule == "constant":
        after = optax.constant_schedule(config.lr)
    else:  # rsqrt: lr · sqrt(t0 / (t0 + steps since the warm-up)), t0 = max(warmup, 1)
        after = lambda step: config.lr * (1 + step / max(warmup, 1)) ** -0.5  # noqa: E731
    whole = after
    if warmup:
        up = optax.linear_schedule(0.0, config.lr, warmup)
        whole = optax.join_schedules([up, after], [warmup])
    if config.cooldown_steps:
        level = whole

        def whole(step):
            return level(step) * jnp.clip((steps - step) / config.cooldown_steps, 0, 1)

    return (lambda step: whole(step - first)) if first else whole


def check_schedule(config: ConfigDict) -> None:
    """UserError: `config.optim` has a cooldown beside a schedule that falls to 0 by itself, or the
    end of an average that is not kept."""
    if config.cooldown_steps and config.schedule in ("cosine", "linear"):
        raise UserError(
            f"config.optim.cooldown_steps={config.cooldown_steps}: schedule={config.schedule!r} "
            "falls to 0 by itself: set schedule to 'constant' or 'rsqrt', or cooldown_steps to 0."
        )
    if config.ema_end and not config.ema:
        raise UserError(
            f"config.optim.ema_end={config.ema_end:g} is the last decay of an average that is not "
            "kept: set config.optim.ema, e.g. 0.996, or ema_end=0."
        )


def ema_decay(config: ConfigDict, step: jax.Array, total_steps: int) -> jax.Array:
    """Decay of the average at a step: `optim.ema`, or half a cosine from it to `optim.ema_end`
    (DINO, Caron et al., 2021). The early average is short, so that it forgets the random start (as
    in TensorFlow's)."""
    decay: Any = config.ema
    if config.ema_end:
        left = (1 + jnp.cos(jnp.pi * step / total_steps)) / 2
        decay = config.ema_end - (config.ema_end - config.ema) * left
    return jnp.minimum(decay, (1 + step) / (10 + step))


def lr_multipliers(config: ConfigDict, params: Any, above: Mapping[str, int] = NONE) -> Any:
    """Factors on the learning rate: a tree like `params` of float, or of [layers, 1, …] arrays.

    A frozen parameter's factor is 0, and that of a statistic always: it is not trained.

    Args:
      config: `config.optim`.
      params: parameters, or their shapes.
      above: part → layers between its tokens and the model's last output (`Graph.layers_above`).

    Raises:
      UserError: a pattern that matches no parameter.
    """
    scales = [(pattern, 0.0) for pattern in config.freeze] + [tuple(x) for x in config.lr_scale]
    depths: dict[str, int] = {}

    def count(role: Role, leaf: Any) -> None:
        if role.at in (LAYER, STAGE):
            layers = leaf.shape[0] if role.stacked else role.layer + 1
            depths[role.stack] = max(layers, depths.get(role.stack, 0))

    map_roles(count, params)

    def after(stack: str) -> int:
        """Layers of the same part that come after a stack."""
        part, _, stage = stack.partition("/stage")

        def later(other: str) -> bool:
            its_part, _, its_stage = other.partition("/stage")
            staged = bool(stage and its_stage) and part == its_part
            return other.startswith(f"{stack}/") or (staged and int(its_stage) > int(stage))

        return sum(depth for other, depth in depths.items() if later(other))

    used = set()

    def factor(path: str, layers_above: int) -> float:
        value = config.layer_decay**layers_above
        for pattern, scale in scales:
            if re.match(pattern, path):
                used.add(pattern)
                value *= scale
        return value

    def of(role: Role, leaf: Any) -> float | np.ndarray:
        if role.kind == "statistic":
            return 0.0
        in_layer, further = role.at in (LAYER, STAGE), above.get(role.part, 0)
        stack = role.stack if in_layer else role.part
        depth = depths.get(stack, 0)
        if in_layer or role.at == INPUT:
            further += after(stack)
        if role.stacked:
            paths = [role.path.replace("/blocks/", f"/blocks/{i}/") for i in range(depth)]
            factors = [factor(path, further + depth - i) for i, path in enumerate(paths)]
            per_layer = np.array(factors, np.float32)
            if (per_layer == per_layer[0]).all():
                return float(per_layer[0])
            return per_layer.reshape(-1, *(1,) * (leaf.ndim - 1))
        at = {INPUT: further + depth + 1, STAGE: further + depth - role.layer, TOKENS: further}
        return factor(role.path, at.get(role.at, 0))

    tree = map_roles(of, params)
    unused = [pattern for pattern, _ in scales if pattern not in used]
    if unused:
        raise UserError(
            f"config.optim: the pattern {unused[0]!r} matches no parameter; paths look like "
            "'image/blocks/3/mlp/fc1/kernel' and are matched from their start."
        )
    return tree


def frozen(multipliers: Any) -> Any:
    """Tree of bool: True where a whole parameter stays (no gradient, no moments)."""
    return jax.tree.map(lambda factor: bool(np.all(factor == 0)), multipliers)


def optimizer(
    config: ConfigDict, multipliers: Any, apart: Any = None
) -> optax.GradientTransformation:
    """The update direction at learning rate 1, weight decay included.

    The train step multiplies it by schedule(step) and by `lr_multipliers`: the schedule then counts
    the steps of the run, also those whose non-finite update was skipped.

    Args:
      config: `config.optim`.
      multipliers: `lr_multipliers`.
      apart: of a run whose optimizer may begin later for some parameters: a tree like the
        parameters of names. Those of a name have moments and counts of their own.
    """
    clip = [optax.clip_by_global_norm(config.grad_clip)] if config.grad_clip else []
    if apart is None:
        labels = jax.tree.map(lambda f: "frozen" if f else "trained", frozen(multipliers))
        core = optax.chain(*clip, _core(config)) if clip else _core(config)
        if "frozen" not in jax.tree.leaves(labels):
            return core
        return optax.multi_transform({"trained": core, "frozen": optax.set_to_zero()}, labels)
    labels = jax.tree.map(lambda f, name: "frozen" if f else name, frozen(multipliers), apart)
    cores = {name: _core(config) for name in sorted(set(jax.tree.leaves(apart)))}
    # One norm for all, as if they had one optimizer.
    return optax.chain(
        *clip, optax.multi_transform(cores | {"frozen": optax.set_to_zero()}, labels)
    )


def _core(config: ConfigDict) -> optax.GradientTransformation:
    decay = config.weight_decay
    if config.name == "adamw":
        return optax.adamw(
            1.0, config.b1, config.b2, config.eps, weight_decay=decay, mask=_is_matrix
        )
    if config.name == "lion":
        return optax.lion(1.0, config.b1, config.b2, weight_decay=decay, mask=_is_matrix)
    if config.name == "adafactor":
        return optax.adafactor(None, weight_decay_rate=decay, weight_decay_mask=_is_matrix)
    # Muon: the update of a matrix is scaled to the RMS that Adam's has, so one rate serves both
    # (Liu et al., 2025, "Muon is scalable for LLM training").
    return optax.contrib.muon(
        1.0, beta=config.b1, adam_b1=config.b1, adam_b2=config.b2, eps=config.eps,
        weight_decay=decay, weight_decay_mask=_is_matrix,
        muon_weight_dimension_numbers=_muon_dimensions, consistent_rms=0.2,
    )  # fmt: skip


def _is_matrix(params: Any) -> Any:
    return map_roles(lambda role, _: role.kind == "matrix", params)


def _muon_dimensions(params: Any) -> Any:
    """Matrices [layers?, in…, out] are orthogonalised, layer by layer; all else goes to Adam."""

    def numbers(role: Role, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        if role.kind != "matrix":
            return None
        inputs = tuple(range(int(role.stacked), leaf.ndim - 1))
        return optax.contrib.MuonDimensionNumbers(inputs, (leaf.ndim - 1,))

    return map_roles(numbers, params)
