"""k nearest neighbours on frozen features, weighted as in Wu et al. (2018).

The k training records of the highest cosine vote for their class with exp(cosine / temperature).
"""

import dataclasses
from typing import Annotated, Any

import numpy as np

from mmjax.evaluation.accuracy import accuracy_names, score_accuracy
from mmjax.evaluation.features import Features, OfFeatures
from mmjax.evaluation.ranks import BLOCK
from mmjax.evaluation.spec import Subject
from mmjax.inference import on_mesh
from mmjax.values import COUNT, POSITIVE


def knn_scores(
    query: np.ndarray,
    x: np.ndarray,
    label: np.ndarray,
    *,
    k: int,
    temperature: float,
    block: int = BLOCK,
) -> np.ndarray:
    """The votes for each class, float64 [Q, classes].

    Args:
      query: float [Q, D] of unit length.
      x: float [N, D] of unit length, the neighbours.
      label: int [N], their classes.
      k: how many of them vote; of equal cosines the lower index does.
      temperature: of the weights.
      block: cosines [rows, N] computed at once.
    """
    neighbours = x.astype(np.float64).T
    k = min(k, len(x))
    rows = max(1, block // len(x))
    votes = np.zeros((len(query), int(label.max()) + 1))
    for start in range(0, len(query), rows):
        # Rounded, so that they do not depend on how the product is cut (see ranks.py).
        cosine = (query[start : start + rows].astype(np.float64) @ neighbours).astype(np.float32)
        least = np.partition(cosine, -k, axis=1)[:, -k]
        for row, scores in enumerate(cosine):
            near = np.flatnonzero(scores >= least[row])
            near = near[np.argsort(-scores[near], kind="stable")][:k]
            weight = np.exp((scores[near].astype(np.float64) - 1) / temperature)
            votes[start + row] = np.bincount(label[near], weight, minlength=votes.shape[1])
    return votes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knn(OfFeatures):
    """The keys of the kind "knn".

    Attributes:
      k: How many neighbours vote.
      temperature: A neighbour's weight is exp(cosine / temperature).
    """

    k: Annotated[int, COUNT] = 20
    temperature: Annotated[float, POSITIVE] = 0.07


class NearestNeighbours:
    """Classifies records by the labels of their k nearest neighbours in a training set."""

    def __init__(self, name: str, spec: Any, subject: Subject):
        self._k, self._temperature = spec.k, spec.temperature
        self._features = Features(name, spec, subject)
        self.classes = self._features.classes

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics."""
        return accuracy_names()

    def __call__(self, params: Any) -> dict[str, float]:
        """Metrics as `rank_accuracy` names them, the same on every host."""
        with on_mesh(params) as params:
            train, test, skipped = self._features(params)
        votes = knn_scores(test.x, train.x, train.label, k=self._k, temperature=self._temperature)
        return score_accuracy(votes, test.label) | skipped
