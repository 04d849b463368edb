"""The members of an uncompressed tar and where they lie (ustar, GNU and pax; POSIX.1-2008)."""

import mmap
from collections.abc import Iterator

from mmjax.data.storage import Blocks

BLOCK = 512


class BadShard(Exception):  # noqa: N818
    """What is wrong with a shard as a whole."""


def members(data: mmap.mmap | Blocks) -> Iterator[tuple[str, int, int]]:
    """Name, offset and length of each file, from front to back. BadShard: it is cut or no tar."""
    at, name = 0, ""
    override: dict[str, str] = {}  # for the next member
    while True:
        header = data[at : at + BLOCK]
        if len(header) < BLOCK:
            raise BadShard(f"is cut off after {name or 'its start'}")
        if header[0] == 0:  # the end of the archive is marked by zero blocks
            return
        if header[257:262] != b"ustar":
            where = f"is damaged after {name}" if name else "is not an uncompressed tar"
            raise BadShard(where)
        length = int(override.pop("size", None) or _number(header[124:136]))
        start, kind = at + BLOCK, header[156:157]
        if start + length > len(data):
            raise BadShard(f"is cut off in {_text(header[:100])}")
        if kind == b"L":  # GNU: the long name of the next member
            override["path"] = _text(data[start : start + length])
        elif kind == b"x":  # pax: attributes of the next member
            override.update(_pax(data[start : start + length]))
        elif kind in (b"0", b"\0"):
            prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
            name = _text(header[:100])
            name = override.pop("path", f"{prefix}/{name}" if prefix else name)
            override = {}
            yield name, start, length
        at = start + (length + BLOCK - 1) // BLOCK * BLOCK


def _number(field: bytes) -> int:
    if field[0] & 0x80:  # GNU: too large for octal digits
        return int.from_bytes(field[1:], "big")
    return int(field.rstrip(b" \0") or b"0", 8)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    """The records `length key=value\\n` that matter here."""
    found = {}
    while data:
        size, _, _ = data.partition(b" ")
        key, _, value = data[len(size) + 1 : int(size) - 1].partition(b"=")
        if key in (b"path", b"size"):
            found[key.decode()] = _text(value)
        data = data[int(size) :]
    return found
