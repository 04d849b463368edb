"""The index of tar shards: where each usable pair lies, found by reading the headers once.

It is kept on disk (for remote shards also beside them) under a name that tells the shards' sizes
and times, so that a stale one is not found. How good the shards have to be is the user's to say.
"""

import hashlib
import io
import itertools
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmjax import machine
from mmjax.data.account import Account
from mmjax.data.contents import HEAD, is_image, what_it_is
from mmjax.data.filters import Filter, Lacking
from mmjax.data.records import log
from mmjax.data.repeats import TOGETHER, Same, Shown, alike, same_images
from mmjax.data.storage import CONNECTIONS, Blocks, Range, fetch_file, is_url, read, store_file
from mmjax.data.tar_members import BadShard, members
from mmjax.data.texts import (
    NULLS,
    BadText,
    clean_captions,
    integer,
    lines,
    read_json,
    txt_captions,
    written_nulls,
)
from mmjax.data.tree import passed_over
from mmjax.errors import UserError

INDEX_VERSION = 7
END = 64  # bytes at the end of an image that tell most from one another
MAX_TEXT = 1 << 20  # bytes of a .txt or .json; captions have a few hundred

Stamp = tuple[int, str] | None  # size and version of a shard; None: it is missing


# Of a row: hashes of the image's end, which may tell it from others, and of its captions (0: none).
# Arrays, as there may be hundreds of millions of rows.
MARK = np.dtype([("end", "<i8"), ("captions", "<i8")])


class ShardIndex(NamedTuple):
    """Rows of `Fields.dtype`, and what became of the other members; a mark of each row of a shard;
    of all shards, which rows show the image of another."""

    rows: np.ndarray
    account: Account
    marks: np.ndarray = np.zeros(0, MARK)
    same: Same = {}  # noqa: RUF012 - nobody writes into it


