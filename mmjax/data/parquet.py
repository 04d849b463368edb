"""Parquet files of image bytes or image paths with captions, as Hugging Face datasets store them.

A row group is what Parquet reads at once, so `block` says how many rows to visit together; where
groups hold thousands of images, `mmjax data convert` to ArrayRecord serves random access better.
"""

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mmjax import machine
from mmjax.data import storage
from mmjax.data.account import Account, Accounted
from mmjax.data.filters import Filter
from mmjax.data.identity import digest, relative
from mmjax.data.records import BadRecord, Record, Texts, unreadable, weigh
from mmjax.data.repeats import Same, same_in
from mmjax.data.splits import Split, split_column
from mmjax.data.tables import IMAGE_COLUMNS, Columns, columns_of, say_columns, unwanted
from mmjax.data.texts import BadText, clean_captions, integer
from mmjax.errors import UserError

GROUPS = 4  # row groups that a process keeps


class ParquetSource(Accounted):
    """Rows of Parquet files. Not constructed directly: see `open_parquet`."""

    def __init__(
        self,
        groups: list[tuple[str, int]],
        rows: np.ndarray,
        columns: Sequence[Columns],
        weights: tuple[float, ...],
        block: int,
        name: str,
        account: Account,
        classes: Sequence[str] = (),
    ):
        self.name, self.account, self.block = name, account, block
        self.classes = tuple(classes)  # their names in order of label; () if they have none
        self._groups = groups  # (file, number in it)
        self._columns, self._weights = columns, weights  # columns of each group: files may differ
        self._rows = rows  # [records, 2]: number of the group, row in it

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        file, row, columns, values = self._values(index)
        key = f"{file}: row {row}"
        image = _image(values[columns.image], file, key)
        return Record(
            key=key,
            parts={"image": image, "text": self._texts(values, columns)},
            label=_integer(values, columns.label, key),
            group=_integer(values, columns.group, key),
        )

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
    caption: str,
    image: str,
    label: str,
    group: str,
    name: str,
    wanted: Filter,
    split: Split,
    weights: tuple[float, ...] = (),
) -> ParquetSource:
    """Parquet files, here or remote. The image column holds bytes, {bytes, path} or paths.

    Args:
      caption: columns, comma-separated; "" finds one, as it does for `image`.
      label, group: columns of integers; "" for none.
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
    classes: tuple[str, ...] | None = None
    chosen = split.rows(_splits(files, wanted), f"the column split of {files[0]}")
    for file in files:
        try:
            opened = _open(file)
            lengths = [opened.metadata.row_group(n).num_rows for n in range(opened.num_row_groups)]
            names = opened.schema_arrow.names
        except Exception as error:  # pyarrow and each store have their own kinds
            machine.raise_problem(f"{name}: {file} cannot be read", error)
            raise UserError(f"{name}: {file} is no Parquet that can be read ({error}).") from error
        found = columns_of(names, caption, image, label, group, file, name)
        of_file = _class_names(opened.schema_arrow, found.label)
        if classes not in (None, of_file):
            raise UserError(
                f"{name}: {file} and {files[0]} name the classes of {found.label!r} differently: "
                "open them as two sources."
            )
        classes = of_file
        say_columns(account, found, names, file, _of_bytes(opened.schema_arrow))
        column = split_column(names, wanted.names()) if chosen is not None else ""
        small = {*found.all(), column, *(wanted.names() & set(names))} - {found.image, ""}
        for number, length in enumerate(lengths):
            keep = np.ones(length, bool)
            if small:
                table = _read_columns(opened, file, number, sorted(small), name)
                for row, values in enumerate(_rows_of(table, file, name)):
                    if chosen is not None and str(values.get(column)).strip() not in chosen:
                        keep[row] = False
                    elif why := _unwanted(values, found, wanted):
                        keep[row] = False
                        account.leave_out(why, f"{file}: row {row} of row group {number}")
            lacking = keep & _no_image(opened, file, number, found.image, name)
            keep &= ~lacking
            for row in np.flatnonzero(lacking).tolist():
                account.leave_out("without an image", f"{file}: row {row} of row group {number}")
            kept = np.flatnonzero(keep)
            rows.append(np.stack([np.full(len(kept), len(groups)), kept], axis=1).astype(np.int32))
            groups.append((file, number))
            columns.append(found)
    if not sum(map(len, rows)):
        why = "; ".join(account.lines()) or "there are none"
        raise UserError(f"{name}: no usable row in {files[0]} ({why}).")
    block = max(map(len, rows))
    return ParquetSource(
        groups, np.concatenate(rows), columns, weights, block, name, account, classes or ()
    )


def _class_names(schema: Any, label: str) -> tuple[str, ...]:
    """The names of a ClassLabel, as Hugging Face's datasets keeps them; () where there are none."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (TypeError, KeyError, ValueError):
        return ()


