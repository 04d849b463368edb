"""Plain files of images, videos or sounds: rows of paths and captions, or texts beside them.

Everything but the pixels is read when the source is opened, so the captions are kept in memory.
"""

import array
import math
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmjax import machine
from mmjax.data.account import Account, Accounted
from mmjax.data.boxes import Boxes
from mmjax.data.classes import about_order, in_order
from mmjax.data.contents import HEAD, head_of, suffix_of, what_it_is
from mmjax.data.identity import common_folder, digest
from mmjax.data.media import MEDIA, other_media, shows
from mmjax.data.records import Record, Texts, pair, unreadable
from mmjax.data.texts import NULLS, BadText, lines, txt_captions, written_nulls
from mmjax.data.tree import files_under, folders_in
from mmjax.data.videos import Clip
from mmjax.errors import UserError

_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".txt")  # what may hold captions of other files


WHOLE = (0.0, math.inf)


class Row(NamedTuple):
    path: str
    captions: tuple[str, ...] | None  # None: not UTF-8
    label: int = -1
    group: int = -1
    weights: tuple[float, ...] = ()  # of the captions
    unwanted: str = ""  # why it is left out, where that is known
    rows: int = 1  # of a table that were united to this one
    span: tuple[float, float] = WHOLE  # the seconds of it that are shown
    boxes: Boxes | None = None  # of an image

    def facts(self) -> tuple[object, ...]:
        """What tells it from others, beside the path."""
        facts = self[1:-2] if self.span == WHOLE else self[1:-1]
        return facts if self.boxes is None else (*facts, self.boxes.facts())


class FileSource(Accounted):
    """Files of one medium with the captions that were found for them."""

    captions_alone = True

    def __init__(
        self,
        rows: Iterable[Row],
        name: str,
        classes: Sequence[str] = (),
        account: Account | None = None,
        media: str = "image",
    ):
        self.name = name
        self._media = media
        self.classes = tuple(classes)  # their names in order of label; () if they have none
        self.account = account or Account()
        self._rows: list[Row] = []
        self._sizes = array.array("q")  # bytes
        for row in rows:
            why, size = _unusable(row, media)
            if why:
                self.account.leave_out(why, row.path, row.rows)
            else:
                self._rows.append(row)
                self._sizes.append(size)
        if not self._rows:
            why = "; ".join(self.account.lines())
            none = f"the folder holds no {MEDIA[media].plural}"
            raise UserError(f"{name}: no usable {media}: {why or none}.")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        row = self._rows[index]
        try:
            clips = MEDIA[self._media].clips
            shown = Clip(row.path, *row.span) if clips else Path(row.path).read_bytes()
        except OSError as error:
            raise unreadable(row.path, error) from error
        texts = Texts(self.captions(index), row.weights)
        span = "" if row.span == WHOLE else f" ({row.span[0]:g} to {row.span[1]:g} s)"
        boxes = {} if row.boxes is None else {"boxes": row.boxes}
        return pair(f"{row.path}{span}", shown, texts, row.label, row.group, self._media, **boxes)

    def identity(self) -> str:
        """See `data/identity.py`."""
        start = len(common_folder([row.path for row in self._rows]))
        rows = zip(self._rows, self._sizes, strict=True)
        return digest((row.path[start:], *row.facts(), size) for row, size in rows)

    def captions(self, index: int) -> tuple[str, ...]:
        return self._rows[index].captions or ()

    @property
    def labels(self) -> np.ndarray:
        """int64 [records], no image being read."""
        return np.array([row.label for row in self._rows])


def open_folder(folder: Path, name: str, media: str = "image") -> FileSource:
    """A folder of images or videos at any depth: `x.jpg` with `x.txt` beside it, a caption a line.

    Where no image has a text, the first level of subfolders are classes: the label is the position
    of the subfolder (`classes.in_order`), and there are no captions.
    """
    if not folder.is_dir():
        raise UserError(f"{name}: {folder} is not a folder.")
    account = Account()
    images, others = _sorted_out(files_under(folder, account), media)
    other, path_of_it = other_media(others, media)
    if other and not images:
        others_are = MEDIA[other].plural
        raise UserError(
            f"{name}: {folder} holds {others_are}, as {path_of_it}: set media={other!r}."
        )
    texts: dict[str, Path] = {}
    for path in others:
        if suffix_of(path) == ".txt" and texts.setdefault(_stem(path), path) != path:
            account.leave_out(f"texts of {MEDIA[media].called} that has another", path)
    if texts.keys().isdisjoint(map(_stem, images)):
        _check_classes(folder, images, others, name)
        return open_classes(folder, in_order(folders_in(folder)), name, media)
    first = next(path for path in map(texts.get, map(_stem, images)) if path)
    account.found.append(f"captions are the lines of the .txt beside each {media}, as {first}")
    for path in others:
        if suffix_of(path) != ".txt":
            account.unrecognised(suffix_of(path), path)
    for stem in texts.keys() - set(map(_stem, images)):
        account.leave_out(f"texts without {MEDIA[media].called}", texts[stem])
    rows = (Row(str(p), _read_captions(texts.get(_stem(p)), account)) for p in images)
    return FileSource(rows, name, account=account, media=media)


