"""img2dataset-style tar shards (`key.jpg`, `key.txt`, `key.json`), read at random through an index.

An uncompressed tar is a random-access file once the offset and length of each member are known.
The headers are read once and the index is kept on disk, valid while sizes and times stay.
"""

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data.records import BadRecord, Record, report_skipped
from mmjax.data.tar_index import (
    BLOCK,
    Fields,
    Unusable,
    index_folders,
    index_name,
    parse_captions,
    parse_json,
    scan_shards,
    write_index,
)


class TarSource:
    """Pairs of many tar shards as one sequence. Not constructed directly: see `open_tar`."""

    def __init__(
        self,
        shards: list[str],
        index_file: Path,
        fields: Fields,
        name: str,
        skipped: dict[str, int],
    ):
        self.name = name
        self.skipped = skipped
        self._shards = shards
        self._fields = fields
        self._index_file = index_file
        self._index = np.load(index_file, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        row = self._index[index]
        shard = self._shards[row["shard"]]
        # The block before the data is its header and has the name, so the index need not.
        data = _read(shard, int(row["image_at"]) - BLOCK, int(row["image_length"]) + BLOCK)
        member = data[:100].rstrip(b"\0").decode("utf-8", "replace")
        return Record(
            key=f"{shard}: {member}",
            image=data[BLOCK:],
            captions=self.captions(index),
            label=int(row["label"]),
            group=int(row["group"]),
        )

    def captions(self, index: int) -> tuple[str, ...]:
        row = self._index[index]
        parts = {}
        for part in {field.partition(":")[0] for field in self._fields.captions}:
            if row[f"{part}_length"]:
                at, length = int(row[f"{part}_at"]), int(row[f"{part}_length"])
                parts[part] = _read(self._shards[row["shard"]], at, length)
        try:
            return parse_captions(
                self._fields.captions, parts.get("txt"), parse_json(parts.get("json"))
            )
        except Unusable as error:  # it was fine when the index was made
            shard = self._shards[row["shard"]]
            raise BadRecord(f"{shard}: record {index} has {error}, the shard changed") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._index = np.load(self._index_file, mmap_mode="r")


def open_tar(shards: Sequence[str], fields: Fields, name: str) -> TarSource:
    """Opens shards, from the index of an earlier run if it is still valid.

    Pairs that cannot be used (no image, no caption, a caption that is not UTF-8, an empty member)
    are left out and counted in `skipped`.

    Raises:
      UserError: a shard is missing, empty, cut off or no tar; or no usable pair is left.
    """
    shards = sorted(str(shard) for shard in shards)
    file_name = index_name(shards, fields)
    folders = index_folders(Path(shards[0]).parent)
    found = next((f / file_name for f in folders if (f / file_name).exists()), None)
    if found is None:
        index, skipped, first = scan_shards(shards, fields, name)
        found = write_index(index, skipped, first, folders, file_name)
    summary = json.loads(found.with_suffix(".json").read_text(encoding="utf-8"))
    source = TarSource(shards, found, fields, name, summary["skipped"])
    report_skipped(name, len(source), summary["skipped"], summary["first"])
    return source


class _Handle:
    """An open file, closed when the last reader lets go of it."""

    def __init__(self, path: str):
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self):
        if hasattr(self, "fd"):
            os.close(self.fd)


_handle = lru_cache(maxsize=256)(_Handle)


def _read(path: str, at: int, length: int) -> bytes:
    try:
        data = os.pread(_handle(path).fd, length, at)
    except OSError as error:
        raise BadRecord(f"{path}: {error.strerror}") from error
    if len(data) < length:
        raise BadRecord(f"{path}: ends before byte {at + length}, the shard changed")
    return data