def _read_columns(opened: Any, file: str, number: int, columns: list[str], name: str) -> Any:
    """Some columns of a row group. UserError: it is damaged, or cannot be reached."""
    try:
        return opened.read_row_group(number, columns)
    except Exception as error:  # pyarrow and each store have their own kinds
        machine.raise_problem(f"{name}: {file} cannot be read", error)
        raise UserError(
            f"{name}: row group {number} of {file} cannot be read ({error}): write it again."
        ) from error


def _rows_of(table: Any, file: str, name: str) -> list[dict[str, Any]]:
    """The rows of a table; texts that are not UTF-8 stay bytes. UserError: it is damaged."""
    import pyarrow as pa

    def column(values: Any) -> list[Any]:
        try:
            return values.to_pylist()
        except UnicodeDecodeError:
            return values.cast(pa.large_binary()).to_pylist()

    try:
        columns = [column(values) for values in table.columns]
    except Exception as error:  # pyarrow has its own kinds
        raise UserError(f"{name}: {file} cannot be read ({error}): write it again.") from error
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _of_bytes(schema: Any) -> list[str]:
    """The columns of a schema that may hold encoded images: bytes, or Hugging Face's Image."""
    import pyarrow as pa

    def holds(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    return [field.name for field in schema if holds(field.type)]


def _no_image(opened: Any, file: str, number: int, column: str, name: str) -> np.ndarray:
    """Which rows of a row group have no image: bool [rows].

    The images are looked at only where the file does not say that none of them is null.
    """
    group = opened.metadata.row_group(number)
    chunks = [group.column(n) for n in range(group.num_columns)]
    stored = [c for c in chunks if c.path_in_schema in (column, f"{column}.bytes")]
    known = (c.statistics for c in stored)
    if stored and all(k and k.has_null_count and not k.null_count for k in known):
        return np.zeros(group.num_rows, bool)
    table = _read_columns(opened, file, number, [column], name)
    return _lacks(table.column(0).combine_chunks())


def _lacks(values: Any) -> np.ndarray:
    """Where an array of pyarrow is null or empty; a struct, where its bytes and its path are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(values.type):
        fields = [field.name for field in values.type if field.name in ("bytes", "path")]
        lacking = [_lacks(pc.struct_field(values, field)) for field in fields]
        return np.logical_and.reduce(lacking) if fields else np.zeros(len(values), bool)
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string,
             pa.types.is_large_string)  # fmt: skip
    if any(is_of(values.type) for is_of in kinds):
        values = pc.if_else(pc.equal(pc.binary_length(values), 0), None, values)
    return pc.is_null(values).to_numpy(zero_copy_only=False)


def has_images(file: str) -> bool:
    """Whether a Parquet file has a column of one of the usual names of images."""
    try:
        names = _open(file).schema_arrow.names
    except Exception as error:  # no pyarrow, or no Parquet: said when it is opened
        machine.raise_problem(f"{file} cannot be read", error)
        return False
    return any(name.strip().lower() in IMAGE_COLUMNS for name in names)


def _splits(files: Sequence[str], wanted: Filter) -> set[str]:
    """The values of the column `split`, where the first file has one."""
    values: set[str] = set()
    for file in files:
        try:
            opened = _open(file)
            column = split_column(opened.schema_arrow.names, wanted.names())
            if not column:
                break
            values.update(map(str, opened.read([column]).column(0).unique().to_pylist()))
        except Exception as error:  # open_parquet says what is wrong with it
            machine.raise_problem(f"{file} cannot be read", error)
            break
    return values


def _unwanted(values: dict[str, Any], columns: Columns, wanted: Filter) -> str:
    """Why a row is left out, or "". `values` are without the image."""
    try:
        found = sum((clean_captions(values[column]) for column in columns.captions), ())
    except BadText as error:
        return f"with a caption that {error}"
    if not found and not columns.label:
        return "without a caption"
    for column in filter(None, (columns.label, columns.group)):
        try:
            number = integer(values[column])
        except (TypeError, ValueError, OverflowError):
            number = None
        if number is None:
            return f"without an integer {column!r}"
    return unwanted(wanted, values, found)


def _open(file: str) -> Any:
    import fsspec
    import pyarrow.parquet as pq

    return pq.ParquetFile(fsspec.open(file).open() if storage.is_url(file) else file)


@lru_cache(maxsize=GROUPS)
def _read_group(file: str, number: int, columns: tuple[str, ...]) -> Any:
    return _open(file).read_row_group(number, list(columns))


def _image(value: Any, file: str, key: str) -> bytes:
    if isinstance(value, dict):  # Hugging Face's Image
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return value
    if not isinstance(value, str) or not value:
        raise BadRecord(f"{key} has no image")
    path = value if storage.is_url(value) else os.path.join(os.path.dirname(file), value)
    if not storage.is_url(path):
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise unreadable(f"{key}: {path}", error) from error
    data = storage.fetch_file(path)
    if data is None:
        raise BadRecord(f"{key}: {path} cannot be read")
    return data


def _integer(values: dict[str, Any], column: str, key: str) -> int:
    number = integer(values[column]) if column else -1
    if number is None:
        raise BadRecord(f"{key} has no integer in {column!r}, the file changed")
    return number
