"""The index of tar shards: where each usable pair lies, found by reading the headers once.

It is kept on disk under a name that tells the shards' sizes and times, so a stale one is not found.
"""

import hashlib
import itertools
import json
import mmap
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from mmjax.data.records import IMAGE_SUFFIXES, clean_captions, log
from mmjax.errors import UserError

INDEX_VERSION = 1
BLOCK = 512
# Where the parts of a pair lie; a length of 0 says that there is no such member.
INDEX = np.dtype(
    [("shard", "<u4"), ("label", "<i4"), ("group", "<i4")]
    + [(f"{part}_{what}", "<u8") for part in ("image", "txt", "json") for what in ("at", "length")]
)


# Index rows; why → how many pairs were left out; why → the first of them.
ShardIndex = tuple[np.ndarray, Counter[str], dict[str, str]]


class Fields(NamedTuple):
    """Which members and JSON fields hold what: `captions` as ("txt", "json:tags", …), () where none
    are wanted; `label` a JSON field, or "cls" for webdataset's member of that name."""

    captions: tuple[str, ...] = ("txt",)
    label: str = ""
    group: str = ""


class Unusable(Exception):  # noqa: N818
    """Why a pair is left out."""


class _BadShard(Exception):  # noqa: N818
    """What is wrong with a shard as a whole."""


def scan_shards(
    shards: Sequence[str], fields: Fields, name: str
) -> tuple[np.ndarray, dict[str, int], dict[str, str]]:
    """The index of all shards, the counts of what was left out, and the first of each kind."""
    log.info("%s: indexing %d tar shards", name, len(shards))
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        results = list(pool.map(scan_shard, itertools.count(), shards, itertools.repeat(fields)))
    broken = [result for result in results if isinstance(result, str)]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise UserError(
            f"{name}: {len(broken)} of {len(shards)} shards cannot be used: "
            f"{'; '.join(broken[:3])}{more}. Write them again or remove them."
        )
    skipped: Counter[str] = Counter()
    first: dict[str, str] = {}
    good = [result for result in results if not isinstance(result, str)]
    for _, counts, examples in good:
        skipped.update(counts)
        first = {**examples, **first}
    index = np.concatenate([rows for rows, _, _ in good])
    if not len(index):
        why = ", ".join(f"{n} {reason}" for reason, n in skipped.items())
        raise UserError(
            f"{name}: none of the pairs in {Path(shards[0]).parent} can be used ({why}); "
            f"is caption={','.join(fields.captions)!r} right?"
        )
    return index, dict(skipped), first


