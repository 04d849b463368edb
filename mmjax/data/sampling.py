"""Which frames of a video are taken: by segments, end to end, or at a rate."""

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np

from mmjax.values import POSITIVE

Sampling = Literal["segments", "endpoints", "rate"]


def sample_frames(
    times: np.ndarray,
    count: int,
    rng: np.random.Generator | None = None,
    *,
    sampling: Sampling = "segments",
    fps: Annotated[float, POSITIVE] = 1.0,
) -> np.ndarray:
    """The numbers of at most `count` frames, int [n], ascending, of a video with these times.

    A video of fewer frames than `count` gives each of them once.

    Args:
      times: float [frames], ascending: seconds at which frames are shown.
      count: frames that are wanted.
      rng: of training; None: nothing is random.
      sampling: Frames of a video: one of each of as many equal parts (in training a random one,
        else the middle one), evenly from the first to the last, or fps a second and evenly among
        them where they are too many (CLIP4Clip).
      fps: Frames a second of data.sampling='rate'.
    """
    frames = len(times)
    return _KINDS[sampling](times, min(count, frames), rng, fps)


def segment_views(times: np.ndarray, count: int, views: int) -> np.ndarray:
    """The numbers of the frames of each of several views of a video, int [views, n], n ≤ `count`.

    Every view spans the whole video: it has one frame of each of `count` segments, view v that at
    (2v + 1) / (2 · views) of the way through the segment. One view is what `sample_frames` takes in
    evaluation.
    """
    first, last = _bounds(len(times), min(count, len(times)))
    phases = 2 * np.arange(views)[:, None] + 1
    return first + (last - first) * phases // (2 * views)


def _bounds(frames: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last frame of each of `count` segments, whose lengths differ by at most
    one."""
    bounds = np.arange(count + 1) * frames // count
    return bounds[:-1], bounds[1:] - 1


def _segments(
    times: np.ndarray, count: int, rng: np.random.Generator | None, fps: float
) -> np.ndarray:
    """One frame of each of `count` parts, whose lengths differ by at most one (TSN, Wang et al.,
    2016): all frames have a part, the last one too."""
    del fps
    first, last = _bounds(len(times), count)
    if rng is None:
        return (first + last) // 2
    return rng.integers(first, last, endpoint=True)


def _endpoints(
    times: np.ndarray, count: int, rng: np.random.Generator | None, fps: float
) -> np.ndarray:
    """The first, the last and those evenly between, as Perception Encoder's."""
    del rng, fps
    return np.arange(count) * (len(times) - 1) // max(1, count - 1)


def _rate(times: np.ndarray, count: int, rng: np.random.Generator | None, fps: float) -> np.ndarray:
    """The frame that is shown at 0, 1/fps, 2/fps … seconds after the first."""
    del rng
    ticks = np.arange(times[0], times[-1] + 1e-6, 1 / fps) + 1e-6  # times are rounded
    shown = np.unique(np.searchsorted(times, ticks, side="right") - 1)
    if len(shown) <= count:
        return shown
    return shown[np.linspace(0, len(shown) - 1, count).astype(int)]


_KINDS: dict[str, Callable[..., np.ndarray]] = {
    "segments": _segments,
    "endpoints": _endpoints,
    "rate": _rate,
}
