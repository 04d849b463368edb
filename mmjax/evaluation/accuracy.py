"""Classification accuracy from ranks: top-1, top-5 and mean per-class recall, with intervals."""

from collections.abc import Sequence

import numpy as np

from mmjax.evaluation.bootstrap import estimates
from mmjax.evaluation.ranks import rank_of_right, ranks

Labels = np.ndarray | Sequence[Sequence[int]]


def accuracy(
    image_embed: np.ndarray, weights: np.ndarray, labels: Labels, *, average: bool = False
) -> dict[str, float]:
    """How often a right class is first, or among the first five, of a linear classifier.

    Args:
      image_embed: float [N, D].
      weights: float [classes, D], from `classifier`.
      labels: int [N], or for each image the classes of which any is right, at least one.
      average: as of `rank_accuracy`.

    Returns:
      As `rank_accuracy`. Of equal scores the lower class comes first.
    """
    rank = ranks(image_embed, weights, _pairs(labels))
    return rank_accuracy(rank, labels, len(weights), average=average)


def score_accuracy(
    scores: np.ndarray, labels: Labels, *, average: bool = False
) -> dict[str, float]:
    """As `accuracy`, from scores float [N, classes]."""
    rank = rank_of_right(scores, _pairs(labels))
    return rank_accuracy(rank, labels, scores.shape[1], average=average)


def rank_accuracy(
    rank: np.ndarray, labels: Labels, classes: int, *, average: bool = False
) -> dict[str, float]:
    """Accuracy from the 0-based ranks of the right class.

    Args:
      rank: int [N].
      labels: as of `accuracy`.
      classes: how many there are.
      average: also "top1_top5_mean", which Kinetics results call AVG.

    Returns:
      "top1", "top5" and, where each image has one label, "mean_per_class_recall" (over the classes
      that occur), in 0..1 with bootstrap intervals; and the numbers of "examples" and "classes".
    """
    first, five = rank == 0, rank < 5
    label = labels if isinstance(labels, np.ndarray) else None

    def metrics(counts: np.ndarray) -> dict[str, float]:
        found = {"top1": counts @ first / counts.sum(), "top5": counts @ five / counts.sum()}
        if average:
            found["top1_top5_mean"] = (found["top1"] + found["top5"]) / 2
        if label is not None:
            total = np.bincount(label, weights=counts, minlength=classes)
            hits = np.bincount(label, weights=counts * first, minlength=classes)
            found["mean_per_class_recall"] = (hits[total > 0] / total[total > 0]).mean()
        return found

    sizes = {"examples": float(len(rank)), "classes": float(classes)}
    return {**estimates(metrics, len(rank)), **sizes}


def accuracy_names(several: bool = False, average: bool = False) -> tuple[str, ...]:
    """The names of what `rank_accuracy` measures; `several`: labels an image."""
    labels: Labels = [[0]] if several else np.zeros(1, int)
    return tuple(rank_accuracy(np.zeros(1, int), labels, 1, average=average))


def _pairs(labels: Labels) -> np.ndarray:
    """int [P, 2] of (image, right class)."""
    if isinstance(labels, np.ndarray):
        return np.stack([np.arange(len(labels)), labels], axis=1)
    return np.array([(image, label) for image, right in enumerate(labels) for label in right])
