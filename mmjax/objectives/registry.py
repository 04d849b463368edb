"""What an objective is, and the table of them by name.

An objective names the views of the batch it needs, the model outputs it requires of each view, and
a pure loss. The train step runs the model once a distinct view, whatever the number of objectives.
"""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from mmjax.errors import UserError

Batch = Mapping[str, jax.Array]
Outputs = Mapping[str, Mapping[str, jax.Array]]  # view → output name → array


def _no_views() -> dict[str, Callable[[Batch, jax.Array], Batch]]:
    return {}


@dataclasses.dataclass(frozen=True)
class Objective:
    """One pretraining task.

    Attributes:
      requires: view → names of the model outputs the loss reads. The view "plain" is the batch.
      loss: (outputs, batch) → (float32 scalar, metrics to log). Arrays are global.
      views: makes the other views: name → (batch, key) → batch, static shapes, inside the step.
    """

    requires: Mapping[str, tuple[str, ...]]
    loss: Callable[[Outputs, Batch], tuple[jax.Array, Mapping[str, jax.Array]]]
    views: Mapping[str, Callable[[Batch, jax.Array], Batch]] = dataclasses.field(
        default_factory=_no_views
    )


Builder = Callable[..., Objective]
REGISTRY: dict[str, Builder] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Adds a builder; its keyword arguments are the keys `config.objectives.NAME.*`."""

    def add(builder: Builder) -> Builder:
        REGISTRY[name] = builder
        return builder

    return add


def options(name: str) -> dict[str, Any]:
    """The config keys of an objective with their defaults; UserError names the nearest name."""
    if name not in REGISTRY:
        near = difflib.get_close_matches(name, REGISTRY, n=1, cutoff=0.0)[0]
        raise UserError(f"config.objectives.{name}: no such objective; the nearest is {near!r}.")
    parameters = inspect.signature(REGISTRY[name]).parameters
    return {key: parameter.default for key, parameter in parameters.items()}


def build(config: ConfigDict) -> dict[str, tuple[Objective, float]]:
    """Objectives of `config.objectives` with their weights, by name, in order of the names.

    Raises:
      UserError: names an objective or an option that does not exist, or a value that cannot be.
    """
    result = {}
    for name in sorted(config):
        known, values = options(name), dict(config[name])
        weight = values.pop("weight")
        for key in values.keys() - known.keys():
            near = difflib.get_close_matches(key, ["weight", *known], n=1, cutoff=0.0)[0]
            raise UserError(
                f"config.objectives.{name}.{key}: no such key; the nearest is {near!r}."
            )
        try:
            result[name] = (REGISTRY[name](**values), weight)
        except ValueError as error:
            raise UserError(f"config.objectives.{name}: {error}.") from error
    return result
