"""`mmjax video keyframes`: a few frames that stand for a video, or for what a query asks for."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from mmjax.data import BadRecord
from mmjax.data.images import WHITE, composite
from mmjax.datatools.inspection import contact_sheet
from mmjax.errors import UserError
from mmjax.pretrained import Pretrained
from mmjax.video.features import open_features
from mmjax.video.opening import SHEET, clock, new_folder, open_file, read_parts

LONGEST = 2.0  # seconds of a shot that one frame may stand for


class KeyFrame(NamedTuple):
    """A frame that stands for a video.

    Attributes:
      second: when it is shown.
      start: of the shot, or the part of a long one, that it is the middle of, in seconds.
      end: of the same.
      seconds: of the video that it stands for, as it is the nearest of all key frames.
      cosine: with the query; nan without one.
      image: the frame, uint8 [H, W, 3].
    """

    second: float
    start: float
    end: float
    seconds: float
    cosine: float
    image: np.ndarray

    @property
    def file(self) -> str:
        """The name that it is written under."""
        return f"{clock(self.second, '-')}.jpg"


def keyframes(
    file: str | Path,
    *,
    count: int = 8,
    query: str | None = None,
    model: str | Path | Pretrained | None = None,
    tokenizer: str | Path | None = None,
    output: str | Path | None = None,
) -> list[KeyFrame]:
    """The frames that stand best for a video, in the order in which they are shown.

    PySceneDetect finds the shots; the middle frame of each, and of each 2 seconds of longer ones,
    is a candidate. Facility location chooses: each second of the video counts for the cosine of its
    frame and the key frame nearest to it; with a query, as much as the text is likely to describe
    that frame, by the model's softmax. There are fewer than `count` where the rest adds nothing.

    >>> import mmjax
    >>> frames = mmjax.video.keyframes("film.mp4", count=4)  # doctest: +SKIP
    >>> [frame.second for frame in frames]  # doctest: +SKIP
    [3.2, 11.88, 40.24, 61.0]

    Args:
      file: a video that FFmpeg reads, or an animated WebP or GIF.
      count: how many frames.
      query: what they shall show, in words.
      model: what compares frames: a source of `mmjax.load`, or what that gave. Without one,
        histograms of colours do.
      tokenizer: as for `mmjax.load`.
      output: the folder to write: each frame as a JPEG named by its time, and sheet.png.

    Raises:
      UserError: there is no video, it cannot be decoded, or the folder is not empty.
    """
    if count < 1:
        raise UserError(f"count={count} must be 1 or more.")
    video = open_file(file)
    folder = new_folder(output) if output is not None else None
    features = open_features(model, tokenizer, query)
    text = None if query is None else features.of_text(query)
    try:
        found = read_parts(file, video, LONGEST, features)
        chosen = found.chosen(count, None, text)
        middles = [found.parts[number].middle for number in chosen]
        images = [composite(image, WHITE) for image in video.each(middles)]
    except BadRecord as error:
        raise UserError(f"{file} {error}.") from error
    frames = []
    for (number, seconds), image in zip(chosen.items(), images, strict=True):
        part = found.parts[number]
        second = float(video.times[part.middle])
        cosine = found.cosine(number, text)
        frames.append(KeyFrame(second, part.start, part.end, seconds, cosine, image))
    if folder:
        for frame in frames:
            Image.fromarray(frame.image).save(folder / frame.file, quality=92)
        tiles = [(frame.image, clock(frame.second)) for frame in frames]
        contact_sheet(tiles).save(folder / SHEET)
    return frames


def show(console: Console, frames: list[KeyFrame], query: str | None) -> None:
    """The frames as a table."""
    table = Table("time", "shot", "stands for", *(["cosine"] if query else []), "file")
    for frame in frames:
        span = f"{clock(frame.start)} to {clock(frame.end)}"
        cosine = [f"{frame.cosine:.3f}"] if query else []
        table.add_row(clock(frame.second), span, f"{frame.seconds:.1f} s", *cosine, frame.file)
    console.print(table)
