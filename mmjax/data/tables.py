"""Tables of images as plain files: CSV, TSV and JSON lines, a row for each caption or image."""

import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.data import delimited
from mmjax.data.account import Account
from mmjax.data.classes import names_in
from mmjax.data.columns import Asked, Columns, columns_of, say_columns
from mmjax.data.contents import image_suffixes, suffix_of
from mmjax.data.files import FileSource, Row
from mmjax.data.filters import UNWANTED, Filter, Lacking
from mmjax.data.image_paths import image_path, no_path, root_of
from mmjax.data.media import MEDIA, shows
from mmjax.data.records import weigh
from mmjax.data.splits import Split, is_split, split_column
from mmjax.data.texts import NULLS, BadText, clean, clean_captions, integer, is_null, written_nulls
from mmjax.data.tree import files_under
from mmjax.errors import UserError


def open_table(
    files: Sequence[Path],
    asked: Asked,
    name: str,
    wanted: Filter,
    split: Split,
    folder: Path | None = None,
) -> FileSource:
    """CSV, TSV, JSON lines or lists; paths are relative to the table's folder (`root_of`).

    Several rows with the same image are one record with several captions. `wanted` sees all columns
    of a row. A column `split` says which rows are read. The tables are those of a `folder`, if one
    is given, whose other files are counted. Labels are integers, or names of classes, which are
    numbered in order.

    Rows of a video or a sound may name the seconds at which a clip of it starts and ends; then each
    is a record.

    Raises:
      UserError: a table cannot be read for certain, lacks a column, or gives an image two labels.
    """
    images, account, media = _Images(name), Account(), asked.media
    tables = []
    for file in files:
        names, rows = delimited.read_table(file, name, account)
        columns = columns_of(names, asked, file, name)
        tables.append((file, names, rows, columns))
    splits = {file: _split_of(names, rows, columns, wanted, folder)
              for file, names, rows, columns in tables}  # fmt: skip
    divided = [of(values) for file, _, rows, _ in tables if (of := splits[file])
               for _, values in rows]  # fmt: skip
    chosen = split.rows(divided, f"the splits of {files[0]}")
    named: set[str] = set()
    classes = names_in(values.get(columns.label) for _, _, rows, columns in tables if asked.label
                       for _, values in rows)  # fmt: skip
    for file, names, rows, columns in tables:
        say_columns(account, columns, names, file, media=media)
        found = (values.get(columns.image) for _, values in rows)
        root = root_of(file, [str(v).strip() for v in found if not is_null(v)], name, account)
        for line, values in rows:
            where = f"{file}, line {line}"
            if folder:
                named.add(os.path.normpath(image_path(root, str(values.get(columns.image)))))
            of = splits[file]
            if chosen is not None and str(of and of(values)).strip() not in chosen:
                continue
            nulls = sum(written_nulls(values.get(column)) for column in columns.captions)
            row = _row(values, columns, asked.weights, wanted, root, where, classes)
            if nulls and not row.unwanted:
                account.pass_over(NULLS, where, nulls)
            images.add(row, where)
        images.check_line_breaks(file)
    for path in files_under(folder, account) if folder else ():
        if shows(path, media) and os.path.normpath(path) not in named:
            account.leave_out(f"{MEDIA[media].plural} that {files[0].name} does not name", path)
        elif not shows(path, media) and path not in files:
            account.unrecognised(suffix_of(path), path)
    return FileSource(images.rows(), name, list(classes), account, media)


def _split_of(
    names: Collection[str],
    rows: Sequence[delimited.Row],
    columns: Columns,
    wanted: Filter,
    folder: Path | None,
) -> Callable[[Mapping[str, Any]], Any] | None:
    """What tells the split of a row: a column, or, in the table of a folder, the subfolder that the
    image is in, where all are called as splits; None: nothing does."""
    column = split_column(names, wanted.names())

    def subfolder(values: Mapping[str, Any]) -> str:
        return str(values.get(columns.image)).removeprefix("./").partition("/")[0]

    if not column and folder and all(is_split(subfolder(values)) for _, values in rows):
        return subfolder
    return (lambda values: values.get(column)) if column else None


def unwanted(wanted: Filter, values: Mapping[str, Any], captions: Sequence[str]) -> str:
    """Why a filter leaves a row out, or ""."""
    try:
        return "" if wanted.keep(values, captions) else UNWANTED
    except Lacking as error:
        return str(error)


