"""Videos: frames by their times, decoded from the key frame before them and no further.

PyAV (FFmpeg) reads files and bytes of any container; Pillow reads animated WebP and GIF, of which
FFmpeg knows no transparency. What a header says of frames and durations is not believed: packets
are counted, which decodes nothing. So a frame is the one that a decoder shows at that time, as if
all before it had been decoded (`tests/data/test_videos.py` compares bits).
"""

import contextlib
import io
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import cv2
import numpy as np
from PIL import Image, ImageSequence

from mmjax.data.images import MAX_PIXELS, eight_bits
from mmjax.data.records import BadRecord
from mmjax.data.stills import Slides, Stills
from mmjax.errors import UserError

Numbers = Sequence[int] | np.ndarray
MAX_HOURS = 24.0  # of a clip


class Clip(NamedTuple):
    """A video as it is stored, its bytes or the path of a file, from `start` to `end` seconds."""

    data: bytes | str
    start: float = 0.0
    end: float = math.inf


class Video(Protocol):
    """The frames of a clip, in the order in which they are shown."""

    times: np.ndarray  # float64 [n], ascending: seconds from the beginning of the file
    shape: tuple[int, int]  # height and width as shown

    def read(self, numbers: Numbers, shrink: float = 1.0) -> list[np.ndarray]:
        """Frames 0 … n - 1, uint8 [h, w, 3], or [h, w, 4] of an animation that is transparent.

        h and w are the video's, divided by `shrink` ≥ 1: pixels are averaged. Raises BadRecord.
        """
        ...

    def each(self, numbers: Numbers, shrink: float = 1.0) -> Iterator[np.ndarray]:
        """The same of ascending numbers, one at a time: no more than a frame or two are held."""
        ...


def open_video(stored: Any, max_pixels: int = MAX_PIXELS, max_hours: float = MAX_HOURS) -> "Video":
    """The frames of a clip, of the bytes or the path of a whole file, or of an array of them
    or `Stills`.

    Raises:
      BadRecord: there is no video stream, no frame from start to end, the frames are too large, the
        clip is too long, or the file cannot be read.
      UserError: PyAV is not installed.
    """
    clip = Clip(b"")
    if isinstance(stored, np.ndarray):
        found = cast(Video, Array(stored))
    elif isinstance(stored, Stills):
        found = Slides(stored, max_pixels)
    else:
        clip = stored if isinstance(stored, Clip) else Clip(stored)
        if not isinstance(clip.data, bytes | str):
            raise BadRecord(f"is {type(clip.data).__name__}, no video: give a file or frames")
        if not 0 <= clip.start < clip.end:
            raise BadRecord(f"is a clip from {clip.start:g} to {clip.end:g} seconds")
        found = Animation(clip) if is_animation(clip.data) else Film(clip, max_pixels, max_hours)
    if not len(found.times):
        raise BadRecord(f"has no frame{_span(clip)}")
    height, width = found.shape
    if height * width > max_pixels:
        raise BadRecord(f"has frames of {width} × {height} pixels, more than {max_pixels:,}")
    return found


class Array:
    """Frames uint8 [T, H, W, 3 or 4] as a video of one a second. BadRecord."""

    def __init__(self, frames: np.ndarray):
        if frames.ndim != 4 or frames.dtype != np.uint8 or frames.shape[3] not in (3, 4):
            raise BadRecord(
                f"is {frames.dtype} {list(frames.shape)}: give frames as uint8 [T, H, W, 3]"
            )
        self._frames = frames
        self.times = np.arange(len(frames), dtype=np.float64)
        self.shape = (frames.shape[1], frames.shape[2])

    def read(self, numbers: Numbers, shrink: float = 1.0) -> list[np.ndarray]:
        return list(self.each(numbers, shrink))

    def each(self, numbers: Numbers, shrink: float = 1.0) -> Iterator[np.ndarray]:
        size = _divided(self.shape, shrink)
        for number in numbers:
            frame = self._frames[number]
            if size != self.shape:
                frame = cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)
            yield frame


def is_animation(data: bytes | str) -> bool:
    """Whether Pillow reads it: WebP or GIF."""
    if isinstance(data, str):
        with contextlib.suppress(OSError), open(data, "rb") as file:
            data = file.read(12)
    return isinstance(data, bytes) and (
        data[:4] == b"GIF8" or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
    )


