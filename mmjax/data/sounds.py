"""Sounds: any part of a file as samples, decoded where it lies.

soundfile (libsndfile) reads WAV, FLAC, Ogg, Opus, MP3 and their like, at any sample; PyAV (FFmpeg)
reads the rest, such as AAC, and the sound of a film. What is read is what decoding from the
beginning gives at these samples; `_Stream` says where FFmpeg allows less.
"""

import io
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from mmjax.data.records import BadRecord
from mmjax.data.videos import MAX_HOURS, Clip, open_container
from mmjax.errors import UserError

RATES = (1_000, 1_000_000)  # Hz; a header that says another is damaged
LEAD = 0.1  # seconds that libsndfile decodes before what is wanted: frames of MP3 need others
PREROLL = 10.0  # seconds that PyAV decodes before what is wanted: codecs need some milliseconds
AROUND = 0.05  # seconds read on both sides of what is resampled: soxr's filter is shorter
GAP = 0.05  # seconds by which times in a container are rounded at most; more is silence between
Fill = Literal["repeat", "zeros"]


class Waveform(NamedTuple):
    """Samples in -1..1, float [N] or [N, channels], at `rate` a second."""

    samples: np.ndarray
    rate: int


class Sound(Protocol):
    """The samples of a file or an array."""

    rate: int
    length: int  # samples

    def read(self, first: int, count: int) -> np.ndarray:
        """float32 [count], the mean of the channels. Raises BadRecord."""
        ...


class Part:
    """What a clip says of a sound: `length` samples, from `first` on."""

    def __init__(self, sound: Sound, start: float, end: float):
        self._sound, self.rate = sound, sound.rate
        self._first = min(round(start * sound.rate), sound.length)
        last = sound.length if math.isinf(end) else min(round(end * sound.rate), sound.length)
        self.length = max(0, last - self._first)

    def read(self, first: int, count: int) -> np.ndarray:
        found = self._sound.read(self._first + first, count)
        if not np.isfinite(found).all():
            raise BadRecord("has samples that are no finite numbers")
        return found