class Fields(NamedTuple):
    """Which members and JSON fields hold what: `captions` as ("txt", "json:tags", …), () where none
    are wanted; `label` a JSON field, or "cls" for webdataset's member of that name; `filter` says
    which pairs are wanted at all; `tags` a JSON field; `regions`: KEY.npy replaces the image.
    """

    captions: tuple[str, ...] = ("txt",)
    label: str = ""
    group: str = ""
    filter: Filter = Filter("", "")
    tags: str = ""
    regions: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The kinds of member that the index knows; the first is what every pair must have."""
        return ("npy" if self.regions else "image", "txt", "json")

    @property
    def dtype(self) -> np.dtype:
        """Of a row: where the parts of a pair lie; a length of 0 says that there is none."""
        spans = [(f"{p}_{what}", "<u8") for p in self.parts for what in ("at", "length")]
        return np.dtype([("shard", "<u4"), ("label", "<i4"), ("group", "<i4"), *spans])


class Unusable(Exception):  # noqa: N818
    """Why a pair is left out."""


def scan_shards(
    shards: Sequence[str], stamps: Sequence[Stamp], fields: Fields, name: str, max_bad: float
) -> ShardIndex:
    """The index of all shards, in parallel.

    Args:
      max_bad: the largest share of missing or damaged shards to go on without.

    Raises:
      UserError: more shards than that cannot be used, or none of the pairs can.
    """
    log.info("%s: indexing %d tar shards", name, len(shards))
    # Each holds a file and its memory map; a quarter of what may be open, as in storage.
    with ThreadPoolExecutor(max(1, min(CONNECTIONS, machine.open_files() // 8))) as pool:
        jobs = (itertools.count(), shards, itertools.repeat(fields), stamps)
        results = list(pool.map(scan_shard, *jobs))
    broken = [result for result in results if isinstance(result, str)]
    good = [result for result in results if not isinstance(result, str)]
    if len(broken) > max_bad * len(shards) or not good:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise UserError(
            f"{name}: {len(broken)} of {len(shards)} shards cannot be used: "
            f"{'; '.join(broken[:3])}{more}. Write them again or remove them, or set bad_shards to "
            "the share of them to go on without."
        )
    account = Account()
    if broken:
        account.leave_out("shards, missing or damaged", broken[0], len(broken))
    for result in good:
        account.add(result.account)
    index = np.concatenate([result.rows for result in good])
    if not len(index):
        raise UserError(
            f"{name}: none of the pairs in {os.path.dirname(shards[0])} can be used "
            f"({account.reasons()}); is caption={','.join(fields.captions)!r} right?"
            + "".join(f" Here, {line}." for line in account.lines() if not line.startswith("left"))
        )
    marks = np.concatenate([result.marks for result in good])
    return ShardIndex(index, account, same=_same_images(shards, index, marks, fields))


def _same_images(
    shards: Sequence[str],
    index: np.ndarray,
    marks: np.ndarray,
    fields: Fields,
) -> Same:
    """Which rows show the image of an earlier one. Length and end say which may, and are read."""
    part = fields.parts[0]
    length, captions = index[f"{part}_length"], marks["captions"]
    told = np.flatnonzero(captions)
    may = told[alike(*(x[told] for x in (marks["end"], length, index["label"], index["group"])))]

    def shown() -> Iterator[Shown]:
        for start in range(0, len(may), TOGETHER):
            some = may[start : start + TOGETHER]
            rows = index[some]
            spans = [
                Range(shards[shard], int(at), int(size))
                for shard, at, size in rows[["shard", f"{part}_at", f"{part}_length"]]
            ]
            for n, row, image in zip(some.tolist(), rows, read(spans), strict=True):
                if isinstance(image, bytes):
                    said = int(captions[n])
                    yield Shown(n, image, said, int(row["label"]), int(row["group"]))

    return same_images(shown(), len(index))


def scan_shard(number: int, shard: str, fields: Fields, stamp: Stamp) -> ShardIndex | str:
    """The index of one shard, or a string: what is wrong with it."""
    if stamp is None:
        return f"{shard} is missing"
    size = stamp[0]
    try:
        if size == 0:
            raise BadShard("is empty")
        if is_url(shard):
            return _scan_pairs(number, shard, Blocks(shard, size), fields)
        with (
            open(shard, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _scan_pairs(number, shard, data, fields)
    except BadShard as error:
        return f"{shard} {error}"
    except OSError as error:
        machine.raise_problem(f"{shard} cannot be read", error)
        return f"{shard} cannot be read ({error.strerror})"
    except ValueError:  # a number in a header that is none
        return f"{shard} is damaged"


def _scan_pairs(number: int, shard: str, data: mmap.mmap | Blocks, fields: Fields) -> ShardIndex:
    pairs: dict[str, dict[str, tuple[int, int]]] = {}
    texts: dict[str, dict[str, bytes]] = {}
    ends: dict[str, int] = {}  # of images, for which no page is read that is not read anyway
    account = Account()
    for member, at, length in members(data, account, shard):
        key, suffix = os.path.splitext(member)
        suffix = suffix.lower()
        part = "image" if is_image(member) else suffix[1:]
        passed = passed_over(member)
        if passed:
            account.pass_over(passed, f"{shard}: {member}")
            continue
        if part not in (*fields.parts, "cls"):
            account.unrecognised(suffix, f"{shard}: {member}")
            continue
        spans = pairs.setdefault(key, {})
        if part in spans:  # which of them belong together, nobody can say: the first stay
            account.leave_out(f"members that repeat a key ({suffix})", f"{shard}: {key}")
            continue
        spans[part] = (at, length)
        if part == fields.parts[0]:
            ends[key] = hash(data[max(at, at + length - END) : at + length])
        # Of an image as much as shows that it is none: a pointer to one, a page in its place.
        if length <= (HEAD if part == fields.parts[0] else MAX_TEXT):
            texts.setdefault(key, {})[part] = data[at : at + length]
    if not pairs:
        raise BadShard(f"holds no {fields.parts[0]}s" if fields.regions else "holds no images")
    rows: list[tuple] = []
    marks: list[tuple[int, int]] = []
    for key, spans in pairs.items():
        try:
            row, captions = _index_row(spans, texts.get(key, {}), fields)
        except (Unusable, Lacking) as error:
            account.leave_out(str(error), f"{shard}: {key}")
            continue
        rows.append((number, *row))
        nulls = _nulls(texts.get(key, {}), fields) if captions else 0
        if nulls:
            account.pass_over(NULLS, f"{shard}: {key}", nulls)
        # Regions and tags are of a pair, and not of its image.
        unite = captions and not (fields.regions or fields.tags)
        marks.append((ends[key], hash(captions) if unite else 0))
    if number == 0:
        account.found += _json_fields(shard, texts)
        if not fields.label and any("cls" in spans for spans in pairs.values()):
            account.found.append(f"{shard} has class numbers in .cls: label=cls reads them")
    return ShardIndex(np.array(rows, fields.dtype), account, np.array(marks, MARK))


def _json_fields(shard: str, texts: Mapping[str, Mapping[str, bytes]]) -> list[str]:
    """A sentence on the fields of the first JSON that can be read; none where there is none."""
    for key, parts in texts.items():
        try:
            found = parse_json(parts.get("json"))
        except Unusable:
            continue
        if found:
            return [f"the JSON of {shard}: {key} has the fields {', '.join(found)}"]
    return []


def _index_row(
    spans: dict[str, tuple[int, int]], texts: dict[str, bytes], fields: Fields
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Label, group and the spans of the members; and the captions.

    Raises Unusable, Lacking.
    """
    first, what = fields.parts[0], "a region file (.npy)" if fields.regions else "an image"
    if first not in spans:
        raise Unusable(f"without {what}")
    if spans[first][1] == 0:
        raise Unusable(f"with an empty {what.partition(' ')[2]}")
    mistaken = what_it_is(texts.get(first, b""))
    if mistaken:
        raise Unusable(f"whose {what.partition(' ')[2]} is {mistaken}")
    if any(length > MAX_TEXT for part, (_, length) in spans.items() if part != first):
        raise Unusable(f"with a text above {MAX_TEXT >> 20} MiB")
    values: dict[str, Any] = {}
    in_json = (fields.label, fields.group, fields.filter, fields.tags)
    if any(in_json) or any(f != "txt" for f in fields.captions):
        values = parse_json(texts.get("json"))
    if fields.label == "cls":
        values["cls"] = texts.get("cls")
    label, group = _integer(values, fields.label), _integer(values, fields.group)
    # Pictures with a class number are of use without a caption (zero-shot evaluation).
    captions = sum(parse_captions(fields.captions, texts.get("txt"), values), ())
    if fields.captions and not captions and not fields.label:
        raise Unusable("without a caption")
    if not fields.filter.keep(values, captions):
        raise Unusable("that the filter leaves out")
    parse_tags(fields.tags, values)
    parts = (spans.get(part, (0, 0)) for part in fields.parts)
    return (label, group, *itertools.chain(*parts)), captions


