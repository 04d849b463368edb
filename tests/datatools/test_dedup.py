"""Near-duplicates: found by hash, against brute force; left out in training."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.cli import main
from mmjax.data import open_source
from mmjax.datatools.deduplication import find_repeats
from mmjax.errors import UserError

sys.path.append(str(Path(__file__).parents[1] / "data"))
from pictures import encode, write_tar


def brute_force(hashes, good, first, distance):
    kept, repeats = [], {}
    for j in np.flatnonzero(good):
        close = [i for i in kept if int(hashes[i] ^ hashes[j]).bit_count() <= distance]
        if close and j >= first:
            repeats[int(j)] = int(min(close))
        else:
            kept.append(j)
    return repeats


@pytest.mark.parametrize("distance", [0, 1, 4, 9])
def test_repeats_are_those_of_comparing_all_pairs(distance):
    rng = np.random.default_rng(distance)
    hashes = rng.integers(0, 1 << 63, 40, dtype=np.uint64)[rng.integers(0, 40, 300)]
    for _ in range(6):
        flips = np.uint64(1) << rng.integers(0, 64, 300, dtype=np.uint64)
        hashes ^= np.where(rng.random(300) < 0.5, flips, np.uint64(0))
    good = rng.random(300) < 0.95
    found = find_repeats(hashes, good, 50, distance)
    assert found == brute_force(hashes, good, 50, distance)
    assert distance == 0 or found


def members(name, image, kind="JPEG", **options):
    return [(f"{name}.jpg", encode(image, kind, **options)), (f"{name}.txt", name.encode())]


def detailed(number, height=120, width=160):
    small = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def test_copies_and_test_pictures_are_left_out(tmp_path, capsys):
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
    content = [m for n in range(12) for m in members(f"own{n}", detailed(n), quality=95)]
    content += members("smaller", detailed(3, 75, 100), quality=60)
    content += members("again", detailed(5), quality=30)
    content += [("bad.jpg", b"no picture"), ("bad.txt", b"bad")]
    write_tar(tmp_path / "train" / "0.tar", content)
    write_tar(tmp_path / "test" / "0.tar", members("t", detailed(8, 60, 80), quality=50))
    output = tmp_path / "drop.json"
    train, test = str(tmp_path / "train"), str(tmp_path / "test")
    main(["data", "dedup", train, f"--against={test}", f"--output={output}"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "3 of 15 records repeat another, 1 of them images of the test sets" in printed
    assert "1 could not be read" in printed
    assert f"wrote {output}" in printed
    source = open_source({"path": train, "drop": str(output)}, "mine")
    names = {source.captions(n)[0] for n in range(len(source))}
    assert names == {f"own{n}" for n in range(12) if n != 8} | {"bad"}
    assert source.skipped == {"that repeat another": 3}
    assert [r.captions for r in source.read([0, 11])] == [source.captions(0), source.captions(11)]


def test_a_file_of_another_source_is_refused(tmp_path):
    drop = tmp_path / "drop.json"
    drop.write_text('{"records": 7, "drop": [1]}')
    with pytest.raises(UserError, match=r"made for 7 records, and there are 5: run mmjax"):
        open_source({"path": "generated:5", "drop": str(drop)})
    drop.write_text("[]")
    with pytest.raises(UserError, match="is no file of mmjax data dedup"):
        open_source({"path": "generated:5", "drop": str(drop)})
    with pytest.raises(UserError, match="cannot be read"):
        open_source({"path": "generated:5", "drop": str(tmp_path / "none")})
