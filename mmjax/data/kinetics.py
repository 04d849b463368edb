"""Kinetics: a CSV of clips of YouTube, and the clips as files that are named by id and seconds."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.data import delimited
from mmjax.data.account import Account
from mmjax.data.classes import names_in
from mmjax.data.files import FileSource, Row
from mmjax.data.splits import Split, split_column
from mmjax.data.texts import clean, integer
from mmjax.data.video_files import VideoFiles, find_videos
from mmjax.errors import UserError

COLUMNS = ("youtube_id", "time_start", "time_end")


def open_kinetics(file: Path, folder: str, split: Split, name: str) -> FileSource:
    """The CSV of Kinetics-400, -600 or -700 (label, youtube_id, time_start, time_end, split).

    The files are `ID_%06d_%06d.mp4`, of another container too, in one folder or one a class. The
    label is the position of the class's name among those of the CSV, in order.

    Args:
      file: the CSV.
      folder: that of the videos, as seen from the file; "": its own, or its parent.
      split: read where the column `split` has several.
      name: for messages.
    """
    account = Account()
    columns, rows = delimited.read_table(file, name, account)
    lacking = [column for column in COLUMNS if column not in columns]
    if lacking:
        raise UserError(f"{name}: {file} has no column {lacking[0]!r}, as Kinetics' CSV has.")
    column = split_column(columns)
    splits = [str(values[column]).strip() for _, values in rows] if column else []
    if len(set(splits)) > 1 or (splits and split.wanted):
        chosen = split.choose(splits, f"the column split of {file}")
        rows = [row for row, of in zip(rows, splits, strict=True) if of in chosen]
    classes = names_in(values.get("label") for _, values in rows)
    clips = [(f"{file}, line {line}", *_clip(values), values) for line, values in rows]
    videos = find_videos(file, folder, [clip for _, clip, _, _ in clips if clip], name, account)
    found = [_row(*clip, classes, videos) for clip in clips]
    return FileSource(found, name, list(classes), account, "video")


def _clip(values: Mapping[str, Any]) -> tuple[str, str]:
    """What the file of a clip is called, or "" and why it can have none."""
    times = []
    for column in ("time_start", "time_end"):
        try:
            times.append(float(values[column]))
        except ValueError:
            return "", f"whose {column} {values[column]!r} is no time in seconds"
    start, end = times
    if not 0 <= start < end < math.inf:
        return "", "whose clip ends before it starts"
    return f"{values['youtube_id'].strip()}_{int(start):06d}_{int(end):06d}", ""


def _row(
    where: str,
    clip: str,
    why: str,
    values: Mapping[str, Any],
    classes: Mapping[str, int],
    videos: VideoFiles,
) -> Row:
    if why:
        return Row(where, (), unwanted=why)
    label = values.get("label")  # test sets have none
    try:
        number = classes.get(clean(str(label))) if classes else integer(label)
    except (ValueError, OverflowError):
        number = None
    if number is None:
        return Row(where, (), unwanted="without a label")
    return Row(videos.path(clip), (), number)
