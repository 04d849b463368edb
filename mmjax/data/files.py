"""Images as plain files, listed by a table (CSV, TSV) or Karpathy's JSON, or in folders.

Everything but the pixels is read when the source is opened, so both keep their captions in memory.
"""

import csv
import io
import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmjax.data.records import IMAGE_SUFFIXES, BadRecord, Record, clean_captions, report_skipped
from mmjax.errors import UserError

IMAGE_COLUMNS = ("filepath", "image", "path", "filename", "file_name", "file", "image_path")
CAPTION_COLUMNS = ("caption", "captions", "title", "text")


class Row(NamedTuple):
    path: str
    captions: tuple[str, ...] | None  # None: not UTF-8
    label: int = -1
    group: int = -1


class FileSource:
    """Image files with the captions that were found for them."""

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
        return Record(row.path, image, self.captions(index), row.label, row.group)

    def captions(self, index: int) -> tuple[str, ...]:
        return self._rows[index].captions or ()


def open_table(
    files: list[Path], caption: str, image: str, label: str, group: str, name: str
) -> FileSource:
    """CSV or TSV files with a header line; image paths are relative to the table's folder.

    Several rows with the same image are one record with several captions. `caption` may name
    several columns, separated by commas; "" finds the columns by their usual names.
    """
    rows: dict[str, Row] = {}
    for file in files:
        for number, values in enumerate(_read_table(file, name), start=2):
            columns = values.keys()
            image_column = _column(columns, image, IMAGE_COLUMNS, "image", file, name)
            path = str(file.parent / (values[image_column] or ""))
            captions = rows[path].captions or () if path in rows else ()
            # A table of class numbers needs no captions.
            if caption or not label or any(c in columns for c in CAPTION_COLUMNS):
                for wanted in caption.split(","):
                    found = _column(columns, wanted, CAPTION_COLUMNS, "caption", file, name)
                    captions += clean_captions(values[found])
            integers = (_integer(values, column, file, number) for column in (label, group))
            rows[path] = Row(path, captions, *integers)
    return FileSource(rows.values(), name)


def open_karpathy(file: Path, images: str, split: str, name: str) -> FileSource:
    """Karpathy's splits of COCO, Flickr30k or Flickr8k: dataset_coco.json, dataset_flickr30k.json.

    Args:
      file: the JSON file.
      images: the folder that holds the images (for COCO train2014 and val2014); "" is the file's.
      split: train, restval, val or test, several joined by +; "" is test.
      name: for messages.
    """
    wanted = (split or "test").split("+")
    try:
        entries = json.loads(file.read_bytes())["images"]
        found = {entry["split"] for entry in entries}
        if not found.intersection(wanted):
            raise UserError(
                f"{name}: {file} has no split {split or 'test'!r}, but {', '.join(sorted(found))}."
            )
        root = Path(images) if images else file.parent
        rows = [
            Row(
                str(root / entry.get("filepath", "") / entry["filename"]),
                clean_captions([sentence["raw"] for sentence in entry["sentences"]]),
            )
            for entry in entries
            if entry["split"] in wanted
        ]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{name}: {file} is no JSON of Karpathy's splits ({error!r}): it should hold images "
            "with split, filename and sentences."
        ) from error
    return FileSource(rows, name)


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
    """One subfolder of images a class, labelled by its place in `classes`; others are ignored."""
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
    """A caption on each line; None if the file is not UTF-8."""
    try:
        return clean_captions(path.read_text(encoding="utf-8").splitlines())
    except FileNotFoundError:
        return ()
    except UnicodeDecodeError:
        return None


def _read_table(file: Path, name: str) -> list[dict[str, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: {file} is not UTF-8; save the table as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{name}: {file} cannot be read: {error.strerror}.") from error
    if not text.strip():
        raise UserError(f"{name}: {file} is empty; it needs a header line and rows.")
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    try:
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise UserError(f"{name}: {file} is no CSV ({error}).") from error


def _column(columns, wanted: str, usual: tuple[str, ...], what: str, file: Path, name: str) -> str:
    by_lower = {str(column).strip().lower(): column for column in columns}
    names = (wanted.strip().lower(),) if wanted else usual
    for column in names:
        if column in by_lower:
            return by_lower[column]
    raise UserError(
        f"{name}: {file} has no {what} column {' or '.join(names)}; it has "
        f"{', '.join(str(c) for c in columns)}. Name it with {what}=COLUMN."
    )


def _integer(row: dict[str, str], column: str, file: Path, number: int) -> int:
    if not column:
        return -1
    try:
        return int(row[column])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}, line {number}: no integer in column {column!r}.") from error
