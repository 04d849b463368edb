"""Small sounds for tests, encoded by soundfile and PyAV."""

import io

import av
import numpy as np
import soundfile


def sweep(seconds=1.0, rate=16_000, channels=1, start=300.0):
    """float32 [N, channels]: tones that rise, each channel from another pitch."""
    t = np.arange(round(seconds * rate)) / rate
    pitches = start * (1 + np.arange(channels))
    return (0.4 * np.sin(2 * np.pi * t[:, None] * (pitches + 200 * t[:, None]))).astype(np.float32)


def encoded(samples, rate=16_000, kind="WAV", subtype=None):
    """A file of samples [N, channels] that libsndfile writes: WAV, FLAC, OGG, MP3."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def muxed(samples, rate=48_000, container="mp4", codec="aac"):
    """A file of samples [N, channels] that FFmpeg writes."""
    layout = "stereo" if samples.shape[1] == 2 else "mono"
    file = io.BytesIO()
    with av.open(
        file, "w", format={"m4a": "ipod", "mkv": "matroska"}.get(container, container)
    ) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        context = stream.codec_context
        to_codec = av.AudioResampler(
            format=context.format.name, layout=layout, rate=rate,
            frame_size=context.frame_size or 1024,
        )  # fmt: skip
        whole = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.T), format="fltp", layout=layout
        )
        whole.sample_rate, whole.pts = rate, 0
        for frame in [*to_codec.resample(whole), *to_codec.resample(None)]:
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()
