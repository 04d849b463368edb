"""What the members of a pair in a tar say: captions, label, group, tags; or why it is left out."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmjax.data.boxes import Boxes, parse_boxes
from mmjax.data.contents import suffix_of, what_it_is
from mmjax.data.filters import UNWANTED, Filter
from mmjax.data.media import MEDIA, shows
from mmjax.data.texts import (
    BadText,
    clean_captions,
    integer,
    lines,
    read_json,
    txt_captions,
    written_nulls,
)

MAX_TEXT = 1 << 20  # bytes of a .txt or .json; captions have a few hundred


class Fields(NamedTuple):
    """Which members and JSON fields hold what: `captions` as ("txt", "json:tags", …), () where none
    are wanted; `label` a JSON field, or "cls" for webdataset's member of that name; `filter` says
    which pairs are wanted at all; `tags` a JSON field; `media`: what a pair shows.
    """

    captions: tuple[str, ...] = ("txt",)
    label: str = ""
    group: str = ""
    filter: Filter = Filter("", "")
    tags: str = ""
    media: str = "image"
    boxes: str = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The kinds of member that the index knows; the first is what every pair must have."""
        return (MEDIA[self.media].member, "txt", "json")

    def part(self, member: str) -> str:
        """Which of the parts a member is, by its suffix, or another."""
        return self.parts[0] if shows(member, self.media) else suffix_of(member)[1:]

    @property
    def dtype(self) -> np.dtype:
        """Of a row: where the parts of a pair lie; a length of 0 says that there is none."""
        spans = [(f"{p}_{what}", "<u8") for p in self.parts for what in ("at", "length")]
        return np.dtype([("shard", "<u4"), ("label", "<i4"), ("group", "<i4"), *spans])


class Unusable(Exception):  # noqa: N818
    """Why a pair is left out."""


def index_row(
    spans: dict[str, tuple[int, int]], texts: dict[str, bytes], fields: Fields
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Label, group and the spans of the members; and the captions.

    Raises Unusable, Lacking.
    """
    first = fields.parts[0]
    what = MEDIA[fields.media].called
    if first not in spans:
        raise Unusable(f"without {what}")
    if spans[first][1] == 0:
        raise Unusable(f"with an empty {what.partition(' ')[2]}")
    mistaken = what_it_is(texts.get(first, b""))
    if mistaken:
        raise Unusable(f"whose {what.partition(' ')[2]} is {mistaken}")
    if any(length > MAX_TEXT for part, (_, length) in spans.items() if part != first):
        raise Unusable(f"with a text above {MAX_TEXT >> 20} MiB")
    values: dict[str, Any] = {}
    in_json = (fields.label, fields.group, fields.filter, fields.tags, fields.boxes)
    if any(in_json) or any(f != "txt" for f in fields.captions):
        values = parse_json(texts.get("json"))
    if fields.label == "cls":
        values["cls"] = texts.get("cls")
    label, group = _integer(values, fields.label), _integer(values, fields.group)
    # Pictures with a class number are of use without a caption (zero-shot evaluation).
    captions = sum(parse_captions(fields.captions, texts.get("txt"), values), ())
    boxes = regions_of(fields.boxes, values)
    if fields.captions and not captions and not fields.label and boxes is None:
        raise Unusable("without a caption")
    if not fields.filter.keep(values, captions):
        raise Unusable(UNWANTED)
    parse_tags(fields.tags, values)
    parts = (spans.get(part, (0, 0)) for part in fields.parts)
    return (label, group, *itertools.chain(*parts)), captions


def parse_captions(
    wanted: Sequence[str], txt: bytes | None, values: Mapping[str, Any]
) -> list[tuple[str, ...]]:
    """The captions of each wanted field; raises Unusable."""
    try:
        return [
            txt_captions(txt) if field == "txt" else clean_captions(values.get(field[5:]))
            for field in wanted
        ]
    except BadText as error:
        raise Unusable(f"with a caption that {error}") from error


def nulls_in(texts: Mapping[str, bytes], fields: Fields) -> int:
    """How many of the captions of a pair are nulls that were written."""
    found = written_nulls(lines(texts.get("txt", b""))) if "txt" in fields.captions else 0
    wanted = [field[5:] for field in fields.captions if field != "txt"]
    values = parse_json(texts.get("json")) if wanted else {}
    return found + sum(written_nulls(values.get(field)) for field in wanted)


def parse_tags(wanted: str, values: Mapping[str, Any]) -> str:
    """The tags in a JSON field, a string or a list of them, in one line; raises Unusable."""
    if wanted and wanted not in values:
        raise Unusable(f"without tags {wanted!r}")
    try:
        return " ".join(clean_captions(values.get(wanted)))
    except BadText as error:
        raise Unusable(f"with tags that {error}") from error


def regions_of(wanted: str, values: Mapping[str, Any]) -> Boxes | None:
    """The regions in a JSON field; None where it is not there, or holds none. Raises Unusable."""
    if not wanted or not values.get(wanted):
        return None
    try:
        found = parse_boxes(values[wanted], str(values.get("caption", "")))
    except BadText as error:
        raise Unusable(f"with regions that {error}") from error
    return found if found.texts else None


def without_regions(fields: Fields) -> str:
    """What the account says of pairs that have no such field."""
    return f"JSON without the field {fields.boxes!r} (boxes)"


def parse_json(data: bytes | None) -> dict[str, Any]:
    if not data:
        return {}
    try:
        values = read_json(data)
    except ValueError as error:
        raise Unusable("with unreadable JSON") from error
    return values if isinstance(values, dict) else {}


def _integer(values: Mapping[str, Any], field: str) -> int:
    if not field:
        return -1
    try:
        number = integer(values.get(field.removeprefix("json:")))
    except (TypeError, ValueError, OverflowError) as error:
        raise Unusable(f"without an integer {field!r}") from error
    if number is None:
        raise Unusable(f"without an integer {field!r}")
    return number
