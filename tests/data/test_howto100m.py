"""HowTo100M: clips around captions of speech, the captions nearest in time, and what it costs."""

import json
import pickle
import tracemalloc

import numpy as np
import pytest

from mmjax.data import json_entries, open_source
from mmjax.data.doubt import doubts
from mmjax.data.draw import Draw
from mmjax.data.howto100m import nearest, window
from mmjax.data.howto100m_index import Spoken
from mmjax.data.json_entries import CHUNK, entries, of_bytes
from mmjax.data.order import Address
from mmjax.data.records import BadRecord
from mmjax.data.videos import Clip
from mmjax.errors import UserError

SAID = {
    "a-1": {"start": [0, 8, 3, 20.5], "end": [2, 12, 9, 21], "text": ["héat", "oil", "pan", "add"]},
    "b_2": {"start": [1, 5, 7, 9], "end": [3, 4, 8, 11], "text": ["cut", "backwards", " ", "wood"]},
    "gone": {"start": [0], "end": [5], "text": ["nobody"]},
    "odd": {"start": [0], "end": [5], "text": ["two", "texts"]},
}


@pytest.fixture
def folder(tmp_path):
    tmp_path = tmp_path / "of" / "own"
    tmp_path.mkdir(parents=True)
    (tmp_path / "caption.json").write_text(json.dumps(SAID, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "videos/0").mkdir(parents=True)
    (tmp_path / "videos/0/a-1.mp4").write_bytes(b"film")
    (tmp_path / "videos/b_2.webm").write_bytes(b"film")
    return tmp_path


def read(path, **keys):
    return open_source({"path": str(path), **keys})


def test_a_record_is_a_clip_around_a_caption(folder):
    for _ in range(2):  # the second time from the index
        source = read(folder / "caption.json", media="video")
        found = [source[n] for n in range(len(source))]
        assert [r.captions for r in found] == [
            ("héat",), ("oil",), ("pan",), ("add",), ("cut",), ("wood",)
        ]  # fmt: skip
        first, last = str(folder / "videos/0/a-1.mp4"), str(folder / "videos/b_2.webm")
        assert [r.parts["video"] for r in found] == [
            Clip(first, 0.0, 4.0), Clip(first, 8.0, 12.0), Clip(first, 3.0, 9.0),
            Clip(first, 18.75, 22.75), Clip(last, 0.0, 4.0), Clip(last, 8.0, 12.0),
        ]  # fmt: skip
        assert source.skipped == {
            "captions whose video file is missing": 1,
            "captions that end before they start": 1,
            "videos with no lists text, start and end of one length": 1,
        }
        assert source.account.first["captions whose video file is missing"].startswith("gone")
        assert source.account.unread["captions that are nulls"] == 1
    assert read(folder / "caption.json", min_seconds=0)[3].parts["video"][1:] == (20.5, 21.0)


def test_the_bag_is_nearest_first_and_its_own_is_drawn(folder):
    source = read(folder / "caption.json", bag=3)
    # Middles of a-1: 1, 10, 6 and 20.75.
    assert [source.captions(n) for n in range(4)] == [
        ("héat", "pan", "oil"), ("oil", "pan", "héat"), ("pan", "oil", "héat"),
        ("add", "oil", "pan"),
    ]  # fmt: skip
    assert source.captions(4) == ("cut", "wood")  # all that there are
    record = source[0]
    assert record.captions == source.captions(0)
    for epoch in range(20):
        assert Draw(0, Address(0, epoch, 0), record).caption == "héat"
    assert source.identity() != read(folder / "caption.json").identity()


def test_bags_that_share_captions_are_no_doubt(folder):
    one, three = (read(folder / "caption.json", bag=bag) for bag in (1, 3))
    assert doubts([one], 2, True) == doubts([three], 2, True) == []
    assert doubts([three], 100, True)


def test_the_nearest_are_those_of_a_full_sort():
    rng = np.random.default_rng(0)
    starts = np.sort(rng.uniform(0, 100, 50))
    ends = starts + rng.uniform(0.1, 9, 50)
    for number in range(50):
        found = nearest(Spoken(starts, ends, []), number, 5)
        middle = starts[number] + ends[number]
        far = sorted(range(50), key=lambda n: abs(starts[n] + ends[n] - middle))
        assert found[0] == number
        assert sorted(found) == sorted(far[:5])
    assert window(1, 2, 4) == (0.0, 4.0)
    assert window(10, 11, 4) == (8.5, 12.5)
    assert window(10, 20, 4) == (10.0, 20.0)


def test_a_table_says_which_videos_are_wanted(folder):
    table = folder / "HowTo100M_v1.csv"
    table.write_text("video_id,category_1,category_2,rank,task_id\nb_2,x,y,1,2\nnone,x,y,1,2\n")
    source = read(table)
    assert source.account.found[0].startswith("read as howto100m")
    assert len(source) == 2
    assert any("videos without captions in" in why for why in source.skipped)
    (folder / "train.csv").write_text("video_path\nx/a-1.mp4\n")
    assert len(read(folder / "train.csv")) == 4
    (folder / "raw.json").write_text(json.dumps({"a-1": SAID["gone"]}))
    source = read(folder / "train.csv", kind="howto100m", caption="raw.json")
    assert source.captions(0) == ("nobody",)


def test_it_goes_to_workers_as_files(folder):
    source = read(folder / "caption.json", bag=2)
    again = pickle.loads(pickle.dumps(source))
    assert again[2] == source[2]
    (folder / "caption.json").write_text(json.dumps(SAID, indent=1))
    with pytest.raises(BadRecord, match=r"caption\.json: a-1"):
        pickle.loads(pickle.dumps(again))[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a": {"text": ["x"], "start": [0], "end": [1]}', "cut off"),
        ('{"a": {"text": ["x"], "start": [0], "en', r"byte \d"),
        ('{"a": {"text": ["x"], "start": [0], "end": [1]} "b"', "in place of ','"),
        ('{"a": {"text": ["x"], "start": ["s"], "end": [1]}}', "no captions that can be used"),
        ("{}", "no captions that can be used"),
        ("[]", "in place of '{'"),
    ],
)
def test_captions_that_are_damaged(folder, content, said):
    (folder / "caption.json").write_text(content)
    with pytest.raises(UserError, match=said):
        read(folder / "caption.json", kind="howto100m")


