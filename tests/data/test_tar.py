"""Tar shards: the index finds what `tarfile` finds, keeps itself, and says what is wrong."""

import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
from pictures import encode, pair, picture, write_shards, write_tar

from mmjax.data import open_source
from mmjax.data import tar_index as tar_index_module
from mmjax.errors import UserError


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_member_is_read_as_tarfile_reads_it(tmp_path, form):
    long = "a_rather_long_folder_name/" * 4 + "name_that_does_not_fit_into_the_header_"
    if form == tarfile.USTAR_FORMAT:
        long = "a_rather_long_folder_name/" * 4 + "name_"  # ustar ends at 255
    members = []
    for n in range(4):
        members += [(long + name, data) for name, data in pair(n)]
    write_tar(tmp_path / "0.tar", members, form)
    source = open_source({"path": str(tmp_path), "caption": "txt,json:caption", "label": "label"})
    with tarfile.open(tmp_path / "0.tar") as tar:
        content = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    assert len(content) == 12
    for n in range(4):
        record = source[n]
        assert record.parts["image"] == content[f"{long}{n:05d}.png"]
        assert record.captions == (content[f"{long}{n:05d}.txt"].decode(),) * 2
        assert record.label == json.loads(content[f"{long}{n:05d}.json"])["label"]
        assert record.group == -1


def test_captions_may_be_lists_of_json_fields(tmp_path):
    write_tar(tmp_path / "0.tar", pair(3, tags=["red", " blue ", ""]))
    source = open_source(
        {"path": str(tmp_path / "0.tar"), "caption": "json:tags", "group": "group"}
    )
    assert source.captions(0) == ("red", "blue")
    assert source[0].group == 1


def test_paths_may_be_globs_and_brace_ranges(tmp_path):
    write_shards(tmp_path, shards=3, pairs=2)
    assert len(open_source({"path": str(tmp_path / "*.tar")})) == 6
    assert len(open_source({"path": str(tmp_path / "{00000..00001}.tar")})) == 4
    assert len(open_source({"path": str(tmp_path / "{00000,00002}.tar")})) == 4
    with pytest.raises(UserError, match=r"1 of 4 shards .*00003\.tar is missing.*set bad_shards"):
        open_source({"path": str(tmp_path / "{00000..00003}.tar")})


def test_unusable_pairs_are_left_out_and_counted(tmp_path, caplog):
    members = [
        *pair(0),
        ("no_caption.jpg", encode(picture(1), "JPEG")),
        ("empty_caption.jpg", encode(picture(1), "JPEG")),
        ("empty_caption.txt", b"  \n"),
        ("latin.jpg", encode(picture(1), "JPEG")),
        ("latin.txt", "café".encode("latin-1")),
        ("empty_image.jpg", b""),
        ("empty_image.txt", b"something"),
        ("no_image.txt", b"something"),
        ("._00000.png", b"what macOS leaves"),
    ]
    write_tar(tmp_path / "0.tar", members)
    for _ in range(2):  # the second time from the index
        caplog.clear()
        source = open_source({"path": str(tmp_path)}, "mine")
        assert len(source) == 1
        assert source.skipped == {
            "without a caption": 2,
            "with a caption that is not UTF-8": 1,
            "with an empty image": 1,
            "without an image": 1,
        }
        assert "0.tar: latin" in caplog.text


def test_pictures_with_a_label_need_no_caption(tmp_path):
    write_tar(tmp_path / "0.tar", [m for m in pair(2) if not m[0].endswith("txt")])
    assert open_source({"path": str(tmp_path), "label": "json:label"})[0].label == 2
    with pytest.raises(UserError, match=r"none of the pairs .*1 without a caption"):
        open_source({"path": str(tmp_path)})


def test_a_label_that_is_no_integer_is_left_out(tmp_path):
    write_tar(tmp_path / "0.tar", [*pair(0), *pair(1, label="cat"), *pair(2, label=2**40)])
    source = open_source({"path": str(tmp_path), "label": "label"})
    assert dict(source.skipped) == {"without an integer 'label'": 2}


