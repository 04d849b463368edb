"""Facility location and the knapsack problem, against trying everything."""

import itertools

import numpy as np
import pytest

from mmjax.video.selection import choose, knapsack, nearest


def features(count, dim=5, seed=0):
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def worth(rows, chosen, weights):
    if not len(chosen):
        return 0.0
    return float(weights @ np.maximum(rows.astype(float) @ rows[list(chosen)].T, 0).max(axis=1))


def by_hand(rows, budget, costs, weights):
    """Greedy as it is written down: everything is computed anew in each round."""
    chosen = []
    while True:
        left = budget - sum(costs[j] for j in chosen)
        fits = [j for j in range(len(rows)) if j not in chosen and costs[j] <= left + 1e-9]
        if not fits:
            return chosen
        now = worth(rows, chosen, weights)
        gains = {j: worth(rows, [*chosen, j], weights) - now for j in fits}
        best = max(fits, key=lambda j: gains[j] / costs[j])
        chosen.append(best)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_chosen_is_what_greedy_chooses_and_near_the_best(seed):
    rows, rng = features(10, seed=seed), np.random.default_rng(seed)
    weights = rng.random(10) + 0.1
    found = choose(rows, 3, weights=weights)
    numbers = [choice.number for choice in found]
    assert numbers == by_hand(rows, 3, np.ones(10), weights)
    total = sum(choice.gain for choice in found)
    assert total == pytest.approx(worth(rows, numbers, weights), rel=1e-5)
    best = max(worth(rows, some, weights) for some in itertools.combinations(range(10), 3))
    assert (1 - 1 / np.e) * best <= total <= best + 1e-5


@pytest.mark.parametrize("seed", range(8))
def test_costs_are_kept_to_and_one_alone_may_be_the_choice(seed):
    rows, rng = features(9, seed=seed), np.random.default_rng(seed)
    weights, costs = rng.random(9) + 0.1, rng.uniform(1, 5, 9)
    numbers = [choice.number for choice in choose(rows, 6.0, costs, weights=weights)]
    assert sum(costs[numbers]) <= 6.0
    greedy = by_hand(rows, 6.0, costs, weights)
    alone = max(range(9), key=lambda j: worth(rows, [j], weights))
    expected = max([greedy, [alone]], key=lambda some: worth(rows, some, weights))
    assert numbers == expected
    # x costs all that there is and is like all of many; y is cheap and like itself alone.
    rows = np.array([[1, 0]] * 9 + [[0, 1]], np.float32)
    costs = np.array([10.0] * 9 + [0.1])
    assert [c.number for c in choose(rows, 10.0, costs)] == [0]


def test_copies_are_left_out_and_what_costs_too_much():
    rows = features(3)[[0, 1, 2, 0, 1, 2]]
    assert len(choose(rows, 6)) == 3
    assert choose(rows, 1.0, np.full(6, 2.0)) == []


def test_each_is_stood_for_by_the_nearest():
    rows = features(20, seed=3)
    by = nearest(rows, [4, 7, 11])
    assert by[[4, 7, 11]].tolist() == [4, 7, 11]
    for number in range(20):
        assert max((4, 7, 11), key=lambda j: rows[number] @ rows[j]) == by[number]


@pytest.mark.parametrize("seed", range(12))
def test_the_knapsack_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    count, budget = int(rng.integers(1, 10)), int(rng.integers(0, 30))
    values, costs = rng.random(count), rng.integers(0, 15, count).tolist()
    chosen = knapsack(values, costs, budget)
    assert chosen == sorted(set(chosen))
    assert sum(costs[j] for j in chosen) <= budget
    best = max(
        sum(values[list(some)])
        for size in range(count + 1)
        for some in itertools.combinations(range(count), size)
        if sum(costs[j] for j in some) <= budget
    )
    assert sum(values[chosen]) == pytest.approx(best)
