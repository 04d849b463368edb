"""Videos in folders, tables and tars, and what training and evaluation show of them."""

import numpy as np
import pytest
from PIL import Image

from mmjax import datatools
from mmjax.data import from_records, modalities, open_source
from mmjax.data.array_record import write_array_record
from mmjax.data.augment import Augment
from mmjax.data.draw import Draw
from mmjax.data.modalities import Frames
from mmjax.data.order import Address
from mmjax.data.records import BadRecord, Record, Texts
from mmjax.data.videos import Clip, open_video
from mmjax.errors import UserError

pytest.importorskip("av")
import films
from pictures import write_tar

MOVIES = [films.film(films.pictures(20, seed), b_frames=0) for seed in range(3)]


@pytest.fixture
def folder(tmp_path):
    for number, movie in enumerate(MOVIES):
        (tmp_path / f"{number} é.MP4").write_bytes(movie)
        (tmp_path / f"{number} é.txt").write_text(f"movie {number}")
    return tmp_path


def first_frames(source):
    return [open_video(source[n].part("video")).read([0])[0] for n in range(len(source))]


EXPECTED = [films.sequential(movie)[0][1] for movie in MOVIES]


def test_a_folder_of_videos_with_texts(folder):
    source = open_source({"path": str(folder), "media": "video"})
    assert [source.captions(n) for n in range(3)] == [(f"movie {n}",) for n in range(3)]
    np.testing.assert_array_equal(first_frames(source), EXPECTED)


def test_a_folder_of_other_media_is_named(folder):
    with pytest.raises(UserError, match=r"holds videos, as .*\.MP4: set media='video'"):
        open_source({"path": str(folder)})


def test_a_folder_of_classes(folder):
    for number in range(3):
        (folder / f"class{number % 2}").mkdir(exist_ok=True)
        (folder / f"{number} é.MP4").rename(folder / f"class{number % 2}/{number}.mp4")
        (folder / f"{number} é.txt").unlink()
    source = open_source({"path": str(folder), "media": "video"}, labels=True)
    assert sorted(source[n].label for n in range(3)) == [0, 0, 1]


def test_a_table_of_clips(folder):
    rows = [
        "video,caption,start,end",
        "0 é.MP4,first half,,0.4",
        "0 é.MP4,second half,0:00:00.4,",
        "1 é.MP4,whole,,",
        "2 é.MP4,wrong,3,2",
        "2 é.MP4,wrong,soon,",
        "gone.mp4,gone,,",
    ]
    (folder / "clips.csv").write_text("\n".join(rows), encoding="utf-8")
    source = open_source({"path": str(folder / "clips.csv"), "media": "video"})
    assert [source.captions(n)[0] for n in range(3)] == ["first half", "second half", "whole"]
    times = [open_video(source[n].part("video")).times for n in range(3)]
    assert [len(t) for t in times] == [10, 10, 20]
    np.testing.assert_allclose(times[1][0], 0.4)
    assert source.skipped == {
        "whose clip ends before it starts": 1,
        "whose start 'soon' is no time in seconds": 1,
        "whose video file is missing": 1,
    }
    assert any("clips from start to end" in line for line in source.account.found)


def test_tars_of_videos_as_video2dataset_writes_them(tmp_path):
    members = [
        (f"{n:05d}{suffix}", content)
        for n, movie in enumerate(MOVIES)
        for suffix, content in ((".mp4", movie), (".txt", b"movie %d" % n), (".json", b'{"a": 1}'))
    ]
    write_tar(tmp_path / "00000.tar", members)
    (tmp_path / "00000_stats.json").write_text("{}")
    for _ in range(2):  # the second time from the index
        source = open_source({"path": str(tmp_path), "media": "video"})
        np.testing.assert_array_equal(first_frames(source), EXPECTED)
        assert source.captions(1) == ("movie 1",)
    with pytest.raises(UserError, match=r"there are videos, as .*mp4: set media='video'"):
        open_source({"path": str(tmp_path)})


