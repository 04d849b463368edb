"""Parquet files of images or of other media, as bytes or paths, with captions, as Hugging Face
datasets store them.

A row group is what Parquet reads at once, so `block` says how many rows to visit together; where
groups hold thousands of images, `mmjax data convert` to ArrayRecord serves random access better.
"""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mmjax import machine
from mmjax.data import storage
from mmjax.data.account import Account, Accounted
from mmjax.data.classes import names_in
from mmjax.data.columns import Asked, Columns, column_of, columns_of, say_columns
from mmjax.data.filters import Filter
from mmjax.data.identity import digest, relative
from mmjax.data.image_paths import image_path, no_path, root_of
from mmjax.data.media import MEDIA
from mmjax.data.parquet_file import (
    Images,
    class_names,
    columns_of_bytes,
    images_of,
    open_file,
    read_columns,
    rows_of,
    values_of,
)
from mmjax.data.records import BadRecord, Record, Texts, pair, unreadable, weigh
from mmjax.data.repeats import Same, same_in
from mmjax.data.splits import Split, split_column
from mmjax.data.tables import span_of, unwanted
from mmjax.data.texts import NULLS, BadText, clean, clean_captions, integer, written_nulls
from mmjax.data.videos import Clip
from mmjax.errors import UserError

GROUPS = 4  # row groups that a process keeps


class ParquetSource(Accounted):
    """Rows of Parquet files. Not constructed directly: see `open_parquet`."""

    def __init__(
        self,
        groups: list[tuple[str, int]],
        rows: np.ndarray,
        columns: Sequence[Columns],
        roots: Sequence[str],
        weights: tuple[float, ...],
        block: int,
        name: str,
        account: Account,
        classes: Sequence[str],
        named: Mapping[str, int],
        media: str,
    ):
        self.name, self.account, self.block = name, account, block
        self._media = media
        self._named = named  # class → label, where the rows have names for labels
        self.classes = tuple(
            classes or named
        )  # their names in order of label; () if they have none
        self._groups = groups  # (file, number in it)
        self._columns, self._weights = columns, weights  # columns of each group: files may differ
        self._roots = roots  # of each group: where paths of images are seen from
        self._rows = rows  # [records, 2]: number of the group, row in it

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        file, row, columns, values = self._values(index)
        key = f"{file}: row {row}"
        root = self._roots[int(self._rows[int(index)][0])]
        shown: Any = _stored(values[columns.image], root, key, self._media)
        label = _integer(values, columns.label, key, self._named)
        group = _integer(values, columns.group, key, {})
        if MEDIA[self._media].clips:
            shown = Clip(shown, *span_of(values, columns))
        return pair(key, shown, self._texts(values, columns), label, group, self._media)

    def identity(self) -> str:
        """See `data/identity.py`."""
        files = list(dict.fromkeys(file for file, _ in self._groups))
        sizes = [stamp and stamp[0] for stamp in storage.stamps(files, self.name)]
        return digest([relative(files), sizes, self._columns, self._rows.tobytes()])

    def repeats(self) -> Same:
        """See `data/repeats.py`. Remote files are not read for it."""
        files = {file for file, _ in self._groups}
        if any(map(storage.is_url, files)) or not any(c.captions for c in self._columns):
            return {}
        return same_in(self, sum(map(os.path.getsize, files)))

    def captions(self, index: int) -> tuple[str, ...]:
        _, _, columns, values = self._values(index)
        return self._texts(values, columns).captions

    def _values(self, index: int) -> tuple[str, int, Columns, dict[str, Any]]:
        group, row = self._rows[int(index)].tolist()
        file, number = self._groups[group]
        columns = self._columns[group]
        try:
            table = _read_group(file, number, tuple(columns.all()))
            return file, row, columns, table.slice(row, 1).to_pylist()[0]
        except Exception as error:  # pyarrow and each store have their own kinds
            raise unreadable(f"{file}: row group {number}", error) from error

    def _texts(self, values: dict[str, Any], columns: Columns) -> Texts:
        return weigh([clean_captions(values[c]) for c in columns.captions], self._weights)


