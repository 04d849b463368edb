"""WebVid: a CSV of clips of a stock site, and the clips as videos/PAGE_DIR/VIDEOID.mp4."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.data import delimited
from mmjax.data.account import Account
from mmjax.data.coco import find_folder
from mmjax.data.files import FileSource, Row
from mmjax.data.filters import Filter
from mmjax.data.tables import unwanted
from mmjax.data.texts import BadText, clean_captions, is_null
from mmjax.errors import UserError

COLUMNS = ("videoid", "page_dir", "name")  # beside contentUrl and duration


def open_webvid(files: Sequence[Path], folder: str, wanted: Filter, name: str) -> FileSource:
    """results_2M_train.csv: videoid, contentUrl, duration, page_dir and name, the caption.

    Rows are kept in memory, 0.6 kB each, and 1.6 kB while the CSV is read: write WebVid-10M's ten
    million as tar shards.

    Args:
      files: one or more CSVs.
      folder: that of the videos, as seen from the CSV; "": `videos` beside it, or its own.
      wanted: sees the columns of a row.
      name: for messages.
    """
    account = Account()
    rows: list[Row] = []
    for file in files:
        columns, table = delimited.read_table(file, name, account)
        lacking = [column for column in COLUMNS if column not in columns]
        if lacking:
            raise UserError(f"{name}: {file} has no column {lacking[0]!r}, as WebVid's CSV has.")
        paths = [_path(values) for _, values in table]
        root = find_folder(file, paths, folder, ("videos", "."), name, account, "video")
        rows += (_row(f"{file}, line {line}", values, root, wanted) for line, values in table)
    return FileSource(rows, name, account=account, media="video")


def _path(values: Mapping[str, Any]) -> str:
    return f"{values['page_dir'].strip()}/{values['videoid'].strip()}.mp4"


def _row(where: str, values: Mapping[str, Any], root: Path, wanted: Filter) -> Row:
    if is_null(values["videoid"]) or is_null(values["page_dir"]):
        return Row(where, (), unwanted="without videoid or page_dir")
    try:
        captions = clean_captions(values["name"])
    except BadText as error:
        return Row(where, (), unwanted=f"with a caption that {error}")
    why = unwanted(wanted, values, captions)
    return Row(where if why else str(root / _path(values)), captions, unwanted=why)
