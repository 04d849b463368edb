"""95 % confidence intervals by the bootstrap (Efron, 1979; the percentile method), seeded.

They say how far a number would move with another sample of records, not with another training run.
"""

from collections.abc import Callable, Mapping

import numpy as np

RESAMPLES = 1000


class Estimate(float):
    """A number with the interval `low` … `high`; wherever intervals do not matter, a float."""

    low: float
    high: float

    def __new__(cls, value: float, low: float, high: float) -> "Estimate":
        estimate = super().__new__(cls, value)
        estimate.low, estimate.high = float(low), float(high)
        return estimate


def estimates(
    metrics: Callable[[np.ndarray], Mapping[str, float]], count: int, seed: int = 0
) -> dict[str, Estimate]:
    """Metrics with their intervals.

    Args:
      metrics: computes them from the weights of the examples, [count]: how often each counts.
      count: examples, or clusters of examples that are drawn together.
      seed: of the resamples; the same seed gives the same intervals.

    Returns:
      The metrics of weights 1, each with the 2.5th and 97.5th percentile over 1,000 resamples.
    """
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, count, count) for _ in range(RESAMPLES))
    resampled = [metrics(np.bincount(draw, minlength=count)) for draw in draws]
    found = {}
    for name, value in metrics(np.ones(count)).items():
        low, high = np.percentile([metric[name] for metric in resampled], (2.5, 97.5))
        found[name] = Estimate(value, low, high)
    return found
