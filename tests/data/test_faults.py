"""Data that is broken on purpose: named with shard and member, counted, and bounded by config."""

import io
import os
import struct
import tarfile
import zlib
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from pictures import AS_IT_IS, encode, pair, picture, train_transform, write_tar
from reading import reads, settings

from mmjax.data import BadRecord, open_source, train_batches
from mmjax.errors import UserError

B = 16


def batches(source, tokenizer, counts=None, **data):
    config, rows = settings(B, 16, 8, **{"prefetch": 1, **data}), np.arange(B)
    read = reads(config, tokenizer)
    return train_batches([source], config, read, rows=rows, start_step=0, counts=counts)


def png_header(width: int, height: int) -> bytes:
    """A PNG of some bytes that says it is of this size, and would decode to zeros."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(1000))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    parts = (chunk(b"IHDR", header), chunk(b"IDAT", content), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_captions_that_spell_special_tokens_are_counted(tmp_path, tokenizer, caplog):
    path = tmp_path / "lines.txt"
    odd = ["a <|endoftext|> b", "<|startoftext|>", "a <|ENDOFTEXT|>", "< |endoftext| >"]
    path.write_text("\n".join(odd * 5 + ["a red circle"] * 12))
    config = settings(16, 0, 32, 1, train={"lines": {}}, prefetch=1)
    del config.model.image, config.model.logit
    counts = Counter()
    read = reads(config, tokenizer)
    taken = train_batches(
        [open_source({"path": str(path)}, "lines")], config, read, rows=np.arange(16), start_step=0,
        counts=counts,
    )  # fmt: skip
    found = list(islice(taken, 4))  # two epochs
    taken.close()
    assert "spelled" not in found[0]
    ids, mask = tokenizer.encode(odd, 32)
    spelled = tokenizer.spelled(ids, mask)
    assert spelled.tolist()[:2] == [True, True]
    assert not spelled[3]
    assert counts["data/special_tokens"] == 2 * 5 * spelled.sum()
    assert caplog.text.count("captions spell special tokens out") == 1


def test_one_image_in_twenty_is_bad(tmp_path, tokenizer, caplog):
    members = [m for n in range(100) for m in pair(n)]
    for n in range(0, 100, 20):
        members[3 * n] = (f"{n:05d}.png", members[3 * n][1][:60])
    write_tar(tmp_path / "0.tar", members)
    source = open_source({"path": str(tmp_path)}, "pairs")
    counts = Counter()
    taken = batches(source, tokenizer, counts, max_bad=0.1)
    epochs = list(islice(taken, 25))  # 400 examples, 4 epochs
    assert counts == {"data/examples": 400, "data/substituted": 20}
    assert "0.tar: 00020.png cannot be decoded" in caplog.text
    assert "replaced by another record" in caplog.text
    taken.close()
    again = batches(source, tokenizer, max_bad=0.1)
    for one, two in zip(epochs, islice(again, 25), strict=True):
        np.testing.assert_array_equal(one["image"], two["image"])
    again.close()
    stopping = batches(source, tokenizer, max_bad=0.0)
    with pytest.raises(UserError, match=r"could not be used, more than data\.max_bad=0 .*\.png"):
        list(islice(stopping, 25))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_above_the_pixel_limit_is_not_decoded(kind):
    data = encode(picture(1, 100, 100), kind)
    rng = np.random.default_rng(0)
    assert train_transform(data, rng, 8, AS_IT_IS, max_pixels=10_000).shape == (8, 8, 3)
    with pytest.raises(BadRecord, match="has 100 × 100 pixels, more than 9,999"):
        train_transform(data, rng, 8, AS_IT_IS, max_pixels=9_999)


def test_a_bomb_is_named_and_takes_no_memory(tmp_path, tokenizer, caplog):
    """65,000² pixels would be 12.7 GB."""
    members = [m for n in range(40) for m in pair(n)]
    members[0] = ("00000.png", png_header(65_000, 65_000))
    write_tar(tmp_path / "0.tar", members)
    taken = batches(open_source({"path": str(tmp_path)}, "pairs"), tokenizer, max_bad=0.1)
    before = peak_memory()
    list(islice(taken, 3))
    taken.close()
    assert peak_memory() - before < 1 << 30
    assert "0.tar: 00000.png has 65000 × 65000 pixels, more than 89,478,485" in caplog.text


def peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_a_caption_of_20_mb_is_left_out(tmp_path, caplog):
    write_tar(tmp_path / "0.tar", [*pair(0), *pair(1, "word " * 4_000_000), *pair(2)])
    source = open_source({"path": str(tmp_path)}, "pairs")
    assert [source.captions(n) for n in range(2)] == [("picture number 0",), ("picture number 2",)]
    assert source.skipped == {"with a text above 1 MiB": 1}
    assert "0.tar: 00001" in caplog.text


def test_members_that_repeat_a_key_are_counted_and_the_first_stay(tmp_path, caplog):
    twice = [("00001.txt", b"another text"), ("00001.png", encode(picture(9)))]
    write_tar(tmp_path / "0.tar", [*pair(0), *pair(1), *twice])
    source = open_source({"path": str(tmp_path)}, "pairs")
    assert len(source) == 2
    assert source.captions(1) == ("picture number 1",)
    assert source[1].parts["image"] == encode(picture(1))
    assert source.skipped == {
        "members that repeat a key (.txt)": 1,
        "members that repeat a key (.png)": 1,
    }
    assert "0.tar: 00001" in caplog.text


def test_names_that_lead_out_of_the_folder_lead_nowhere(tmp_path):
    """Members are read by offset; no name of one is ever opened or written."""
    inside = tmp_path / "shards"
    inside.mkdir()
    secret = tmp_path / "secret.txt"
    secret.write_text("not yours")
    members = [(f"../{name}", data) for name, data in pair(0)]
    members += [(f"/{tmp_path}/{name}", data) for name, data in pair(1)]
    write_tar(inside / "0.tar", members)
    with tarfile.open(inside / "0.tar", "a") as tar:  # links are not followed
        info = tarfile.TarInfo("00002.txt")
        info.type, info.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(info)
        data = encode(picture(2))
        info = tarfile.TarInfo("00002.png")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    before = sorted(os.listdir(tmp_path))
    source = open_source({"path": str(inside)}, "pairs")
    assert [source[n].parts["image"] for n in range(2)] == [encode(picture(n)) for n in range(2)]
    assert dict(source.skipped) == {"without a caption": 1}
    assert sorted(os.listdir(tmp_path)) == before
