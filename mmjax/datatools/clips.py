"""Clips of videos as files of their own, and some frames of them, for `mmjax data convert`."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from mmjax.data import BadRecord
from mmjax.data.images import WHITE, composite, is_jpeg
from mmjax.data.sampling import sample_frames
from mmjax.data.stills import Stills
from mmjax.data.videos import Clip, Video, film_stream, open_video
from mmjax.datatools.cutting import opened, write_cut

Cut = Literal["exact", "keyframes"]
FRAMES_A_KEY = 32  # of what is encoded: training decodes from the key frame before what it shows
QUALITY = 90  # of a JPEG


class Made(NamedTuple):
    """What is written of a clip.

    Attributes:
      files: suffix and content of each: "mp4", or "0000.jpg", "0001.jpg", …
      about: what JSON says of it: `clips`, the seconds of the source that it shows, as
        video2dataset writes them, and `times` of each frame in it.
    """

    files: list[tuple[str, bytes]]
    about: dict[str, Any]


class Whole(NamedTuple):
    """All frames of a clip, as `cutting.Span` wants them."""

    start: float
    end: float
    first: int
    last: int


def make_clip(stored: Any, cut: Cut = "exact") -> Made:
    """A clip as a file: a whole one as it is, a part of one cut out.

    An exact part is copied where that gives its very frames (it begins at a key frame, and no frame
    after its end is needed), and else encoded again. "keyframes" copies from the key frame before
    the start, so that nothing is encoded again, but for a codec that an mp4 cannot hold.

    Args:
      stored: the field "video" of a record.
      cut: "exact" or "keyframes".

    Raises:
      BadRecord: it cannot be read.
    """
    video = open_video(stored)
    if isinstance(stored, Stills):
        return Made(_numbered(stored.files), {})
    if isinstance(stored, np.ndarray):
        return Made([("mp4", _encoded(None, video, 0.0))], {})
    clip = stored if isinstance(stored, Clip) else Clip(stored)
    if clip == Clip(clip.data):
        data = _content(clip.data)
        return Made([(suffix_of(data), data)], {})
    copied = _copied(clip, video, cut)
    if copied:
        return copied
    data = _encoded(clip.data, video, clip.start)
    return Made([("mp4", data)], {"clips": [[clip.start, _end(clip, video)]]})


def make_frames(stored: Any, count: int) -> Made:
    """At most `count` frames of a clip as JPEG files: the middle ones of as many equal parts.

    BadRecord: it cannot be read.
    """
    video = open_video(stored)
    numbers = sample_frames(video.times, count)
    files = []
    for frame in video.each(numbers):
        buffer = io.BytesIO()
        Image.fromarray(composite(frame, WHITE)).save(buffer, "JPEG", quality=QUALITY)
        files.append(buffer.getvalue())
    return Made(_numbered(files), {"times": [round(t, 6) for t in video.times[numbers].tolist()]})


def suffix_of(data: bytes) -> str:
    """What a file of a video is called, told by its beginning; "mp4" where nobody knows."""
    if data[:4] == b"\x1aE\xdf\xa3":
        return "webm" if b"webm" in data[:64] else "mkv"
    if data[4:8] == b"ftyp":
        return "mov" if data[8:12] == b"qt  " else "mp4"
    if data[:4] == b"RIFF":
        return "webp" if data[8:12] == b"WEBP" else "avi"
    starts = ((b"GIF8", "gif"), (b"FLV", "flv"), (b"OggS", "ogv"), (b"\x30\x26\xb2\x75", "wmv"),
              (b"\x00\x00\x01\xba", "mpg"), (b"\x47", "ts"))  # fmt: skip
    return next((suffix for start, suffix in starts if data.startswith(start)), "mp4")


def _numbered(files: Sequence[bytes]) -> list[tuple[str, bytes]]:
    suffixes = ("jpg" if is_jpeg(data) else "png" for data in files)
    named = zip(suffixes, files, strict=True)
    return [(f"{number:04d}.{suffix}", data) for number, (suffix, data) in enumerate(named)]


def _content(data: bytes | str) -> bytes:
    if isinstance(data, bytes):
        return data
    try:
        with open(data, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadRecord(f"cannot be read ({error.strerror})") from error


def _end(clip: Clip, video: Video) -> float:
    """Where a clip ends: where its last frame does, unless that is said."""
    if math.isfinite(clip.end):
        return clip.end
    times = video.times
    return float(times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 1.0))


def _encoded(file: bytes | str | None, video: Video, start: float) -> bytes:
    """An mp4 of all frames of a clip, and of its sound."""
    output = io.BytesIO()
    whole = Whole(start, _end(Clip(b""), video), 0, len(video.times))
    write_cut(file, video, [whole], output, frames_a_key=FRAMES_A_KEY, bar=False)
    return output.getvalue()


def _copied(clip: Clip, video: Video, cut: Cut) -> Made | None:
    """The packets of a clip in an mp4; None where they would show other frames than an exact cut,
    or an mp4 cannot hold them."""
    import av

    source = opened(clip.data)
    if source is None:
        return None
    try:
        with source:
            zero = (source.start_time or 0) / 1e6  # players count from there
            stream = film_stream(source)
            packets = _shown(source, stream, clip, zero)
            times = sorted(p.pts * float(stream.time_base) - zero for p in packets)
            exact = len(times) == len(video.times) and np.allclose(times, video.times, atol=1e-6)
            if not packets or (cut == "exact" and not exact):
                return None
            start, end = times[0], max(_end(clip, video), times[-1])
            found = {stream: packets}
            for sound in source.streams.audio[:1]:
                found[sound] = _heard(source, sound, start + zero, end + zero)
            data = _muxed(found, start + zero)
        same = open_video(data) if data else None
    except (av.FFmpegError, BadRecord):  # then it is decoded, which says what is wrong
        return None
    if not data or not same or len(same.times) != len(times) or same.shape != video.shape:
        return None
    return Made([("mp4", data)], {"clips": [[float(start), float(end)]]})


def _shown(source: Any, stream: Any, clip: Clip, zero: float) -> list[Any]:
    """The packets of a clip, from the last key frame shown no later than it starts; [] where there
    is none, or some have no time."""
    unit = float(stream.time_base)
    source.seek(int((clip.start + zero) / unit), stream=stream, backward=True)
    found: list[Any] = []
    for packet in source.demux(stream):
        if packet.size == 0 or packet.is_discard:
            continue
        if packet.pts is None or packet.dts is None:
            return []
        if packet.is_keyframe and packet.pts * unit - zero <= clip.start + unit / 2:
            found = []  # a later one
        elif not found:
            continue
        if packet.dts * unit - zero >= clip.end:
            break
        found.append(packet)
    while found and found[-1].pts * unit - zero >= clip.end:  # no other needs the last one
        found.pop()
    return found


def _heard(source: Any, stream: Any, start: float, end: float) -> list[Any]:
    unit = float(stream.time_base)
    source.seek(int(start / unit), stream=stream, backward=True)
    found = []
    for packet in source.demux(stream):
        if packet.size and packet.pts is not None:
            if packet.pts * unit >= end:
                break
            if packet.pts * unit >= start:
                found.append(packet)
    return found


def _muxed(found: Mapping[Any, Sequence[Any]], start: float) -> bytes | None:
    """Packets by stream as an mp4 that begins at `start` of theirs; None where it cannot hold one
    of the streams."""
    import av

    output = io.BytesIO()
    with av.open(output, "w", format="mp4") as out:
        if any(s.codec_context.codec.canonical_name not in out.supported_codecs for s in found):
            return None
        streams = {stream: out.add_stream_from_template(stream) for stream in found}
        for stream, packets in found.items():
            shift = round(start / float(stream.time_base))
            for packet in packets:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = streams[stream]
                out.mux(packet)
    return output.getvalue()