def test_the_index_is_kept_and_renewed(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "data", shards=1, pairs=3)
    spec = {"path": str(folder)}
    open_source(spec)
    scans = []
    scan = tar_index_module._scan_pairs
    monkeypatch.setattr(
        tar_index_module, "_scan_pairs", lambda *args: scans.append(args[1]) or scan(*args)
    )
    assert len(open_source(spec)) == 3
    assert not scans, "a valid index was not used"
    write_tar(folder / "00000.tar", [m for n in range(5) for m in pair(n)])
    assert len(open_source(spec)) == 5, "a stale index was used"
    os.utime(folder / "00000.tar", (1, 1))
    open_source(spec)
    assert len(scans) == 2, "the time of the shard was not looked at"
    open_source({**spec, "caption": "json:caption"})
    assert len(scans) == 3, "the index of other captions was used"


def test_where_the_data_cannot_be_written_the_index_goes_to_the_cache(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "data", shards=1)
    (folder / ".mmjax").write_text("in the way: root may write everywhere, but not in a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(open_source({"path": str(folder)})) == 7
    assert list((tmp_path / "cache" / "mmjax").glob("*.npy"))


def test_a_source_pickles_without_its_index(tmp_path):
    source = open_source({"path": str(write_shards(tmp_path, shards=1, pairs=200))})
    data = pickle.dumps(source)
    assert len(data) < 2000
    assert pickle.loads(data)[150] == source[150]


def test_a_truncated_shard_is_named_with_its_member(tmp_path):
    write_shards(tmp_path, shards=2, pairs=3)
    path = tmp_path / "00001.tar"
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        last = [m for m in tar.getmembers() if m.name.endswith(".png")][-1]
    path.write_bytes(data[: last.offset_data + 5])
    with pytest.raises(UserError, match=r"1 of 2 shards.*00001\.tar is cut off in 00005\.png"):
        open_source({"path": str(tmp_path)})
    path.write_bytes(data[: last.offset_data - 512])  # between two members
    with pytest.raises(UserError, match=r"00001\.tar is cut off after 00004\.json"):
        open_source({"path": str(tmp_path)})


def test_shards_that_are_none_are_named(tmp_path):
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "page.tar").write_bytes(b"<html>404 not found</html>" * 100)
    with tarfile.open(tmp_path / "hollow.tar", "w"):
        pass
    with pytest.raises(UserError) as error:
        open_source({"path": str(tmp_path)})
    text = str(error.value)
    assert "empty.tar is empty" in text
    assert "page.tar is not an uncompressed tar" in text
    assert "hollow.tar holds no images" in text


def test_a_damaged_header_is_named(tmp_path):
    write_shards(tmp_path, shards=1, pairs=2)
    data = bytearray((tmp_path / "00000.tar").read_bytes())
    with tarfile.open(tmp_path / "00000.tar") as tar:
        offset = tar.getmembers()[3].offset_data - 512
    data[offset + 124 : offset + 135] = b"not-a-size!"
    (tmp_path / "00000.tar").write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        open_source({"path": str(tmp_path)})


def test_members_in_any_order_and_large_sizes(tmp_path):
    """All images first, all texts after; and a size in base 256, as GNU writes large ones."""
    members = sorted((m for n in range(3) for m in pair(n)), key=lambda m: m[0][-3:])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    data = bytearray(buffer.getvalue())
    size = int(data[124:135], 8)
    data[124:136] = b"\x80" + size.to_bytes(11, "big")
    data[148:156] = b"%06o\0 " % (sum(data[:148]) + sum(data[156:512]) + 8 * ord(" "))
    (tmp_path / "0.tar").write_bytes(data)
    source = open_source({"path": str(tmp_path)})
    assert [source.captions(n) for n in range(3)] == [(f"picture number {n}",) for n in range(3)]
    images = {source[n].parts["image"] for n in range(3)}
    assert images == {encode(picture(n)) for n in range(3)}
    assert np.all([source[n].key.endswith(".png") for n in range(3)])