def scan_shard(number: int, shard: str, fields: Fields) -> ShardIndex | str:
    """Index rows of one shard with counts of what was left out, or a string: what is wrong."""
    try:
        with open(shard, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise _BadShard("is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _scan_pairs(number, shard, data, fields)
    except _BadShard as error:
        return f"{shard} {error}"
    except OSError as error:
        return f"{shard} cannot be read ({error.strerror})"
    except ValueError:  # a number in a header that is none
        return f"{shard} is damaged"


def _scan_pairs(number: int, shard: str, data: mmap.mmap, fields: Fields) -> ShardIndex:
    pairs: dict[str, dict[str, tuple[int, int]]] = {}
    for name, at, length in _members(data):
        stem, suffix = os.path.splitext(name)
        suffix = suffix.lower()
        part = "image" if suffix in IMAGE_SUFFIXES else suffix[1:]
        if part in ("image", "txt", "json", "cls") and not PurePosixPath(name).name.startswith(
            "._"
        ):
            pairs.setdefault(stem, {})[part] = (at, length)
    if not pairs:
        raise _BadShard("holds no images")
    rows: list[tuple] = []
    skipped: Counter[str] = Counter()
    first: dict[str, str] = {}
    for key, parts in pairs.items():
        try:
            rows.append((number, *_index_row(data, parts, fields)))
        except Unusable as error:
            skipped[str(error)] += 1
            first.setdefault(str(error), f"{shard}: {key}")
    return np.array(rows, INDEX), skipped, first


def _index_row(data: mmap.mmap, parts: dict[str, tuple[int, int]], fields: Fields) -> tuple:
    """Label, group and the places of the members; raises Unusable."""
    if "image" not in parts:
        raise Unusable("without an image")
    if parts["image"][1] == 0:
        raise Unusable("with an empty image")
    content = {p: data[at : at + length] for p, (at, length) in parts.items() if p != "image"}
    values = {}
    if fields.label or fields.group or any(f != "txt" for f in fields.captions):
        values = parse_json(content.get("json"))
    if fields.label == "cls":
        values["cls"] = content.get("cls")
    label, group = _integer(values, fields.label), _integer(values, fields.group)
    # Pictures with a class number are of use without a caption (zero-shot evaluation).
    captions = parse_captions(fields.captions, content.get("txt"), values)
    if fields.captions and not captions and not fields.label:
        raise Unusable("without a caption")
    places = (parts.get(part, (0, 0)) for part in ("image", "txt", "json"))
    return label, group, *itertools.chain(*places)


def parse_captions(wanted: Sequence[str], txt: bytes | None, values: dict) -> tuple[str, ...]:
    captions: tuple[str, ...] = ()
    for field in wanted:
        try:
            captions += clean_captions(txt if field == "txt" else values.get(field[5:]))
        except UnicodeDecodeError as error:
            raise Unusable("with a caption that is not UTF-8") from error
    return captions


def parse_json(data: bytes | None) -> dict:
    if not data:
        return {}
    try:
        values = json.loads(data)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise Unusable("with unreadable JSON") from error
    return values if isinstance(values, dict) else {}


def _integer(values: dict, field: str) -> int:
    if not field:
        return -1
    try:
        return int(np.int32(int(values[field.removeprefix("json:")])))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Unusable(f"without an integer {field!r}") from error


def _members(data: mmap.mmap) -> Iterator[tuple[str, int, int]]:
    """Name, offset and length of each file in a tar (ustar, GNU and pax; POSIX.1-2008)."""
    at, name = 0, ""
    override: dict[str, str] = {}  # for the next member
    while True:
        header = data[at : at + BLOCK]
        if len(header) < BLOCK:
            raise _BadShard(f"is cut off after {name or 'its start'}")
        if header[0] == 0:  # the end of the archive is marked by zero blocks
            return
        if header[257:262] != b"ustar":
            where = f"is damaged after {name}" if name else "is not an uncompressed tar"
            raise _BadShard(where)
        length = int(override.pop("size", None) or _number(header[124:136]))
        start, kind = at + BLOCK, header[156:157]
        if start + length > len(data):
            raise _BadShard(f"is cut off in {_text(header[:100])}")
        if kind == b"L":  # GNU: the long name of the next member
            override["path"] = _text(data[start : start + length])
        elif kind == b"x":  # pax: attributes of the next member
            override.update(_pax(data[start : start + length]))
        elif kind in (b"0", b"\0"):
            prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
            name = _text(header[:100])
            name = override.pop("path", f"{prefix}/{name}" if prefix else name)
            override = {}
            yield name, start, length
        at = start + (length + BLOCK - 1) // BLOCK * BLOCK


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: too large for octal digits
        return int.from_bytes(field[1:], "big")
    return int(field.rstrip(b" \0") or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    """The records `length key=value\\n` that matter here."""
    found = {}
    while data:
        size, _, _ = data.partition(b" ")
        key, _, value = data[len(size) + 1 : int(size) - 1].partition(b"=")
        if key in (b"path", b"size"):
            found[key.decode()] = _text(value)
        data = data[int(size) :]
    return found


def index_name(shards: Sequence[str], fields: Fields) -> str:
    """The name of the index file tells what it was made from, so that a stale one is not found."""
    stats = []
    for shard in shards:
        try:
            stat = os.stat(shard)
        except OSError as error:
            raise UserError(f"The tar shard {shard} cannot be read: {error.strerror}.") from error
        beside = os.path.relpath(shard, os.path.dirname(shards[0]))
        stats.append((beside, stat.st_size, stat.st_mtime_ns))
    what = repr((INDEX_VERSION, tuple(fields), stats))
    return f"{hashlib.sha256(what.encode()).hexdigest()[:24]}.npy"


def index_folders(beside: Path) -> list[Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [beside / ".mmjax", cache / "mmjax", Path(tempfile.gettempdir()) / "mmjax"]


def write_index(
    index: np.ndarray,
    skipped: dict[str, int],
    first: dict[str, str],
    folders: Sequence[Path],
    file_name: str,
) -> Path:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The .npy file comes last and is renamed into place: who finds it finds both, whole.
            path, part = folder / file_name, folder / f"{file_name}.{os.getpid()}.part"
            part.write_text(json.dumps({"skipped": skipped, "first": first}), encoding="utf-8")
            part.rename(path.with_suffix(".json"))
            with open(part, "wb") as file:
                np.save(file, index)
            part.rename(path)
            return path
        except OSError as error:
            log.info("cannot keep the index in %s: %s", folder, error.strerror)
    raise UserError(f"No folder to keep the index of the shards in: {folders[0]} is not writable.")
