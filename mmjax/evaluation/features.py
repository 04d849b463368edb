"""Features of a training and a test set with labels: what probe and k-NN start from."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from mmjax.data import Source, open_source
from mmjax.data.classes import classes_of
from mmjax.data.splits import NoSplits
from mmjax.errors import UserError
from mmjax.evaluation.classes import as_trained
from mmjax.evaluation.embed import Embedder
from mmjax.evaluation.parts import record_part
from mmjax.evaluation.skips import check_complete, open_test
from mmjax.evaluation.spec import Evaluation, Subject, source_of


class Labelled(NamedTuple):
    x: np.ndarray  # float32 [N, D], of unit length
    label: np.ndarray  # int32 [N]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfFeatures(Evaluation):
    """The keys of evaluators that learn from features of a training set.

    Attributes:
      of: The part that embeds the records; '' is the one that reads no texts.
      train: Path of the training set, which is read as the test set is; '' is the same path.
      train_split: Its split.
    """

    of: str = ""
    train: str = ""
    train_split: str = "train"


class Features:
    """The two sets of an evaluator with the keys `OfFeatures`."""

    def __init__(self, name: str, spec: Any, subject: Subject):
        self._name, self._of = name, record_part(subject, spec.of, name)
        path = spec.train or spec.path
        same = f"evals.{name}: training and test set are the same: set train."
        if path == spec.path and spec.train_split == (spec.split or "test"):
            raise UserError(same)
        # Another path need not be divided, and is the training set as it is.
        asked = spec.train_split if path == spec.path or spec.train_split != "train" else ""
        try:
            train = source_of(spec, path=path, split=asked)
            self._train = open_source(train, f"{name} (train)", labels=True)
        except NoSplits as error:
            raise UserError(same) from error
        test = open_test(spec, name, labels=True)
        names = classes_of(self._train)
        self._test, self.classes = as_trained(test, names, name, spec.allow_skips)
        self._embedder = Embedder.of(spec, subject)
        check_complete(self._train, self._embedder.allow_skips)

    def __call__(self, params: Any) -> tuple[Labelled, Labelled, dict[str, float]]:
        """Training set, test set, and what was skipped."""
        train, _ = self._embedder.records(params, self._train, self._of)
        test, skipped = self._embedder.records(params, self._test, self._of)
        self._check(self._train, train, int(np.iinfo(np.int32).max))
        self._check(self._test, test, int(train["label"].max()) + 1)
        embed = f"{self._of}/embed"
        first, second = (Labelled(c[embed], c["label"]) for c in (train, test))
        return first, second, skipped

    def _check(self, source: Source, columns: dict[str, np.ndarray], classes: int) -> None:
        label = columns["label"]
        wrong = np.flatnonzero((label < 0) | (label >= classes))
        if wrong.size:
            found, key = int(label[wrong[0]]), source[int(columns["index"][wrong[0]])].key
            problem = "no label" if found < 0 else f"the label {found}"
            raise UserError(
                f"evals.{self._name}: {key} has {problem}"
                + (f", but the training set's are 0 to {classes - 1}" if found >= 0 else "")
                + ": check the keys label and train."
            )
