"""Videos as tar shards of clips and of frames, and how they are read again."""

import io
import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.cli import main
from mmjax.data import modalities, open_source
from mmjax.data.images import decode
from mmjax.data.records import BadRecord
from mmjax.data.stills import Stills
from mmjax.data.videos import Clip, open_video
from mmjax.datatools import convert, inspect
from mmjax.datatools.clips import make_clip, make_frames, suffix_of
from mmjax.errors import UserError

pytest.importorskip("av")
sys.path.append(str(Path(__file__).parents[1] / "data"))
import films
from pictures import write_tar

PICTURES = films.pictures(40)
SHORT_GOP = films.film(PICTURES, gop=10, b_frames=0, options={"sc_threshold": "0"})
SPANS = ((0.4, 0.8), (0.2, 0.7), (1.2, float("inf")))


def shown(stored):
    video = open_video(stored)
    return video.times, np.stack(video.read(range(len(video.times))))


def near(found, expected):
    """Of lossy frames of noise: each is nearest to its own."""
    far = np.abs(found[:, None].astype(int) - expected[None]).mean((2, 3, 4))
    return (far.argmin(1) == np.arange(len(found))).all()


@pytest.fixture
def table(tmp_path):
    (tmp_path / "a.mp4").write_bytes(SHORT_GOP)
    (tmp_path / "torn.mp4").write_bytes(SHORT_GOP[:900])
    rows = ["video,caption,label,start,end"]
    rows += [f"a.mp4,clip {n},{n + 1},{s},{'' if e > 9 else e}" for n, (s, e) in enumerate(SPANS)]
    rows += ["a.mp4,whole,9,,", "torn.mp4,torn,9,0.1,", "a.mp4,late,9,50,60"]
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    return str(tmp_path / "clips.csv")


def members(folder):
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


def test_parts_of_videos_become_clips(table, tmp_path, capsys):
    main(["data", "convert", table, str(tmp_path / "out"), "--to=tar", "--media=video",
          "--shard-size=3", "--label=label"])  # fmt: skip
    assert "4 records; 2 could not be used" in capsys.readouterr().out
    source = open_source(
        {"path": str(tmp_path / "out"), "media": "video", "label": "label", "split": ""}
    )
    assert [source.captions(n)[0] for n in range(4)] == ["clip 0", "clip 1", "clip 2", "whole"]
    assert source.labels.tolist() == [1, 2, 3, 9]
    files = members(tmp_path / "out")
    assert list(files)[:3] == ["000000000.mp4", "000000000.json", "000000000.txt"]
    assert files["000000003.mp4"] == SHORT_GOP  # whole: byte by byte
    for number, span in enumerate(SPANS):
        times, expected = shown(Clip(SHORT_GOP, *span))
        found_times, found = shown(source[number].part("video"))
        np.testing.assert_allclose(found_times, times - span[0], atol=1e-4)
        copied = number != 1  # begins and ends at key frames
        assert (found == expected).all() if copied else near(found, expected)
        about = json.loads(files[f"{number:09d}.json"])
        np.testing.assert_allclose(about["clips"], [[span[0], min(span[1], 1.6)]], atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx-vp9")]
)
def test_an_exact_cut_has_the_frames_of_the_clip(kind, codec):
    """B-frames, other containers, sound: frames and times are those that a reader of the clip sees;
    a cut at key frames has them, too, and begins no later."""
    movie = films.film(PICTURES, kind, codec, gop=10, sound=kind == "mp4")
    for span in SPANS:
        times, expected = shown(Clip(movie, *span))
        ((suffix, data),) = make_clip(Clip(movie, *span)).files
        found_times, found = shown(data)
        assert suffix == suffix_of(data) == "mp4"
        np.testing.assert_allclose(found_times, times - times[0], atol=1e-4)
        assert near(found, expected)
        made = make_clip(Clip(movie, *span), cut="keyframes")
        ((start, end),) = made.about["clips"]
        assert start <= span[0] + 1e-9
        assert end == pytest.approx(min(span[1], 1.6))
        more_times, more = shown(made.files[0][1])
        of_source = Clip(movie, start - 1e-3 if start else 0, end)
        np.testing.assert_allclose(more_times, shown(of_source)[0] - start, atol=1e-3)
        assert near(more, shown(of_source)[1])


def test_sound_is_cut_with_the_frames():
    import av

    movie = films.film(PICTURES, b_frames=0, gop=10, sound=True, options={"sc_threshold": "0"})
    for span, cut in (((0.4, 0.8), "exact"), ((0.2, 0.7), "exact"), ((0.4, 0.8), "keyframes")):
        with av.open(io.BytesIO(make_clip(Clip(movie, *span), cut).files[0][1])) as clip:
            (sound,) = clip.streams.audio
            seconds = sum(f.samples for f in clip.decode(sound)) / sound.rate
            assert abs(seconds - (span[1] - span[0])) < 0.27  # of frames of 0.128 s at either end


@pytest.mark.parametrize("upside_down", [False, True])
def test_a_phone_that_was_turned(upside_down):
    """What is copied keeps the rotation, and what is encoded has it in its pixels."""
    plain = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4")
    quarter = [0, 1 << 16, 0, -(1 << 16), 0, 0, films.HEIGHT << 16, 0, 1 << 30]
    half = [-(1 << 16), 0, 0, 0, -(1 << 16), 0, films.WIDTH << 16, films.HEIGHT << 16, 1 << 30]
    matrix = np.array(half if upside_down else quarter, ">i4").tobytes()
    at = SHORT_GOP.index(plain.tobytes(), SHORT_GOP.index(b"tkhd"))
    movie = SHORT_GOP[:at] + matrix + SHORT_GOP[at + len(matrix) :]
    for span in SPANS[:2]:
        _, expected = shown(Clip(movie, *span))
        _, found = shown(make_clip(Clip(movie, *span)).files[0][1])
        assert found.shape == expected.shape
        assert near(found, expected)


