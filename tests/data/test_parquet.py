"""Parquet: bytes, Hugging Face's {bytes, path} and paths; rows left out; row groups read once."""

import contextlib
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encode, picture

from mmjax.data import BadRecord, open_source
from mmjax.data import parquet as parquet_module
from mmjax.data.order import Order
from mmjax.errors import UserError


@pytest.fixture
def images():
    return [encode(picture(n)) for n in range(10)]


def write(path, images, **columns):
    captions = [f"picture number {n}" for n in range(len(images))]
    pq.write_table(
        pa.table({"image": images, "caption": captions, **columns}), path, row_group_size=4
    )


@pytest.mark.parametrize("kind", ["bytes", "struct", "path"])
def test_images_are_bytes_or_structs_or_paths(tmp_path, images, kind):
    for n, image in enumerate(images):
        (tmp_path / f"{n}.png").write_bytes(image)
    stored = {
        "bytes": images,
        "struct": [{"bytes": image, "path": None} for image in images],
        "path": [f"{n}.png" for n in range(10)],
    }[kind]
    write(tmp_path / "a.parquet", stored, label=list(range(10)))
    source = pickle.loads(pickle.dumps(open_source({"path": str(tmp_path), "label": "label"})))
    assert [source[n].parts["image"] for n in range(10)] == images
    assert [source[n].label for n in range(10)] == list(range(10))
    assert source.captions(9) == ("picture number 9",)
    assert source[5].key.endswith("a.parquet: row 1")


def test_rows_are_filtered_and_counted(tmp_path, images, caplog):
    captions = ["a", None, "", *"defghij"]
    width = [100, 100, 100, 10, 10, *[100] * 4, None]
    table = pa.table({"image": images, "text": captions, "width": width})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    source = open_source({"path": str(tmp_path / "a.parquet"), "filter": "width > 50"})
    assert [source.captions(n) for n in range(len(source))] == [
        ("a",),
        ("f",),
        ("g",),
        ("h",),
        ("i",),
    ]
    assert dict(source.skipped) == {
        "without a caption": 2,
        "that the filter leaves out": 2,
        "without 'width', which the filter asks for": 1,
    }
    assert "row 1 of row group 0" in caplog.text


def test_columns_may_be_weighted(tmp_path, images):
    write(tmp_path / "a.parquet", images, long=[["x", "y"]] * 10)
    spec = {"path": str(tmp_path), "caption": "caption,long", "caption_weights": (0.5, 3)}
    record = open_source(spec)[0]
    assert record.captions == ("picture number 0", "x", "y")
    assert record.parts["text"].weights == (0.5, 1.5, 1.5)


def test_an_epoch_reads_each_row_group_once(tmp_path, images, monkeypatch):
    write(tmp_path / "a.parquet", images)
    write(tmp_path / "b.parquet", images)
    source = open_source({"path": str(tmp_path)})
    assert source.block == 4
    opened = []
    real = parquet_module.open_file
    monkeypatch.setattr(parquet_module, "open_file", lambda file: opened.append(file) or real(file))
    parquet_module._read_group.cache_clear()
    order = Order([len(source)], [1.0], seed=0, blocks=[source.block])
    seen = [source[order(n).index].parts["image"] for n in range(20)]
    assert sorted(seen) == sorted(images * 2)
    assert len(opened) <= 9, "6 row groups; runs of b.parquet lie across two each"


def test_files_that_are_none_and_columns_that_lack(tmp_path, images):
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(UserError, match=r"bad\.parquet is no Parquet"):
        open_source({"path": str(tmp_path / "bad.parquet")})
    write(tmp_path / "a.parquet", images)
    with pytest.raises(UserError, match=r"no caption column alt; it has image, caption"):
        open_source({"path": str(tmp_path / "a.parquet"), "caption": "alt"})
    write(tmp_path / "c.parquet", [None, b"", *images[2:]])
    source = open_source({"path": str(tmp_path / "c.parquet")})
    assert dict(source.skipped) == {"without an image": 2}
    assert [source[n].parts["image"] for n in range(len(source))] == images[2:]
    write(tmp_path / "d.parquet", np.arange(10))
    with pytest.raises(
        UserError, match=r"column image of .*d\.parquet holds int64, and an image is"
    ):
        open_source({"path": str(tmp_path / "d.parquet")})
    for value in ([b"a"], {"url": "x"}, [[0, 1], [2, 3]], 0.5):
        write(tmp_path / "e.parquet", [value] * 10)
        with pytest.raises(UserError, match=r"e\.parquet holds .*: name another with image=COLUMN"):
            open_source({"path": str(tmp_path / "e.parquet")})


@pytest.mark.parametrize("struct", [False, True])
@pytest.mark.parametrize("folder", [".", "pix"])
def test_images_that_are_files_are_found_and_missing_ones_counted(tmp_path, struct, folder):
    (tmp_path / "pix").mkdir()
    for n in range(2):
        (tmp_path / "pix" / f"{n}.png").write_bytes(encode(picture(n)))
    at = "pix/" if folder == "." else ""
    paths = [
        f"{at}0.png",
        f"{at}no.png",
        f"{at}1.png".replace("/", "\\"),
        "/9j/" + "4AAQ" * 500,
        "",
    ]
    images = [{"bytes": None, "path": path} for path in paths] if struct else paths
    pq.write_table(
        pa.table({"image": images, "caption": list("abcde")}), tmp_path / "a.parquet",
        row_group_size=2,
    )  # fmt: skip
    source = open_source({"path": str(tmp_path / "a.parquet")})
    assert dict(source.skipped) == {
        "whose image file is missing": 1,
        "whose image is a long text (base64?) in place of a path or bytes": 1,
        "without an image": 1,
    }
    assert [source.captions(n) for n in range(2)] == [("a",), ("c",)]
    assert [source[n].parts["image"] for n in range(2)] == [encode(picture(n)) for n in range(2)]


FLIPS = int(os.environ.get("MMJAX_FUZZ", "60"))


def test_fuzzed_pages_are_named_or_the_rows_are_read(tmp_path, images):
    """One byte after another is another one: a sentence, or as many rows as there are."""
    write(tmp_path / "a.parquet", images)
    whole = (tmp_path / "a.parquet").read_bytes()
    rng = np.random.default_rng(0)
    # pyarrow itself aborts on some damaged footers: the pages are before it.
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    refused = []
    for at in rng.integers(4, pages, FLIPS):
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "a.parquet").write_bytes(data)
        try:
            source = open_source({"path": str(tmp_path / "a.parquet")})
        except UserError as error:
            refused.append(str(error))
            continue
        assert len(source) + sum(source.skipped.values()) == len(images), at
        for n in range(len(source)):
            with contextlib.suppress(BadRecord):
                source[n]
    assert refused
    assert all("a.parquet" in sentence for sentence in refused)