def open_parquet(
    files: list[str],
    asked: Asked,
    name: str,
    wanted: Filter,
    split: Split,
) -> ParquetSource:
    """Parquet files, here or remote. The image column holds bytes, {bytes, path} or paths.

    Args:
      asked: its label is a column of integers or of names of classes.
      wanted: sees the columns that it names, and the captions.
      split: which values of a column `split` are read.

    Raises:
      UserError: no pyarrow, a file is no Parquet or lacks a column, or no row is left.
    """
    try:
        import pyarrow.parquet  # noqa: F401 - only for those who use it
    except ImportError as error:
        raise UserError(
            f"{name}: reading Parquet needs pyarrow: pip install 'mmjax[parquet]'."
        ) from error
    groups: list[tuple[str, int]] = []
    rows: list[np.ndarray] = []
    account = Account()
    columns: list[Columns] = []  # of each group
    roots: list[str] = []  # of each group
    classes: tuple[str, ...] | None = None
    divided = values_of(files, lambda names: split_column(names, wanted.names()))
    chosen = split.rows(set(map(str, divided)), f"the column split of {files[0]}")
    named = names_in(values_of(files, lambda names: _label_of(names, asked.label, name)))
    for file in files:
        try:
            opened = open_file(file)
            lengths = [opened.metadata.row_group(n).num_rows for n in range(opened.num_row_groups)]
            names = opened.schema_arrow.names
        except Exception as error:  # pyarrow and each store have their own kinds
            machine.raise_problem(f"{name}: {file} cannot be read", error)
            raise UserError(f"{name}: {file} is no Parquet that can be read ({error}).") from error
        found = columns_of(names, asked, file, name)
        of_file = class_names(opened.schema_arrow, found.label)
        if classes not in (None, of_file):
            raise UserError(
                f"{name}: {file} and {files[0]} name the classes of {found.label!r} differently: "
                "open them as two sources."
            )
        classes = of_file
        of_bytes = columns_of_bytes(opened.schema_arrow)
        say_columns(account, found, names, file, of_bytes, asked.media)
        column = split_column(names, wanted.names()) if chosen is not None else ""
        root = ""  # of the paths of images, once there are any
        small = {*found.all(), column, *(wanted.names() & set(names))} - {found.image, ""}
        for number, length in enumerate(lengths):
            keep = np.ones(length, bool)
            if small:
                table = read_columns(opened, file, number, sorted(small), name)
                for row, values in enumerate(rows_of(table, file, name)):
                    if chosen is not None and str(values.get(column)).strip() not in chosen:
                        keep[row] = False
                    elif why := _unwanted(values, found, wanted, named):
                        keep[row] = False
                        account.leave_out(why, f"{file}: row {row} of row group {number}")
                    elif nulls := sum(written_nulls(values[c]) for c in found.captions):
                        account.pass_over(NULLS, f"{file}: row {row} of row group {number}", nulls)
            images = images_of(opened, file, number, found.image, name)
            if images.paths and not root and not storage.is_url(file):
                root = str(root_of(Path(file), list(images.paths.values()), name, account))
            for row in np.flatnonzero(keep).tolist():
                if why := _no_image(images, row, root, asked.media):
                    keep[row] = False
                    account.leave_out(why, f"{file}: row {row} of row group {number}")
            kept = np.flatnonzero(keep)
            rows.append(np.stack([np.full(len(kept), len(groups)), kept], axis=1).astype(np.int32))
            groups.append((file, number))
            columns.append(found)
            roots.append(root or os.path.dirname(file))
    if not sum(map(len, rows)):
        why = "; ".join(account.lines()) or "there are none"
        raise UserError(f"{name}: no usable row in {files[0]} ({why}).")
    block = max(map(len, rows))
    return ParquetSource(
        groups,
        np.concatenate(rows),
        columns,
        roots,
        asked.weights,
        block,
        name,
        account,
        classes or (),
        named,
        asked.media,
    )


def _label_of(names: Sequence[str], label: str, name: str) -> str:
    try:
        return column_of(names, label, (), "label", "", name) if label else ""
    except UserError:  # open_parquet says so
        return ""


def _unwanted(
    values: dict[str, Any], columns: Columns, wanted: Filter, named: Mapping[str, int]
) -> str:
    """Why a row is left out, or "". `values` are without the image."""
    try:
        found = sum((clean_captions(values[column]) for column in columns.captions), ())
    except BadText as error:
        return f"with a caption that {error}"
    if not found and not columns.label:
        return "without a caption"
    try:
        span_of(values, columns)
    except ValueError as error:
        return f"whose {error}"
    for column, known in ((columns.label, named), (columns.group, {})):
        try:
            number = _number(values, column, known)
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is None:
            return f"without {'a' if known else 'an integer'} {column!r}"
    return unwanted(wanted, values, found)


@lru_cache(maxsize=GROUPS)
def _read_group(file: str, number: int, columns: tuple[str, ...]) -> Any:
    return open_file(file).read_row_group(number, list(columns))


def _no_image(images: Images, row: int, root: str, media: str) -> str:
    """Why a row has no image or video, or ""; remote ones are not looked for."""
    if images.lacking[row]:
        return f"without {MEDIA[media].called}"
    path = images.paths.get(row)
    if not path or not root or storage.is_url(path):
        return ""
    if why := no_path(path):
        return why
    return "" if os.path.isfile(image_path(Path(root), path)) else f"whose {media} file is missing"


def _stored(value: Any, root: str, key: str, media: str) -> bytes | str:
    """The bytes of what is shown; the path of a file here of which little may be."""
    if isinstance(value, dict):  # Hugging Face's Image
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        raise BadRecord(f"{key} has no {media}")
    if not storage.is_url(value) and not storage.is_url(root):
        path = image_path(Path(root), value)
        if MEDIA[media].clips:
            return str(path)
        try:
            return path.read_bytes()
        except OSError as error:
            raise unreadable(f"{key}: {path}", error) from error
    where = value if storage.is_url(value) else os.path.join(root, value)
    data = storage.fetch_file(where)
    if data is None:
        raise BadRecord(f"{key}: {where} cannot be read")
    return data


def _integer(values: dict[str, Any], column: str, key: str, known: Mapping[str, int]) -> int:
    number = _number(values, column, known)
    if number is None:
        raise BadRecord(f"{key} has no integer in {column!r}, the file changed")
    return number


def _number(values: dict[str, Any], column: str, known: Mapping[str, int]) -> int | None:
    """A label or group, -1 where none is asked for, None where there is none; `known` are the names
    of classes."""
    if not column:
        return -1
    return known.get(clean(str(values[column]))) if known else integer(values[column])
