"""The demo's data from tiny packages made here: the join, the captions, the shards."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from fake_packages import DATA, MESSAGES, SVG, encoded, write_package
from PIL import Image

from demo import packages, prepare
from mmjax.data import open_source
from mmjax.errors import UserError


@pytest.fixture
def folder(tmp_path) -> Path:
    """A data folder whose packages are there already."""
    pytest.importorskip("resvg_py", reason="comes with the extra demo")
    text = {"en/data.json": json.dumps(DATA), "en/messages.json": json.dumps(MESSAGES)}
    files = {path: content.encode() for path, content in text.items()}
    write_package(tmp_path / "packages", prepare.TEXT, files)
    svg = {f"{colour}/svg/2764.svg": SVG.encode() for colour in ("color", "black")}
    pictures = {
        # The three ways in which packages write the same code.
        "google": {"img/google/64/2764-fe0f.png": encoded("PNG"),
                   "img/google/64/1f600-1f3ff.png": encoded("PNG")},
        "fluent": {"assets/2764.webp": encoded("WEBP", 256), "assets/1f600.webp": encoded("WEBP")},
        "openmoji": svg | {"color/svg/E000.svg": SVG.encode()},
        "twitter": {"img/twitter/64/1f600.png": encoded("PNG", 72)},
    }  # fmt: skip
    for name, members in pictures.items():
        write_package(tmp_path / "packages", prepare.STYLES[name].package, members)
    return tmp_path


def test_styles_are_joined_by_code_and_leave_out_tones_and_unknown_codes(folder):
    counts = prepare.prepare(folder, progress=lambda line: None)
    assert counts == {"google": 1, "fluent": 2, "openmoji": 1, "openmoji_black": 1, "twitter": 1}
    for style in ("google", "fluent", "openmoji", "openmoji_black"):
        source = open_source({"path": str(folder / style), "group": "group", "label": "label"})
        hearts = [r for r in map(source.__getitem__, range(len(source))) if r.group == 1]
        assert [(r.captions, r.label) for r in hearts] == [(("red heart",), 1)], style


def test_words_beside_the_shards(folder):
    prepare.prepare(folder, progress=lambda line: None)
    assert (folder / "labels.txt").read_text() == "grinning face\nred heart\n"
    assert (folder / "groups.txt").read_text() == "smileys\nsymbols\n"
    licences = (folder / "LICENSES.txt").read_text()
    assert all(style.package in licences for style in prepare.STYLES.values())
    assert prepare.TEXT in licences


def test_a_shard_is_as_img2dataset_writes_it(folder):
    prepare.prepare(folder, progress=lambda line: None)
    with tarfile.open(folder / "fluent" / "000000.tar") as shard:
        names = shard.getnames()
        values = json.load(shard.extractfile("0000000001.json"))
        assert shard.extractfile("0000000001.txt").read() == b"red heart"
        image = Image.open(io.BytesIO(shard.extractfile("0000000001.png").read()))
    assert names == [f"000000000{i}.{suffix}" for i in (0, 1) for suffix in ("png", "txt", "json")]
    assert image.size == (values["width"], values["height"]) == (64, 64)
    assert image.mode == "RGBA"
    assert abs(image.getpixel((32, 32))[3] - 128) <= 1
    assert values["captions"][-3:] == ["red heart", "red heart, love", "heart, symbols"]
    assert values["url"] == f"npm:{prepare.STYLES['fluent'].package}/assets/2764.webp"


def test_shards_are_the_same_bytes_again_and_are_not_written_twice(folder):
    shard = folder / "google" / "000000.tar"
    prepare.prepare(folder, progress=lambda line: None)
    first, written = shard.read_bytes(), shard.stat().st_mtime_ns
    prepare.prepare(folder, progress=lambda line: pytest.fail(f"did it again: {line}"))
    assert shard.stat().st_mtime_ns == written
    shard.unlink()
    prepare.prepare(folder, progress=lambda line: None)
    assert shard.read_bytes() == first


def test_an_interruption_leaves_no_shard(folder, monkeypatch):
    def interrupted(data, suffix):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "picture", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(folder, progress=lambda line: None)
    assert list((folder / "google").iterdir()) == []


def test_an_unreachable_registry_is_one_sentence(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error request failed, reason: ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(packages.shutil, "which", lambda name: str(npm))
    with pytest.raises(UserError, match=r"some-thing@1.0 could not be fetched .*ENOTFOUND"):
        packages.fetch("@some/thing@1.0".replace("@some/", "some-"), tmp_path / "packages")
    assert list((tmp_path / "packages").iterdir()) == []


def test_a_cut_off_tarball_is_named(tmp_path):
    write_package(tmp_path, "thing@1.0", {"a.png": encoded("PNG") * 50})
    tarball = tmp_path / "thing-1.0.tgz"
    tarball.write_bytes(tarball.read_bytes()[:100])
    with pytest.raises(UserError, match=r"thing-1.0.tgz is damaged"):
        packages.read_members(tarball, lambda path: True)
