"""What a path is, by its content; what showed it is said, and what lies beside is counted."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
from pictures import encode, pair, picture, write_tar

from mmjax.cli import main
from mmjax.data import open_source
from mmjax.data.account import NOTES
from mmjax.errors import UserError

JPEG = encode(picture(0), "JPEG")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n"


def write_parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


JPEGS = [encode(picture(n), "JPEG") for n in range(3)]


def img2dataset(folder, output):
    """Three pairs and one that failed, as img2dataset writes them."""
    keys = [f"{n:09d}" for n in range(4)]
    about = {"caption": [f"thing {n}" for n in range(4)], "key": keys, "url": ["u"] * 4}
    about["status"] = ["success"] * 3 + ["failed_to_download"]
    folder.mkdir()
    (folder / "00000_stats.json").write_text("{}")
    if output == "parquet":
        images = pyarrow.array([*JPEGS, None], pyarrow.binary())
        write_parquet(folder / "00000.parquet", **about, jpg=images)
        return
    write_parquet(folder / "00000.parquet", **about)
    members = []
    for n, key in enumerate(keys[:3]):
        content = json.dumps({"caption": f"thing {n}", "key": key}).encode()
        members += [
            (f"{key}.jpg", JPEGS[n]),
            (f"{key}.txt", b"thing %d" % n),
            (f"{key}.json", content),
        ]
    if output == "webdataset":
        write_tar(folder / "00000.tar", members)
        return
    (folder / "00000").mkdir()
    for name, content in members:
        (folder / "00000" / name).write_bytes(content)


@pytest.mark.parametrize(
    ("output", "kind", "by", "unread"),
    [
        ("webdataset", "tar", "00000.tar is in the folder", {NOTES: 2}),
        ("files", "folder", "00000.parquet has none in it", {".parquet": 1, ".json": 4}),
        ("parquet", "parquet", "00000.parquet in the folder has images", {NOTES: 1}),
    ],
)
def test_the_outputs_of_img2dataset_are_told_apart(tmp_path, output, kind, by, unread, capsys):
    img2dataset(tmp_path / "d", output)
    source = open_source({"path": str(tmp_path / "d")})
    assert [source.captions(n) for n in range(len(source))] == [(f"thing {n}",) for n in range(3)]
    assert [source[n].parts["image"] for n in range(3)] == JPEGS
    assert dict(source.skipped) == ({"without an image": 1} if output == "parquet" else {})
    kinds = {NOTES: NOTES} | {s: f"of a kind that is not read ({s})" for s in (".parquet", ".json")}
    expected = {kinds[what]: count for what, count in unread.items()}
    assert source.account.unread == expected
    main(["data", "inspect", str(tmp_path / "d")])
    printed = capsys.readouterr().out
    assert f"read as {kind}, since " in printed
    assert by in printed
    assert "kind=… says otherwise" in printed
    for reason in expected:
        assert reason in printed


def test_a_glob_over_shards_and_what_lies_beside_reads_the_shards(tmp_path):
    img2dataset(tmp_path / "d", "webdataset")
    (tmp_path / "d" / "00001.tar").write_bytes((tmp_path / "d" / "00000.tar").read_bytes())
    source = open_source({"path": f"{tmp_path}/d/*"})
    assert len(source) == 6
    assert sorted(source.account.unread.values()) == [1, 1]
    (tmp_path / "e").mkdir()
    write_tar(tmp_path / "e" / "SHARD.TAR", pair(7))
    assert len(open_source({"path": f"{tmp_path}/*", "kind": "tar"})) == 7


def test_shards_below_are_not_mixed_in(tmp_path):
    for part in ("part0", "part1"):
        (tmp_path / part).mkdir()
        write_tar(tmp_path / part / "0.tar", pair(0))
    with pytest.raises(UserError, match=r"shards in subfolders, as .*part0/0\.tar: name one"):
        open_source({"path": str(tmp_path), "kind": "auto"})
    write_tar(tmp_path / "0.tar", pair(1))
    source = open_source({"path": str(tmp_path)})
    assert len(source) == 1
    assert source.account.unread == {"in subfolders, each a path of its own": 2}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.parquet", LFS, r"a\.parquet is no Parquet .*, but a git-lfs pointer: git lfs pull"),
        ("a.tsv", b"<?xml?><data>", "no table, but an XML document"),
        ("a.csv", LFS, "no table, but a git-lfs pointer"),
        (
            "a.csv",
            b"\xef\xbb\xbf\n<!DOCTYPE HTML><html>",
            "no table, but a server's page",
        ),
        (
            "a.csv",
            gzip.compress(b"image,text", mtime=0),
            "no table, but compressed by gzip: gunzip it",
        ),
        ("a.csv", b"PK\x03\x04xlsx", "no table, but a zip archive"),
        (
            "a.tsv",
            b'<?xml version="1.0"?><Error><Code>No',
            "no table, but a server's page",
        ),
        ("a.json", LFS, "but a git-lfs pointer"),
        ("a.txt", LFS, "no text, but a git-lfs pointer"),
        ("a.array_record", LFS, "no whole ArrayRecord file, but a git-lfs pointer"),
        ("a.tar", LFS, "not an uncompressed tar, but a git-lfs pointer"),
        ("a.tar.gz", gzip.compress(b"x", mtime=0), r"a\.tar\.gz is compressed by gzip: gunzip it"),
        ("a.bin", LFS, r"a\.bin is a git-lfs pointer"),
        ("a.jpg", JPEG, "cannot tell the kind of"),
    ],
)
def test_what_a_file_is_instead_is_said(tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_source({"path": str(tmp_path / file)})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "and no images, but nothing"),
        ({"a.tar.gz": gzip.compress(b"x", mtime=0)}, r"a\.tar\.gz, which is compressed by gzip"),
        ({"captions.csv": b"image,text\n"}, r"Give the table that is in it, .*captions\.csv"),
        ({"dataset_info.json": b"{}", "data-0.arrow": b""}, "as datasets.save_to_disk writes it"),
        ({"x.heic": b"?"}, r"but 1 other files \(first: .*x\.heic\)"),
        ({".hidden/x.jpg": JPEG}, "but nothing"),
        ({"a.tfrecord": b"x"}, r"mmjax data convert '.*/\*\.tfrecord\*' DIR --to=arrayrecord"),
    ],
)
def test_a_folder_of_nothing_says_what_is_in_it(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_source({"path": str(tmp_path)})


@pytest.mark.parametrize("stored", ["bytes", "struct", "paths"])
@pytest.mark.parametrize("statistics", [True, False])
def test_rows_without_an_image_are_left_out_of_parquet(tmp_path, stored, statistics):
    """They are a third of what img2dataset writes; wherever the image is kept."""
    (tmp_path / "a.jpg").write_bytes(JPEG)
    images = [JPEG, None, JPEG, b""]
    if stored == "struct":
        images = [{"bytes": JPEG, "path": None}, None, {"bytes": None, "path": "a.jpg"},
                  {"bytes": None, "path": None}]  # fmt: skip
    elif stored == "paths":
        images = ["a.jpg", None, "a.jpg", ""]
    table = pyarrow.table({"jpg": images, "caption": ["a", "b", "c", "d"]})
    pyarrow.parquet.write_table(table, tmp_path / "0.parquet", write_statistics=statistics)
    source = open_source({"path": str(tmp_path / "0.parquet")})
    assert dict(source.skipped) == {"without an image": 2}
    assert [source[n].captions for n in range(2)] == [("a",), ("c",)]
    assert [source[n].parts["image"] for n in range(2)] == [JPEG, JPEG]


def test_columns_that_are_read_and_those_that_might_be_are_said(tmp_path):
    struct = [{"bytes": JPEG, "path": None}]
    write_parquet(tmp_path / "0.parquet", image=[JPEG], left=struct, caption=["a"], alt=["b"])
    write_parquet(tmp_path / "1.parquet", jpg=[JPEG], text=["c"], title=["d"], label=[3])
    write_parquet(tmp_path / "2.parquet", image=[JPEG], left=struct, caption=["e"], alt=["f"])
    source = open_source({"path": str(tmp_path)})
    assert [source.captions(n) for n in range(3)] == [("a",), ("d",), ("e",)]
    assert source.account.found[1:] == [
        "images are in the column image, captions in caption; also there: left (image=… takes it), "
        f"as {tmp_path}/0.parquet has them",
        "images are in the column jpg, captions in title; also there: text (caption=… takes it); "
        f"also there: label (label=… takes it), as {tmp_path}/1.parquet has them",
    ]
    (tmp_path / "a.jpg").write_bytes(JPEG)
    (tmp_path / "a.csv").write_text("path,image,caption\na.jpg,a.jpg,x\n")
    found = open_source({"path": str(tmp_path / "a.csv"), "image": "image"}).account.found
    assert any("column image, captions in caption; also there: path" in line for line in found)


def test_where_captions_of_pairs_are_is_said(tmp_path):
    write_tar(tmp_path / "0.tar", [("0.json", b"{"), ("1.json", b"[]"), *pair(2), *pair(3)])
    for _ in range(2):  # the second time from the index
        found = open_source({"path": str(tmp_path / "0.tar")}).account.found
        assert found[1:] == [
            f"the JSON of {tmp_path}/0.tar: 00002 has the fields caption, label, group",
            "captions are the txt of each pair; caption=txt or json:FIELD says otherwise",
        ]
    write_tar(tmp_path / "1.tar", pair(2, caption=""))
    message = r"\(1 without a caption .*right\? Here, the JSON of .*has the fields caption, label"
    with pytest.raises(UserError, match=message):
        open_source({"path": str(tmp_path / "1.tar")})
    (tmp_path / "f").mkdir()
    for name, content in pair(2):
        (tmp_path / "f" / name).write_bytes(content)
    found = open_source({"path": str(tmp_path / "f")}).account.found
    assert found[1].endswith(f"as {tmp_path}/f/00002.txt")
    (tmp_path / "f" / "00002.txt").rename(tmp_path / "f" / "captions.csv")
    with pytest.raises(UserError, match=r"or name the table that is in it, captions\.csv"):
        open_source({"path": str(tmp_path / "f")})


def images_in(*folders, count=2):
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for n in range(count):
            (folder / f"{n}.jpg").write_bytes(JPEGS[n])


TABLE = {
    "csv": "file_name,text\n{0},a\n{1},b\n",
    "jsonl": '{{"file_name": "{0}", "text": "a"}}\n{{"file_name": "{1}", "text": ["b"]}}\n',
}


@pytest.mark.parametrize("suffix", TABLE)
@pytest.mark.parametrize("names", [("0.jpg", "1.jpg"), ("cat/0.jpg", "dog/1.jpg")])
def test_hugging_faces_metadata_is_the_table_of_its_folder(tmp_path, suffix, names):
    images_in(*{(tmp_path / name).parent for name in names})
    (tmp_path / f"metadata.{suffix}").write_text(TABLE[suffix].format(*names))
    (tmp_path / "README.md").write_text("about")
    source = open_source({"path": str(tmp_path)})
    assert [source.captions(n) for n in range(len(source))] == [("a",), ("b",)]
    unnamed = 2 if "cat/0.jpg" in names else 0
    assert sum(source.skipped.values()) == unnamed
    assert source.account.unread == {"of a kind that is not read (.md)": 1}


@pytest.mark.parametrize(("split", "caption"), [("", "a"), ("test", "b")])
@pytest.mark.parametrize("where", ["root", "each"])
def test_metadata_of_divided_folders_is_read_by_split(tmp_path, split, caption, where):
    images_in(tmp_path / "train", tmp_path / "test", count=1)
    if where == "root":
        rows = "file_name,text\ntrain/0.jpg,a\ntest/0.jpg,b\n"
        (tmp_path / "metadata.csv").write_text(rows)
    else:
        for folder, text in (("train", "a"), ("test", "b")):
            (tmp_path / folder / "metadata.csv").write_text(f"file_name,text\n0.jpg,{text}\n")
    source = open_source({"path": str(tmp_path), "split": split})
    assert [source.captions(n) for n in range(len(source))] == [(caption,)]
    assert not source.skipped


def test_two_tables_of_a_folder_are_refused(tmp_path):
    images_in(tmp_path)
    for suffix, text in TABLE.items():
        (tmp_path / f"metadata.{suffix}").write_text(text.format("0.jpg", "1.jpg"))
    with pytest.raises(UserError, match=r"metadata\.csv and metadata\.jsonl: name one"):
        open_source({"path": str(tmp_path)})


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ("captions.csv", "one class, .*name the table that is in it, captions.csv"),
        ("texts/0.txt", "one class, .*name the table that is in it, texts/0.txt"),
        ("images/0.json", "one class, .*0.json is not read: write its caption into x.txt"),
        ("images/0.caption", "one class, .*0.caption is not read"),
        ("images/0.jpg.txt", "one class, .*0.jpg.txt is not read"),
    ],
)
def test_one_folder_of_images_beside_captions_is_no_class(tmp_path, beside, said):
    images_in(tmp_path / "images")
    (tmp_path / beside).parent.mkdir(exist_ok=True)
    (tmp_path / beside).write_text("a caption")
    with pytest.raises(UserError, match=said):
        open_source({"path": str(tmp_path)})


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("a.json", '[{"image": "0.jpg", "caption": ["a"]},\n {"image": "1.jpg", "caption": "b"}]'),
        ("a.json", '{"image": "0.jpg", "caption": "a"}\n{"image": "1.jpg", "caption": "b"}\n'),
        ("a.jsonl", '\ufeff [{"image": "0.jpg", "caption": "a"},{"image":"1.jpg","text":"b"}]'),
        ("captions.txt", "image,caption\n0.jpg,a\n1.jpg,b\n"),
        ("captions.txt", "filename\tlabel\ttext\r\n0.jpg\t1\ta\r\n1.jpg\t2\tb\r\n"),
    ],
)
def test_tables_are_told_by_what_they_hold(tmp_path, file, text):
    images_in(tmp_path)
    (tmp_path / file).write_text(text)
    columns = "caption,text" if '"text":"b"' in text else ""
    source = open_source({"path": str(tmp_path / file), "caption": columns})
    assert [source.captions(n) for n in range(len(source))] == [("a",), ("b",)]


def test_a_txt_of_sentences_is_no_table(tmp_path):
    (tmp_path / "a.txt").write_text("an image, with a caption\nimage: none\n")
    assert len(open_source({"path": str(tmp_path / "a.txt")})) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"image": "0.jpg"},\n\n 7]', "line 3, is no JSON object but 7"),
        (
            '[{"image": "0.jpg"}\n {"image": "1.jpg"}]',
            "a comma or . is missing: line 2",
        ),
        ('[{"image": "0.jpg"}', "a comma or . is missing: line 1"),
        ('[{"image": "0.jpg"},', "is no JSON .Expecting value"),
        ('[{"image": "0.jpg"}] [', "is no JSON .more follows its end in line 1"),
        ('[{"image": "0.jpg", "image": "1.jpg"}]', "the key 'image' is repeated"),
        ("[]", "holds no JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"images": [], "annotations": [{"bbox": []}]}', "and in annotations bbox"),
        ('{"data": [{"image": "0.jpg"}]}', "but has data; for a list of objects"),
    ],
)
def test_json_that_is_no_table_is_refused(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=said):
        open_source({"path": str(tmp_path / "a.json")})


def test_notes_beside_shards_are_no_warning(tmp_path, caplog):
    img2dataset(tmp_path / "d", "webdataset")
    with caplog.at_level("INFO", "mmjax.data"):
        open_source({"path": str(tmp_path / "d")})
        assert {record.levelname for record in caplog.records} == {"INFO"}
        (tmp_path / "d/other.xyz").write_text("?")
        open_source({"path": str(tmp_path / "d")})
    assert "WARNING" in {record.levelname for record in caplog.records}
