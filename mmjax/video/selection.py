"""Which of many stand for all: facility location, and the knapsack problem of the benchmarks."""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

SAME = 1e-6  # a gain, as a share of all weights, that rounding may have made


class Choice(NamedTuple):
    number: int
    gain: float  # by which it raised the objective when it was chosen


def choose(
    features: np.ndarray,
    budget: float,
    costs: np.ndarray | None = None,
    *,
    weights: np.ndarray | None = None,
) -> list[Choice]:
    """Those that stand for all as well as a budget allows, the best first; copies are left out.

    The objective is Σ_i w_i max_{j chosen} max(0, x_i · x_j), facility location. It grows by
    less with each that is chosen, so that taking again and again what adds most comes within
    1 - 1/e of the best (Nemhauser et al., 1978). With costs, what adds most for its cost is taken
    of what the budget still allows; should one alone be worth more than all these, it is the choice
    (Lin and Bilmes, 2010). Gains are computed when they are needed (Minoux, 1978), products a row
    at a time: memory is that of the features.

    Args:
      features: float [N, D].
      budget: sum of costs.
      costs: float [N], > 0; each is 1 without them.
      weights: float [N], ≥ 0: what each counts for, as the seconds that it lasts.
    """
    count = len(features)
    costs = np.ones(count) if costs is None else costs
    weights = np.ones(count) if weights is None else weights
    covered = np.zeros(count)

    def row(number: int) -> np.ndarray:
        return np.maximum(np.asarray(features @ features[number], np.float64), 0.0)

    def gain(number: int) -> float:
        return float(weights @ np.maximum(row(number) - covered, 0.0))

    alone = [gain(number) for number in range(count)]
    queue = [(-alone[j] / costs[j], j) for j in range(count) if costs[j] <= budget]
    heapq.heapify(queue)
    best = max((j for _, j in queue), key=lambda j: alone[j], default=None)
    chosen, left = list[Choice](), budget
    while queue:
        _, number = heapq.heappop(queue)
        if costs[number] > left + 1e-9:
            continue
        added = gain(number)  # no more than when it was put into the queue
        now = (-added / costs[number], number)
        if queue and now > queue[0]:
            heapq.heappush(queue, now)
            continue
        if added <= SAME * weights.sum():  # the others are copies of what is chosen
            break
        chosen.append(Choice(number, added))
        left -= costs[number]
        np.maximum(covered, row(number), out=covered)
    if best is not None and alone[best] > sum(choice.gain for choice in chosen):
        return [Choice(best, alone[best])]
    return chosen


def nearest(features: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """int [N]: which of the chosen (its number) stands for each."""
    closest = np.argmax(features @ features[list(chosen)].T, axis=1)
    return np.array([chosen[place] for place in closest])


def knapsack(values: np.ndarray, costs: Sequence[int], budget: int) -> list[int]:
    """The numbers, ascending, of those that are worth most together within the budget: exact.

    Args:
      values: float [N], ≥ 0.
      costs: N integers, ≥ 0.
      budget: the sum of costs that is allowed.
    """
    best = np.zeros(budget + 1)  # worth of the first ones, by what they may cost
    taken = np.zeros((len(values), budget + 1), bool)
    for number, (value, cost) in enumerate(zip(values, costs, strict=True)):
        if cost > budget:
            continue
        taking = np.full(budget + 1, -np.inf)
        taking[cost:] = best[: budget + 1 - cost] + value
        taken[number] = taking > best
        best = np.maximum(best, taking)
    chosen, left = [], budget
    for number in reversed(range(len(values))):
        if taken[number, left]:
            chosen.append(number)
            left -= costs[number]
    return chosen[::-1]