def test_animated_whole_and_odd_videos():
    movie = films.film(PICTURES[:12], b_frames=0)
    animated = films.animation(PICTURES[:6])
    ((suffix, data),) = make_clip(Clip(animated, 0.1, 0.4)).files
    assert suffix == "mp4"
    times, found = shown(data)
    np.testing.assert_allclose(times, [0, 0.1, 0.2], atol=1e-4)
    assert near(found, PICTURES[1:4])
    assert make_clip(animated).files == [("webp", animated)]
    assert make_clip(movie).files == [("mp4", movie)]
    odd = PICTURES[:3, :47, :63]
    times, found = shown(make_clip(odd).files[0][1])
    assert (times.tolist(), found.shape) == ([0, 1, 2], (3, 48, 64, 3))
    assert near(found[:, :47, :63], odd)
    with pytest.raises(BadRecord, match="has no frame from 5 to 6 s"):
        make_clip(Clip(movie, 5, 6))


def test_frames_are_one_video_again(table, tmp_path):
    convert(table, tmp_path / "out", to="tar", frames=4, media="video")
    files = members(tmp_path / "out")
    assert list(files)[:6] == [
        *(f"000000000.000{n}.jpg" for n in range(4)), "000000000.json", "000000000.txt"
    ]  # fmt: skip
    assert json.loads(files["000000000.json"])["times"] == [0.4, 0.52, 0.6, 0.72]
    _, whole = shown(SHORT_GOP)
    for _ in range(2):  # the second time from the index
        source = open_source({"path": str(tmp_path / "out"), "media": "video"})
        assert [source.captions(n)[0] for n in range(4)] == ["clip 0", "clip 1", "clip 2", "whole"]
        record = source[0]
        times, found = shown(record.part("video"))
        assert times.tolist() == [0, 1, 2, 3]
        assert near(found, whole[[10, 13, 15, 18]])
        for n, frame in enumerate(found):
            np.testing.assert_array_equal(frame, decode(files[f"000000000.000{n}.jpg"]))
    _, mask = modalities.Frames("video", size=24, frames=6).read(record, None)
    assert mask.tolist() == [True] * 4 + [False] * 2
    facts = inspect(str(tmp_path / "out"), media="video", sheet=tmp_path / "sheet.png")
    assert (facts["records"], facts["bad"]) == (4, 0)
    again = convert(tmp_path / "out", tmp_path / "again", to="tar", media="video", shard_size=2)
    assert again.records == 4
    assert members(tmp_path / "again")["000000001.0002.jpg"] == files["000000001.0002.jpg"]


def jpeg(number, size=(16, 12)):
    file = io.BytesIO()
    Image.new("RGB", size, (number, 0, 0)).save(file, "JPEG", quality=100)
    return file.getvalue()


def test_frames_that_others_wrote(tmp_path):
    long = "k" * 97
    write_tar(tmp_path / "0.tar", [
        ("a.10.jpg", jpeg(200)), ("a.9.JPG", jpeg(100)), ("a.txt", b"by number"),
        (f"{long}.000.png", jpeg(50)), (f"{long}.001.png", jpeg(150)), (f"{long}.txt", b"long"),
        ("b.0.jpg", jpeg(1)), ("b.txt", b"b"), ("c.0.jpg", jpeg(2)), ("b.1.jpg", jpeg(3)),
        ("c.txt", b"c"),
        ("d.0.jpg", jpeg(1)), ("d.1.jpg", jpeg(2, (12, 16))), ("d.txt", b"two sizes"),
        ("e.0.jpg", b"\xff\xd8\xff nothing"), ("e.txt", b"damaged"),
    ])  # fmt: skip
    source = open_source({"path": str(tmp_path), "media": "video"})
    reds = [[round(f.mean((0, 1))[0] / 50) for f in shown(source[n].part("video"))[1]]
            for n in range(4)]  # fmt: skip
    assert reds == [[2, 4], [1, 3], [0], [0]]
    assert source.skipped == {"members that repeat a key (.jpg)": 1}  # b's second, behind c
    with pytest.raises(BadRecord, match="frames of 16 × 12 pixels and of 12 × 16"):
        shown(source[4].part("video"))
    with pytest.raises(BadRecord):
        shown(source[5].part("video"))
    with pytest.raises(BadRecord, match="more than 100"):
        open_video(source[0].part("video"), max_pixels=100)
    with pytest.raises(BadRecord, match="has no frame"):
        open_video(Stills(()))


def test_videos_as_array_records(table, tmp_path):
    assert convert(table, tmp_path / "out", to="arrayrecord", media="video", shard_size=3).bad == 2
    source = open_source({"path": str(tmp_path / "out"), "media": "video"})
    assert [source.captions(n)[0] for n in range(4)] == ["clip 0", "clip 1", "clip 2", "whole"]
    assert len(shown(source[1].part("video"))[0]) == 13
    with pytest.raises(UserError, match="--frames=2 is of tar shards"):
        convert(table, tmp_path / "no", to="arrayrecord", media="video", frames=2)


def test_frames_of_a_clip_are_those_of_evaluation():
    made = make_frames(Clip(SHORT_GOP, 0.4, 0.8), 3)
    assert [name for name, _ in made.files] == ["0000.jpg", "0001.jpg", "0002.jpg"]
    assert made.about == {"times": [0.44, 0.56, 0.68]}
    assert len(make_frames(Clip(SHORT_GOP, 0.4, 0.5), 8).files) == 3
