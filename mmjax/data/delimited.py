"""Rows of CSV, TSV and JSON (lines or a list): read as they are meant, or refused with the line.

No row is dropped and no cell runs into the next: a table whose rows do not fit its header is an
error, since what is meant nobody can tell.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.data.account import Account
from mmjax.data.texts import BadText, decode, read_json, read_json_list
from mmjax.errors import UserError

_DELIMITERS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}
_QUOTES = 'write a quote inside of a cell twice ("") and put that cell into quotes'

JSON = (".jsonl", ".ndjson", ".json")  # objects, one a line or in one list

Row = tuple[int, Mapping[str, Any]]  # line of the file, counted from 1; cells by column


def read_table(file: Path, name: str, account: Account) -> tuple[list[str], list[Row]]:
    """The columns and rows of a file; what was detected goes into `account`.

    UserError names what is wrong, and its line.
    """
    try:
        text = decode(file.read_bytes())
    except BadText as error:
        raise UserError(f"{name}: {file}, line {error.line}, {error}; save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{name}: {file} cannot be read: {error.strerror}.") from error
    if not text.strip():
        raise UserError(f"{name}: {file} is empty; it needs a header line and rows.")
    if file.suffix.lower() in JSON:
        read = _json_list if text.lstrip().startswith("[") else _json_rows
        rows = list(read(text, file, name))
        if not rows:
            raise UserError(f"{name}: {file} holds no JSON object: it needs one an image.")
        return list(dict.fromkeys(column for _, row in rows for column in row)), rows
    return _cells(text, file, name, account)


def _json_rows(text: str, file: Path, name: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = read_json(line.encode("utf-8"))
        except ValueError as error:
            raise UserError(f"{name}: {file}, line {number}, is no JSON ({error}).") from error
        if not isinstance(values, dict):
            raise UserError(f"{name}: {file}, line {number}, is no JSON object but {line[:40]!r}.")
        yield number, values


def _json_list(text: str, file: Path, name: str) -> Iterator[Row]:
    try:
        rows = list(read_json_list(text))
    except ValueError as error:
        raise UserError(f"{name}: {file} is no JSON ({error}).") from error
    for number, values in rows:
        if not isinstance(values, dict):
            said = repr(values)[:40]
            raise UserError(f"{name}: {file}, line {number}, is no JSON object but {said}.")
    return iter(rows)


def _cells(text: str, file: Path, name: str, account: Account) -> tuple[list[str], list[Row]]:
    stated = re.match(r"sep=(.)\r?\n", text)  # Excel's
    delimiter = stated[1] if stated else _delimiter(text, file, account)
    skipped = 1 if stated else 0
    rows = _parse(text[stated.end() if stated else 0 :], delimiter, skipped, file, name)
    _, first = next(rows, (0, []))
    header = [column.strip() for column in first]
    _check_header(header, file, name)
    found: list[Row] = []
    for number, cells in rows:
        extra = len(cells) - len(header)
        if extra < 0 or any(cell.strip() for cell in cells[len(header) :]):
            what = _DELIMITERS.get(delimiter, delimiter)
            raise UserError(
                f"{name}: {file}, line {number}, has {len(cells)} cells, and the header "
                f'{len(header)}: put a cell that holds {what} or a line break into quotes (").'
            )
        found.append((number, dict(zip(header, cells, strict=False))))
    return header, found


def _parse(
    text: str, delimiter: str, skipped: int, file: Path, name: str
) -> Iterator[tuple[int, list[str]]]:
    """The line that each row begins in, and its cells. Blank lines are none."""
    read: list[str] = []  # lines of the row

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            read.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=delimiter, strict=True, skipinitialspace=True)
    while True:
        number = reader.line_num + 1 + skipped
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = str(error)
            if "unexpected end" in problem:
                problem = "has a quote that opens and is never closed"
            elif "expected after" in problem:
                problem = "has text after the quote that closes a cell"
            else:
                problem = f"is not valid CSV ({problem})"
            raise UserError(f"{name}: {file}, line {number}, {problem}: {_QUOTES}.") from error
        if len(cells) > 1 or "".join(read).strip():
            yield number, cells
        read.clear()


def _delimiter(text: str, file: Path, account: Account) -> str:
    """That of the header: as the suffix says, or the one it has most of, which is said."""
    header = re.sub(r'"[^"]*"', "", text.lstrip("\r\n").split("\n", 1)[0])
    usual = "\t" if file.suffix.lower() in (".tsv", ".tab") else ","
    if usual in header:
        return usual
    found = max(_DELIMITERS, key=header.count)
    if found not in header:
        return usual
    account.found.append(f"the cells of {file} are separated by {_DELIMITERS[found]}")
    return found


def _check_header(header: Sequence[str], file: Path, name: str) -> None:
    repeated = sorted({column for column in header if column and header.count(column) > 1})
    if repeated:
        raise UserError(
            f"{name}: {file} has two columns {repeated[0]!r}; give each a name of its own."
        )
    if any(cell.strip().startswith(("http://", "https://")) for cell in header):
        columns = "url\\tcaption" if header[0].strip().startswith("http") else "caption\\turl"
        raise UserError(
            f"{name}: {file} holds addresses of images (as CC3M and CC12M do), not images: put the "
            f"line {columns} above it, run img2dataset --input_format=tsv --url_list={file} "
            "--url_col=url --caption_col=caption --output_format=webdataset --output_folder=DIR, "
            "and give DIR."
        )
