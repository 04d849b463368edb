"""The index of tar shards: where each usable pair lies, found by reading the headers once.

How good the shards have to be is the user's to say; `tar_kept.py` keeps the index.
"""

import itertools
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from mmjax import machine
from mmjax.data.account import Account
from mmjax.data.boxes import UNNAMED
from mmjax.data.contents import HEAD
from mmjax.data.filters import Lacking
from mmjax.data.media import MEDIA, other_media
from mmjax.data.records import log
from mmjax.data.repeats import TOGETHER, Same, Shown, alike, same_images
from mmjax.data.stills import still_of
from mmjax.data.storage import CONNECTIONS, Blocks, Range, is_url, read
from mmjax.data.tar_members import BadShard, members
from mmjax.data.tar_pair import (
    MAX_TEXT,
    Fields,
    Unusable,
    index_row,
    nulls_in,
    parse_json,
    regions_of,
    without_regions,
)
from mmjax.data.texts import (
    NULLS,
)
from mmjax.data.tree import passed_over
from mmjax.errors import UserError

INDEX_VERSION = 7
END = 64  # bytes at the end of an image that tell most from one another

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
            f"({account.reasons()}); {_doubtful(account, fields)}"
            + "".join(f" Here, {line}." for line in account.lines() if not line.startswith("left"))
        )
    marks = np.concatenate([result.marks for result in good])
    return ShardIndex(index, account, same=_same_images(shards, index, marks, fields))


def _doubtful(account: Account, fields: Fields) -> str:
    """The key that is to be looked at where none of the pairs can be used."""
    unread = (account.first[what] for what in account.unread)
    media, member = other_media(unread, fields.media)
    if media:
        return f"there are {MEDIA[media].plural}, as {member}: set media={media!r}."
    whys = list(account.left_out)
    if fields.label and any("integer" in why and fields.label in why for why in whys):
        return f"is label={fields.label!r} right, a field or member of whole numbers?"
    return f"is caption={','.join(fields.captions)!r} right?"


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
    of_stills = ""  # the key of the video whose frames are being read
    for member, at, length in members(data, account, shard):
        key, suffix = os.path.splitext(member)
        suffix = suffix.lower()
        part = fields.part(member)
        still = still_of(member) if fields.media == "video" else ""
        if still:
            key, part = still, fields.parts[0]
        passed = passed_over(member)
        if passed:
            account.pass_over(passed, f"{shard}: {member}")
            continue
        if part not in (*fields.parts, "cls"):
            account.unrecognised(suffix, f"{shard}: {member}")
            continue
        spans = pairs.setdefault(key, {})
        if still and still == of_stills:  # the part of the tar that holds all frames
            first = spans[part][0]
            spans[part] = first, at + length - first
            continue
        if part in spans:  # which of them belong together, nobody can say: the first stay
            account.leave_out(f"members that repeat a key ({suffix})", f"{shard}: {key}")
            continue
        spans[part] = (at, length)
        of_stills = still or of_stills
        if part == fields.parts[0]:
            ends[key] = hash(data[max(at, at + length - END) : at + length])
        # Of an image as much as shows that it is none: a pointer to one, a page in its place.
        if length <= (HEAD if part == fields.parts[0] else MAX_TEXT):
            texts.setdefault(key, {})[part] = data[at : at + length]
    if not pairs:
        raise BadShard(f"holds no {MEDIA[fields.media].plural}")
    rows: list[tuple] = []
    marks: list[tuple[int, int]] = []
    for key, spans in pairs.items():
        try:
            if fields.boxes and fields.boxes not in parse_json(texts.get(key, {}).get("json")):
                account.pass_over(without_regions(fields), f"{shard}: {key}")
            row, captions = index_row(spans, texts.get(key, {}), fields)
        except (Unusable, Lacking) as error:
            account.leave_out(str(error), f"{shard}: {key}")
            continue
        rows.append((number, *row))
        nulls = nulls_in(texts.get(key, {}), fields) if captions else 0
        if nulls:
            account.pass_over(NULLS, f"{shard}: {key}", nulls)
        if fields.boxes:
            boxes = regions_of(fields.boxes, parse_json(texts.get(key, {}).get("json")))
            if boxes and boxes.unnamed:
                account.pass_over(UNNAMED, f"{shard}: {key}", boxes.unnamed)
        # Regions and tags are of a pair, and not of its image.
        of_pair = fields.tags or fields.boxes
        unite = captions and fields.media == "image" and not of_pair
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
