"""What an objective is, and the table of them by name.

An objective names the views of the batch it needs, the model outputs it requires of each view, and
a pure loss. The train step runs the model once a distinct view, whatever the number of objectives.
What a loss needs beside the model (a projection that is trained with it, a queue of past
embeddings) is declared here and kept in the train state.
"""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from mmjax.data.vocabulary import Vocabulary, placeholder
from mmjax.errors import UserError

Batch = Mapping[str, jax.Array]
Outputs = Mapping[str, Mapping[str, Any]]  # view → output or column name → array(s)
Rows = tuple[jax.Array, jax.Array]  # int32 [M] each: the rows of images, and of texts, that pair


@dataclasses.dataclass(frozen=True)
class Objective:
    """One pretraining task.

    Attributes:
      requires: view → names of the model outputs the loss reads. The view "plain" is the batch;
        "teacher/NAME" are the outputs of `config.teachers.NAME` and "ema" those of the averaged
        parameters (`config.optim.ema`), both of the plain batch and without a gradient;
        "teacher/NAME/VIEW" is what that teacher makes of the view VIEW, which it then sees as the
        model does. A view may be one that another objective makes.
      loss: (outputs, batch) → (float32 scalar, metrics to log). Arrays are global. Beside the
        outputs a view holds its own columns, as the labels that its maker put there. An objective
        that declares `params` or `state` takes them as a third argument, an `Own`.
      views: makes the other views: name → (batch, key) → batch, static shapes, inside the step. A
        view is the batch with some columns new: a tower runs again only if its own are.
      pairs: makes views of which nothing but the fusion runs, on tokens that the towers made of the
        plain view: name → (outputs, batch, key) → which images meet which texts. The plain view
        must be required to have "image_tokens" and "text_tokens".
      params: (key, shapes of the outputs) → parameters that are trained with the model's. They are
        checkpointed with them, but no part of the model: not evaluated, not exported.
      state: (shapes of the outputs) → arrays that are kept from step to step. One of two or more
        dimensions is [n, B, …], its second axis split over the devices as the batch is.
      update: (state, outputs, batch) → the state of the next step.
    """

    requires: Mapping[str, tuple[str, ...]]
    loss: Callable[..., tuple[jax.Array, Mapping[str, jax.Array]]]
    views: Mapping[str, Callable[[Batch, jax.Array], Batch]] = dataclasses.field(
        default_factory=dict
    )
    pairs: Mapping[str, Callable[[Outputs, Batch, jax.Array], Rows]] = dataclasses.field(
        default_factory=dict
    )
    params: Callable[[jax.Array, Outputs], Any] | None = None
    state: Callable[[Outputs], Any] | None = None
    update: Callable[[Any, Outputs, Batch], Any] | None = None


def is_frozen(view: str) -> bool:
    """Whether a view is of other parameters than those that are trained."""
    return view == "ema" or view.startswith("teacher/")


def teacher_of(view: str) -> tuple[str, str]:
    """Which teacher a frozen view is of, and of which view: ("big", "mlm") of "teacher/big/mlm"."""
    _, name, *of = view.split("/")
    return name, of[0] if of else "plain"


class Own(NamedTuple):
    """What an objective declared: its parameters and its state, None where it has none."""

    params: Any = None
    state: Any = None


Builder = Callable[..., Objective]
REGISTRY: dict[str, Builder] = {}


def register(name: str) -> Callable[[Builder], Builder]:
    """Adds a builder; its keyword arguments are the keys `config.objectives.NAME.*`.

    Arguments `vocabulary` and `model` are no keys: the `Vocabulary` of the run's tokenizer, and
    `config.model`.
    """

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
    return {key: p.default for key, p in parameters.items() if key not in ("vocabulary", "model")}


def build(
    config: ConfigDict, model: ConfigDict | None = None, vocabulary: Vocabulary | None = None
) -> dict[str, tuple[Objective, float]]:
    """Objectives of `config.objectives` with their weights, by name, in order of the names.

    `model` is config.model. Without a `vocabulary` (there is no tokenizer yet) they have the right
    outputs and shapes.

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
        wanted = inspect.signature(REGISTRY[name]).parameters
        if "vocabulary" in wanted:
            values["vocabulary"] = vocabulary or placeholder()
        if "model" in wanted:
            values["model"] = model
        try:
            result[name] = (REGISTRY[name](**values), weight)
        except ValueError as error:
            raise UserError(f"config.objectives.{name}: {error}.") from error
    return result
