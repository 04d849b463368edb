"""What one Parquet file holds, told without reading its images where that is possible."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmjax import machine
from mmjax.data import storage
from mmjax.data.columns import IMAGE_COLUMNS
from mmjax.errors import UserError


def open_file(file: str) -> Any:
    """A Parquet file, here or remote, as pyarrow reads it; raises whatever it meets."""
    import fsspec
    import pyarrow.parquet as pq

    return pq.ParquetFile(fsspec.open(file).open() if storage.is_url(file) else file)


def has_images(file: str) -> bool:
    """Whether a Parquet file has a column of one of the usual names of images."""
    try:
        names = open_file(file).schema_arrow.names
    except Exception as error:  # no pyarrow, or no Parquet: said when it is opened
        machine.raise_problem(f"{file} cannot be read", error)
        return False
    return any(name.strip().lower() in IMAGE_COLUMNS for name in names)


def read_columns(opened: Any, file: str, number: int, columns: list[str], name: str) -> Any:
    """Some columns of a row group. UserError: it is damaged, or cannot be reached."""
    try:
        return opened.read_row_group(number, columns)
    except Exception as error:  # pyarrow and each store have their own kinds
        machine.raise_problem(f"{name}: {file} cannot be read", error)
        raise UserError(
            f"{name}: row group {number} of {file} cannot be read ({error}): write it again."
        ) from error


def rows_of(table: Any, file: str, name: str) -> list[dict[str, Any]]:
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


def columns_of_bytes(schema: Any) -> list[str]:
    """The columns of a schema that may hold encoded images: bytes, or Hugging Face's Image."""
    import pyarrow as pa

    def holds(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    return [field.name for field in schema if holds(field.type)]


class Images(NamedTuple):
    """Of a row group: which rows have no image, bool [rows]; row → path, of those that are files of
    their own."""

    lacking: np.ndarray
    paths: Mapping[int, str]


def images_of(opened: Any, file: str, number: int, column: str, name: str) -> Images:
    """What the images of a row group are.

    Encoded images are looked at only where the file does not say that none of them is null.
    UserError: the column holds something else.
    """
    kind = opened.schema_arrow.field(column).type
    if not _of_images(kind):
        raise UserError(
            f"{name}: the column {column} of {file} holds {str(kind)[:80]}, and an image is bytes, "
            "a path or {bytes, path}: name another with image=COLUMN."
        )
    group = opened.metadata.row_group(number)
    chunks = [group.column(n) for n in range(group.num_columns)]
    stored = [c for c in chunks if c.path_in_schema in (column, f"{column}.bytes")]
    known = (c.statistics for c in stored)
    full = stored and all(k and k.has_null_count and not k.null_count for k in known)
    if full and not _is_text(kind):
        return Images(np.zeros(group.num_rows, bool), {})
    table = read_columns(opened, file, number, [column], name)
    values = table.column(0).combine_chunks()
    return Images(_lacks(values), _paths(values))


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(is_of(kind) for is_of in (pa.types.is_string, pa.types.is_large_string))


def _of_images(kind: Any) -> bool:
    """Whether values of a type may be images."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return bool({"bytes", "path"} & {field.name for field in kind})
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    of_bytes = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return pa.types.is_null(kind) or _is_text(kind) or any(is_of(kind) for is_of in of_bytes)


def _paths(values: Any) -> dict[int, str]:
    """Row → path, of an array of pyarrow; of a struct, where it has no bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    fields = {field.name for field in values.type} if pa.types.is_struct(values.type) else set()
    without = np.ones(len(values), bool)
    if "bytes" in fields:
        without = _lacks(pc.struct_field(values, "bytes"))
    if "path" in fields:
        values = pc.struct_field(values, "path")
    elif fields or not _is_text(values.type):
        return {}
    return {row: values[row].as_py() for row in np.flatnonzero(without & ~_lacks(values)).tolist()}


def _lacks(values: Any) -> np.ndarray:
    """Where an array of pyarrow is null or empty; a struct, where its bytes and its path are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(values.type):
        fields = [field.name for field in values.type if field.name in ("bytes", "path")]
        if not fields:
            return np.zeros(len(values), bool)
        return np.all([_lacks(pc.struct_field(values, field)) for field in fields], axis=0)
    kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string,
             pa.types.is_large_string)  # fmt: skip
    if any(is_of(values.type) for is_of in kinds):
        values = pc.if_else(pc.equal(pc.binary_length(values), 0), None, values)
    return pc.is_null(values).to_numpy(zero_copy_only=False)


def class_names(schema: Any, label: str) -> tuple[str, ...]:
    """The names of a ClassLabel, as Hugging Face's datasets keeps them; () where there are none."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (TypeError, KeyError, ValueError):
        return ()


def values_of(files: Sequence[str], find: Callable[[Sequence[str]], str]) -> list[Any]:
    """The values of a column, each once for a file; [] where the first file has no such column."""
    values: list[Any] = []
    for file in files:
        try:
            opened = open_file(file)
            column = find(opened.schema_arrow.names)
            if not column:
                break
            values += opened.read([column]).column(0).unique().to_pylist()
        except Exception as error:  # open_parquet says what is wrong with it
            machine.raise_problem(f"{file} cannot be read", error)
            break
    return values
