"""Ranks against a double loop that sorts."""

import numpy as np
import pytest

from mmjax.evaluation.ranks import ranks


def slow_ranks(query, candidates, pairs):
    """Sorts all candidates of each query by (-score, index) and looks for the first right one."""
    result = []
    for q, x in enumerate(query):
        scores = [np.float32(np.dot(x.astype(float), y.astype(float))) for y in candidates]
        order = sorted(range(len(candidates)), key=lambda j: (-scores[j], j))
        right = {c for a, c in pairs if a == q}
        result.append(min(order.index(c) for c in right))
    return np.array(result)


def embeddings(rng, n, d=8, levels=None):
    x = rng.normal(size=(n, d))
    if levels:  # few distinct values: many exact ties
        x = rng.integers(-levels, levels + 1, (n, d))
    return x.astype(np.float32)


def random_pairs(rng, queries, candidates, extra):
    first = np.stack([np.arange(queries), rng.integers(0, candidates, queries)], axis=1)
    more = np.stack([rng.integers(0, queries, extra), rng.integers(0, candidates, extra)], axis=1)
    return rng.permutation(np.concatenate([first, more]))


@pytest.mark.parametrize("levels", [None, 1])
def test_equals_a_full_sort_with_ties_and_several_right_answers(levels):
    rng = np.random.default_rng(0)
    query, candidates = embeddings(rng, 40, levels=levels), embeddings(rng, 90, levels=levels)
    pairs = random_pairs(rng, 40, 90, extra=60)
    found = ranks(query, candidates, pairs)
    np.testing.assert_array_equal(found, slow_ranks(query, candidates, pairs))


@pytest.mark.parametrize("block", [1, 7 * 90, 10**9])
def test_does_not_depend_on_the_block(block):
    rng = np.random.default_rng(1)
    query, candidates = embeddings(rng, 33, d=64), embeddings(rng, 90, d=64)
    candidates[10:20] = candidates[50:60]
    pairs = random_pairs(rng, 33, 90, extra=5)
    expected = slow_ranks(query, candidates, pairs)
    np.testing.assert_array_equal(ranks(query, candidates, pairs, block=block), expected)


def test_of_equal_scores_the_lower_index_comes_first():
    query, candidates = np.ones((1, 2), np.float32), np.ones((5, 2), np.float32)
    for right in range(5):
        assert ranks(query, candidates, np.array([[0, right]])) == right
    assert ranks(query, candidates, np.array([[0, 4], [0, 2]])) == 2


def test_what_is_not_finite_ranks_last():
    nan = np.float32(np.nan)
    query = np.array([[1, 0], [nan, 0]], np.float32)
    candidates = np.array([[1, 0], [0, 1], [nan, 0]], np.float32)
    pairs = np.array([[0, 0], [1, 0]])
    np.testing.assert_array_equal(ranks(query, candidates, pairs), [1, 2])
    assert ranks(query[:1], candidates, np.array([[0, 2]])) == 2


def test_a_query_without_a_right_answer_is_an_error():
    with pytest.raises(ValueError, match="at least one right answer"):
        ranks(np.ones((2, 2)), np.ones((2, 2)), np.array([[0, 1]]))
