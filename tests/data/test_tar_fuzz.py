"""Damaged tars: each is read fully, or refused in a sentence; never a traceback or a silent loss.

What is read is counted again by `tarfile`. MMJAX_FUZZ=2000 tries as many as that.
"""

import io
import os
import tarfile
from collections import Counter

import numpy as np
import pytest
from pictures import encode, pair, picture, write_tar

from mmjax.data import BadRecord, open_source
from mmjax.errors import UserError

TRIES = int(os.environ.get("MMJAX_FUZZ", "150"))
FORMS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
PARTS = {".png": "image", ".txt": "txt", ".json": "json", ".cls": "cls"}
BLOCK = 512
# Bytes of a header: name, size, type. (tarfile refuses one with a wrong owner or time, and reads
# the prefix of names whatever the magic says.)
SPOTS = (*range(12), *range(124, 136), 156, 156, 156)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A shard in each form of tar, as bytes: pairs, and other things that lie in shards."""
    folder = tmp_path_factory.mktemp("whole")
    small = encode(picture(0, 4, 4))
    members = []
    for n in range(4):
        members += [(f"{n:03d}.png", small + bytes([n])), *pair(n)[1:2], (f"{n:03d}.txt", b"said")]
    members += [("._a.png", b"x"), ("b.xml", b"<b/>"), ("d/" * 60 + "c.png", small)]
    members += [("d/" * 60 + "c.txt", "gesagt ü".encode()), ("e.png", b""), ("e.txt", b"x")]
    shards = []
    for form in FORMS:
        write_tar(folder / "0.tar", members, form)
        shards.append((folder / "0.tar").read_bytes())
    return shards


def seal(data, at):
    """Makes the checksum of a header right again."""
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + BLOCK])


def headers(data):
    return [at for at in range(0, len(data), BLOCK) if data[at + 257 : at + 262] == b"ustar"]


def mutate(rng, shards):
    """One shard with one to three things that go wrong with files."""
    data = bytearray(shards[rng.integers(len(shards))])
    for _ in range(rng.integers(1, 4)):
        if len(data) < BLOCK:
            break
        at, size = int(rng.integers(len(data))), int(rng.integers(1, 2000))
        junk = rng.integers(0, 256, size, np.uint8).tobytes()
        match rng.integers(10):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at : at + size] = bytes(len(data[at : at + size]))
            case 2:
                data[at : at + size] = junk
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = junk
            case 5:
                del data[at:]
            case 6:
                data += shards[rng.integers(len(shards))]
            case 7:
                data += junk
            case 8:  # blocks moved, as of a file that was written twice at once
                start = at // BLOCK * BLOCK
                data[start:start] = data[start + BLOCK : start + 3 * BLOCK]
            case _:  # a header that someone wrote wrong
                found = headers(data)
                if found:
                    start = found[rng.integers(len(found))]
                    spot = start + int(rng.choice(SPOTS))
                    data[spot] = int(rng.choice([0, 32, 47, 48, 49, 50, 53, 55, 120, 128, 255]))
                    seal(data, start)
    return bytes(data)


def count(data):
    """(pairs and members that repeat one, members of other kinds, key → its image), by tarfile;
    None where it cannot say, or a link leads elsewhere."""
    seen: Counter = Counter()
    others, images = 0, {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), ignore_zeros=True) as tar:
            for member in tar:
                key, suffix = os.path.splitext(member.name)
                if member.isdir():
                    continue
                if member.issym() or member.islnk():
                    return None
                part = PARTS.get(suffix.lower())
                hidden = any(p[:1] == "." and p not in (".", "..") for p in key.split("/")[:-1])
                if not member.isreg() or not part or hidden or "/._" in f"/{member.name}":
                    others += 1
                    continue
                seen[key, part] += 1
                if part == "image" and seen[key, part] == 1:
                    images[key] = tar.extractfile(member).read()
    except (tarfile.TarError, OSError, ValueError, EOFError):
        return None
    keys = {key for key, _ in seen}
    return len(keys) + sum(n - 1 for n in seen.values()), others, images


def opened(path):
    try:
        return open_source({"path": str(path)}, "fuzzed")
    except UserError as error:
        return error


def test_a_damaged_shard_is_read_fully_or_refused_in_a_sentence(tmp_path, whole, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    outcomes: Counter = Counter()
    for seed in range(TRIES):
        data = mutate(np.random.default_rng(seed), whole)
        path = tmp_path / "0.tar"
        path.write_bytes(data)
        source = opened(path)
        if isinstance(source, UserError):
            assert str(path) in str(source), f"seed {seed}: {source}"
            outcomes["refused"] += 1
            continue
        records = source.read(range(len(source)))
        assert not any(isinstance(record, BadRecord) for record in records), f"seed {seed}"
        expected = count(data)
        if expected is None:
            outcomes["not counted"] += 1
            continue
        units, others, images = expected
        account = source.account
        stored = getattr(source, "_source", source)  # before pairs of one image are united
        assert len(stored) + sum(account.left_out.values()) == units, f"seed {seed}"
        assert sum(account.unread.values()) == others, f"seed {seed}"
        found = sorted(record.parts["image"] for record in records)
        assert set(found) <= set(images.values()), f"seed {seed}"
        outcomes["read"] += 1
    assert outcomes["read"] > TRIES / 8
    assert outcomes["refused"] > TRIES / 8
    assert outcomes["not counted"] < TRIES / 20