class Animation:
    """An animated WebP or GIF: decoded from its beginning, since each frame changes the last."""

    def __init__(self, clip: Clip):
        data = io.BytesIO(clip.data) if isinstance(clip.data, bytes) else clip.data
        try:
            self._file = Image.open(data)
            ends = np.cumsum([_milliseconds(frame) for frame in self._frames()]) / 1000
        except Exception as error:  # each of Pillow's readers has its own kinds
            raise BadRecord(f"cannot be decoded ({error})") from error
        times = np.concatenate([[0.0], ends[:-1]])
        self._numbers = np.flatnonzero((times >= clip.start) & (times < clip.end))
        self.times, self.shape = times[self._numbers], self._file.size[::-1]

    def read(self, numbers: Numbers, shrink: float = 1.0) -> list[np.ndarray]:
        return _in_any_order(self, numbers, shrink)

    def each(self, numbers: Numbers, shrink: float = 1.0) -> Iterator[np.ndarray]:
        wanted = self._numbers[list(numbers)].tolist()
        size = _divided(self.shape, shrink)
        try:
            for number, frame in enumerate(self._frames()):
                if not wanted:
                    break
                if number == wanted[0]:
                    pixels = eight_bits(frame.copy())
                    if size != self.shape:
                        pixels = pixels.resize(size[::-1], Image.Resampling.BOX)
                    wanted.pop(0)
                    yield np.asarray(pixels)
        except BadRecord:
            raise
        except Exception as error:
            raise BadRecord(f"cannot be decoded ({error})") from error

    def _frames(self) -> Iterator[Image.Image]:
        return iter(ImageSequence.Iterator(self._file))


def open_container(data: bytes | str) -> Any:
    """PyAV's container of a file, its path or its bytes, whatever its title is written in."""
    import av

    open_: Any = av.open  # whose releases take other arguments

    def opened(**options: Any) -> Any:
        # "file:", or FFmpeg would take what is before a colon for a protocol.
        file = io.BytesIO(data) if isinstance(data, bytes) else f"file:{data}"
        return open_(file, mode="r", **options)

    try:
        return opened()
    except UnicodeDecodeError:  # of a title, by PyAV 18
        return opened(metadata_errors="replace")


