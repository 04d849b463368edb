"""Finding the format, and one sentence where there is nothing to open."""

import pickle

import pytest
from ml_collections import ConfigDict

from mmjax.data import open_source
from mmjax.data.sources import open_sources
from mmjax.errors import UserError


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"path": ""}, "no path is given"),
        ({"path": "no/such/folder"}, "path no/such/folder does not exist"),
        ({"path": "no/such/*.tar"}, r"nothing at no/such/\*\.tar"),
        ({"path": ".", "kind": "webm"}, "no kind 'webm'; use auto, tar, csv"),
        ({"path": "s3://bucket/a.csv"}, "csv is read from this machine only; copy s3://bucket"),
        ({"path": "s3://bucket/a"}, "cannot tell the kind of s3://bucket/a; name its shards"),
        ({"path": "generated:3", "caption_weights": (1, 2)}, "a share for each of the 1 parts"),
        ({"path": "x", "filter": "open('x')"}, "filter=.* no open"),
        ({"path": "x", "filter": "width >"}, "filter=.* is no expression"),
        ({"path": "generated:many"}, "should be generated:COUNT"),
    ],
)
def test_each_wrong_path_has_its_sentence(spec, message):
    with pytest.raises(UserError, match=message):
        open_source(ConfigDict(spec), "mine")


def test_folders_and_files_of_unknown_content(tmp_path):
    with pytest.raises(UserError, match=r"holds no \*\.tar"):
        open_source({"path": str(tmp_path)})
    (tmp_path / "a.xyz").write_text("?")
    with pytest.raises(UserError, match="cannot tell the kind"):
        open_source({"path": str(tmp_path / "a.xyz")})
    with pytest.raises(UserError, match="is not a folder"):
        open_source({"path": str(tmp_path / "a.xyz"), "kind": "folder"})


def test_tar_captions_are_txt_or_json_fields(tmp_path):
    (tmp_path / "0.tar").write_bytes(b"x")
    with pytest.raises(UserError, match="caption='title' of tar shards"):
        open_source({"path": str(tmp_path), "caption": "title"})


def test_sources_come_sorted_by_name():
    specs = ConfigDict({"b": {"path": "generated:3"}, "a": {"path": "generated:2"}})
    assert [(s.name, len(s)) for s in open_sources(specs)] == [("a", 2), ("b", 3)]


def test_generated_records_are_a_function_of_their_number():
    a, b = (open_source({"path": "generated:30"}) for _ in range(2))
    assert (a[7].parts["image"] == b[7].parts["image"]).all()
    assert a[7].captions == ("a green cross", "a picture of a cross that is green")
    assert len({a[i].parts["image"].tobytes() for i in range(30)}) == 30
    assert [a[i].label for i in (0, 23, 24)] == [0, 23, 0]


def test_a_file_of_lines_is_texts_without_pictures(tmp_path):
    one, two = tmp_path / "a.txt", tmp_path / "b.txt"
    one.write_text("first line\n\n  second, ünïcode  \n", encoding="utf-8")
    two.write_bytes(b"third\nbroken \xff\xfe\nlast")
    source = pickle.loads(pickle.dumps(open_source({"path": str(tmp_path / "*.txt")})))
    texts = [source[i].captions for i in range(len(source))]
    assert texts == [("first line",), ("second, ünïcode",), ("third",), ("last",)]
    assert "image" not in source[0].parts
    assert source.skipped == {"not UTF-8": 1}
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UserError, match=r"empty\.txt holds no line of text"):
        open_source({"path": str(tmp_path / "empty.txt")})
