"""Ranks of the right answers by cosine similarity: what retrieval and zero-shot both measure.

The order is total: a higher score comes first, of equal scores the lower index. Scores are float64
products of the float32 embeddings rounded to float32, so that they, and the ranks, do not depend
on how the product is cut into blocks, and equal embeddings tie exactly.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp

BLOCK = 1 << 22  # scores in memory at once


def ranks(
    query: np.ndarray,
    candidates: np.ndarray,
    pairs: np.ndarray,
    *,
    block: int = BLOCK,
    change: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """The 0-based rank of each query's best-placed right answer among all candidates.

    Args:
      query: float [Q, D].
      candidates: float [M, D].
      pairs: int [P, 2] of (query, candidate), the right answers; each query has at least one.
      block: scores [rows, M] computed at once; the Q × M matrix as a whole never exists.
      change: float32 [rows, M] → the scores that count, of the same shape.

    Returns:
      int64 [Q], 0 … M - 1. What is not finite ranks last: candidates whose score against the
      query is NaN count as better than the right answer, and a NaN right answer as the worst.
    """
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    if not np.array_equal(np.unique(pairs[:, 0]), np.arange(len(query))):
        raise ValueError("each query needs at least one right answer")
    columns = candidates.astype(np.float64).T  # [D, M]
    rows = max(1, block // len(candidates))
    result = np.empty(len(query), np.int64)
    for start in range(0, len(query), rows):
        stop = min(start + rows, len(query))
        scores = (query[start:stop].astype(np.float64) @ columns).astype(np.float32)  # [rows, M]
        scores = scores if change is None else change(scores)
        first, last = np.searchsorted(pairs[:, 0], (start, stop))
        result[start:stop] = rank_of_right(scores, pairs[first:last] - (start, 0))
    return result


def dual_softmax_ranks(
    query: np.ndarray,
    candidates: np.ndarray,
    pairs: np.ndarray,
    *,
    scale: float,
    block: int = BLOCK,
) -> np.ndarray:
    """`ranks` by s · softmax of s over the queries, s = scale · cosine: a candidate that many
    queries are close to counts less (the dual softmax of CAMoE, Cheng et al., 2021).

    A query's rank depends on all other queries.
    """
    columns, rows = candidates.astype(np.float64).T, max(1, block // len(candidates))
    total = np.full(len(candidates), -np.inf)  # of each candidate, log Σ exp over the queries
    for start in range(0, len(query), rows):
        scores = scale * (query[start : start + rows].astype(np.float64) @ columns)
        total = np.logaddexp(total, logsumexp(scores, axis=0))

    def change(cosine: np.ndarray) -> np.ndarray:
        scores = scale * cosine.astype(np.float64)
        return (scores * np.exp(scores - total)).astype(np.float32)

    return ranks(query, candidates, pairs, block=block, change=change)


def rank_of_right(scores: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """The 0-based rank of each row's best right answer, by scores [Q, M] and `pairs` as above."""
    right = np.zeros(scores.shape, bool)
    right[pairs[:, 0], pairs[:, 1]] = True
    best = np.where(right, scores, -np.inf).argmax(axis=1)[:, None]  # lowest index of equals
    score = np.take_along_axis(scores, best, axis=1)
    index = np.arange(scores.shape[1])
    behind = (scores < score) | ((scores == score) & (index > best))
    return scores.shape[1] - 1 - behind.sum(axis=1)
