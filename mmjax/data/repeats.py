"""Records that show one image are one record with the captions of all, in every format.

Where images are files, in folders, tables and JSON, their names say which are one. Elsewhere they
are one if they are equal byte for byte: img2dataset writes COCO as a key for each caption, and
taken for 25,000 images of one caption each that would give another retrieval than COCO's 5,000.
Records without captions stay as they are (test sets of classes count every image), and so do those
of other labels or groups and those that repeat the captions, too, which are `mmjax data dedup`'s.
"""

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mmjax.data.account import Account, Accounted, account_of
from mmjax.data.classes import classes_of
from mmjax.data.identity import digest, identity
from mmjax.data.records import BadRecord, Record, Source, Texts, read_records

LOOK_THROUGH = 1 << 30  # bytes of images that are read for it when a source is opened
TOGETHER = 64

Same = Mapping[int, int]  # record → the first one of the same image


class United(Accounted):
    """A source in which the records of one image are one."""

    def __init__(self, source: Source, same: Same):
        self.name = source.name
        self.account = Account()
        self.account.add(account_of(source))
        self.account.found.append(
            f"{len(same):,} of {len(source):,} records repeat the image of another, and are one "
            "record with it that has the captions of both"
        )
        self.block = getattr(source, "block", 1)
        self.classes = classes_of(source)
        self.captions_alone = getattr(source, "captions_alone", False)
        self._source = source
        self._later: dict[int, list[int]] = {}  # the first record of an image → the others
        for later, first in same.items():
            self._later.setdefault(first, []).append(later)
        gone = np.array(sorted(same))
        self._gone, self._shift = gone, gone - np.arange(len(gone))

    def __len__(self) -> int:
        return len(self._source) - len(self._shift)

    def __getitem__(self, index: int) -> Record:
        (record,) = self.read([index])
        if isinstance(record, BadRecord):
            raise record
        return record

    def read(self, indices: Sequence[int]) -> list[Record | BadRecord]:
        numbers = [self._numbers(index) for index in indices]
        records = iter(read_records(self._source, [n for group in numbers for n in group]))
        return [_unite([next(records) for _ in group]) for group in numbers]

    def captions(self, index: int) -> tuple[str, ...]:
        return tuple(c for n in self._numbers(index) for c in self._source.captions(n))

    def identity(self) -> str:
        """See `data/identity.py`."""
        return digest([identity(self._source), self._shift.tobytes()])

    @property
    def labels(self) -> np.ndarray | None:
        """Of each image; None where the source has none without reading them."""
        labels = getattr(self._source, "labels", None)
        return None if labels is None else np.delete(labels, self._gone)

    def _numbers(self, index: int) -> list[int]:
        """The records of the source that are record `index` here."""
        first = int(index) + int(np.searchsorted(self._shift, index, side="right"))
        return [first, *self._later.get(first, ())]


def united(source: Source) -> Source:
    """The source with one record for each image, if it can tell (`repeats`) and any repeat."""
    same = source.repeats() if hasattr(source, "repeats") else {}
    return United(source, same) if same else source


class Shown(NamedTuple):
    """Record `number` shows `image`, and has these captions (or what stands for them)."""

    number: int
    image: bytes
    captions: Hashable
    label: int
    group: int


def same_images(shown: Iterable[Shown], total: int) -> dict[int, int]:
    """Which records show the image of an earlier one, with another caption.

    Nothing if all of the `total` records show one image: that is no set of images with captions,
    but a stand-in for what could not be fetched, or a try.
    """
    first: dict[tuple[bytes, int, int], int] = {}
    said: set[tuple[bytes, Hashable]] = set()
    same: dict[int, int] = {}
    repeated = 0
    for number, image, captions, label, group in shown:
        mark = hashlib.blake2b(image, digest_size=16).digest()
        key = (mark, label, group)
        if first.setdefault(key, number) != number:
            repeated += 1
            if (mark, captions) not in said:
                same[number] = first[key]
        said.add((mark, captions))
    return same if total - repeated > 1 else {}


def same_in(source: Source, size: int) -> dict[int, int]:
    """Which records of a source show the image of an earlier one, by reading all `size` bytes.

    More than LOOK_THROUGH are not read, which is said in its account.
    """
    if size > LOOK_THROUGH:
        account_of(source).found.append(
            f"{size / 2**30:,.1f} GiB are too much to look for images that repeat: `group` says "
            "which are one"
        )
        return {}
    return same_images(_shown(source), len(source))


def _shown(source: Source) -> Iterator[Shown]:
    for start in range(0, len(source), TOGETHER):
        some = range(len(source))[start : start + TOGETHER]
        for number, record in zip(some, read_records(source, some), strict=True):
            if isinstance(record, BadRecord) or not record.captions:
                continue
            image = record.parts.get("image")
            if isinstance(image, bytes):
                yield Shown(number, image, record.captions, record.label, record.group)


def alike(*columns: np.ndarray) -> np.ndarray:
    """The numbers of rows that are equal to another one in all columns, int [n], in order."""
    order = np.lexsort(columns)
    same = np.ones(max(0, len(order) - 1), bool)
    for column in columns:
        same &= column[order[1:]] == column[order[:-1]]
    both = np.concatenate([same, [False]]) | np.concatenate([[False], same])
    return np.sort(order[both[: len(order)]])


def _unite(records: Sequence[Record | BadRecord]) -> Record | BadRecord:
    texts = []
    for record in records:
        if isinstance(record, BadRecord):
            return record
        texts.append(record.texts)
    first = records[0]
    assert isinstance(first, Record)
    if len(records) == 1:
        return first
    captions = tuple(caption for text in texts for caption in text.captions)
    weights = tuple(weight for text in texts for weight in text.weights)
    return replace(first, parts={**first.parts, "text": Texts(captions, weights)})
