"""Which data set's annotations a file holds, told by its beginning."""

import re
from collections.abc import Set
from pathlib import Path

from mmjax.data.columns import CAPTION_COLUMNS
from mmjax.data.contents import head_of, suffix_of
from mmjax.data.howto100m import CAPTIONS
from mmjax.data.kinetics import COLUMNS as KINETICS
from mmjax.data.media import MEDIA
from mmjax.data.msrvtt import COLUMNS as MSRVTT
from mmjax.data.webvid import COLUMNS as WEBVID

BEGINNING = 1 << 12  # bytes that hold the first entry's names
_FIRST = rb'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{\s*'  # an object whose first value is one
_JSON = {
    "howto100m": re.compile(_FIRST + rb'"(?:text|start|end)"\s*:\s*\['),
    "activitynet": re.compile(_FIRST + rb'"(?:duration|timestamps|sentences)"\s*:'),
    "msrvtt": re.compile(rb'\s*\{.*"(?:videos|sentences)"\s*:\s*\[.*"video_id"\s*:', re.DOTALL),
    "didemo": re.compile(rb'\s*\[\s*\{(?=[^}]*"video"\s*:)(?=[^}]*"description"\s*:)'
                         rb'(?=[^}]*"times"\s*:)'),
    "visualgenome": re.compile(rb'\s*\[\s*\{\s*(?:"(?:id|image_id)"\s*:\s*\d+\s*,\s*)?"regions"'
                               rb'\s*:\s*\['),
}  # fmt: skip


def layout_of(file: str) -> str:
    """The kind of source that a CSV or JSON is, one of those of a data set of its own; "" if it is
    none."""
    suffix = suffix_of(file)
    if suffix == ".csv" and Path(file).is_file():
        header = head_of(file).partition(b"\n")[0].decode("utf-8-sig", "ignore")
        return _of_columns(file, {cell.strip().strip('"') for cell in header.split(",")})
    if suffix == ".json" and Path(file).is_file():
        with open(file, "rb") as stream:
            head = stream.read(BEGINNING).removeprefix(b"\xef\xbb\xbf")
        return next((kind for kind, begins in _JSON.items() if begins.match(head)), "")
    return ""


def _of_columns(file: str, columns: Set[str]) -> str:
    if set(MSRVTT) <= columns:
        return "msrvtt"
    if columns & set(CAPTION_COLUMNS):
        return ""
    if columns == {"video_path"} or "video_id" in columns:  # a list of videos
        beside = str(Path(file).with_name(CAPTIONS))
        return "howto100m" if layout_of(beside) == "howto100m" else ""
    if columns & set(MEDIA["video"].columns):
        return ""
    known = {"kinetics": KINETICS, "webvid": WEBVID}
    return next((kind for kind, wanted in known.items() if set(wanted) <= columns), "")
