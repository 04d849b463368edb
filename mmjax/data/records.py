"""What a data source is: a random-access sequence of records.

Every format (tar shards, tables, folders, ArrayRecord, TFDS) ends up as a `Source`; the rest of
the pipeline knows nothing else about storage.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from mmjax import machine

log = logging.getLogger("mmjax.data")


class Texts(NamedTuple):
    """Captions of one record, and how often each should be taken; (): all alike."""

    captions: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class Record:
    """One example as it is stored: what the modalities (`data/modalities`) read.

    `parts` maps a field to its stored form. The fields of this package are "image" (the encoded
    file, or a decoded uint8 array [H, W, 3 or 4]), "video" (a `videos.Clip`, an encoded file or a
    path, `stills.Stills`, or frames uint8 [T, H, W, 3 or 4]), "audio" (a `videos.Clip`, an encoded
    file or a path, or a `sounds.Waveform`), "text" (`Texts`), "tags" (names of the objects in the
    image), "boxes" (`boxes.Boxes`: regions of the image and what is said of them) and "regions" (an
    encoded .npy or an array float [n, F]: what a detector found); another source may yield others.
    `label` is a class number and `group` a number shared by records that show the same thing; -1
    says that there is none.
    """

    key: str
    parts: Mapping[str, Any]
    label: int = -1
    group: int = -1

    def part(self, field: str) -> Any:
        """Raises BadRecord if the record lacks it."""
        if field not in self.parts:
            raise BadRecord(f"{self.key} is without {field}")
        return self.parts[field]

    @property
    def texts(self) -> Texts:
        return self.parts.get("text", Texts())

    @property
    def captions(self) -> tuple[str, ...]:
        return self.texts.captions

    def group_or(self, number: int) -> int:
        """The group, or, below 0, a number of its own: -1 would make all others positives."""
        return self.group if self.group >= 0 else -1 - number % (1 << 31)


def pair(
    key: str,
    shown: Any,
    texts: Texts,
    label: int = -1,
    group: int = -1,
    media: str = "image",
    **others: Any,
) -> Record:
    """The record of an image, or of another of the media, with what is said about it."""
    return Record(key, {media: shown, "text": texts, **others}, label, group)


class BadRecord(Exception):  # noqa: N818 - it is caught and counted, rarely raised to a user
    """One record cannot be used. The message names it: shard and member, or file."""


def unreadable(what: str, error: BaseException, why: str = "") -> BadRecord:
    """The `BadRecord` of what could not be read, for `why` or what the error says.

    UserError: it is the machine that lacks something, such as open files, and not the data.
    """
    machine.raise_problem(f"{what} cannot be read", error)
    return BadRecord(f"{what}: {why or getattr(error, 'strerror', None) or error}")


class Source(Protocol):
    """Records by number. Instances pickle cheaply: every worker process gets one.

    Two attributes are optional: `classes`, the names of its classes in order of label, and
    `labels`, the labels of all records, int [n], where no record need be read for them.
    """

    @property
    def name(self) -> str: ...

    @property
    def skipped(self) -> Mapping[str, int]:
        """Why → how many records were left out when the source was opened. A source that fills an
        `Account` has it from there."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Raises `BadRecord` if this one cannot be read."""
        ...

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions alone. A source that is quick at it, reading no image and asking no object
        store, has `captions_alone = True`."""
        ...


def read_records(source: Source, indices: Sequence[int]) -> list[Record | BadRecord]:
    """Several records; at once where the source can (`read`), as remote ones do."""
    if hasattr(source, "read"):
        return source.read(indices)
    records: list[Record | BadRecord] = []
    for index in indices:
        try:
            records.append(source[index])
        except BadRecord as error:
            records.append(error)
    return records


def weigh(fields: Sequence[tuple[str, ...]], weights: Sequence[float]) -> Texts:
    """Captions of several fields as one tuple, each with its part of the field's weight.

    The weight of a field without a caption falls to the others; () where no weights are given.
    """
    captions = tuple(caption for field in fields for caption in field)
    if not weights:
        return Texts(captions)
    pairs = zip(fields, weights, strict=True)
    return Texts(captions, tuple(w / len(field) for field, w in pairs for _ in field))
