"""The order is a pure function, exact in its proportions, a permutation each epoch."""

from collections import Counter

import numpy as np
import pytest

from mmjax.data.order import MATERIALISED, Order, permute


def walk(order: Order, count: int, start: int = 0):
    return [order(position) for position in range(start, start + count)]


def test_each_epoch_of_each_source_is_a_permutation():
    order = Order([13, 5, 1], [3.0, 2.0, 1.0], seed=7)
    seen: dict[tuple[int, int], list[int]] = {}
    for a in walk(order, 13 * 6 * 4):
        seen.setdefault((a.source, a.epoch), []).append(a.index)
    lengths = (13, 5, 1)
    whole = [key for key, found in seen.items() if len(found) == lengths[key[0]]]
    assert len(whole) >= 3 + 5 + 50
    for source, epoch in whole:
        assert sorted(seen[source, epoch]) == list(range(lengths[source]))
    assert seen[0, 0] != seen[0, 1], "an epoch repeats the order of the one before"


def test_epochs_come_one_after_the_other():
    epochs = [a.epoch for a in walk(Order([10], [1.0], 0), 35)]
    assert epochs == [0] * 10 + [1] * 10 + [2] * 10 + [3] * 5


def test_small_permutations_are_even():
    """Every record is first in about a quarter of 4,000 epochs (five standard deviations)."""
    order = Order([4], [1.0], seed=3)
    first = Counter(order(4 * epoch).index for epoch in range(4000))
    assert all(abs(first[i] - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75) for i in range(4))


@pytest.mark.parametrize(
    ("weights", "block", "shares"),
    [
        ([1, 1], 2, [1, 1]),
        ([0.5, 0.25, 0.25], 4, [2, 1, 1]),
        ([0.9, 0.1], 10, [9, 1]),
        ([12, 3], 5, [4, 1]),
        ([1, 1, 1], 3, [1, 1, 1]),
    ],
)
def test_proportions_are_exact_over_each_block(weights, block, shares):
    order = Order([100] * len(weights), weights, seed=0)
    for start in (0, block, 1000 * block):
        found = Counter(a.source for a in walk(order, block, start))
        assert [found[s] for s in range(len(weights))] == shares


def test_irrational_weights_are_near():
    order = Order([50, 50], [np.pi, 1.0], seed=0)
    found = Counter(a.source for a in walk(order, 10_000))
    assert abs(found[0] / 10_000 - np.pi / (np.pi + 1)) < 1e-4


def test_a_block_spreads_its_sources():
    """No run of one source much longer than its share asks for."""
    sources = [a.source for a in walk(Order([9, 9], [3, 1], 0), 400)]
    gaps = np.diff(np.flatnonzero(sources))
    assert gaps.max() <= 4


def test_seed_changes_the_order_and_nothing_else_does():
    a, b, c = (walk(Order([40, 20], [2, 1], s), 90) for s in (0, 0, 1))
    assert a == b
    assert a != c


def test_a_far_position_needs_no_walk():
    order = Order([12_000_000, 3_000_000], [0.7, 0.3], seed=5)
    a = order(10**12)
    assert (a.source, a.epoch) in {(0, 7 * 10**11 // 12_000_000), (1, 3 * 10**11 // 3_000_000)}
    assert 0 <= a.index < 12_000_000


@pytest.mark.parametrize("length", [1, 2, MATERIALISED, MATERIALISED + 1, 100_003])
def test_both_kinds_of_permutation_are_whole(length):
    found = [permute(i, length, 3, 0, 9) for i in range(length)]
    assert sorted(found) == list(range(length))
    if length > 2:  # no trace of the old order: the correlation of ranks is below 5 sigma
        assert abs(np.corrcoef(found, range(length))[0, 1]) < 5 / np.sqrt(length)


@pytest.mark.parametrize(("length", "block"), [(1, 4), (7, 8), (64, 8), (67, 8), (20_011, 64)])
def test_blocks_are_a_permutation_of_neighbours(length, block):
    order = Order([length], [1.0], seed=2, blocks=[block])
    for epoch in range(2):
        found = [order(epoch * length + n).index for n in range(length)]
        assert sorted(found) == list(range(length))
        whole = length // block * block
        blocks = [{i // block for i in found[n : n + block]} for n in range(0, whole, block)]
        assert all(len(one) == 1 for one in blocks)
    if length >= 64:
        first = [order(n).index for n in range(0, length // block * block, block)]
        assert [i // block for i in first] != sorted(i // block for i in first)
        inside = [order(n).index % block for n in range(block)]
        assert inside != sorted(inside)
