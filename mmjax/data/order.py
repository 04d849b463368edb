"""The order of examples: position in the run → (source, epoch, index).

A pure function of (lengths, weights, seed), O(1) at any position. It is all the state that the data
pipeline has, so resuming and changing the number of hosts or workers change no example.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from grain.experimental import index_shuffle

MAX_CYCLE = 10_000
# Up to here a permutation is a table (of at most 128 kB): in a small set index_shuffle walks a
# cycle of 2^16 / length steps, which takes milliseconds in a tiny one.
MATERIALISED = 1 << 16


@dataclass(frozen=True, slots=True)
class Address:
    """One example of the run: record `index` of a source, as met in one of its epochs."""

    source: int
    epoch: int
    index: int


class Order:
    """A weighted mixture in which every source is permuted anew each epoch.

    Positions come in cycles. Within a cycle, source i fills exactly its share of the slots, spread
    evenly; its n-th example overall is number n mod length of its epoch n // length. Shares are
    weight / sum(weights), exact where a cycle of at most 10,000 can hold them, else the nearest.

    Args:
      lengths: number of records of each source, all positive.
      weights: relative share of the examples of each source, all positive.
      seed: the run's seed.
      blocks: how many neighbouring records of each source are visited together; () for 1.
        Neither hosts nor workers enter: any of them can read whole blocks, and stay in step.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        weights: Sequence[float],
        seed: int,
        blocks: Sequence[int] = (),
    ):
        self.blocks = tuple(blocks) or (1,) * len(lengths)
        if not lengths or not len(lengths) == len(weights) == len(self.blocks):
            raise ValueError(
                f"one weight and block a source, please: {lengths=}, {weights=}, {blocks=}"
            )
        if min(lengths) < 1 or min(weights) <= 0 or min(self.blocks) < 1:
            raise ValueError(f"all must be positive: {lengths=}, {weights=}, {blocks=}")
        self.lengths = tuple(lengths)
        self.seed = seed
        self.shares = shares_of(weights)
        # A source with share n takes the slots nearest to (0.5, 1.5, …, n - 0.5) / n of the cycle.
        slots = sorted(
            ((rank + 0.5) / share, source, rank)
            for source, share in enumerate(self.shares)
            for rank in range(share)
        )
        self._slots = [(source, rank) for _, source, rank in slots]

    def __call__(self, position: int) -> Address:
        cycle, slot = divmod(int(position), len(self._slots))
        source, rank = self._slots[slot]
        epoch, index = divmod(cycle * self.shares[source] + rank, self.lengths[source])
        key = (self.seed, source, epoch)
        return Address(
            source, epoch, permute_blocks(index, self.lengths[source], self.blocks[source], *key)
        )


def permute_blocks(index: int, length: int, block: int, *key: int) -> int:
    """A permutation of 0 … length - 1 that keeps each `block` numbers together, shuffled in it.

    Blocks are shuffled as wholes, all but the last, shorter one, which stays at the end.
    """
    if block == 1:
        return permute(index, length, *key)
    number, offset = divmod(index, block)
    whole = length // block
    if number < whole:
        number = permute(number, whole, *key)
    size = min(block, length - number * block)
    return number * block + permute(offset, size, *key, number)


def permute(index: int, length: int, *key: int) -> int:
    """Where a permutation of 0 … length - 1, chosen by the key, takes `index`."""
    if length <= MATERIALISED:
        return int(_permutation(length, *key)[index])
    # index_shuffle (grain 0.2.18) never reaches a largest index of 4^k, and some other one twice:
    # permute one number more there, and follow the permutation where it leads outside.
    last = length - 1
    last += last & (last - 1) == 0
    while (index := index_shuffle(index, last, seed=_word(*key), rounds=4)) >= length:
        pass
    return index


def shares_of(weights: Sequence[float]) -> list[int]:
    """Slots of each source in the smallest cycle that holds the weights exactly."""
    exact = np.asarray(weights, np.float64) / np.sum(weights)
    for size in range(1, MAX_CYCLE + 1):
        shares = np.rint(exact * size)
        if shares.min() >= 1 and np.allclose(shares, exact * size, rtol=0, atol=1e-9 * size):
            return shares.astype(int).tolist()
    return np.maximum(np.rint(exact * MAX_CYCLE), 1).astype(int).tolist()


@lru_cache(maxsize=64)
def _permutation(length: int, *key: int) -> np.ndarray:
    return np.random.default_rng(key).permutation(length).astype(np.uint16)


@lru_cache(maxsize=4096)
def _word(*key: int) -> int:
    # index_shuffle takes 32 bits; SeedSequence mixes the whole key into them.
    return int(np.random.SeedSequence(key).generate_state(1, np.uint32)[0])