def resampled(sound: Part, rate: int, count: int, share: float = 0.0) -> np.ndarray:
    """`count` samples at another rate, float32 [count], or all that there are if these are fewer.

    They are those of the whole sound, resampled by soxr: what lies around them is read, too.

    Args:
      sound: what is read.
      rate: samples a second that are wanted.
      count: how many.
      share: in 0..1, where they begin: 0 is the beginning of the sound, 1 ends where it ends.

    Raises:
      BadRecord: it cannot be decoded.
    """
    common = math.gcd(sound.rate, rate)  # ticks a second, at which samples of both rates fall
    theirs, ours = sound.rate // common, rate // common
    room = max(0, sound.length * rate // sound.rate - count)
    tick = min(int(share * (room // ours + 1)), room // ours)
    around = math.ceil(AROUND * common)
    before = min(tick, around)
    first = (tick - before) * theirs
    last = tick * theirs + math.ceil(count * sound.rate / rate) + around * theirs
    found = sound.read(first, min(last, sound.length) - first)
    if sound.rate == rate:
        return found[before:][:count]
    try:
        import soxr
    except ImportError as error:
        raise UserError("resampling needs soxr: pip install 'mmjax[audio]'.") from error
    whole: np.ndarray = soxr.resample(found, sound.rate, rate)
    return whole[before * ours :][:count]


def filled(sound: np.ndarray, count: int, fill: Fill) -> np.ndarray:
    """float32 [n] -> [count]: a shorter sound is repeated as often as it fits (CLAP's repeatpad) or
    not, and followed by zeros."""
    if fill == "repeat" and len(sound):
        sound = np.tile(sound, max(1, count // len(sound)))
    return np.pad(sound, (0, count - len(sound))).astype(np.float32, copy=False)


def samples(sample_rate: int, seconds: float) -> int:
    """How many samples some seconds have."""
    return round(sample_rate * seconds)


def open_sound(stored: Any, max_hours: float = MAX_HOURS) -> Part:
    """The samples of a clip, of the bytes or the path of a whole file, or of a `Waveform`.

    Raises:
      BadRecord: there is no audio stream, no sample from start to end, the sound is longer than
        `max_hours`, its sample rate is absurd, or the file cannot be read.
      UserError: soundfile or PyAV is not installed.
    """
    clip = Clip(b"")
    if isinstance(stored, Waveform):
        found: Sound = _Array(stored)
    else:
        clip = stored if isinstance(stored, Clip) else Clip(stored)
        if not isinstance(clip.data, bytes | str):
            raise BadRecord(f"is {type(clip.data).__name__}, no sound: give a file or a Waveform")
        if not 0 <= clip.start < clip.end:
            raise BadRecord(f"is a clip from {clip.start:g} to {clip.end:g} seconds")
        found = _opened(clip.data)
    if not RATES[0] <= found.rate <= RATES[1]:
        raise BadRecord(f"has {found.rate} samples a second, not {RATES[0]:,} to {RATES[1]:,}")
    if found.length > max_hours * 3600 * found.rate:
        hours = found.length / found.rate / 3600
        raise BadRecord(f"is {hours:.1f} hours long, more than {max_hours:g}")
    part = Part(found, clip.start, clip.end)
    if not part.length:
        span = "" if clip.start == 0 and math.isinf(clip.end) else f" from {clip.start:g} s on"
        raise BadRecord(f"has no sound{span}")
    return part


def _opened(data: bytes | str) -> Sound:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: without its libsndfile
        raise UserError("reading sounds needs soundfile: pip install 'mmjax[audio]'.") from error
    try:
        return _SoundFile(soundfile, data)
    except soundfile.LibsndfileError:  # another container, or a damaged one: FFmpeg says which
        return _Stream(data)


class _Array:
    """Samples that a program has."""

    def __init__(self, wave: Waveform):
        values = np.asarray(wave.samples)
        if values.ndim not in (1, 2) or not np.issubdtype(values.dtype, np.floating):
            shape = list(values.shape)
            raise BadRecord(
                f"is {values.dtype} {shape}: give samples as float [N] or [N, channels]"
            )
        self._values = values if values.ndim == 2 else values[:, None]
        self.rate, self.length = int(wave.rate), len(values)

    def read(self, first: int, count: int) -> np.ndarray:
        return self._values[first : first + count].mean(axis=1, dtype=np.float32)


class _SoundFile:
    """A file that libsndfile reads. It is opened for each part: a decoder of Vorbis or MP3 that has
    read on does not go back to where it should."""

    def __init__(self, library: Any, data: bytes | str):
        self._library, self._data = library, data
        with self._open() as file:
            self.rate, self.length = file.samplerate, file.frames

    def _open(self) -> Any:
        data = self._data
        return self._library.SoundFile(io.BytesIO(data) if isinstance(data, bytes) else data)

    def read(self, first: int, count: int) -> np.ndarray:
        before = min(first, round(LEAD * self.rate))
        try:
            with self._open() as file:
                file.seek(first - before)
                found = file.read(before + count, dtype="float32", always_2d=True)[before:]
        except self._library.LibsndfileError as error:
            raise BadRecord(f"cannot be decoded ({error.error_string.rstrip('.')})") from error
        if len(found) < count:
            raise BadRecord(f"is cut off after {(first + len(found)) / self.rate:.3f} s")
        mean: np.ndarray = found.mean(axis=1)
        return mean


class _Stream:
    """The audio stream of a container, by PyAV. Time counts from the beginning of the container, as
    the frames of a film do. What packets there are says how long it is; headers are not believed.

    What lies `PREROLL` seconds after the beginning is sought, and is in its place to a sample, or
    to a millisecond where the container rounds times to these (Matroska, WebM). Noise that a codec
    makes up (AAC, AC-3) is then another.
    """

    def __init__(self, data: bytes | str):
        try:
            import av
        except ImportError as error:
            raise UserError("reading this sound needs PyAV: pip install 'mmjax[audio]'.") from error
        self._av: Any = av
        self._data = data
        try:
            container, stream = self._open()
            self.rate = int(stream.codec_context.sample_rate or 0)
            self._zero = (container.start_time or 0) / av.time_base
            ends = [
                (packet.pts + (packet.duration or 0)) * packet.time_base
                for packet in container.demux(stream)
                if packet.size and packet.pts is not None
            ]
        except av.FFmpegError as error:
            raise BadRecord(f"cannot be decoded ({error.strerror or error})") from error
        seconds = max(ends, default=self._zero) - self._zero
        self.length = max(0, round(float(seconds) * self.rate))

    def _open(self) -> tuple[Any, Any]:
        container = open_container(self._data)
        stream = container.streams.best("audio")
        if stream is None:
            held = ", ".join(s.type for s in container.streams) or "nothing"
            raise BadRecord(f"has no audio stream, but {held}")
        stream.codec_context.thread_type = "NONE"
        return container, stream

    def read(self, first: int, count: int) -> np.ndarray:
        found = np.zeros(count, np.float32)  # and silence where the file has none
        heard, last = False, first + count
        try:
            for at, piece in self._pieces(first):
                low, high = max(at, first), min(at + len(piece), last)
                if low < high:
                    found[low - first : high - first] = piece[low - at : high - at]
                    heard = True
                if at >= last:
                    break
        except (self._av.FFmpegError, ValueError) as error:  # ValueError: the rate changes
            why = getattr(error, "strerror", None) or error
            raise BadRecord(f"cannot be decoded ({why})") from error
        if not heard:
            raise BadRecord(f"has no sound at {first / self.rate:.3f} s that can be decoded")
        return found

    def _pieces(self, first: int) -> Iterator[tuple[int, np.ndarray]]:
        """(its first sample, the mean of its channels) of each decoded frame, from before `first`
        on."""
        container, stream = self._open()
        start = first / self.rate - PREROLL
        if start > 0:
            ticks = int((start + self._zero) / stream.time_base)
            container.seek(ticks, stream=stream, backward=True)
        resampler = self._av.AudioResampler(format="fltp", rate=self.rate)
        at: int | None = None
        for packet in container.demux(stream):
            for frame in packet.decode():
                if frame.pts is not None:
                    says = round((float(frame.pts * frame.time_base) - self._zero) * self.rate)
                    if at is None or abs(says - at) > GAP * self.rate:
                        at = says
                for plain in resampler.resample(frame):
                    piece = plain.to_ndarray().mean(axis=0)
                    at = at or 0
                    yield at, piece
                    at += len(piece)
