"""Which files are images, and what files are that are not what their names say."""

import functools
import os

from PIL import Image, ImageFile

from mmjax import machine
from mmjax.data.stand_in import stand_in

# Registered with Pillow, but: it sees no more than the header of a film, and PostScript is a
# program that Ghostscript would have to run.
_NO_PICTURES = ("MPEG", "EPS")
HEAD = 512  # bytes that tell what a file is
_STAND_INS = {
    "a git-lfs pointer": "git lfs pull fetches the file",
    "a server's page": "the download failed, fetch it again",
}
_STARTS = (
    (b"\x1f\x8b", "compressed by gzip: gunzip it"),
    (b"BZh", "compressed by bzip2: bunzip2 it"),
    (b"\xfd7zXZ\0", "compressed by xz: unxz it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unzstd it"),
    (b"PK\x03\x04", "a zip archive: unzip it"),
    (b"%PDF", "a PDF document"),
)
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC or AVIF", b"msf1": "HEIC",
           b"isom": "a film", b"mp42": "a film", b"mp41": "a film", b"qt  ": "a film"}  # fmt: skip


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of all files that the installed Pillow decodes (images.py), lower-case: ".jpg", …"""
    Image.init()
    registered = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in registered if _decodes(kind))


def suffix_of(path: str | os.PathLike) -> str:
    """The last suffix of a path, lower-case, with its dot; "" without one."""
    return os.path.splitext(path)[1].lower()


def is_left_by_system(name: str) -> bool:
    """Whether a file or folder is what macOS, Windows or a NAS leaves beside people's files."""
    left = (".ds_store", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir",
            "$recycle.bin", "system volume information", "lost+found")  # fmt: skip
    return name.startswith("._") or name.lower() in left


def what_it_is(head: bytes) -> str:
    """What a file is that should have been something else, told by its first bytes, and what helps;
    "" where nobody knows.

    >>> what_it_is(b"<!DOCTYPE html><html>…")
    "a server's page: the download failed, fetch it again"
    """
    found = stand_in(head[:HEAD])
    if found:
        return f"{found}: {_STAND_INS[found]}"
    if head.startswith(b"PK\x03\x04") and b"[Content_Types].xml" in head[:HEAD]:
        return "an Excel workbook or another document of Office: save it as CSV"
    for start, what in _STARTS:
        if head.startswith(start):
            return what
    text = head[:HEAD].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<svg", b"<?xml")):
        return "an SVG drawing: render it to PNG" if b"<svg" in text else "an XML document"
    brand = _BRANDS.get(head[8:12], "") if head[4:8] == b"ftyp" else ""
    return f"{brand}: convert it to JPEG" if brand else ""


def head_of(path: str | os.PathLike) -> bytes:
    """The first bytes of a file, for `what_it_is`; b"" if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD)
    except OSError as error:
        machine.raise_problem(f"{path} cannot be read", error)
        return b""


def _decodes(kind: str) -> bool:
    if kind == "MPO":  # several JPEGs in one file, which Pillow opens as one
        return True
    if kind not in Image.OPEN or kind in _NO_PICTURES:
        return False
    factory = Image.OPEN[kind][0]
    return not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))