def _row(
    values: Mapping[str, Any],
    columns: Columns,
    weights: tuple[float, ...],
    wanted: Filter,
    root: Path,
    where: str,
    classes: Mapping[str, int],
) -> Row:
    """One row of a table, with the reason where it cannot be used."""
    try:
        fields = [clean_captions(values.get(column)) for column in columns.captions]
        image = values.get(columns.image)
        if is_null(image):
            return Row(where, (), unwanted="without an image")
    except BadText as error:
        return Row(where, (), unwanted=f"with a caption that {error}")
    captions, shares = weigh(fields, weights)
    numbers = []
    for column, known in ((columns.label, classes), (columns.group, {})):
        number = _integer(values, column, where, known)
        if number is None:
            return Row(where, (), unwanted=f"without {'a' if known else 'an integer'} {column!r}")
        numbers.append(number)
    why = no_path(str(image)) or unwanted(wanted, values, captions)
    if not why and not captions and not columns.label:
        why = "without a caption"
    if why:
        return Row(where, (), unwanted=why)
    try:
        span = span_of(values, columns)
    except ValueError as error:
        return Row(where, (), unwanted=f"whose {error}")
    path = os.path.normpath(image_path(root, str(image)))
    return Row(path, captions, numbers[0], numbers[1], shares, span=span)


def span_of(values: Mapping[str, Any], columns: Columns) -> tuple[float, float]:
    """The seconds at which the clip of a row starts and ends. ValueError: what is wrong with them,
    to be put after "whose"."""
    span = _seconds(values, columns.start, 0.0), _seconds(values, columns.end, math.inf)
    if not 0 <= span[0] < span[1]:
        raise ValueError("clip ends before it starts")
    return span


def _seconds(values: Mapping[str, Any], column: str, default: float) -> float:
    """Seconds, or H:MM:SS; the default where there is no column, or nothing in it.

    ValueError: it is no time.
    """
    value = values.get(column) if column else None
    if is_null(value):
        return default
    total = 0.0
    try:
        for part in str(value).split(":"):
            total = 60 * total + float(part)
    except ValueError as error:
        raise ValueError(f"{column} {value!r} is no time in seconds") from error
    return total


def _integer(
    values: Mapping[str, Any], column: str, where: str, known: Mapping[str, int]
) -> int | None:
    """-1 where none is asked for, None where the row has none; `known` are the names of classes."""
    if not column:
        return -1
    if known:
        return known.get(clean(str(values.get(column))))
    try:
        return integer(values.get(column))
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: no integer in column {column!r}.") from error


class _Images:
    """The rows of some tables, those of one image united."""

    def __init__(self, name: str):
        self._name = name
        self._found: dict[tuple[str, tuple[float, float]], Row] = {}
        self._left_out: list[Row] = []
        self._where: dict[tuple[str, tuple[float, float]], str] = {}  # the first row that has it

    def add(self, row: Row, where: str) -> None:
        if row.unwanted:
            self._left_out.append(row)
            return
        key = row.path, row.span
        first = self._found.get(key)
        if first is None:
            self._found[key], self._where[key] = row, where
            return
        for what in ("label", "group"):
            one, other = getattr(first, what), getattr(row, what)
            if one != other:
                raise UserError(
                    f"{self._name}: {where} gives {row.path} the {what} {other}, and "
                    f"{self._where[key]} {one}: an image has one {what}; remove one of the "
                    "rows."
                )
        captions = (first.captions or ()) + (row.captions or ())
        self._found[key] = first._replace(
            captions=captions, weights=first.weights + row.weights, rows=first.rows + row.rows
        )

    def check_line_breaks(self, file: Path) -> None:
        """UserError: a caption of several lines holds what looks like rows, so that a quote that
        was never closed has swallowed them."""
        own = {suffix_of(path) for path, _ in self._found} - {""}
        suffixes = tuple(own | image_suffixes())
        for key, row in self._found.items():
            for caption in row.captions or ():
                if "\n" in caption and any(_is_row(line, suffixes) for line in caption.split("\n")):
                    raise UserError(
                        f"{self._name}: {self._where[key]} has a caption that holds other rows of "
                        f'{file}: a quote (") opens there and is closed too late.'
                    )

    def rows(self) -> Iterable[Row]:
        return [*self._found.values(), *self._left_out]


def _is_row(line: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a line has several cells, one of them the name of an image."""
    return any(
        len(cells := line.split(delimiter)) > 1
        and any(cell.strip().strip('"').lower().endswith(suffixes) for cell in cells)
        for delimiter in ",\t;|"
    )
