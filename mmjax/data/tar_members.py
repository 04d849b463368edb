"""The members of an uncompressed tar and where they lie (V7, ustar, GNU and pax; POSIX.1-2008)."""

import mmap
import posixpath
from collections.abc import Iterator
from typing import NamedTuple

from mmjax.data.account import Account
from mmjax.data.contents import HEAD, what_it_is
from mmjax.data.storage import Blocks

BLOCK = 512
_ZEROS = bytes(BLOCK)
_FILE, _HARD_LINK, _LINK, _FOLDER = (b"0", b"\0", b"7"), b"1", b"2", b"5"
_WITHOUT_DATA = b"123456"  # links, devices and folders, whatever their size says


class BadShard(Exception):  # noqa: N818
    """What is wrong with a shard as a whole."""


class Member(NamedTuple):
    """A file in a tar, and where its content lies."""

    name: str
    at: int
    length: int


def members(data: mmap.mmap | Blocks | bytes, account: Account, shard: str) -> Iterator[Member]:
    """Each file, from front to back; then the links, as the files that they lead to.

    What follows the end of an archive is read as the next one, as `cat a.tar b.tar` writes them.
    What is no file, and links that lead to none, are counted in `account`, which calls the archive
    `shard`.

    Raises:
      BadShard: it is cut off, damaged or no tar; then nothing of it is to be trusted.
    """
    files: dict[str, Member] = {}
    links: dict[str, str] = {}
    for name, kind, target, at, length in _headers(data, account, shard):
        if kind in _FILE:
            member = Member(name, at, length)
            files.setdefault(posixpath.normpath(name), member)
            yield member
        elif kind == _HARD_LINK:
            links[name] = posixpath.normpath(target)
        elif kind == _LINK:
            links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        elif kind != _FOLDER:
            account.pass_over("that are no files", f"{shard}: {name}")
    ends = {posixpath.normpath(name): target for name, target in links.items()}
    for name, target in links.items():
        for _ in range(len(links)):  # a link may lead to another
            target = ends.get(target, target)
        if target in files:
            yield files[target]._replace(name=name)
        else:
            account.pass_over("links that lead to no file of their shard", f"{shard}: {name}")


def _headers(
    data: mmap.mmap | Blocks | bytes, account: Account, shard: str
) -> Iterator[tuple[str, bytes, str, int, int]]:
    """Name, type, target of a link, offset and length of each member."""
    at, name, ended, size = 0, "", False, len(data)
    override: dict[str, str] = {}  # for the next member
    while at < size:
        header = data[at : at + BLOCK]
        if header == _ZEROS[: len(header)] and (ended or len(header) == BLOCK):
            ended = True  # two zero blocks, and some more to fill a record
            at += BLOCK
            continue
        if len(header) < BLOCK and not ended and (at or not what_it_is(header)):
            raise BadShard(f"is cut off after {name or 'its start'}")
        if not _is_header(header):
            raise BadShard(_no_header(data, at, name, ended))
        if ended and name:
            account.found.append(f"{shard} goes on after its end, as joined tars do: all is read")
        ended = False
        length = int(override.pop("size", None) or _number(header[124:136]))
        start, kind = at + BLOCK, header[156:157]
        if length < 0:
            raise BadShard(f"is damaged after {name or 'its start'}")
        length = 0 if kind in _WITHOUT_DATA else length
        end = start + (length + BLOCK - 1) // BLOCK * BLOCK
        if start + length > size:
            raise BadShard(f"is cut off in {_text(header[:100])}")
        if kind == b"L":  # GNU: the long name of the next member
            override["path"] = _text(data[start:end])
        elif kind == b"K":  # and what it links to
            override["linkpath"] = _text(data[start:end])
        elif kind in b"xX":  # pax: attributes of the next member
            override.update(_pax(data[start : start + length]))
        elif kind != b"g":  # pax: attributes of all, of which none matters here
            prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
            own = _text(header[:100])
            name = override.pop("path", f"{prefix}/{own}" if prefix else own)
            if kind == b"S" or any(key.startswith("GNU.sparse") for key in override):
                raise BadShard(f"holds {name} as a sparse file: write it again without --sparse")
            if kind == b"\0" and name.endswith("/") and not length:  # V7 had no type for them
                kind = _FOLDER
            yield name, kind, override.pop("linkpath", _text(header[157:257])), start, length
            override = {}
        at = end
    if not ended:
        raise BadShard(f"is cut off after {name or 'its start'}")


def _no_header(data: mmap.mmap | Blocks | bytes, at: int, name: str, ended: bool) -> str:
    """What is wrong where a header should be."""
    if ended and name:
        return f"has {len(data) - at:,} bytes behind its end, after {name}, that are no tar"
    if at:
        return f"is damaged after {name or 'its start'}"
    what = what_it_is(data[:HEAD])
    return "is not an uncompressed tar" + (f", but {what}" if what else "")


def _is_header(header: bytes) -> bool:
    """Whether the checksum is right: of the bytes, itself taken as blanks; some wrote it signed."""
    if len(header) < BLOCK:
        return False
    try:
        stored = _number(header[148:156])
    except ValueError:
        return False
    rest = header[:148] + b" " * 8 + header[156:]
    return stored in (sum(rest), sum(rest) - 256 * sum(byte > 127 for byte in rest))


def _number(field: bytes) -> int:
    """ValueError: it is none."""
    if field[0] & 0x80:  # GNU: too large for octal digits; negative where all bits are set
        return int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    """The records `length key=value\\n` that matter here. ValueError: there are none."""
    found = {}
    while data.strip(b"\0"):
        digits, _, _ = data.partition(b" ")
        size = int(digits)
        if not len(digits) + 1 < size <= len(data):
            raise ValueError(f"a record of {size} bytes")
        key, _, value = data[len(digits) + 1 : size - 1].partition(b"=")
        if key in (b"path", b"size", b"linkpath") or key.startswith(b"GNU.sparse"):
            found[key.decode()] = _text(value)
        data = data[size:]
    return found