def test_without_videos(folder):
    for path in (folder / "videos").rglob("*.*"):
        path.unlink()
    with pytest.raises(UserError, match=r"no file of the video 'a-1' and 2 others"):
        read(folder / "caption.json")


def test_entries_are_those_of_json_whatever_falls_on_an_edge(tmp_path):
    """Keys, numbers and characters of several bytes across the edge of what is read at once."""
    file = tmp_path / "entries.json"
    for fill in range(CHUNK - 40, CHUNK - 2, 3):
        content = {"x" * fill: 1, 'é\u2028"\\': {"ü": [1.25e3, 123456]}, "n": 12345, "t": "☃"}
        data = json.dumps(content, ensure_ascii=False).encode()
        file.write_bytes(b"\xef\xbb\xbf " + data + b"\n")
        whole = file.read_bytes()
        found = list(entries(file))
        values = [of_bytes(whole[e.at : e.at + e.length]) for e in found]
        assert values == list(content.values())
        assert [e.value for e in found[2:3]] == [12345]


def test_memory_is_that_of_a_few_videos(tmp_path, monkeypatch):
    """A file is read with the memory of a small part of it, and of what is kept of each video."""
    monkeypatch.setattr(json_entries, "CHUNK", 1 << 15)
    videos, each = 500, 100
    times = list(range(each))
    about = {"start": times, "end": [t + 2 for t in times], "text": ["some words"] * each}
    content = {f"{number:011d}": about for number in range(videos)}
    (tmp_path / "caption.json").write_text(json.dumps(content))
    (tmp_path / "00000000007.mp4").write_bytes(b"film")
    tracemalloc.start()
    source = read(tmp_path / "caption.json")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "caption.json").stat().st_size > 1_000_000
    assert peak < 300_000
    assert len(source) == each
    assert len(pickle.dumps(source)) < 5000