def parse_captions(
    wanted: Sequence[str], txt: bytes | None, values: Mapping[str, Any]
) -> list[tuple[str, ...]]:
    """The captions of each wanted field; raises Unusable."""
    try:
        return [
            txt_captions(txt) if field == "txt" else clean_captions(values.get(field[5:]))
            for field in wanted
        ]
    except BadText as error:
        raise Unusable(f"with a caption that {error}") from error


def _nulls(texts: Mapping[str, bytes], fields: Fields) -> int:
    """How many of the captions of a pair are nulls that were written."""
    found = written_nulls(lines(texts.get("txt", b""))) if "txt" in fields.captions else 0
    wanted = [field[5:] for field in fields.captions if field != "txt"]
    values = parse_json(texts.get("json")) if wanted else {}
    return found + sum(written_nulls(values.get(field)) for field in wanted)


def parse_tags(wanted: str, values: Mapping[str, Any]) -> str:
    """The tags in a JSON field, a string or a list of them, in one line; raises Unusable."""
    if wanted and wanted not in values:
        raise Unusable(f"without tags {wanted!r}")
    try:
        return " ".join(clean_captions(values.get(wanted)))
    except BadText as error:
        raise Unusable(f"with tags that {error}") from error


def parse_json(data: bytes | None) -> dict[str, Any]:
    if not data:
        return {}
    try:
        values = read_json(data)
    except ValueError as error:
        raise Unusable("with unreadable JSON") from error
    return values if isinstance(values, dict) else {}