def open_classes(
    folder: Path, classes: Sequence[str], name: str, media: str = "image"
) -> FileSource:
    """One subfolder of images or videos a class, labelled by its index in `classes`; those
    elsewhere are left out and counted."""
    account = Account()
    images, others = _sorted_out(files_under(folder, account), media)
    for path in others:
        account.unrecognised(suffix_of(path), path)
    labels = {subfolder: label for label, subfolder in enumerate(classes)}
    rows = []
    for path in images:
        label = labels.get(path.relative_to(folder).parts[0])
        if label is None:
            account.leave_out("that are in no folder of a class", path)
        else:
            rows.append(Row(str(path), (), label))
    rows.sort(key=lambda row: row.label)
    doubt = about_order(classes)
    account.found += [doubt] if doubt else []
    empty = sorted(set(range(len(classes))).difference(row.label for row in rows))
    if empty:
        account.found.append(
            f"{len(empty):,} folders hold no {media} (first: {classes[empty[0]]!r})"
        )
    return FileSource(rows, name, classes, account, media)


def _check_classes(folder: Path, images: Sequence[Path], others: Sequence[Path], name: str) -> None:
    """UserError: images without texts are in no subfolders, or in one that is no class, as the
    captions beside it show."""
    inside = {path.relative_to(folder).parts[0] for path in images if path.parent != folder}
    stems = {path.with_suffix("") for path in images} | set(images)
    of_images = [path for path in others if path.with_suffix("") in stems]
    tables = [path for kind in _TABLES for path in others if suffix_of(path) == kind
              and path not in of_images and path.stem.lower() not in ("readme", "license")
              and (inside or kind != ".txt")]  # fmt: skip
    hint = f", or name the table that is in it, {tables[0].relative_to(folder)}" if tables else ""
    if of_images:
        hint += f"; {of_images[0].name} is not read: write its caption into x.txt"
    if images and not inside:
        raise UserError(
            f"{name}: {folder} holds images but no captions; put x.txt beside x.jpg, or the images "
            f"into one subfolder a class{hint}."
        )
    if len(inside) == 1 and (tables or of_images):
        raise UserError(
            f"{name}: the images of {folder} are all in {min(inside)}/, which would be one class, "
            f"and no x.txt is beside x.jpg: put it there{hint}."
        )


def _sorted_out(files: Iterable[Path], media: str) -> tuple[list[Path], list[Path]]:
    """The files that show `media`, and the others."""
    images: list[Path] = []
    others: list[Path] = []
    for path in files:
        (images if shows(path, media) else others).append(path)
    return images, others


def _stem(path: Path) -> str:
    return os.path.splitext(path)[0]


def _unusable(row: Row, media: str) -> tuple[str, int]:
    """Why a row is left out, or ""; and the size of its file."""
    if row.unwanted:
        return row.unwanted, 0
    try:
        status = os.stat(row.path)
    except (OSError, ValueError) as error:  # ValueError: no file can have such a name
        machine.raise_problem(f"{row.path} cannot be read", error)
        return f"whose {media} file is missing", 0
    size = status.st_size
    if not stat.S_ISREG(status.st_mode):
        return f"whose {media} is not a file", 0
    if size == 0:
        return f"with an empty {media}", 0
    # A pointer or a page in place of the image is small; larger ones are named when decoded.
    what = what_it_is(head_of(row.path)) if size <= HEAD else ""
    if what:
        return f"whose {media} is {what}", size
    if row.captions is None:
        return "with a caption that is not UTF-8", size
    of_use = row.captions or row.label >= 0 or row.boxes is not None
    return "" if of_use else "without a caption", size


def _read_captions(path: Path | None, account: Account) -> tuple[str, ...] | None:
    """() where there is no file; None if it is not UTF-8."""
    if path is None:
        return ()
    try:
        data = path.read_bytes()
        captions = txt_captions(data)
        nulls = written_nulls(lines(data)) if captions else 0
        if nulls:
            account.pass_over(NULLS, path, nulls)
        return captions
    except OSError as error:  # a link that leads nowhere
        machine.raise_problem(f"{path} cannot be read", error)
        return ()
    except BadText:
        return None
