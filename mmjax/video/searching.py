"""`mmjax video search`: where in the videos of a folder something is shown, asked in words.

The embeddings of each file are kept in the folder's `.mmjax`, under the name of the file and the
fingerprint of the model, and computed anew when the file changes.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmjax import machine
from mmjax.data import BadRecord
from mmjax.data.account import Account
from mmjax.data.media import shows
from mmjax.data.records import log
from mmjax.data.tree import INDEX_FOLDER, files_under
from mmjax.data.videos import open_video
from mmjax.errors import UserError
from mmjax.pretrained import Pretrained
from mmjax.teachers.source import fingerprint
from mmjax.video.features import OfModel, open_features
from mmjax.video.keyframing import LONGEST
from mmjax.video.opening import clock, read_parts

VERSION = 1  # of what is kept


class Hit(NamedTuple):
    """A shot that shows what was asked for.

    Attributes:
      file: the path of the video.
      second: of the frame that shows it best.
      start: of the shot, in seconds.
      end: of the same.
      cosine: of that frame and the query.
    """

    file: str
    second: float
    start: float
    end: float
    cosine: float


class Index(NamedTuple):
    """What is kept of a file: of each of its parts."""

    features: np.ndarray  # float32 [parts, D], of unit length
    second: np.ndarray  # float64 [parts], of the frame in its middle
    shot: np.ndarray  # int64 [parts]
    start: np.ndarray  # float64 [parts], of its shot
    end: np.ndarray


def search(
    folder: str | Path,
    *,
    query: str,
    model: str | Path | Pretrained,
    tokenizer: str | Path | None = None,
    top: int = 5,
    index: str | Path | None = None,
) -> list[Hit]:
    """The shots of all videos under a folder that are nearest to a query, the nearest first.

    A frame of each shot, and of each 2 seconds of longer ones, is compared with the query. Files
    that cannot be read are named in a warning and passed over.

    Args:
      folder: videos at any depth.
      query: what to look for, in words.
      model: of images and texts: a source of `mmjax.load`, or what that gave.
      tokenizer: as for `mmjax.load`.
      top: how many shots.
      index: the folder where embeddings are kept for the next query; `.mmjax` in `folder` unless
        it is given.

    Raises:
      UserError: there is no video that can be read, the model reads no texts, or nothing can be
        written into `index`.
    """
    if top < 1:
        raise UserError(f"top={top} must be 1 or more.")
    if not Path(folder).is_dir():
        raise UserError(f"{folder} is not a folder: name one that holds videos.")
    files = [path for path in files_under(Path(folder), Account()) if shows(path, "video")]
    if not files:
        raise UserError(f"{folder} holds no videos.")
    features = open_features(model, tokenizer, query)
    assert isinstance(features, OfModel)
    text = features.of_text(query).embed
    mark = fingerprint(features.model.config, features.model.params).mark.replace(":", "-")
    kept = Path(index) if index is not None else Path(folder) / INDEX_FOLDER
    hits = list[Hit]()
    for path in files:
        place = kept / "search" / f"{path.relative_to(folder)}.{mark}.npz"
        try:
            hits += _best_of_shots(str(path), _index(path, place, features), text)
        except BadRecord as error:
            log.warning("%s %s: it is passed over", path, error)
    if not hits:
        raise UserError(f"{folder}: none of its {len(files):,} videos can be read.")
    return sorted(hits, key=lambda hit: -hit.cosine)[:top]


def _best_of_shots(file: str, index: Index, text: np.ndarray) -> list[Hit]:
    cosines = index.features @ text
    hits = []
    for shot in np.unique(index.shot):
        parts = np.flatnonzero(index.shot == shot)
        best = parts[np.argmax(cosines[parts])]
        span = float(index.start[best]), float(index.end[best])
        hits.append(Hit(file, float(index.second[best]), *span, float(cosines[best])))
    return hits


def _index(path: Path, place: Path, features: OfModel) -> Index:
    """What is kept of a file, or is found out now. BadRecord: it cannot be read."""
    status = path.stat()
    state = np.array([VERSION, status.st_size, status.st_mtime_ns])
    if place.is_file():
        with np.load(place) as stored:
            if np.array_equal(stored["state"], state):
                return Index(*(stored[name] for name in Index._fields))
    found = _computed(path, features)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.{os.getpid()}.part")
        with open(part, "wb") as file:
            np.savez(file, state=state, **found._asdict())
        part.replace(place)  # so that what has the name is whole
    except OSError as error:
        machine.raise_problem(f"{place} cannot be written", error)
        raise UserError(
            f"{place} cannot be written ({error.strerror}): name a folder for embeddings by "
            "--index=DIR."
        ) from error
    return found


def _computed(path: Path, features: OfModel) -> Index:
    video = open_video(str(path))
    _, parts, rows = read_parts(path, video, LONGEST, features)
    shot = np.array([part.shot for part in parts])
    first = np.searchsorted(shot, shot)
    last = np.searchsorted(shot, shot, side="right") - 1
    start, end = (np.array([getattr(p, name) for p in parts]) for name in ("start", "end"))
    second = video.times[[part.middle for part in parts]]
    return Index(rows, second, shot, start[first], end[last])


def show(console: Console, hits: list[Hit]) -> None:
    """The shots as a table."""
    table = Table("file", "time", "shot", "cosine")
    for hit in hits:
        span = f"{clock(hit.start)} to {clock(hit.end)}"
        table.add_row(escape(hit.file), clock(hit.second), span, f"{hit.cosine:.3f}")
    console.print(table)
