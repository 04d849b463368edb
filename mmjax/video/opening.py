"""What the tools begin with: the parts of a video, each with features; and where they write."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmjax.data import BadRecord
from mmjax.data.videos import Video, open_video
from mmjax.errors import UserError
from mmjax.video.features import Features, Query
from mmjax.video.selection import choose, nearest
from mmjax.video.shots import Part, cut_into_parts, shot_starts

SHEET = "sheet.png"  # of what was chosen, in the folder that is written


class Parts(NamedTuple):
    """A video in parts, and features of the frame in the middle of each, float32 [parts, D]."""

    video: Video
    parts: list[Part]
    features: np.ndarray

    def chosen(
        self, budget: float, costs: np.ndarray | None, query: Query | None
    ) -> dict[int, float]:
        """Those that stand for the video, second by second, or for what a query asks for.

        With a query, a second counts for as much as the text is likely to describe it. Number,
        ascending → the seconds that it is the nearest to.
        """
        weights = seconds = np.array([part.seconds for part in self.parts])
        if query:
            weights = weights * query.shares(self.features)
        found = choose(self.features, budget, costs, weights=weights)
        numbers = sorted(choice.number for choice in found)
        if not numbers:
            return {}
        by = nearest(self.features, numbers)
        return {number: float(seconds[by == number].sum()) for number in numbers}

    def cosine(self, number: int, query: Query | None) -> float:
        """Of a part with a query; nan without one."""
        return float(self.features[number] @ query.embed) if query else math.nan


def read_parts(file: str | Path, video: Video, longest: float, features: Features) -> Parts:
    """Finds the shots of a video, cuts long ones and computes features; decodes it twice, the
    second time no more than it needs for the frames in the middle. BadRecord."""
    parts = cut_into_parts(video.times, shot_starts(video, Path(file).name), longest)
    return Parts(video, parts, features.of_frames(video, [part.middle for part in parts]))


def open_file(file: str | Path) -> Video:
    """The video in a file. UserError: there is none."""
    if not Path(file).is_file():
        raise UserError(f"{file} is not there, or is no file.")
    try:
        return open_video(str(file))
    except BadRecord as error:
        raise UserError(f"{file} {error}.") from error


def new_folder(output: str | Path) -> Path:
    """UserError: the folder to write exists, or cannot be made."""
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{output} exists and is not empty; name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output} cannot be made: {error.strerror}.") from error
    return folder


def clock(seconds: float, separator: str = ":") -> str:
    """0:01:23.480; with another separator for names of files, 00-01-23.480."""
    thousandths = round(seconds * 1000)
    hours, rest = divmod(thousandths, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    width = 1 if separator == ":" else 2
    return f"{hours:0{width}}{separator}{minutes:02}{separator}{rest / 1000:06.3f}"