def _integer(values: Mapping[str, Any], field: str) -> int:
    if not field:
        return -1
    try:
        number = integer(values.get(field.removeprefix("json:")))
    except (TypeError, ValueError, OverflowError) as error:
        raise Unusable(f"without an integer {field!r}") from error
    if number is None:
        raise Unusable(f"without an integer {field!r}")
    return number


# Keeping it.


def index_name(
    shards: Sequence[str], stamps: Sequence[Stamp], fields: Fields, max_bad: float
) -> str:
    """The name of the index file tells what it was made from, so that a stale one is not found."""
    folder = os.path.dirname(shards[0])
    beside = [os.path.relpath(s, folder) if not is_url(s) else s for s in shards]
    wanted: tuple = (*fields[:3], fields.filter.text, max_bad)
    if fields.tags or fields.regions:
        wanted += (fields.tags, fields.regions)
    what = repr((INDEX_VERSION, wanted, list(zip(beside, stamps, strict=True))))
    return f"{hashlib.sha256(what.encode()).hexdigest()[:24]}.npy"


def find_index(beside: str, file_name: str) -> Path | None:
    """An index that was kept, here or beside remote shards."""
    folders = _folders(beside)
    for folder in folders:
        if (folder / file_name).exists():
            return folder / file_name
    if not is_url(beside):
        return None
    for suffix in (".json", ".npy"):  # the .npy file last, as in write_index
        file = Path(file_name).with_suffix(suffix)
        content = fetch_file(f"{beside}/.mmjax/{file}")
        if content is None or _keep({file.name: content}, folders) is None:
            return None
    return find_index(folders[0].as_posix(), file_name)


def write_index(index: ShardIndex, beside: str, file_name: str) -> Path:
    """Keeps an index where there is room for it; UserError: nowhere."""
    summary = json.dumps(index.account.to_json() | {"same": list(index.same.items())}).encode()
    file = io.BytesIO()
    np.save(file, index.rows)
    # The .npy file comes last and is renamed into place: who finds it finds both, whole.
    files = {str(Path(file_name).with_suffix(".json")): summary, file_name: file.getvalue()}
    path = _keep(files, _folders(beside))
    if path is None:
        tried = ", ".join(map(str, _folders(beside)))
        raise UserError(
            f"There is no folder to keep the index of the shards in (tried {tried}): set "
            "XDG_CACHE_HOME to one that can be written."
        )
    if is_url(beside):
        for name, content in files.items():
            store_file(f"{beside}/.mmjax/{name}", content)
    return path


def _folders(beside: str) -> list[Path]:
    elsewhere = list(machine.cache_folders())
    return elsewhere if is_url(beside) else [Path(beside) / ".mmjax", *elsewhere]


def _keep(files: Mapping[str, bytes], folders: Sequence[Path]) -> Path | None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                part = folder / f"{name}.{os.getpid()}.part"
                part.write_bytes(content)
                part.rename(folder / name)
            return folder / name
        except OSError as error:
            log.info("cannot keep the index in %s: %s", folder, error.strerror)
    return None
