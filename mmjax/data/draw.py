"""The random numbers of one example, and what its readers share."""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mmjax.data.order import Address
from mmjax.data.records import Record, Texts


class Draw:
    """What is random about one example: a function of (seed, source, epoch, index).

    Attributes:
      address: of the record that is shown, with the epoch whose augmentation it has.
      caption: one of the record's captions; None if it has none. It is drawn first, whether or not
        it is read, so that a crop does not depend on who reads the captions.
    """

    def __init__(self, seed: int, address: Address, record: Record):
        first = example_rng(seed, address)
        self.address = address
        self.caption = _caption(record.texts, first)
        self._seed, self._streams = seed, {"image": first}
        self._made: dict[str, Any] = {}

    def rng(self, field: str) -> np.random.Generator:
        """The random numbers of a field: a stream of its own, whatever else is read."""
        if field not in self._streams:
            self._streams[field] = example_rng(self._seed, self.address, field)
        return self._streams[field]

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """`make()` of the first reader that asks: a decoded image and its crop, for one."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]


def example_rng(seed: int, address: Address, field: str = "") -> np.random.Generator:
    """A stream for each (seed, address, field); that of field "" begins with the caption."""
    key, stream = [seed % (1 << 64), address.source], zlib.crc32(field.encode())
    return np.random.Generator(
        np.random.Philox(key=key, counter=[0, stream, address.epoch, address.index])
    )


def _caption(texts: Texts, rng: np.random.Generator) -> str | None:
    """One of the captions, by their weights if there are any."""
    captions, weights = texts
    if not captions:
        return None
    if not sum(weights):
        return captions[rng.integers(len(captions))]
    shares = np.array(weights) / sum(weights)
    return captions[rng.choice(len(shares), p=shares)]
