"""Nothing that a source is given is left out uncounted: suffixes, links, sidecars, joined tars."""

import io
import os
import tarfile

import pytest
from pictures import encode, pair, picture, write_tar
from PIL import Image

from mmjax.data import open_source
from mmjax.data.contents import image_suffixes
from mmjax.data.images import decode, open_image
from mmjax.errors import UserError

JPEG = encode(picture(0), "JPEG")


def encoded(suffix):
    """A picture in the format of a suffix; None where Pillow cannot write it."""
    kind = Image.registered_extensions()[suffix]
    for mode in ("RGB", "RGBA", "L", "1", "P"):
        try:
            buffer = io.BytesIO()
            Image.fromarray(picture(1)).convert(mode).resize((32, 32)).save(buffer, kind)
            return buffer.getvalue()
        except (OSError, KeyError, ValueError):
            continue
    return None


def given(folder):
    """Files in a folder at any depth, as `find -L -type f` counts them."""
    return sum(len(files) for _, _, files in os.walk(folder, followlinks=True))


WRITABLE = {s: encoded(s) for s in sorted(image_suffixes() & Image.registered_extensions().keys())}
WRITABLE = {suffix: content for suffix, content in WRITABLE.items() if content}


def test_the_suffixes_are_those_of_the_decoders():
    usual = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
    usual |= {".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".avif", ".tga", ".ico", ".qoi", ".mpo"}
    assert usual <= image_suffixes()
    none = {".txt", ".json", ".npy", ".h5", ".mpg", ".eps", ".pdf", ".grib", ".wmf", ".csv"}
    assert not none & image_suffixes()
    assert len(WRITABLE) > 30


@pytest.mark.parametrize("case", [str.lower, str.upper])
@pytest.mark.parametrize("form", ["folder", "classes", "tar", "csv"])
def test_every_suffix_is_read_in_every_format(tmp_path, form, case):
    data = tmp_path / "data"
    (data / "some").mkdir(parents=True)
    members, rows = [], ["image,caption"]
    for number, (suffix, content) in enumerate(WRITABLE.items()):
        name = f"some/{number}{case(suffix)}"
        members += [(name, content), (f"some/{number}{case('.txt')}", b"said")]
        rows.append(f"{name},said")
        if form != "tar":
            (data / name).write_bytes(content)
        if form == "folder":
            (data / f"some/{number}{case('.txt')}").write_bytes(b"said")
    if form == "tar":
        write_tar(data / "0.tar", members)
    if form == "csv":
        (data / "a.csv").write_text("\n".join(rows))
    source = open_source({"path": str(data / "a.csv") if form == "csv" else str(data)})
    assert not source.skipped
    assert len(source) == len(WRITABLE)
    found = {source[n].parts["image"] for n in range(len(source))}
    assert found == set(WRITABLE.values())
    for content in found:
        width, height = open_image(content).size
        assert decode(content).shape[:2] == (height, width)
    if form != "classes":
        assert all(source.captions(n) == ("said",) for n in range(len(source)))


def test_every_file_of_a_folder_is_used_or_counted(tmp_path):
    data = tmp_path / "data"
    (data / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "else").mkdir()
    files = {
        "a.jpg": JPEG, "a.txt": b"used", "b.JPG": JPEG, "b.TXT": b"used",
        "deep/deeper/c.jpg": JPEG, "deep/deeper/c.txt": b"used", "alone.jpg": JPEG,
        "no_image.txt": b"x", "unknown.heic": JPEG, "unknown.xyz": b"", "no_suffix": b"",
        "empty.jpg": b"", "empty.txt": b"x", "latin.jpg": JPEG, "latin.txt": b"caf\xe9",
        "blank.jpg": JPEG, "blank.txt": b"\n", "._a.jpg": b"?", ".DS_Store": b"?",
        "Thumbs.db": b"?", "lfs.jpg": b"version https://git-lfs.github.com/spec/v1\noid",
        "lfs.txt": b"x", "page.jpg": b"<!DOCTYPE html><html>404", "page.txt": b"x",
    }  # fmt: skip
    for name, content in files.items():
        (data / name).write_bytes(content)
    for name in ("e.jpg", "e.txt"):
        (tmp_path / "else" / name).write_bytes(files[f"a{name[1:]}"])
    (data / "linked").symlink_to(tmp_path / "else")
    (data / "round").symlink_to(data)
    (data / "itself").symlink_to(data / "itself")
    (data / "f.jpg").symlink_to(tmp_path / "else" / "e.jpg")
    (data / "f.txt").symlink_to(tmp_path / "else" / "e.txt")
    (data / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    (data / ".git").mkdir()
    (data / "__MACOSX").mkdir()
    source = open_source({"path": str(data)})
    assert sorted(os.path.relpath(source[n].key, data) for n in range(len(source))) == [
        "a.jpg", "b.JPG", "deep/deeper/c.jpg", "f.jpg", "linked/e.jpg",
    ]  # fmt: skip
    lfs = "whose image is a git-lfs pointer: git lfs pull fetches the file"
    assert source.skipped == {
        "without a caption": 2, "texts without an image": 1, "with an empty image": 1,
        "with a caption that is not UTF-8": 1, "whose image file is missing": 1, lfs: 1,
        "whose image is a server's page: the download failed, fetch it again": 1,
    }  # fmt: skip
    assert source.account.unread == {
        "of a kind that is not read (.heic)": 1,
        "of a kind that is not read (.xyz)": 1,
        "of a kind that is not read (no suffix)": 2,  # one is the link to itself
        "left by the system": 4,
        "hidden folders": 1,
        "links to a folder that they are in": 1,
    }
    for reason in (*source.skipped, *source.account.unread):
        assert str(data) in source.account.first[reason], reason
        assert any(reason in line for line in source.account.lines())


def test_classes_may_be_links_and_what_is_in_none_is_counted(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "store" / name).mkdir(parents=True)
        (tmp_path / "store" / name / "0.avif").write_bytes(encode(picture(0), "AVIF"))
        (tmp_path / "subset").mkdir(exist_ok=True)
        (tmp_path / "subset" / name).symlink_to(tmp_path / "store" / name)
    (tmp_path / "subset" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "subset" / "lone.jpg").write_bytes(JPEG)
    (tmp_path / "subset" / "README.md").write_bytes(b"about")
    source = open_source({"path": str(tmp_path / "subset")})
    assert [source[n].label for n in range(2)] == [0, 1]
    assert source.classes == ("cat", "dog")
    assert source.skipped == {"that are in no folder of a class": 1}
    assert source.account.unread == {"hidden folders": 1, "of a kind that is not read (.md)": 1}


def test_every_member_of_a_tar_is_used_or_counted(tmp_path):
    members = [
        *pair(0), ("00001.AVIF", encode(picture(1), "AVIF")), ("00001.txt", b"used"),
        ("a.xml", b"?"), ("b.heic", b"?"), ("__MACOSX/c.jpg", b"?"), ("d/._e.jpg", b"?"),
        (".git/f.jpg", b"?"), ("Thumbs.db", b"?"), ("g.jpg", b"<html>gone</html>"), ("g.txt", b"x"),
        ("h.png", b"version https://git-lfs.github.com/spec/v1\n"), ("h.txt", b"x"),
    ]  # fmt: skip
    write_tar(tmp_path / "0.tar", members)
    for _ in range(2):  # the second time from the index
        source = open_source({"path": str(tmp_path)})
        assert len(source) == 2
        assert sorted(source.skipped.values()) == [1, 1]
        assert source.account.unread == {
            "of a kind that is not read (.xml)": 1,
            "of a kind that is not read (.heic)": 1,
            "left by the system": 3,
            "hidden folders": 1,
        }


def test_links_in_a_tar_are_the_files_that_they_lead_to(tmp_path):
    write_tar(tmp_path / "0.tar", [(f"d/{name}", data) for name, data in pair(0)])
    with tarfile.open(tmp_path / "0.tar", "a") as tar:
        for name, kind, target in [
            ("d/1.png", tarfile.SYMTYPE, "00000.png"), ("d/1.txt", tarfile.LNKTYPE, "d/00000.txt"),
            ("2.png", tarfile.SYMTYPE, "./d/1.png"), ("2.txt", tarfile.SYMTYPE, "d/../d/1.txt"),
            ("3.png", tarfile.SYMTYPE, "/etc/passwd"), ("4.png", tarfile.SYMTYPE, "4.png"),
        ]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    source = open_source({"path": str(tmp_path)})
    assert [source.captions(n) for n in range(len(source))] == [("picture number 0",)] * 3
    assert {source[n].parts["image"] for n in range(3)} == {encode(picture(0))}
    assert source.account.unread == {"links that lead to no file of their shard": 2}


def test_joined_tars_are_read_to_their_end(tmp_path):
    for n in range(3):
        write_tar(tmp_path / f"{n}.tar", pair(n))
    joined = b"".join((tmp_path / f"{n}.tar").read_bytes() for n in range(3))
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "0.tar").write_bytes(joined)
    source = open_source({"path": str(tmp_path / "all")})
    assert [source.captions(n) for n in range(len(source))] == [
        (f"picture number {n}",) for n in range(3)
    ]
    assert any("goes on after its end" in line for line in source.account.lines())
    (tmp_path / "all" / "0.tar").write_bytes(joined + b"and something else")
    with pytest.raises(UserError, match=r"0\.tar has 18 bytes behind its end, after 00002\.json"):
        open_source({"path": str(tmp_path / "all")})


@pytest.mark.parametrize(
    ("mode", "message"),
    [("w:gz", "by gzip: gunzip it"), ("w:bz2", "by bzip2: bunzip2"), ("w:xz", "by xz: unxz it")],
)
def test_compressed_tars_are_named(tmp_path, mode, message):
    with tarfile.open(tmp_path / "0.tar", mode) as tar:
        for name, content in pair(0):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(UserError, match=rf"not an uncompressed tar, but compressed {message}"):
        open_source({"path": str(tmp_path)})


def test_a_sparse_file_in_a_tar_is_refused_and_v7_is_read(tmp_path):
    write_tar(tmp_path / "0.tar", pair(0), tarfile.USTAR_FORMAT)
    data = bytearray((tmp_path / "0.tar").read_bytes())

    def seal(header):
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * ord(" "))
        return header

    at = 0
    for _, content in pair(0):  # the magic came with ustar
        data[at + 156] = 0  # V7's type of files
        data[at + 257 : at + 512] = bytes(255)
        data[at : at + 512] = seal(data[at : at + 512])
        at += 512 + -(-len(content) // 512) * 512
    (tmp_path / "0.tar").write_bytes(data)
    assert open_source({"path": str(tmp_path)}).captions(0) == ("picture number 0",)
    data[156:157] = b"S"
    data[:512] = seal(data[:512])
    (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(UserError, match=r"holds 00000\.png as a sparse file"):
        open_source({"path": str(tmp_path)})
