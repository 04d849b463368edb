"""What an objective is, and the table of them by kind.

An objective names the views of the batch it needs, the model outputs it requires of each view, and
a pure loss. The train step runs each part of the model once for each distinct input, whatever the
number of objectives. What a loss needs beside the model (a projection that is trained with it, a
queue of past embeddings) is declared here and kept in the train state.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.data.vocabulary import Vocabulary, placeholder
from mmjax.errors import UserError
from mmjax.schema import Keys, checked, keys_of, nearest
from mmjax.values import NATURAL, Range

Batch = Mapping[str, jax.Array]
Outputs = Mapping[str, Mapping[str, Any]]  # view → output or column name → array(s)
Rows = Mapping[str, jax.Array]  # part → int32 [M], which rows of it pair

PLAIN = "plain"  # the view that is the batch as it was loaded
EMA = "ema"
SELF = "self"
TEACHER = "teacher"
LOCAL = "local"  # among the outputs that `loss` sees: what `local` returned


class Own(NamedTuple):
    """What an objective declared: its parameters and its state, None where it has none; and the
    average of its parameters, where `config.optim.ema` keeps one."""

    params: Any = None
    state: Any = None
    ema: Any = None


class View(NamedTuple):
    """An altered batch. `make`: (batch, key, frozen) → the batch with some columns new, static
    shapes, inside the step. A part runs again only if a column that it reads is new. `reads`: the
    frozen views and their outputs that `frozen`, of the same form, then holds."""

    make: Callable[[Batch, jax.Array, Outputs], Batch]
    reads: Mapping[str, tuple[str, ...]] = {}


@dataclasses.dataclass(frozen=True)
class Objective:
    """One pretraining task, the entry `config.objectives.NAME`.

    Attributes:
      requires: view → names of the model outputs the loss reads. The view "plain" is the batch;
        "teacher/NAME" are the outputs of `config.teachers.NAME`, "ema" those of the averaged
        parameters (`config.optim.ema`) and "self" those of the parameters as they are, all of the
        plain batch and without a gradient; "teacher/NAME/VIEW", "ema/VIEW" and "self/VIEW" are what
        these make of the view VIEW. A view may be one that another objective makes.
      loss: (outputs, batch, own) → (float32 scalar, metrics to log). Arrays are global. Beside the
        outputs a view holds its own columns, as the labels that its maker put there; `own` is what
        the objective declares.
      local: (outputs, batch, own) → arrays [b, …] a row for each example, e.g. sums and counts,
        computed inside a microbatch of b examples. What it requires does not leave the microbatch:
        `loss` sees what it returned, of the whole batch, as outputs["local"], and no other output.
      views: makes the other views by their names: the objective's own, or NAME/….
      pairs: makes views of which only the joints run, on what the towers made of the plain view:
        name → (outputs, batch, key) → which rows of each tower meet. The plain view must be
        required to have the towers' tokens.
      params: (key, shapes of the outputs) → parameters that are trained with the model's. They are
        checkpointed with them, but no part of the model: not evaluated, not exported.
      state: (shapes of the outputs) → arrays that are kept from step to step. One of two or more
        dimensions is [n, B, …], its second axis split over the devices as the batch is.
      update: (own, outputs, batch) → the state of the next step, from what the loss saw.
      averaged: whether the loss reads `own.ema`, the average of `params`.
      inputs: columns that the objective reads and no part of the model does: their name → (kind of
        modality, the keys that this reads), as `Graph.inputs` has them.
      logits: the output whose last axis has a value for each class that the column "label" counts,
        of an objective that learns from labels; "" for others.
      absent: parts of which a row may be blank, since its source has nothing for them (the column
        PART_there is False): the loss is over the rows that have all of these.
      bags: the text parts of which it takes a bag of captions an example (their key `bag`).
      pair_loss: where the loss is a sum over pairs of a sigmoid loss, by which
        `config.data.curation` may choose pairs, the outputs that it reads of the plain view: two
        embeddings, a scale and a bias; () for others.
      owns: patterns of the model's parameters that it alone trains, such as a mask token: where it
        begins later than the run, their moments begin with it.
    """

    requires: Mapping[str, tuple[str, ...]]
    loss: Callable[[Outputs, Batch, Own], tuple[jax.Array, Mapping[str, jax.Array]]]
    local: Callable[[Outputs, Batch, Own], Any] | None = None
    views: Mapping[str, View] = dataclasses.field(default_factory=dict)
    pairs: Mapping[str, Callable[[Outputs, Batch, jax.Array], Rows]] = dataclasses.field(
        default_factory=dict
    )
    params: Callable[[jax.Array, Outputs], Any] | None = None
    state: Callable[[Outputs], Any] | None = None
    update: Callable[[Own, Outputs, Batch], Any] | None = None
    averaged: bool = False
    inputs: Mapping[str, tuple[str, Any]] = dataclasses.field(default_factory=dict)
    logits: str = ""
    absent: tuple[str, ...] = ()
    bags: tuple[str, ...] = ()
    pair_loss: tuple[str, ...] = ()
    owns: tuple[str, ...] = ()

    def all_requires(self) -> list[tuple[str, tuple[str, ...]]]:
        """(view, outputs) of all that the objective and the makers of its views read."""
        makers = (item for view in self.views.values() for item in view.reads.items())
        return [*self.requires.items(), *makers]


def there_of(batch: Batch, parts: Iterable[str]) -> jax.Array | None:
    """bool [B], True on rows that have something for all of these parts; None: all rows have."""
    columns = [batch[f"{part}_there"] for part in parts if f"{part}_there" in batch]
    return functools.reduce(jnp.logical_and, columns) if columns else None


def is_frozen(view: str) -> bool:
    """Whether a view is of other parameters than those that are trained."""
    return view.partition("/")[0] in (EMA, SELF, TEACHER)


def frozen_of(view: str) -> tuple[str, str]:
    """Whose outputs a frozen view holds, and of which view: ("teacher/big", "mlm") of
    "teacher/big/mlm", ("ema", "plain") of "ema"."""
    whose, _, of = view.partition("/")
    if whose == TEACHER:
        name, _, of = of.partition("/")
        whose = f"{TEACHER}/{name}"
    return whose, of or PLAIN


def teacher_of(view: str) -> str | None:
    """The name of the teacher that a view is of, if it is of one."""
    whose, _, name = frozen_of(view)[0].partition("/")
    return name if whose == TEACHER else None


@dataclasses.dataclass(frozen=True)
class Common:
    """The keys of `config.objectives.NAME` that all kinds have.

    Attributes:
      kind: What it computes, of the registry; '' is the entry's name.
      weight: Weight in the total loss.
      start: Share of the run's steps after which it begins.
      stop: Share of the run's steps after which it ends.
    """

    kind: str = ""
    weight: Annotated[float, NATURAL] = 1.0
    start: Annotated[float, Range(0, below=1)] = 0.0
    stop: Annotated[float, Range(above=0, most=1)] = 1.0


COMMON = keys_of(Common)
Builder = Callable[..., Objective]
REGISTRY: dict[str, Builder] = {}
SMOKE: dict[str, Mapping[str, Any]] = {}  # kind → key → its value in a smoke run
NOTHING: Mapping[str, Any] = MappingProxyType({})
_GIVEN = ("name", "vocabulary", "model")  # arguments of builders that are no keys


def register(kind: str, smoke: Mapping[str, Any] = NOTHING) -> Callable[[Builder], Builder]:
    """Adds a builder; its keyword arguments are the keys `config.objectives.NAME.*` of this kind.
    `smoke` has the values of those that make a smoke run small.

    Arguments `name`, `vocabulary` and `model` are no keys: the name of the entry, which names its
    views, the `Vocabulary` of the run's tokenizer, and `config.model`.
    """

    def add(builder: Builder) -> Builder:
        REGISTRY[kind], SMOKE[kind] = builder, smoke
        return builder

    return add


def list_objectives() -> list[str]:
    """The kinds of objectives there are, for `config.objectives.NAME.kind`."""
    return sorted(REGISTRY)


def kind_of(name: str, entry: Mapping[str, Any]) -> str:
    """The kind of `config.objectives.NAME`; UserError names the nearest that there is."""
    kind = entry.get("kind") or name
    if kind not in REGISTRY:
        near = nearest(kind, REGISTRY)
        key = f"config.objectives.{name}" + (f".kind={kind!r}" if kind != name else "")
        raise UserError(
            f"{key}: there is no such kind of objective; the nearest is {near!r}. An entry of "
            "another name says its kind, e.g. kind='clip'."
        )
    return kind


def smoke_of(kind: str) -> Mapping[str, Any]:
    """Key → value of a kind of objective in a smoke run, of those that make it small."""
    return SMOKE.get(kind, NOTHING)


def keys_at(kind: str) -> Keys:
    """The config keys of a kind of objective."""
    return _keys_of(REGISTRY[kind])


@functools.cache
def _keys_of(builder: Builder) -> Keys:
    return COMMON + keys_of(builder, skip=_GIVEN)


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
        kind = kind_of(name, config[name])
        values = dict(checked(keys_at(kind), f"objectives.{name}", config[name]).items())
        weight = values.pop("weight")
        for key in ("kind", "start", "stop"):
            values.pop(key, None)
        given = {"name": name, "vocabulary": vocabulary or placeholder(), "model": model}
        wanted = inspect.signature(REGISTRY[kind]).parameters
        values |= {key: value for key, value in given.items() if key in wanted}
        try:
            result[name] = (REGISTRY[kind](**values), weight)
        except ValueError as error:
            raise UserError(f"config.objectives.{name}: {error}.") from error
    return result
