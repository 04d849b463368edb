"""Frames of videos, against decoding all of them one after the other."""

import numpy as np
import pytest

from mmjax.data.records import BadRecord
from mmjax.data.videos import Clip, open_video

av = pytest.importorskip("av")
import films  # noqa: E402 - it needs PyAV

UNEVEN = np.cumsum([0, *([40, 40, 120, 7] * 12)])[:45].tolist()
FILMS = {
    "mp4, B-frames": dict(),
    "mp4, one key frame": dict(gop=1000),
    "mp4, no B-frames": dict(b_frames=0, gop=5),
    "mp4, open groups": dict(options={"x264-params": "open-gop=1"}, gop=10, b_frames=3),
    "mp4, uneven times": dict(times=UNEVEN),
    "mp4, with sound": dict(sound=True),
    "mkv": dict(container="mkv"),
    "mkv, uneven times": dict(container="mkv", times=UNEVEN),
    "webm": dict(container="webm", codec="libvpx-vp9", gop=16),
    "mov": dict(container="mov"),
    "avi": dict(container="avi", codec="mpeg4", b_frames=0),
    "avi, B-frames": dict(container="avi", codec="mpeg4"),
    "ts": dict(container="mpegts"),
}


@pytest.mark.parametrize("how", FILMS)
def test_frames_at_random_are_those_of_decoding_all(how, tmp_path):
    data = films.film(films.pictures(45), **FILMS[how])
    expected = films.sequential(data)
    path = tmp_path / "http: a film, é 100%.bin"
    path.write_bytes(data)
    rng = np.random.default_rng(0)
    for stored in (data, str(path)):
        video = open_video(Clip(stored))
        assert len(video.times) == len(expected) > 40
        np.testing.assert_allclose(video.times, [time for time, _ in expected], atol=1e-6)
        for count in (1, 4, 9):
            numbers = rng.integers(len(expected), size=count)  # in any order, some twice
            for number, frame in zip(numbers, video.read(numbers), strict=True):
                np.testing.assert_array_equal(frame, expected[number][1])


@pytest.mark.parametrize("how", ["mp4, B-frames", "mp4, one key frame", "mkv", "avi", "ts"])
def test_a_clip_has_the_frames_from_its_start_to_before_its_end(how):
    data = films.film(films.pictures(45), **FILMS[how])
    expected = films.sequential(data)
    video = open_video(Clip(data, 0.8, 1.2))
    inside = [frame for time, frame in expected if 0.8 - 1e-3 <= time < 1.2 - 1e-3]
    assert len(inside) == len(video.times) == 10
    np.testing.assert_array_equal(video.read(range(10)), inside)


