"""img2dataset-style tar shards (`key.jpg`, `key.txt`, `key.json`), read at random through an index.

An uncompressed tar is a random-access file once the offset and length of each member are known,
here or in an object store. The headers are read once and the index is kept.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data import storage
from mmjax.data.account import Account, Accounted
from mmjax.data.contents import HEAD
from mmjax.data.identity import digest, relative
from mmjax.data.records import BadRecord, Record, Texts, weigh
from mmjax.data.repeats import Same
from mmjax.data.stills import is_still, stills_in
from mmjax.data.tar_index import scan_shards
from mmjax.data.tar_kept import find_index, index_name, write_index
from mmjax.data.tar_members import BLOCK
from mmjax.data.tar_pair import (
    Fields,
    Unusable,
    parse_captions,
    parse_json,
    parse_tags,
    regions_of,
    without_regions,
)
from mmjax.errors import UserError


class TarSource(Accounted):
    """Pairs of many tar shards as one sequence. Not constructed directly: see `open_tar`."""

    def __init__(
        self,
        shards: list[str],
        index_file: Path,
        fields: Fields,
        weights: tuple[float, ...],
        timeout: float,
        name: str,
        account: Account,
        same: Same,
    ):
        self.name = name
        self.account = account
        self._same = same
        self.captions_alone = not any(storage.is_url(shard) for shard in shards)
        self._shards = shards
        self._fields, self._weights, self._timeout = fields, weights, timeout
        texts = {field.partition(":")[0] for field in fields.captions}
        self._parts = sorted(texts | ({"json"} if fields.tags or fields.boxes else set()))
        self._index_file = index_file
        self._index = np.load(index_file, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        (record,) = self.read([index])
        if isinstance(record, BadRecord):
            raise record
        return record

    def read(self, indices: Sequence[int]) -> list[Record | BadRecord]:
        """Several records with as few requests as it takes."""
        rows = [self._index[int(index)] for index in indices]
        ranges = [self._ranges(row, (self._fields.parts[0], *self._parts)) for row in rows]
        content = iter(storage.read([r for parts in ranges for r in parts.values()], self._timeout))
        return [
            self._record(row, {part: next(content) for part in parts})
            for row, parts in zip(rows, ranges, strict=True)
        ]

    def repeats(self) -> Same:
        """See `data/repeats.py`."""
        return self._same

    def captions(self, index: int) -> tuple[str, ...]:
        row = self._index[index]
        ranges = self._ranges(row, self._parts)
        content = storage.read(list(ranges.values()), self._timeout)
        for part in content:
            if isinstance(part, BadRecord):
                raise part
        return self._texts(row, dict(zip(ranges, content, strict=True))).captions

    def identity(self) -> str:
        """See `data/identity.py`."""
        return digest([relative(self._shards), self._index.dtype.descr, self._index.tobytes()])

    @property
    def labels(self) -> np.ndarray:
        """int32 [records], of the index."""
        return self._index["label"]

    def shard_sizes(self) -> dict[str, int]:
        """Usable pairs of each shard, the shards of each pair being in order."""
        counts = Counter(self._index["shard"].tolist())
        return {self._shards[number]: counts[number] for number in sorted(counts)}

    def _ranges(self, row: np.void, parts: Sequence[str]) -> dict[str, storage.Range]:
        shard = self._shards[row["shard"]]
        spans = {part: (int(row[f"{part}_at"]), int(row[f"{part}_length"])) for part in parts}
        first = self._fields.parts[0]
        if first in spans:
            # The block before the data is its header and has the name, so the index need not.
            at, length = spans[first]
            spans[first] = at - BLOCK, length + BLOCK
        return {
            part: storage.Range(shard, at, length) for part, (at, length) in spans.items() if length
        }

    def _record(self, row: np.void, content: dict[str, Any]) -> Record | BadRecord:
        for part in content.values():
            if isinstance(part, BadRecord):
                return part
        first = content[self._fields.parts[0]]
        member = first[:100].rstrip(b"\0").decode("utf-8", "replace")
        parts: dict[str, Any] = {self._fields.media: first[BLOCK:]}
        try:
            if self._fields.media == "video" and is_still(first[BLOCK : BLOCK + HEAD]):
                parts["video"] = stills_in(first, f"{self._shards[row['shard']]}: {member}")
            parts["text"] = self._texts(row, content)
            if self._fields.tags:
                parts["tags"] = parse_tags(self._fields.tags, parse_json(content.get("json")))
            boxes = regions_of(self._fields.boxes, parse_json(content.get("json")))
            if boxes:
                parts["boxes"] = boxes
        except BadRecord as error:
            return error
        except Unusable as error:
            return self._changed(row, error)
        key = f"{self._shards[row['shard']]}: {member}"
        return Record(key, parts, int(row["label"]), int(row["group"]))

    def _changed(self, row: np.void, error: Unusable) -> BadRecord:
        """It was fine when the index was made."""
        return BadRecord(f"{self._shards[row['shard']]}: a pair {error}, the shard changed")

    def _texts(self, row: np.void, content: dict[str, Any]) -> Texts:
        try:
            values = parse_json(content.get("json"))
            found = parse_captions(self._fields.captions, content.get("txt"), values)
        except Unusable as error:
            raise self._changed(row, error) from error
        return weigh(found, self._weights)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None, "_same": {}}  # United knows them

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._index = np.load(self._index_file, mmap_mode="r")


def open_tar(
    shards: Sequence[str],
    fields: Fields,
    name: str,
    *,
    weights: tuple[float, ...] = (),
    bad_shards: float = 0.0,
    timeout: float = 60.0,
) -> TarSource:
    """Opens shards, here or remote, from the index of an earlier run if it is still valid.

    Pairs that cannot be used (no image, no caption, a caption that is not UTF-8, an empty member)
    are left out and counted in `skipped`.

    Args:
      shards: paths or URLs.
      fields: what to take from a pair.
      name: what messages call it.
      weights: how often to take a caption of each of `fields.captions`; (): any caption.
      bad_shards: share of missing or damaged shards to go on without.
      timeout: seconds for a remote read.

    Raises:
      UserError: shards are missing, empty, cut off or no tar; or no usable pair is left.
    """
    shards = sorted(str(shard) for shard in shards)
    stamps = storage.stamps(shards, name)
    if not any(stamps):
        raise UserError(f"{name}: none of the {len(shards)} shards is there, not {shards[0]}.")
    file_name = index_name(shards, stamps, fields, bad_shards)
    beside = os.path.dirname(shards[0])
    found = find_index(beside, file_name)
    if found is None:
        index = scan_shards(shards, stamps, fields, name, bad_shards)
        found = write_index(index, beside, file_name)
    about = json.loads(found.with_suffix(".json").read_text(encoding="utf-8"))
    account, same = Account.of_json(about), dict(about["same"])
    if fields.captions:
        said = f"captions are the {', '.join(fields.captions)} of each pair"
        account.found.append(f"{said}; caption=txt or json:FIELD says otherwise")
    source = TarSource(shards, found, fields, weights, timeout, name, account, same)
    pairs = len(source) + account.left_out.total()
    if fields.boxes and account.unread[without_regions(fields)] == pairs:
        raise UserError(
            f"{name}: boxes='json:{fields.boxes}', and no pair has a JSON with the field "
            f"{fields.boxes!r}: name the field of the regions."
        )
    return source