class Film:
    """A video stream, by PyAV. Its packets say when each frame is shown; frames are decoded from
    the last key frame that is shown no later."""

    def __init__(self, clip: Clip, max_pixels: int, max_hours: float):
        try:
            import av
        except ImportError as error:
            raise UserError("reading videos needs PyAV: pip install 'mmjax[video]'.") from error
        self._clip, self._max_hours = clip, max_hours
        self._av: Any = av
        try:
            self._open()
            context = self._stream.codec_context
            self.shape = (context.height, context.width)
            if context.height * context.width <= max_pixels:
                self._read_index()
            else:  # it will be refused: see open_video
                self.times: np.ndarray = np.zeros(1)
        except av.FFmpegError as error:
            raise BadRecord(f"cannot be decoded ({error.strerror or error})") from error

    def _open(self) -> None:
        self._container = open_container(self._clip.data)
        self._stream = film_stream(self._container)
        self._unit = float(self._stream.time_base or 1)
        self._zero = (self._container.start_time or 0) / 1e6  # players count from there
        context = self._stream.codec_context
        context.thread_type, context.thread_count = "NONE", 1  # the workers are the threads

    def _read_index(self) -> None:
        """The times of the frames and of the key frames among them, from packets alone."""
        start = self._ticks(self._clip.start)
        if self._clip.start:
            self._seek(start)
        times, keys = self._packets()
        if self._clip.start and not (
            keys and min(keys) <= start
        ):  # no key frame before it where seek went
            self._open()
            times, keys = self._packets()
        every = np.unique(np.array(times, np.int64))
        self._keys = np.unique(np.array(keys, np.int64))
        if len(self._keys):  # what comes before the first one cannot be decoded
            every = every[every >= self._keys[0]]
        seconds = every * self._unit - self._zero
        kept = (seconds >= self._clip.start - self._unit / 2) & (seconds < self._clip.end)
        self._pts, self.times = every[kept], seconds[kept]
        if turned := self._first_rotation():
            self.shape = self.shape[::-1] if turned % 180 else self.shape

    def _packets(self) -> tuple[list[int], list[int]]:
        times, keys = [], []
        last = self._ticks(self._clip.end)
        longest = self._ticks(self._clip.start + 3600 * self._max_hours)
        for packet in self._container.demux(self._stream):
            if packet.size == 0 or packet.is_discard:
                continue
            time = packet.pts if packet.pts is not None else packet.dts
            if time is None:
                continue
            if longest < time < last:
                raise BadRecord(f"is longer than {self._max_hours:g} hours")
            times.append(time)
            if packet.is_keyframe:
                keys.append(time)
            if packet.dts is not None and packet.dts > last:
                break
        return times, keys

    def _ticks(self, seconds: float) -> float:
        """The time of the stream at some seconds of the file."""
        return (seconds + self._zero) / self._unit

    def _first_rotation(self) -> int:
        """Degrees by which a phone was turned, which each frame says."""
        if not len(self._pts):
            return 0
        self._seek(self._pts[0])
        return next((int(frame.rotation) for frame in self._decoded()), 0)

    def _seek(self, key: float) -> None:
        self._container.seek(int(key), stream=self._stream, backward=True)

    def _decoded(self, wanted: Collection[int] = ()) -> Iterator[Any]:
        """Frames from where the container is. Where some are `wanted`, of the others only those are
        decoded to which later frames may refer: the bits of the wanted ones are the same."""
        context = self._stream.codec_context
        for packet in self._container.demux(self._stream):
            unwanted = wanted and packet.pts is not None and packet.pts not in wanted
            context.skip_frame = "NONREF" if unwanted else "DEFAULT"
            yield from packet.decode()

    def read(self, numbers: Numbers, shrink: float = 1.0) -> list[np.ndarray]:
        return _in_any_order(self, numbers, shrink)

    def each(self, numbers: Numbers, shrink: float = 1.0) -> Iterator[np.ndarray]:
        try:
            yield from self._found(self._pts[list(numbers)].tolist(), shrink)
        except self._av.FFmpegError as error:
            raise BadRecord(f"cannot be decoded ({error.strerror or error})") from error

    def _found(self, wanted: Sequence[int], shrink: float) -> Iterator[np.ndarray]:
        frames: Iterator[Any] = iter(())
        at = -math.inf  # the time of the last frame that was decoded
        kept: Any = None  # that frame
        every = frozenset(wanted)
        for pts in wanted:
            before = self._keys[int(np.searchsorted(self._keys, pts, side="right")) - 1]
            following = self._pts[int(np.searchsorted(self._pts, at, side="right"))]
            if at == -math.inf or before > max(at, following):
                self._seek(before)
                frames, at = self._decoded(every), -math.inf
            for again in (False, True):
                if again:  # it went to another place than the key frame, or packets have two frames
                    self._open()
                    frames, at = self._decoded(), -math.inf
                while at < pts and (frame := next(frames, None)) is not None:
                    at, kept = frame.pts if frame.pts is not None else frame.dts, frame
                if at == pts:
                    break
            else:
                raise BadRecord(
                    f"has no frame at {pts * self._unit - self._zero:.3f} s that can be decoded"
                )
            yield self._pixels(kept, shrink)

    def _pixels(self, frame: Any, shrink: float) -> np.ndarray:
        height, width = _divided((frame.height, frame.width), shrink)
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def film_stream(container: Any) -> Any:
    """The stream of a file that is its film. BadRecord: there is none."""
    import av

    # A picture of the cover of a piece of music is a stream of video, too.
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        held = ", ".join(s.type for s in container.streams) or "nothing"
        raise BadRecord(f"has no video stream, but {held}")
    return streams[0]


def _in_any_order(video: Video, numbers: Numbers, shrink: float) -> list[np.ndarray]:
    """The frames of `each`, of numbers as they come."""
    ascending = sorted(set(map(int, numbers)))
    found = dict(zip(ascending, video.each(ascending, shrink), strict=True))
    return [found[int(number)] for number in numbers]


def _milliseconds(frame: Image.Image) -> float:
    """How long a frame of an animation is shown; as browsers do, 100 where it says 0."""
    frame.load()  # WebP says it only then
    return frame.info.get("duration") or 100


def _divided(shape: tuple[int, int], shrink: float) -> tuple[int, int]:
    height, width = (max(1, round(side / shrink)) for side in shape)
    return height, width


def _span(clip: Clip) -> str:
    return f" from {clip.start:g} to {clip.end:g} s" if clip != Clip(clip.data) else ""
