"""Texts without pictures: files of one text a line, for models that have a text tower alone.

Where each line begins is kept in memory, the lines are read from the mapped files when asked for.
"""

import array
import bisect
import itertools
import mmap
from pathlib import Path
from typing import Any

from mmjax.data.account import Account, Accounted
from mmjax.data.identity import digest, relative
from mmjax.data.records import Record, Texts
from mmjax.data.texts import BadText, clean, decode, strip
from mmjax.errors import UserError


class LineSource(Accounted):
    """The lines of some files in order; empty ones are left out."""

    captions_alone = True

    def __init__(self, files: list[Path], name: str):
        self.name = name
        self.account = Account()
        self._files = files
        self._starts = [_line_starts(file, self.account) for file in files]
        self._ends = list(itertools.accumulate(map(len, self._starts)))
        self._maps: dict[int, mmap.mmap] = {}
        if not len(self):
            why = "".join(f", but {n} {why}" for why, n in self.skipped.items())
            raise UserError(f"{name}: {files[0]} holds no line of text{why}.")

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        return Record(f"{self.name}: text {index + 1}", {"text": Texts(self.captions(index))})

    def identity(self) -> str:
        """See `data/identity.py`."""
        sizes = [file.stat().st_size for file in self._files]
        starts = [memoryview(starts).cast("B") for starts in self._starts]
        return digest([relative(list(map(str, self._files))), sizes, *starts])

    def captions(self, index: int) -> tuple[str, ...]:
        number = bisect.bisect_right(self._ends, index)
        first = self._ends[number - 1] if number else 0
        line = self._map(number)
        line.seek(self._starts[number][index - first])
        return (clean(decode(line.readline())),)

    def _map(self, number: int) -> mmap.mmap:
        if number not in self._maps:
            with self._files[number].open("rb") as file:
                self._maps[number] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}


def _line_starts(file: Path, account: Account) -> array.array:
    """Where the lines that can be used begin, in bytes."""
    starts, offset = array.array("q"), 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            text, why = _text(line)
            if why:
                account.leave_out(why, f"{file}: line {number}")
            elif text:
                starts.append(offset)
            else:
                account.pass_over("empty lines", f"{file}: line {number}")
            offset += len(line)
    return starts


def _text(line: bytes) -> tuple[str, str]:
    """The text of a line, "" if it is blank; and why the line is left out, or ""."""
    try:
        text = clean(decode(line))
        return text, "" if text or not strip(decode(line)) else "that are nulls"
    except BadText as error:
        return "", str(error).removeprefix("is ")
