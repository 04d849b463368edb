"""The columns of tables and Parquet: which hold images, captions and labels, by their names."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from mmjax.data.account import Account
from mmjax.data.contents import image_suffixes, suffix_of
from mmjax.data.media import MEDIA
from mmjax.errors import UserError

IMAGE_COLUMNS = MEDIA["image"].columns
LABEL_COLUMNS = ("label", "labels", "class", "class_id", "target")
START_COLUMNS = ("start", "start_time", "time_start", "clip_start", "start_seconds")
END_COLUMNS = ("end", "end_time", "time_end", "clip_end", "end_seconds")
CAPTION_COLUMNS = ("caption", "captions", "title", "text")
URL_COLUMNS = ("url", "urls", "image_url", "img_url", "link")


class Asked(NamedTuple):
    """What the keys of a source name its columns; "" is one of the usual names, for a label or a
    group none. `caption` may be several, separated by commas, with `weights` for them."""

    caption: str
    image: str
    label: str
    group: str
    weights: tuple[float, ...]
    media: str = "image"  # what a row shows


class Columns(NamedTuple):
    """Which columns of a table hold what; () and "" where it has none."""

    image: str
    captions: tuple[str, ...]
    label: str
    group: str
    start: str = ""
    end: str = ""

    def all(self) -> list[str]:
        """Each once, sorted."""
        found = {self.image, *self.captions, self.label, self.group, self.start, self.end}
        return sorted(found - {""})


def columns_of(names: Collection[str], asked: Asked, file: Any, name: str) -> Columns:
    """The columns of a table that has these names. UserError: one is not there."""
    caption, image, label, group, _, media = asked
    about = MEDIA[media]
    of_image = column_of(names, image, about.columns, media, file, name, key="image")
    captions: tuple[str, ...] = ()
    # A table of class numbers needs no captions.
    if caption or not label or {n.strip().lower() for n in names}.intersection(CAPTION_COLUMNS):
        captions = tuple(
            column_of(names, field, CAPTION_COLUMNS, "caption", file, name)
            for field in caption.split(",")
        )
    return Columns(
        of_image,
        captions,
        column_of(names, label, (), "label", file, name) if label else "",
        column_of(names, group, (), "group", file, name) if group else "",
        *(_time(names, usual) if about.clips else "" for usual in (START_COLUMNS, END_COLUMNS)),
    )


def _time(names: Collection[str], usual: Sequence[str]) -> str:
    """The column of a usual name, or ""."""
    return next((n for u in usual for n in names if n.strip().lower() == u), "")


def say_columns(
    account: Account,
    columns: Columns,
    names: Collection[str],
    file: Any,
    more: Collection[str] = (),
    media: str = "image",
) -> None:
    """Tells an account which columns of a table are read, and which others might be, once for all
    tables that are alike; `more` are columns that hold images, whatever they are called."""
    captions = ", ".join(columns.captions) or "no column"
    text = f"{MEDIA[media].plural} are in the column {columns.image}, captions in {captions}"
    text += f", labels in {columns.label}" if columns.label else ""
    text += f", groups in {columns.group}" if columns.group else ""
    text += (
        f", clips from {columns.start or 0} to {columns.end or 'the end'}"
        if (columns.start or columns.end)
        else ""
    )
    for key, usual in (("image", (*MEDIA[media].columns, *more)), ("caption", CAPTION_COLUMNS),
                       ("label", LABEL_COLUMNS)):  # fmt: skip
        others = [n for n in names if n.strip().lower() in usual or n in usual]
        others = [n for n in others if n not in columns.all()]
        text += f"; also there: {', '.join(others)} ({key}=… takes it)" if others else ""
    if not any(line.startswith(text) for line in account.found):
        account.found.append(f"{text}, as {file} has them")


def column_of(
    columns: Collection[str],
    wanted: str,
    usual: tuple[str, ...],
    what: str,
    file: Any,
    name: str,
    key: str = "",
) -> str:
    """The column of that name, or the first of the usual names; `key` names one (default: `what`).

    UserError: there is none.
    """
    key = key or what
    by_lower: dict[str, list[str]] = {}
    for column in columns:
        by_lower.setdefault(str(column).strip().lower(), []).append(column)
    names = (wanted.strip(),) if wanted else usual
    for column in names:
        found = [column] if column in columns else by_lower.get(column.lower(), [])
        if not found:
            continue
        if len(found) > 1:
            raise UserError(
                f"{name}: {file} has the columns {' and '.join(found)}: set {key} to one of them."
            )
        return found[0]
    raise UserError(
        f"{name}: {file} has no {what} column {' or '.join(names)}; it has "
        f"{', '.join(str(c) for c in columns)}. {_remedy(columns, what, key, names, file)}"
    )


def _remedy(
    columns: Collection[str], what: str, key: str, names: Collection[str], file: Any
) -> str:
    """What helps where a table has no column of an image or a caption."""
    lower = {str(column).strip().lower() for column in columns}
    if any(column.partition("#")[0].endswith(tuple(image_suffixes())) for column in lower):
        return "That is no header: put a line with the names of the columns above it."
    if what == "image" and lower & set(URL_COLUMNS):
        url = next(c for c in columns if str(c).strip().lower() in URL_COLUMNS)
        return (
            f"It has addresses of images, not images: run img2dataset --url_list={file} "
            f"--input_format={suffix_of(file)[1:]} --url_col={url} --caption_col=COLUMN "
            "--output_format=webdataset --output_folder=DIR, and give DIR."
        )
    if what == "caption" and lower & set(LABEL_COLUMNS):
        label = next(c for c in columns if str(c).strip().lower() in LABEL_COLUMNS)
        return f"Name it with caption=COLUMN, or the classes with label={label}."
    return f"Name it with {key}=COLUMN."
