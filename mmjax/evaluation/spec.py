"""What every evaluator is told: where its records are, when and how they are read."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from mmjax.data.sources import Records

_RECORDS = [field.name for field in dataclasses.fields(Records)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Records):
    """The keys of `config.evals.NAME` that all kinds have.

    Attributes:
      kind: What is measured; '' is what the entry is called.
      format: The kind of the source; auto finds it from the path.
      split: Split of a TFDS data set or Karpathy's; '' is test, validation for imagenet2012, train
        for the kind loss.
      every: Steps between evaluations; 0: at the end only.
      batch_size: Global batch of the evaluation.
      allow_skips: Leave out images that cannot be read, counted and named; else they fail the
        evaluation.
    """

    kind: str = ""
    format: str = "auto"
    every: int = 0
    batch_size: int = 256
    allow_skips: bool = False


def source_of(spec: ConfigDict, **changed: Any) -> dict[str, Any]:
    """The source of an evaluator with the keys `spec`, as `open_source` takes it."""
    return {name: spec[name] for name in _RECORDS} | {"kind": spec.format} | changed
