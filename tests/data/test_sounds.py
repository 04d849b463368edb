"""Decoding of sounds: against what was written, and parts against the whole."""

import math

import numpy as np
import pytest

from mmjax.data import sounds
from mmjax.data.records import BadRecord
from mmjax.data.sounds import Waveform, filled, open_sound, resampled
from mmjax.data.videos import Clip

pytest.importorskip("av")
pytest.importorskip("soundfile")
import films
import soxr
import written_tones as tones

STEREO = tones.sweep(2.0, 48_000, 2)
MEAN = STEREO.mean(axis=1)
FILES = {
    "wav": tones.encoded(STEREO, 48_000, "WAV", "FLOAT"),
    "flac": tones.encoded(STEREO, 48_000, "FLAC"),
    "ogg": tones.encoded(STEREO, 48_000, "OGG"),
    "mp3": tones.encoded(STEREO, 48_000, "MP3"),
    "m4a": tones.muxed(STEREO, 48_000, "m4a"),
    "mkv": tones.muxed(STEREO, 48_000, "mkv", "flac"),
    "film": films.film(films.pictures(20), b_frames=0, sound=True),
}
EXACT = {"wav": 1e-7, "flac": 4e-5, "mkv": 4e-5}  # 16 bits


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3", "m4a", "mkv"])
def test_what_was_written_is_read(kind):
    sound = open_sound(FILES[kind])
    assert sound.rate == 48_000
    assert abs(sound.length - len(MEAN)) < 2400
    found = sound.read(4800, 80_000)
    assert found.dtype == np.float32
    expected = MEAN[4800:84_800]
    np.testing.assert_allclose(found, expected, atol=EXACT.get(kind, 0.2))
    assert np.corrcoef(found, expected)[0, 1] > 0.99


@pytest.mark.parametrize("kind", FILES)
def test_a_part_is_the_whole_from_there(kind):
    sound = open_sound(FILES[kind])
    whole = sound.read(0, sound.length)
    for first, count in ((0, 100), (1000, 3000), (sound.length - 500, 500)):
        np.testing.assert_array_equal(sound.read(first, count), whole[first : first + count])


def test_what_lies_after_a_seek_is_in_its_place(monkeypatch):
    """The decoder begins anew there: the same samples but for rounding in its overlap."""
    monkeypatch.setattr(sounds, "PREROLL", 0.2)
    sound = open_sound(FILES["m4a"])
    whole = sound.read(0, sound.length)
    for first in (20_000, 60_001, sound.length - 6000):
        np.testing.assert_allclose(sound.read(first, 5000), whole[first : first + 5000], atol=1e-3)
    assert np.abs(whole[20_000:25_000] - whole[20_001:25_001]).max() > 0.01  # a sample off is seen


@pytest.mark.parametrize("kind", ["wav", "m4a", "film"])
def test_clips_are_seconds_of_the_file(kind, tmp_path):
    path = tmp_path / "ä: b.bin"
    path.write_bytes(FILES[kind])
    whole = open_sound(FILES[kind])
    clip = open_sound(Clip(str(path), 0.25, 0.5))
    assert clip.length == whole.rate // 4
    np.testing.assert_array_equal(
        clip.read(0, clip.length), whole.read(whole.rate // 4, clip.length)
    )
    assert open_sound(Clip(str(path), 0.25)).length == whole.length - whole.rate // 4


@pytest.mark.parametrize(("theirs", "rate"), [(44_100, 48_000), (48_000, 16_000), (8000, 44_100)])
@pytest.mark.parametrize("share", [0.0, 0.37, 1.0])
def test_parts_are_resampled_as_the_whole_is(theirs, rate, share):
    wave = tones.sweep(2.0, theirs)
    whole = soxr.resample(wave[:, 0], theirs, rate)
    count = rate // 2
    found = resampled(open_sound(Waveform(wave, theirs)), rate, count, share)
    starts = np.arange(0, len(whole) - count + 1, rate // math.gcd(rate, theirs))
    off = [np.abs(whole[start : start + count] - found).max() for start in starts.tolist()]
    assert min(off) < 2e-5
    at = starts[int(np.argmin(off))] / (len(whole) - count)
    assert abs(at - share) < 0.01


def test_a_shorter_sound_is_repeated_or_followed_by_silence():
    """As transformers' ClapFeatureExtractor pads by "repeatpad" and "pad"."""
    x = np.arange(1.0, 4.0, dtype=np.float32)
    assert filled(x, 8, "repeat").tolist() == [1, 2, 3, 1, 2, 3, 0, 0]
    assert filled(x, 8, "zeros").tolist() == [1, 2, 3, 0, 0, 0, 0, 0]
    assert filled(x, 3, "repeat").tolist() == [1, 2, 3]
    assert len(resampled(open_sound(Waveform(x, 16_000)), 16_000, 10)) == 3


CUT_FLAC = FILES["flac"][: len(FILES["flac"]) // 2]


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (b"nothing", "cannot be decoded"),
        (FILES["wav"][:30], "cannot be decoded"),
        (FILES["m4a"][:1000], "cannot be decoded"),
        (films.film(films.pictures(3)), "has no audio stream, but video"),
        (tones.encoded(np.zeros((0, 1)), kind="WAV"), "has no sound"),
        (Clip(FILES["wav"], 5, 9), "has no sound from 5 s on"),
        (Clip(FILES["wav"], 2, 1), "is a clip from 2 to 1 seconds"),
        (tones.encoded(np.zeros((9, 1)), rate=20), "has 20 samples a second"),
        (Waveform(np.zeros(4, np.int16), 8000), r"is int16 \[4\]: give samples as float"),
        ({"array": 3}, "is dict, no sound"),
    ],
)
def test_what_cannot_be_used_is_named(stored, said):
    with pytest.raises(BadRecord, match=said):
        open_sound(stored)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (CUT_FLAC, "cannot be decoded|is cut off after"),
        (FILES["mp3"][: len(FILES["mp3"]) // 2], "is cut off after"),
        (Waveform(np.full(9, np.nan), 8000), "no finite numbers"),
    ],
)
def test_what_is_damaged_further_on_is_named(stored, said):
    sound = open_sound(stored)
    with pytest.raises(BadRecord, match=said):
        sound.read(0, sound.length)


def test_long_sounds_are_refused():
    with pytest.raises(BadRecord, match=r"is 0.0 hours long, more than 0.0001"):
        open_sound(FILES["wav"], max_hours=1e-4)
    assert open_sound(FILES["wav"], max_hours=1e-2).length == 96_000