def test_clips_as_video2dataset_cuts_them(tmp_path):
    """KEY_0000.mp4 is a video of its own; `clips` says where in the first one it was."""
    members = [
        (f"00007_{n:04d}{suffix}", content)
        for n, movie in enumerate(MOVIES)
        for suffix, content in (
            (".mp4", movie), (".txt", b"movie %d" % n),
            (".json", b'{"clips": [[%d.5, %d.5]], "key": "00007_%04d"}' % (n, n + 1, n)),
        )
    ]  # fmt: skip
    write_tar(tmp_path / "00000.tar", members)
    source = open_source({"path": str(tmp_path), "media": "video", "caption": "txt,json:key"})
    np.testing.assert_array_equal(first_frames(source), EXPECTED)
    assert source.captions(2) == ("movie 2", "00007_0002")
    assert [len(open_video(source[n].part("video")).times) for n in range(3)] == [20, 20, 20]


def parquet_of(folder, values, **columns):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"video": values, **columns}), folder / "0.parquet")
    return open_source({"path": str(folder / "0.parquet"), "media": "video"})


def test_parquet_of_videos(folder):
    captions = [f"movie {n}" for n in range(3)]
    for values in (
        MOVIES, [f"{n} é.MP4" for n in range(3)], [{"bytes": m, "path": None} for m in MOVIES],
    ):  # fmt: skip
        source = parquet_of(folder, values, caption=captions)
        assert [source.captions(n)[0] for n in range(3)] == captions
        np.testing.assert_array_equal(first_frames(source), EXPECTED)
    names = ["0 é.MP4", "0 é.MP4", "1 é.MP4", "gone.mp4"]
    source = parquet_of(folder, names, caption=["a", "b", "c", "d"],
                        start=["0", "0.4", "9", "0"], end=["0.4", None, "8", None])  # fmt: skip
    assert [len(open_video(source[n].part("video")).times) for n in range(2)] == [10, 10]
    assert source.skipped == {
        "whose clip ends before it starts": 1, "whose video file is missing": 1
    }  # fmt: skip


def test_array_records_of_videos(tmp_path):
    records = [Record(str(n), {"video": m, "text": Texts((f"movie {n}",))}, label=n)
               for n, m in enumerate(MOVIES)]  # fmt: skip
    write_array_record(tmp_path / "0.array_record", records)
    source = open_source({"path": str(tmp_path), "media": "video"})
    np.testing.assert_array_equal(first_frames(source), EXPECTED)
    assert (source.captions(1), source[2].label) == (("movie 1",), 2)
    with pytest.raises(BadRecord, match="with an image in 'image'"):
        open_source({"path": str(tmp_path)})[0]
    with pytest.raises(UserError, match="media='video' works on"):
        open_source({"path": "tfds://mnist", "media": "video"})


FRAMES = Frames("video", size=24, frames=6, augment=Augment((0.3, 0.9), flip=0.5))


def test_all_frames_have_one_crop(folder):
    """A still film: what training shows of each frame is the same."""
    still = films.film(np.repeat(films.pictures(1), 20, axis=0), b_frames=0)
    record = Record("a film", {"video": still})
    shown = []
    for epoch in range(4):
        frames, mask = FRAMES.read(record, Draw(0, Address(0, epoch, 0), record))
        assert mask.all()
        assert np.abs(frames.astype(int) - frames[0]).mean() <= 3  # of lossy frames
        shown.append(frames[0])
    assert np.abs(shown[0].astype(int) - shown[1]).mean() > 4