def test_smaller_frames_average_pixels():
    data = films.film(films.pictures(3))
    (whole,), (half,) = (open_video(Clip(data)).read([1], shrink) for shrink in (1.0, 2.0))
    assert half.shape == (24, 32, 3)
    means = whole.reshape(24, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(half - means).mean() < 8  # colours are stored at half the size


@pytest.mark.parametrize("kind", ["WEBP", "GIF"])
def test_animations_keep_their_times_and_what_is_transparent(kind):
    frames = np.zeros((6, 20, 30, 4), np.uint8)
    for number, frame in enumerate(frames):
        frame[:, : 4 * number + 4] = (255, 0, 0, 255)
    data = films.animation(frames, kind, durations=[100, 50, 50, 200, 100, 100])
    video = open_video(Clip(data))
    np.testing.assert_allclose(video.times, [0, 0.1, 0.15, 0.2, 0.4, 0.5])
    for number, shown in zip((4, 1), video.read([4, 1]), strict=True):
        np.testing.assert_array_equal(shown[..., 3], frames[number][..., 3])
        assert shown[shown[..., 3] > 0][:, 0].min() > 230  # WebP is lossy
    assert len(open_video(Clip(data, 0.15, 0.4)).times) == 2


def test_a_phone_that_was_turned_is_turned_back():
    data = films.film(films.pictures(5), b_frames=0)
    ((_, plain), *_) = films.sequential(data)
    # The matrix of the track's header (ISO 14496-12, 8.3.2): a quarter turn.
    matrix = [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]
    turned = [0, 1 << 16, 0, -(1 << 16), 0, 0, films.HEIGHT << 16, 0, 1 << 30]
    was, now = (np.array(m, ">i4").tobytes() for m in (matrix, turned))
    at = data.index(was, data.index(b"tkhd"))
    video = open_video(Clip(data[:at] + now + data[at + len(now) :]))
    assert video.shape == (films.WIDTH, films.HEIGHT)
    (shown,) = video.read([0])
    np.testing.assert_array_equal(shown, np.rot90(plain, -1))  # clockwise, as players show it


def test_a_title_may_be_of_any_encoding():
    data = films.film(films.pictures(5), title="caf?")
    assert data.count(b"caf?") == 1
    video = open_video(Clip(data.replace(b"caf?", b"caf\xe9")))
    assert len(video.read([0, 4])) == 2


def bad(data, *span, **options):
    with pytest.raises(BadRecord) as raised:
        read_all(open_video(Clip(data, *span), **options))
    return str(raised.value)


def read_all(video):
    return video.read(range(len(video.times)))


def test_what_is_no_video_is_a_sentence(tmp_path):
    whole = films.film(films.pictures(45))
    assert "cannot be decoded" in bad(b"")
    assert "cannot be decoded" in bad(b"no video at all" * 100)
    assert "cannot be decoded" in bad(str(tmp_path / "absent.mp4"))
    assert "no video stream, but audio" in bad(music())
    assert "has no frame from 9 to 10 s" in bad(whole, 9, 10)
    assert "is a clip from 2 to 1 seconds" in bad(whole, 2, 1)
    assert "has frames of 64 × 48 pixels, more than 1,000" in bad(whole, max_pixels=1000)
    assert "cannot be decoded" in bad(whole[: len(whole) // 2])  # its index is at the end


def test_of_a_file_that_is_cut_off_the_frames_are_right_or_there_is_a_sentence():
    data = films.film(films.pictures(45), container="mkv")
    expected = [frame for _, frame in films.sequential(data)]
    video = open_video(Clip(data[: len(data) * 2 // 3]))
    assert 5 < len(video.times) < 45
    right = 0
    for number in range(len(video.times)):
        try:
            (frame,) = video.read([number])
        except BadRecord as error:
            assert "can be decoded" in str(error) or "cannot be decoded" in str(error)  # noqa: PT017
            continue
        np.testing.assert_array_equal(frame, expected[number])
        right += 1
    assert right >= len(video.times) - 3


def music():
    import io

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=8000)
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), layout="mono")
        piece.sample_rate, piece.pts = 8000, 0
        out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"gop": 1000}, {"container": "mkv", "b_frames": 0}])
def test_frames_one_at_a_time_are_those_of_reading(options):
    data = films.film(films.pictures(40), **options)
    video, shown = open_video(data), films.sequential(data)
    for numbers in (range(40), [0, 1, 2, 30, 39], [13], []):
        found = list(video.each(numbers))
        assert len(found) == len(numbers)
        for number, frame in zip(numbers, found, strict=True):
            np.testing.assert_array_equal(frame, shown[number][1])
    small = video.read([39, 3, 3], shrink=2)
    np.testing.assert_array_equal(small[0], next(video.each([39], shrink=2)))
    np.testing.assert_array_equal(small[1], small[2])


def test_frames_of_animations_and_arrays_one_at_a_time():
    frames = films.pictures(6)
    for stored in (frames, films.animation(frames, "GIF")):
        video = open_video(stored)
        for one, read in zip(video.each([1, 4, 5]), video.read([1, 4, 5]), strict=True):
            np.testing.assert_array_equal(one, read)
        assert list(video.each([])) == []
