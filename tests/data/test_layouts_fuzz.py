"""Damaged annotations of videos: read, or refused in a sentence that names the file."""

import contextlib
import json

import pytest
from test_table_fuzz import documents, edited, hypothesis, parsed, read, tries

from mmjax.data.records import BadRecord

st = hypothesis.strategies
NAMES = ("0", "1", "2", "3")
ACTIVITYNET = {
    name: {"duration": 9, "timestamps": [[2, 9], [0, 5]], "sentences": ["then", "first"]}
    for name in NAMES
}
DIDEMO = [{"video": name, "description": "a", "times": [[0, 1], [2, 2]]} for name in NAMES]
MSRVTT = {
    "videos": [{"video_id": name, "split": "train" if name < "2" else "test"} for name in NAMES],
    "sentences": [{"video_id": name, "caption": "said"} for name in (*NAMES, "0")],
}
HOWTO100M = {name: {"text": ["a", "b"], "start": [0, 3], "end": [2, 4.5]} for name in NAMES}
TABLE = (b"label,youtube_id,time_start,time_end,split\nrun,0,1,2,train\nsit,1,3,4,train\n"
         b"run,2,5,6,train\n")  # fmt: skip


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("of") / "videos"
    folder.mkdir()
    for name in (*NAMES, "0_000001_000002", "1_000003_000004"):
        (folder / f"{name}.mp4").write_bytes(b"film")
    return folder


def check(source):
    """All records that are left can be read, or say why not."""
    for number in range(len(source)) if source else ():
        with contextlib.suppress(BadRecord):
            record = source[number]
            assert record.captions == source.captions(number)
            assert record.captions or record.label >= 0


@pytest.mark.parametrize(
    ("kind", "whole"),
    [("activitynet", ACTIVITYNET), ("didemo", DIDEMO), ("msrvtt", MSRVTT)],
)
@tries
@hypothesis.given(data=st.data())
def test_json_that_is_read_at_once(videos, kind, whole, data):
    content = data.draw(documents(whole))
    (videos / "annotations.json").write_bytes(content)
    source = read(videos / "annotations.json", kind=kind)
    assert parsed(content) is not None or source is None
    check(source)


@tries
@hypothesis.given(content=documents(HOWTO100M))
def test_captions_of_howto100m(videos, content):
    for kept in videos.glob(".mmjax/*"):
        kept.unlink()
    (videos / "caption.json").write_bytes(content)
    check(read(videos / "caption.json", kind="howto100m", bag=2))


@tries
@hypothesis.given(edits=st.lists(st.tuples(
    st.sampled_from(("insert", "delete", "replace", "cut")), st.floats(0, 1), st.integers(1, 12),
    st.sampled_from((b'"', b",", b"\n", b"\xff", b"nan", b"-1", b"1e9", b"\0")),
), max_size=3))  # fmt: skip
def test_the_table_of_kinetics(videos, edits):
    (videos / "train.csv").write_bytes(edited(TABLE, edits))
    check(read(videos / "train.csv", kind="kinetics"))


def test_what_is_whole_is_read(videos):
    for name, content, records in (
        ("activitynet", ACTIVITYNET, 4), ("didemo", DIDEMO, 4), ("msrvtt", MSRVTT, 2),
        ("howto100m", HOWTO100M, 8),
    ):  # fmt: skip
        (videos / f"{name}.json").write_text(json.dumps(content))
        assert len(read(videos / f"{name}.json")) == records
    (videos / "train.csv").write_bytes(TABLE)
    assert len(read(videos / "train.csv")) == 2
