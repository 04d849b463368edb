"""The entries of a large JSON object, one at a time: where each lies in its file, and its value."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from mmjax.data.texts import BOM

CHUNK = 1 << 22  # bytes that are read at a time
LONGEST = 1 << 28  # bytes of an entry


class Entry(NamedTuple):
    """`"key": value` in a file: `at` is the byte of the key's quote, `length` reaches to the end of
    the value. The texts of `value` are in Latin-1 and not yet in UTF-8: see `of_bytes`."""

    key: str
    value: Any
    at: int
    length: int


def entries(file: Path) -> Iterator[Entry]:
    """The entries of the object that a file holds, in order; one of them is in memory.

    ValueError: it holds something else, or is cut off.
    """
    with open(file, "rb") as stream:
        window = _Window(stream)
        window.take("{")
        if window.next() == "}":
            return
        while True:
            key, at, _ = window.value()
            window.take(":")
            value, _, end = window.value()
            if not isinstance(key, str):
                raise ValueError(f"a key is missing at byte {at:,}")
            yield Entry(key, value, at, end - at)
            if window.next() == "}":
                return
            window.take(",")


def of_bytes(data: bytes) -> Any:
    """The value of an entry, of the bytes that lie at it. ValueError: the file has changed."""
    (value,) = json.loads(b"{" + data + b"}").values()
    return value


class _Window:
    """A part of a file as text, and where in it one is.

    The text is decoded as Latin-1, a character a byte, so that positions are those of the file.
    JSON has no character outside ASCII but in its strings, so its structure is the same.
    """

    def __init__(self, stream: BinaryIO):
        self._stream, self._decoder = stream, json.JSONDecoder()
        self._text, self._at, self._before = "", 0, 0  # `before`: bytes of the file before the text
        self._more()
        if self._text.startswith(BOM.encode().decode("latin-1")):
            self._at = len(BOM.encode())

    def next(self) -> str:
        """The next character that is no white space, "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, wanted: str) -> None:
        """Goes on after a character. ValueError: there is another."""
        if (found := self.next()) != wanted:
            where = f"at byte {self._before + self._at:,}"
            raise ValueError(f"{where} is {found!r} in place of {wanted!r}" if found
                             else f"it is cut off {where}")  # fmt: skip
        self._at += 1

    def value(self) -> tuple[Any, int, int]:
        """The next value, and the bytes at which it begins and ends. ValueError: there is none."""
        self.next()
        if self._at > CHUNK:
            self._text, self._before, self._at = (
                self._text[self._at :], self._before + self._at, 0
            )  # fmt: skip
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                if end < len(self._text) or not self._more():  # a number may go on
                    start, self._at = self._at, end
                    return value, self._before + start, self._before + end
            except json.JSONDecodeError as error:
                if len(self._text) - self._at > LONGEST or not self._more():
                    at = self._before + error.pos
                    raise ValueError(f"{error.msg} at byte {at:,}") from error
            except RecursionError as error:
                raise ValueError("it is nested too deeply") from error

    def _more(self) -> bool:
        """Reads on, twice as far each time that an entry is longer than what was read."""
        data = self._stream.read(max(CHUNK, len(self._text) - self._at))
        self._text += data.decode("latin-1")
        return bool(data)
