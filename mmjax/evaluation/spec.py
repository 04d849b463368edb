"""What every evaluator is told: what it evaluates, where its records are, how they are read."""

import dataclasses
from typing import Annotated, Any

from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.data.sources import Records
from mmjax.models import Graph
from mmjax.values import COUNT, COUNT_OR_0

_RECORDS = [field.name for field in dataclasses.fields(Records)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Records):
    """The keys of `config.evals.NAME` that all kinds have.

    Attributes:
      kind: What is measured; '' is what the entry is called.
      format: The kind of the source; auto finds it from the path.
      split: What to read of data that is divided, as of a training source; '' is test, validation
        for imagenet2012, train for the kind loss.
      every: Steps between evaluations; 0: at the end only.
      batch_size: Global batch of the evaluation.
      allow_skips: Leave out records that cannot be read, counted and named; else they fail the
        evaluation.
    """

    kind: str = ""
    format: str = "auto"
    every: Annotated[int, COUNT_OR_0] = 0
    batch_size: Annotated[int, COUNT] = 256
    allow_skips: bool = False


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model that is evaluated, and what evaluators read of its run's config.

    Attributes:
      model: `models.from_config(architecture)`.
      tokenizer: None if the model reads no texts.
      architecture: `config.model`.
      data: `config.data`.
      objectives: `config.objectives`.
      seed: `config.seed`.
      classes: the names of the classes that it was trained to tell apart, in order of label; () if
        there are none.
    """

    model: Graph
    tokenizer: Tokenizer | None
    architecture: ConfigDict
    data: ConfigDict
    objectives: ConfigDict
    seed: int
    classes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        config: ConfigDict,
        model: Graph,
        tokenizer: Tokenizer | None,
        classes: tuple[str, ...] = (),
    ) -> "Subject":
        """The model of the run `config`."""
        sections = config.model, config.data, config.objectives, config.seed
        return cls(model, tokenizer, *sections, classes)


def source_of(spec: ConfigDict, **changed: Any) -> dict[str, Any]:
    """The source of an evaluator with the keys `spec`, as `open_source` takes it."""
    return {name: spec[name] for name in _RECORDS} | {"kind": spec.format} | changed
