"""Shots of a video, by PySceneDetect's content detector, and the parts that long ones are cut into.

The detector compares each frame with the one before it: a shot begins where the mean change of
hue, saturation and brightness is 27 or more of 255, at least 15 frames after the last one. It sees
frames 256 pixels wide, as PySceneDetect shows them to it, each once and one at a time.
"""

import itertools
import math
from typing import NamedTuple

import cv2
import numpy as np

from mmjax.data.images import WHITE, composite
from mmjax.data.videos import Video
from mmjax.datatools.opening import track
from mmjax.errors import UserError

WIDTH = 256  # of the frames that are compared


class Part(NamedTuple):
    """A shot or, of a long one, one of its parts: the frames `first` … `last` - 1."""

    shot: int  # its number, from 0
    first: int
    last: int
    start: float  # seconds
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def middle(self) -> int:
        """The frame that stands for it."""
        return (self.first + self.last - 1) // 2


def shot_starts(video: Video, what: str = "frames") -> list[int]:
    """The number of the first frame of each shot, ascending, from 0; `what` names the progress bar.

    Raises:
      BadRecord: a frame cannot be decoded.
      UserError: PySceneDetect is not installed.
    """
    try:
        from scenedetect import ContentDetector, FrameTimecode
    except ImportError as error:
        raise UserError("finding shots needs PySceneDetect: pip install 'mmjax[video]'.") from error
    detector, found = ContentDetector(), {0}
    count = len(video.times)
    frames = video.each(range(count), max(1.0, video.shape[1] / WIDTH))
    for number, frame in enumerate(track(frames, what, count)):
        shown = cv2.cvtColor(composite(frame, WHITE), cv2.COLOR_RGB2BGR)
        # Numbers of frames alone are compared: the rate is of no account.
        cuts = detector.process_frame(FrameTimecode(number, 25.0), shown)
        found.update(cut.frame_num for cut in cuts)
    return sorted(found)


def cut_into_parts(times: np.ndarray, starts: list[int], longest: float) -> list[Part]:
    """The shots in order, each cut into as few equal parts as are no longer than `longest` seconds.

    A frame is shown until the next one, the last for as long as most are. A part has at least one
    frame.

    Args:
      times: float [frames], ascending: seconds at which frames are shown.
      starts: the number of the first frame of each shot.
      longest: seconds.
    """
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 0.04
    until = np.append(times, times[-1] + usual)
    parts = []
    for shot, (first, last) in enumerate(zip(starts, [*starts[1:], len(times)], strict=True)):
        count = math.ceil(round((until[last] - until[first]) / longest, 6))
        ends = np.linspace(until[first], until[last], max(count, 1) + 1)[1:-1]
        # Where two parts would end at one frame there is a gap in the times, or too few frames.
        inner = np.unique(np.searchsorted(until, ends - 1e-6))
        bounds = [first, *inner[(inner > first) & (inner < last)].tolist(), last]
        for begin, end in itertools.pairwise(bounds):
            parts.append(Part(shot, begin, end, float(until[begin]), float(until[end])))
    return parts
