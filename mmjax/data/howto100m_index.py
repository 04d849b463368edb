"""Where the captions of each video lie in HowTo100M's caption.json, found by reading it once."""

import array
import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmjax.data import storage
from mmjax.data.account import Account
from mmjax.data.json_entries import entries
from mmjax.data.records import log
from mmjax.data.tar_index import ShardIndex
from mmjax.data.tar_kept import find_index, write_index
from mmjax.data.texts import NULLS
from mmjax.errors import UserError

_VERSION = 1  # of the index
_SPACE = " \t\r\n\f\v"  # as bytes of UTF-8 and of Latin-1 have it
_NULLS = frozenset({"", "nan", "none", "null"})
_WRONG = "captions that end before they start"


class Spoken(NamedTuple):
    """The captions of a video that can be used: seconds float64 [n], and texts."""

    starts: np.ndarray
    ends: np.ndarray
    texts: list[str]


def usable(value: Any) -> Spoken:
    """The captions of an entry {"text": […], "start": […], "end": […]}, without nulls and those
    that end before they start. ValueError: it is none.

    Texts in Latin-1 give as many as in UTF-8: what is compared is ASCII.
    """
    try:
        texts, starts, ends = value["text"], value["start"], value["end"]
        said = [
            (start, end, text)
            for text, start, end in zip(texts, starts, ends, strict=True)
            if 0 <= start < end < math.inf and text.strip(_SPACE).lower() not in _NULLS
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError("no lists text, start and end of one length") from error
    times = np.array([caption[:2] for caption in said], np.float64).reshape(-1, 2)
    return Spoken(times[:, 0], times[:, 1], [caption[2] for caption in said])


def index_of(file: Path, name: str) -> Path:
    """The file that says where the captions of each video lie, made if it is not there.

    Its rows are `id` (bytes), `at` and `length` (of the video's entry in `file`), and `count`, how
    many captions can be used. Its account is beside it, as that of a tar's index.

    Raises:
      UserError: the captions are not there, or cannot be read.
    """
    (stamp,) = storage.stamps([str(file)], name)
    if stamp is None:
        raise UserError(f"{name}: {file} is not there; set caption to the JSON of the captions.")
    made_of = repr(("howto100m", _VERSION, file.name, stamp))
    file_name = f"{hashlib.sha256(made_of.encode()).hexdigest()[:24]}.npy"
    beside = str(file.parent)
    found = find_index(beside, file_name)
    return found or write_index(_scan(file, name), beside, file_name)


def _scan(file: Path, name: str) -> ShardIndex:
    log.info("%s: reading where the captions of %s lie", name, file)
    account = Account()
    ids = list[bytes]()
    columns = {"at": array.array("Q"), "length": array.array("I"), "count": array.array("I")}
    try:
        for entry in entries(file):
            try:
                count, said = len(usable(entry.value).texts), len(entry.value["text"])
            except ValueError as error:
                account.leave_out(f"videos with {error}", f"{file}: {entry.key}")
                continue
            if count < said:
                nulls = sum(text.strip(_SPACE).lower() in _NULLS for text in entry.value["text"])
                if nulls:
                    account.pass_over(NULLS, f"{file}: {entry.key}", nulls)
                if count + nulls < said:
                    account.leave_out(_WRONG, f"{file}: {entry.key}", said - count - nulls)
            ids.append(entry.key.encode("latin-1", "replace"))
            for column, value in (("at", entry.at), ("length", entry.length), ("count", count)):
                columns[column].append(value)
    except ValueError as error:
        raise UserError(
            f"{name}: {file} is no JSON object of captions ({error}); write it again."
        ) from error
    if not ids:
        why = account.reasons() or "it is empty"
        raise UserError(f"{name}: {file} has no captions that can be used ({why}).")
    longest = max(map(len, ids))
    dtype = [("id", f"S{longest}"), ("at", "<u8"), ("length", "<u4"), ("count", "<u4")]
    rows = np.zeros(len(ids), dtype)
    rows["id"] = ids
    for column, values in columns.items():
        rows[column] = values
    return ShardIndex(rows, account)
