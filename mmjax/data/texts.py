"""What stored texts mean, the same in every format: encodings, lines, nulls, captions, integers.

Every reader of captions, lines, labels and groups goes through here. Texts are UTF-8, with or
without a byte order mark. A line ends at \\n or \\r\\n and nowhere else (U+2028, U+0085 and form
feeds are text), and each line of a .txt is a caption of its own; a cell, a field or a feature is
one caption, whatever line breaks it holds. A list of texts that is written as a text, by JSON or by
Python, is that list: several captions.
"""

import ast
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

BOM = "\ufeff"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# What programs write for a value that is not there (pandas, JSON, SQL, Python's str).
_NULLS = frozenset({"", "nan", "none", "null", "<na>"})
NULLS = "captions that are nulls"  # how they are counted
_QUOTED = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
_LIST = re.compile(rf"\[\s*{_QUOTED}(?:\s*,\s*{_QUOTED})*\s*,?\s*\]", re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]*")
_TRUTHS = {"true": 1, "false": 0}
_INT32 = np.iinfo(np.int32)


class BadText(ValueError):  # noqa: N818
    """What is wrong with a text, to be put after "that"; `line` counts from 1, 0 if unknown."""

    def __init__(self, problem: str, line: int = 0):
        super().__init__(problem)
        self.line = line


def decode(data: bytes) -> str:
    """UTF-8 without its byte order mark. BadText: it is no UTF-8."""
    if data.startswith(_UTF16):
        raise BadText("is UTF-16, not UTF-8", 1)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadText("is not UTF-8", data.count(b"\n", 0, error.start) + 1) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise BadText("holds NUL characters, as UTF-16 does, and is not UTF-8", line)
    return text


def lines(data: bytes) -> list[str]:
    """The lines of a file that are not blank, stripped. BadText."""
    return [line for line in map(strip, decode(data).split("\n")) if line]


def strip(text: str) -> str:
    """Without white space at its ends, and a byte order mark that was pasted in front of it."""
    return text.strip().removeprefix(BOM).strip()


def clean(text: str) -> str:
    """A text as it is used: stripped, and "" where it is a null. BadText: no UTF-8 can hold it."""
    text = strip(text)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadText("holds half a surrogate pair and is not UTF-8") from error
    if "\0" in text:
        raise BadText("holds NUL characters")
    return "" if text.casefold() in _NULLS else text


def is_null(value: Any) -> bool:
    """Whether a value says that there is none: None, NaN, "", whitespace, "null"."""
    if isinstance(value, str | bytes):
        try:
            return not clean(decode(value) if isinstance(value, bytes) else value)
        except BadText:
            return False
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def txt_captions(data: bytes | None) -> tuple[str, ...]:
    """The captions in a .txt: one a line. BadText."""
    return tuple(caption for line in lines(data or b"") for caption in clean_captions(line))


def clean_captions(value: Any) -> tuple[str, ...]:
    """The captions in a cell, field or feature: a text, a number or a list of them, without nulls.

    BadText: it is something else, or no UTF-8.
    """
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(caption for item in value for caption in clean_captions(item))
    if is_null(value):
        return ()
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, str | bytes | int | float | np.integer | np.floating
    ):
        raise BadText(f"is no text but {type(value).__name__}")
    text = clean(decode(value) if isinstance(value, bytes) else str(value))
    several = _listed(text)
    if several:
        return clean_captions(several)
    return (text,) if text else ()


def written_nulls(value: Any) -> int:
    """How many of the captions in a value are nulls that were written ("None"): where others stay,
    these are to be counted."""
    if isinstance(value, list | tuple | np.ndarray):
        return sum(map(written_nulls, value))
    if not isinstance(value, str | bytes) or not is_null(value):
        several = _listed(value) if isinstance(value, str) else []
        return written_nulls(several) if several else 0
    return int(bool(strip(decode(value) if isinstance(value, bytes) else value)))


def _listed(text: str) -> list[str]:
    """The texts of a list that is written as a text, '["a", "b"]' or "['a', 'b']"; [] if it is
    none."""
    if not (text.startswith("[") and text.endswith("]")) or not _LIST.fullmatch(text):
        return []
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return []
    return found


def integer(value: Any) -> int | None:
    """A label or group: an integer, also as text ("7", "7.0") or truth value; None: there is none.

    ValueError: it is something else, or does not fit int32.
    """
    if is_null(value):
        return None
    if isinstance(value, str | bytes):
        text = clean(decode(value) if isinstance(value, bytes) else value)
        truth = _TRUTHS.get(text.casefold())
        if truth is not None:
            return truth
        try:
            value = int(text)
        except ValueError:
            value = float(text)
    number = int(value) if isinstance(value, bool | np.bool_ | int | np.integer) else float(value)
    if not _INT32.min <= number <= _INT32.max or number != int(number):
        raise ValueError(f"{value!r} is no int32")
    return int(number)


def read_json(data: bytes) -> Any:
    """JSON, with or without a byte order mark. ValueError: it is none, or repeats a key."""
    try:
        return json.loads(data, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json_list(text: str) -> Iterator[tuple[int, Any]]:
    """The items of a JSON list, each with the line that it begins in, counted from 1.

    ValueError: it is none, or repeats a key.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    at, line, seen = _space(text, text.index("[") + 1), 1, 0
    while not text.startswith("]", at):
        line, seen = line + text.count("\n", seen, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        yield line, value
        at = _space(text, at)
        if text.startswith(",", at):
            at = _space(text, at + 1)
        elif not text.startswith("]", at):
            raise ValueError(f"a comma or ] is missing: line {text.count(chr(10), 0, at) + 1}")
    if text[at + 1 :].strip():
        raise ValueError(f"more follows its end in line {text.count(chr(10), 0, at) + 1}")


def _space(text: str, at: int) -> int:
    """Where something begins that is no white space of JSON."""
    return at + len(found[0]) if (found := _SPACE.match(text, at)) else at


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # json would keep the last of them
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is repeated")
    return found