def test_the_draw_says_all(folder):
    """The same address shows the same frames; a reader of another size has the same moments."""
    record = Record("a film", {"video": MOVIES[0]})
    first, again = (FRAMES.read(record, Draw(0, Address(0, 0, 5), record)) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    other = FRAMES.read(record, Draw(1, Address(0, 0, 5), record))
    assert (first[0] != other[0]).any()
    draw = Draw(0, Address(0, 0, 5), record)
    large = Frames("large", size=48, frames=6, augment=FRAMES.augment)
    small, big = FRAMES.read(record, draw)[0], large.read(record, draw)[0]
    halves = big.reshape(6, 24, 2, 24, 2, 3).mean((2, 4))
    assert np.abs(halves - small).mean() < 12


def test_short_videos_and_images_are_padded():
    whole = Record("two frames", {"video": films.pictures(2)})
    frames, mask = FRAMES.read(whole, None)
    assert mask.tolist() == [True, True, False, False, False, False]
    assert not frames[2:].any()
    image = films.pictures(1)[0]
    still, mask = FRAMES.read(Record("an image", {"image": image}), None)
    assert mask.sum() == 1
    of_image = modalities.Image("image", 24).read(Record("an image", {"image": image}), None)
    np.testing.assert_array_equal(still[0], of_image)


def test_what_is_wrong_is_named():
    for part, said in (
        (np.zeros((2, 8, 8), np.uint8), r"a: is uint8 \[2, 8, 8\]: give frames as uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), "a: has no frame"),
        (b"nothing", "a: cannot be decoded"),
        (Clip(MOVIES[0], 9, 10), "a: has no frame from 9 to 10 s"),
    ):
        with pytest.raises(BadRecord, match=said):
            FRAMES.read(Record("a:", {"video": part}), None)
    with pytest.raises(BadRecord, match="is without video"):
        FRAMES.read(Record("a", {"text": "x"}), None)


def test_a_sound_alone_large_frames_no_frames_and_long_videos_are_named(folder):
    hours = films.film(films.pictures(4), times=[0, 3_000_000, 7_000_000, 7_300_000], b_frames=0)
    none = films.film(films.pictures(1), container="mkv", codec="libx264", b_frames=0)
    wrong = {
        "sound.mp4": (films.sound_alone(), "has no video stream, but audio"),
        "empty.mp4": (films.film([], sound=True), "has no video stream, but audio"),
        "cut.mkv": (none[: len(none) // 2], "has no frame|cannot be decoded"),
        "long.mp4": (hours, "is longer than 2 hours"),
    }
    limited = Frames("video", size=24, frames=2, max_hours=2)
    for name, (content, said) in wrong.items():
        (folder / name).write_bytes(content)
        (folder / name).with_suffix(".txt").write_text("a film")
        with pytest.raises(BadRecord, match=rf"{name}.* ({said})"):
            limited.read(Record(name, {"video": str(folder / name)}), None)
    with pytest.raises(BadRecord, match="64 × 48 pixels, more than 1,000"):
        Frames("video", size=24, frames=2, max_pixels=1000).read(
            Record("a", {"video": MOVIES[0]}), None
        )
    part = Record("a part", {"video": Clip(hours, 2900, 7100)})
    assert limited.read(part, None)[1].sum() == 2
    facts = datatools.inspect(str(folder), media="video")
    assert (facts["records"], facts["bad"]) == (7, 3)


def test_they_are_inspected(folder):
    (folder / "torn.mp4").write_bytes(MOVIES[0][:1000])
    (folder / "torn.txt").write_text("torn")
    facts = datatools.inspect(str(folder), sheet=str(folder / "sheet.png"), media="video")
    assert (facts["records"], facts["bad"]) == (4, 1)
    assert facts["formats"] == {"video": 3}
    assert facts["distributions"]["frames"]["median"] == 20
    assert facts["distributions"]["seconds"]["most"] == 0.76
    assert facts["distributions"]["width"]["least"] == films.WIDTH
    sheet = Image.open(folder / "sheet.png")
    assert sheet.width == 3 * 168 + 8


def test_records_of_a_program_hold_frames_files_and_clips(folder):
    path = str(folder / "1 é.MP4")
    given = [
        {"video": films.pictures(5), "text": "an array"},
        {"video": MOVIES[0], "text": "a file's bytes"},
        {"video": path, "text": "a path"},
        {"video": Clip(path, 0.4, 0.8), "text": "a clip"},
    ]
    source = open_source({"path": from_records(given)})
    shown = [FRAMES.read(source[n], None)[1].sum() for n in range(4)]
    assert shown == [5, 6, 6, 6]
    assert source.captions(3) == ("a clip",)
    assert source.identity() != open_source({"path": from_records(given[:3])}).identity()
