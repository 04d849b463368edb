"""Examples: which caption and which view of a record are shown, by seed and address."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from mmjax.data.augment import Augment, train_transform
from mmjax.data.images import MAX_PIXELS
from mmjax.data.order import Address
from mmjax.data.records import BadRecord, Record
from mmjax.data.segments import NO_SEGMENTS, Segments
from mmjax.data.workers import Batch

NO_IMAGE = np.zeros(0, np.uint8)


class Example(NamedTuple):
    """One example of a batch. `address` is of the record that is shown, with the epoch whose
    augmentation it has; `problem` says why it stands in for another record ("" if it does not);
    `regions` are as `Segments.read` gives them, where the model reads some."""

    address: Address
    record: Record
    caption: str
    image: np.ndarray
    group: int
    problem: str = ""
    regions: tuple[np.ndarray, np.ndarray] | None = None


Transform = Callable[[Example, int], np.ndarray]


class Columns(Protocol):
    """What adds columns to a batch; it pickles cheaply, every worker process gets one."""

    def __call__(self, examples: Sequence[Example], transform: Transform) -> Batch:
        """The columns, [b, ...]. `transform(example, size)` is the example's view at a size: the
        same crop and colours, uint8 [size, size, 3]."""
        ...


def group_of(record: Record, number: int) -> int:
    """The record's group, or, below 0, a number of its own: -1 would make all others positives."""
    return record.group if record.group >= 0 else -1 - number % (1 << 31)


@dataclass(frozen=True)
class Views:
    """What is shown of a record: a caption and a view, functions of (seed, source, epoch, index).

    `count`: after so many epochs the views repeat; 0: never. `max_pixels`: of a picture to decode.
    """

    seed: int
    augment: Augment
    count: int
    max_pixels: int = MAX_PIXELS
    segments: Segments = NO_SEGMENTS

    def of(self, address: Address) -> Address:
        """The address whose view is shown."""
        return replace(address, epoch=address.epoch % self.count) if self.count else address

    def example(self, address: Address, record: Record, size: int, group: int) -> Example:
        """The record at `address` as an example; of size 0, without an image. Raises BadRecord."""
        rng = example_rng(self.seed, address)
        caption, image = _caption(record, rng), NO_IMAGE
        if size:
            image = _named(record, train_transform, rng, size, self.augment, self.max_pixels)
        regions = self.segments.read(record) if self.segments.regions else None
        return Example(address, record, caption, image, group, regions=regions)

    def transform(self, example: Example, size: int) -> np.ndarray:
        """The same view at another size, uint8 [size, size, 3]."""
        return self.example(example.address, example.record, size, example.group).image


def example_rng(seed: int, address: Address) -> np.random.Generator:
    """The random numbers of one example: a stream of its own for each (seed, address)."""
    key = [seed % (1 << 64), address.source]
    return np.random.Generator(
        np.random.Philox(key=key, counter=[0, 0, address.epoch, address.index])
    )


def _caption(record: Record, rng: np.random.Generator) -> str:
    """One of the record's captions, by their weights if it has any."""
    if not record.captions:
        raise BadRecord(f"{record.key} is without a caption")
    if not sum(record.caption_weights):
        return record.captions[rng.integers(len(record.captions))]
    shares = np.array(record.caption_weights) / sum(record.caption_weights)
    return record.captions[rng.choice(len(shares), p=shares)]


def _named(record: Record, transform: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
    """Applies a transform to the record's image; an error names the record."""
    try:
        return transform(record.image, *args)
    except BadRecord as error:
        raise BadRecord(f"{record.key} {error}") from error
