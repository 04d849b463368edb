"""Bootstrap intervals: near the binomial's, seeded, and still floats."""

import json

import numpy as np
import pytest

from mmjax.evaluation.accuracy import rank_accuracy
from mmjax.evaluation.bootstrap import Estimate, estimates
from mmjax.evaluation.retrieval import rank_metrics


def test_interval_of_a_share_is_the_binomials():
    hits = np.arange(2000) < 600
    (found,) = estimates(lambda c: {"share": c @ hits / c.sum()}, 2000).values()
    half = 1.96 * (0.3 * 0.7 / 2000) ** 0.5
    assert found == 0.3
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.002)


def test_the_seed_decides():
    def share(counts):
        return {"share": counts @ np.arange(50) / counts.sum()}

    first, again, other = (estimates(share, 50, seed)["share"] for seed in (0, 0, 1))
    assert (first.low, first.high) == (again.low, again.high)
    assert (first.low, first.high) != (other.low, other.high)


def test_per_class_recall_is_that_of_the_resample():
    label, rank = np.array([0] * 90 + [1] * 10), np.array([0] * 100)
    rank[90:95] = 3
    found = rank_accuracy(rank, label, 3)
    assert found["mean_per_class_recall"] == 0.75
    assert found["top1"] == 0.95
    # Class 1 has ten images: its recall, a half of the mean, moves far more than top-1.
    recall, top1 = found["mean_per_class_recall"], found["top1"]
    assert recall.high - recall.low > 2 * (top1.high - top1.low)


def test_captions_are_drawn_with_their_image():
    rank = np.repeat([0, 9], 50)  # two images, of fifty captions each
    found = rank_metrics(rank, np.repeat([0, 1], 50), 2)["R@1"]
    assert (found, found.low, found.high) == (0.5, 0.0, 1.0)


def test_an_estimate_is_a_float_elsewhere():
    number = Estimate(0.25, 0.1, 0.4)
    assert json.dumps({"top1": number}) == '{"top1": 0.25}'
    assert number * 4 == 1
