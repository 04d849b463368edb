"""What a data source is: a random-access sequence of records with captions.

Every format (tar shards, tables, folders, ArrayRecord, TFDS) ends up as a `Source`; the rest of
the pipeline knows nothing else about storage.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

log = logging.getLogger("mmjax.data")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Record:
    """One image with its captions, as stored.

    `image` is the encoded file, or a decoded uint8 array [H, W, 3]. `label` is a class number and
    `group` a number shared by records that show the same thing; -1 says that there is none.
    """

    key: str
    image: bytes | np.ndarray
    captions: tuple[str, ...]
    label: int = -1
    group: int = -1


class BadRecord(Exception):  # noqa: N818 - it is caught and counted, rarely raised to a user
    """One record cannot be used. The message names it: shard and member, or file."""


class Source(Protocol):
    """Records by number. Instances pickle cheaply: every worker process gets one."""

    @property
    def name(self) -> str: ...

    @property
    def skipped(self) -> Mapping[str, int]:
        """Why → how many records were left out when the source was opened."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record:
        """Raises `BadRecord` if this one cannot be read."""
        ...

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions alone, where the format allows without reading the image."""
        ...


def clean_captions(values: object) -> tuple[str, ...]:
    """A string or a list of strings as a tuple of stripped captions, empty ones left out."""
    if isinstance(values, str | bytes):
        values = [values]
    if not isinstance(values, list | tuple | np.ndarray):
        return ()
    texts = (v.decode("utf-8") if isinstance(v, bytes) else v for v in values)
    return tuple(t.strip() for t in texts if isinstance(t, str) and t.strip())


def report_skipped(name: str, kept: int, skipped: Mapping[str, int], first: Mapping[str, str]):
    """Logs in one line how many records a source left out, why, and the first of each kind."""
    if skipped:
        reasons = "; ".join(
            f"{n:,} {why} (first: {first[why]})" for why, n in sorted(skipped.items())
        )
        log.warning("%s: %s records, left out: %s", name, f"{kept:,}", reasons)
