"""Images as plain files: rows of paths and captions, and folders with texts beside the images.

Everything but the pixels is read when the source is opened, so the captions are kept in memory.
"""

import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmjax.data.records import (
    IMAGE_SUFFIXES,
    BadRecord,
    Record,
    Texts,
    report_skipped,
)
from mmjax.data.texts import BadText, txt_captions
from mmjax.errors import UserError


class Row(NamedTuple):
    path: str
    captions: tuple[str, ...] | None  # None: not UTF-8
    label: int = -1
    group: int = -1
    weights: tuple[float, ...] = ()  # of the captions
    unwanted: str = ""  # why it is left out, where that is known


class FileSource:
    """Image files with the captions that were found for them."""

    captions_alone = True

    def __init__(self, rows: Iterable[Row], name: str, classes: int = 0):
        self.name = name
        self.classes = classes  # of the labels; 0 if that is not known
        self.skipped: Counter[str] = Counter()
        first: dict[str, str] = {}
        self._rows: list[Row] = []
        for row in rows:
            why = _unusable(row)
            if why:
                self.skipped[why] += 1
                first.setdefault(why, row.path)
            else:
                self._rows.append(row)
        report_skipped(name, len(self._rows), self.skipped, first)
        if not self._rows:
            why = "; ".join(f"{n} {why} (first: {first[why]})" for why, n in self.skipped.items())
            raise UserError(f"{name}: no usable image: {why or 'there is none at all'}.")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        row = self._rows[index]
        try:
            image = Path(row.path).read_bytes()
        except OSError as error:
            raise BadRecord(f"{row.path}: {error.strerror}") from error
        parts = {"image": image, "text": Texts(self.captions(index), row.weights)}
        return Record(row.path, parts, row.label, row.group)

    def captions(self, index: int) -> tuple[str, ...]:
        return self._rows[index].captions or ()


def open_folder(folder: Path, name: str) -> FileSource:
    """A folder of images, at any depth: `x.jpg` with `x.txt` beside it, a caption on each line.

    Where no image has a text, the first level of subfolders are classes: the label is the number of
    the subfolder in sorted order, and there are no captions.
    """
    if not folder.is_dir():
        raise UserError(f"{name}: {folder} is not a folder.")
    images = _images(folder)
    texts = [path.with_suffix(".txt") for path in images]
    if any(text.exists() for text in texts):
        rows = (Row(str(p), _read_captions(t)) for p, t in zip(images, texts, strict=True))
        return FileSource(rows, name)
    if all(p.parent == folder for p in images):
        raise UserError(
            f"{name}: {folder} holds images but no captions; put x.txt beside x.jpg, or the images "
            "into one subfolder a class."
        )
    return open_classes(folder, sorted(p.name for p in folder.iterdir() if p.is_dir()), name)


def open_classes(folder: Path, classes: Sequence[str], name: str) -> FileSource:
    """One subfolder of images a class, labelled by its index in `classes`; others are ignored."""
    rows = (
        Row(str(path), (), label)
        for label, subfolder in enumerate(classes)
        for path in _images(folder / subfolder)
    )
    return FileSource(rows, name, len(classes))


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)


def _unusable(row: Row) -> str:
    """Why a row is left out, or ""."""
    if row.unwanted:
        return row.unwanted
    try:
        status = os.stat(row.path)
    except OSError:
        return "whose image file is missing"
    if not stat.S_ISREG(status.st_mode):
        return "whose image is not a file"
    if status.st_size == 0:
        return "with an empty image"
    if row.captions is None:
        return "with a caption that is not UTF-8"
    return "" if row.captions or row.label >= 0 else "without a caption"


def _read_captions(path: Path) -> tuple[str, ...] | None:
    """None if the file is not UTF-8."""
    try:
        return txt_captions(path.read_bytes())
    except FileNotFoundError:
        return ()
    except BadText:
        return None
