"""Spans of a video, one after the other, as an mp4: H.264, and AAC of its first stream of sound.

Frames keep their distances in time within a span; sound is cut at the sample.
"""

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from mmjax.data import BadRecord
from mmjax.data.images import WHITE, composite
from mmjax.data.videos import Video, is_animation, open_container
from mmjax.datatools.opening import track

TICKS = 90_000  # a second: every usual rate of frames divides it
BT709, LIMITED = 1, 1  # as FFmpeg numbers the colours of high definition, and video's range of them


class Span(Protocol):
    """Frames `first` … `last` - 1, from `start` to `end` seconds."""

    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float: ...
    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...


def write_cut(
    file: str | Path | bytes | None,
    video: Video,
    spans: Sequence[Span],
    output: Path | BinaryIO,
    *,
    frames_a_key: int = 250,
    bar: bool = True,
) -> bool:
    """Writes spans, in ascending order, of the video in a file; whether there is sound.

    Args:
      file: its path or its bytes; None: the frames come from elsewhere, and there is no sound.
      video: its frames.
      spans: which of them.
      output: the mp4.
      frames_a_key: frames from one key frame to the next at most.
      bar: on a terminal, show how much is written.

    Raises:
      BadRecord: a frame cannot be decoded.
    """
    import av

    frames = video.each([n for span in spans for n in range(span.first, span.last)])
    count = sum(span.last - span.first for span in spans)
    shown = iter(track(frames, "writing", count)) if bar else frames
    target: Any = str(output) if isinstance(output, Path) else output
    # What players need first is moved to the front of a file, which FFmpeg opens again for it.
    options = {"movflags": "faststart"} if isinstance(output, Path) else {}
    with av.open(target, "w", format="mp4", options=options) as out:
        first = next(shown)
        stream: Any = out.add_stream("libx264", options={"crf": "20", "preset": "veryfast"})
        stream.height, stream.width = (side + side % 2 for side in first.shape[:2])
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.gop_size = frames_a_key
        stream.time_base = context.time_base = Fraction(1, TICKS)
        source = opened(file)
        # Colours that have no name are written as they were read: a player takes both for the same.
        named = bool(source) and source.streams.video[0].codec_context.colorspace == BT709
        if named:
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED
        colours = {"dst_colorspace": BT709, "dst_color_range": LIMITED} if named else {}
        sound = Sound(source, out) if source and source.streams.audio else None
        shown = itertools.chain([first], shown)
        begins = 0.0  # of the span in what is written
        for span in spans:
            until = np.append(video.times[span.first : span.last], span.end) - span.start + begins
            ticks = np.rint(until * TICKS).astype(int).tolist()
            for (tick, after), image in zip(itertools.pairwise(ticks), shown, strict=False):
                pixels = _even(composite(image, WHITE))
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame = frame.reformat(format="yuv420p", **colours)
                frame.pts, frame.time_base, frame.duration = tick, stream.time_base, after - tick
                out.mux(stream.encode(frame))
            if sound:
                sound.write(span.start, span.end, begins)
            begins += span.end - span.start
        out.mux(stream.encode(None))
        if sound:
            sound.finish()
        if source:
            source.close()
    return sound is not None


def opened(file: str | Path | bytes | None) -> Any:
    """A file as PyAV opens it; None: there is none, or it is an animation, which Pillow reads."""
    if file is None:
        return None
    data = file if isinstance(file, bytes) else str(file)
    return None if is_animation(data) else open_container(data)


def _even(image: np.ndarray) -> np.ndarray:
    """With the last row or column again where their number is odd: 4:2:0 halves both."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


class Sound:
    """The first stream of sound of a file, span by span into a container."""

    def __init__(self, source: Any, out: Any):
        import av

        self._source, self._out = source, out
        self._stream = source.streams.audio[0]
        self._zero = (source.start_time or 0) / 1e6  # players count from there
        context = self._stream.codec_context
        self._rate, self._layout = (
            context.sample_rate,
            "mono" if context.channels == 1 else "stereo",
        )
        self._encoder = out.add_stream("aac", rate=self._rate, layout=self._layout)
        self._frame, self._resampler = av.AudioFrame, av.AudioResampler
        self._error = av.FFmpegError

    def write(self, start: float, end: float, begins: float) -> None:
        """What is heard from start to end, in the output from `begins` on; silence where there is
        nothing."""
        first = round(begins * self._rate)
        count = round((begins + end - start) * self._rate) - first
        samples = np.zeros((1 if self._layout == "mono" else 2, count), np.float32)
        for at, heard in self._heard(start, end):
            place = round((at - start) * self._rate)
            begin, stop = max(place, 0), min(place + heard.shape[1], count)
            if begin < stop:
                samples[:, begin:stop] = heard[:, begin - place : stop - place]
        for place in range(0, count, 1024):
            piece = np.ascontiguousarray(samples[:, place : place + 1024])
            frame = self._frame.from_ndarray(piece, format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts = self._rate, first + place
            frame.time_base = Fraction(1, self._rate)
            self._out.mux(self._encoder.encode(frame))

    def finish(self) -> None:
        self._out.mux(self._encoder.encode(None))

    def _heard(self, start: float, end: float) -> Iterator[tuple[float, np.ndarray]]:
        """Seconds and float32 [channels, samples] of what is decoded around a span."""
        resampler = self._resampler(format="fltp", layout=self._layout, rate=self._rate)
        before = max(0.0, start - 0.2) + self._zero  # decoders need a little to begin well
        self._source.seek(int(before / self._stream.time_base), stream=self._stream, backward=True)
        try:
            for frame in self._source.decode(self._stream):
                if frame.time is None:
                    continue
                at = frame.time - self._zero
                if at >= end:
                    break
                for piece in resampler.resample(frame):
                    yield at, piece.to_ndarray()
        except self._error as error:
            raise BadRecord(f"has sound that cannot be decoded ({error.strerror})") from error
