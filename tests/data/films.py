"""Small videos for tests, written by PyAV: each frame is told from the others by its pixels."""

import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64


def pictures(count, seed=0):
    """uint8 [count, 48, 64, 3]: smooth noise that moves."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 6, 8, 3), np.uint8)
    return np.stack(
        [
            np.asarray(Image.fromarray(x).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
            for x in small
        ]
    )


def film(
    frames, container="mp4", codec="libx264", fps=25, gop=12, b_frames=2, times=None, sound=False,
    options=None, title="",
):  # fmt: skip
    """An encoded video. `times`: when each frame is shown, in milliseconds."""
    file = io.BytesIO()
    with av.open(file, "w", format={"mkv": "matroska"}.get(container, container)) as out:
        out.metadata["title"] = title
        stream = out.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        context = stream.codec_context
        context.gop_size = gop
        if codec != "libvpx-vp9":
            context.max_b_frames = b_frames
        if times is not None:
            context.time_base = Fraction(1, 1000)
        music = out.add_stream("aac", rate=8000) if sound else None
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, 1000) if times is not None else Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if music:
            tone = (1000 * np.sin(np.arange(8000) / 3)).astype(np.int16)[None]
            for start in range(0, 8000, 1024):
                piece = av.AudioFrame.from_ndarray(tone[:, start : start + 1024], layout="mono")
                piece.sample_rate, piece.pts = 8000, start
                out.mux(music.encode(piece))
            out.mux(music.encode(None))
    return file.getvalue()


def sound_alone():
    """An mp4 of a second of sound."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        music = out.add_stream("aac", rate=8000)
        tone = (1000 * np.sin(np.arange(8000) / 3)).astype(np.int16)[None]
        piece = av.AudioFrame.from_ndarray(tone, layout="mono")
        piece.sample_rate = 8000
        out.mux(music.encode(piece))
        out.mux(music.encode(None))
    return file.getvalue()


def sequential(data):
    """(seconds, uint8 [H, W, 3]) of every frame, as FFmpeg decodes them from the beginning."""
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        zero = (container.start_time or 0) / 1e6
        return [
            (frame.time - zero, frame.to_ndarray(format="rgb24", interpolation="AREA"))
            for frame in container.decode(stream)
        ]


def animation(frames, kind="WEBP", durations=100):
    """An animated WebP or GIF of uint8 [n, H, W, 3 or 4]."""
    file = io.BytesIO()
    first, *rest = map(Image.fromarray, frames)
    first.save(file, kind, save_all=True, append_images=rest, duration=durations)
    return file.getvalue()
