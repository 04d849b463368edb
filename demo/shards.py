"""Writes tar shards as img2dataset does: KEY.png, KEY.txt, KEY.json in 000000.tar.

The same pairs give the same bytes, and a shard appears whole or not at all.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Pair:
    """A picture (encoded, with its suffix and size) with its caption.

    url: where it came from, e.g. "npm:NAME@VERSION/path".  fields: more entries of KEY.json.
    """

    image: bytes
    suffix: str
    width: int
    height: int
    caption: str
    url: str
    fields: dict[str, Any]


def write_shard(path: Path, pairs: Iterable[Pair]) -> int:
    """Writes `pairs` to the tar `path` and returns how many there were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    count = 0
    try:
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as shard:
            for pair in pairs:
                key = f"{path.stem}{count:04d}"  # img2dataset: the shard's number, then the pair's
                _add(shard, f"{key}.{pair.suffix}", pair.image)
                _add(shard, f"{key}.txt", pair.caption.encode())
                _add(shard, f"{key}.json", _json(key, pair))
                count += 1
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # time 0, owner 0: the archive does not tell who wrote it when
    info.size = len(data)
    shard.addfile(info, io.BytesIO(data))


def _json(key: str, pair: Pair) -> bytes:
    values = {
        "caption": pair.caption,
        "url": pair.url,
        "key": key,
        "status": "success",
        "error_message": None,
        "width": pair.width,
        "height": pair.height,
        "sha256": hashlib.sha256(pair.image).hexdigest(),
        **pair.fields,
    }
    return json.dumps(values, ensure_ascii=False).encode()
