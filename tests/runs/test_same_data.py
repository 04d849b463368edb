"""A run goes on with the same records wherever they lie, and with no others."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from etils import epath
from ml_collections import ConfigDict

from mmjax import config as config_lib
from mmjax import config_check
from mmjax.data import open_source
from mmjax.data.array_record import write_array_record
from mmjax.data.identity import identity
from mmjax.data.records import Record, Texts
from mmjax.errors import UserError
from mmjax.runs import same_data

sys.path.append(str(Path(__file__).parents[1] / "data"))
from pictures import encode, pair, picture, write_tar


def write(folder, kind, change=0):
    """Four pairs in a folder; `change` gives the last another caption, as long as the first."""
    folder.mkdir(parents=True)
    captions = [f"number {n + (n == 3) * change}" for n in range(4)]
    images = [encode(picture(n)) for n in range(4)]
    if kind == "tar":
        write_tar(folder / "0.tar", [m for n in range(4 + change) for m in pair(n)])
    elif kind == "folder":
        for n in range(4):
            (folder / f"{n}.png").write_bytes(images[n])
            (folder / f"{n}.txt").write_text(captions[n])
    elif kind == "csv":
        (folder / "images").mkdir()
        for n in range(4):
            (folder / "images" / f"{n}.png").write_bytes(images[n])
        rows = [f"images/{n}.png,{caption}" for n, caption in enumerate(captions)]
        (folder / "a.csv").write_text("\n".join(["image,caption", *rows]))
        return folder / "a.csv"
    elif kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        table = {"image": images[: 4 - change], "caption": captions[: 4 - change]}
        pyarrow.parquet.write_table(pyarrow.table(table), folder / "0.parquet")
    elif kind == "arrayrecord":
        parts = [{"image": i, "text": Texts((c,))} for i, c in zip(images, captions, strict=True)]
        write_array_record(
            folder / "0.array_record", [Record(str(n), part) for n, part in enumerate(parts)]
        )
    else:
        (folder / "a.txt").write_text("\n".join(captions) + "\n" * change)
        return folder / "a.txt"
    return folder


KINDS = ("tar", "folder", "csv", "parquet", "arrayrecord", "text")


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_is_that_of_the_content_not_of_place_and_time(tmp_path, kind, monkeypatch):
    here = write(tmp_path / "job1" / "data", kind)
    there = tmp_path / "elsewhere" / "deep" / "data"
    shutil.copytree(tmp_path / "job1" / "data", there)
    for path in there.rglob("*"):
        os.utime(path, (1, 1))
    there = there if here.is_dir() else there / here.name
    other = write(tmp_path / "other" / "data", kind, change=1)
    marks = [identity(open_source({"path": str(path)})) for path in (here, there, other)]
    assert marks[0] == marks[1] != marks[2]
    monkeypatch.chdir(tmp_path)
    assert identity(open_source({"path": os.path.relpath(here, tmp_path)})) == marks[0]


def test_a_source_of_someone_else_has_a_fingerprint():
    class Tones:
        def __init__(self, pitch):
            self.pitch = pitch

        def __len__(self):
            return 3

        def __getitem__(self, number):
            return Record(str(number), {"text": Texts((f"{self.pitch}",))})

    assert identity(Tones(1)) == identity(Tones(1)) != identity(Tones(2))


@pytest.fixture
def run(tmp_path):
    """(workdir, config, check of a path against what the workdir began with)."""
    config = ConfigDict({"data": {"train": {"pairs": config_lib.entry("data.train", path="a")}}})

    def check(path, began=None, **changed):
        new = ConfigDict(config.to_dict())
        new.data.train.pairs.update(path=str(path), **changed)
        source = open_source(new.data.train.pairs, "pairs")
        found = same_data.marks(["pairs"], [source])
        if began is None:
            same_data.check(epath.Path(tmp_path), found, config, new)
        else:
            config.data.train.pairs.path = str(path)
            same_data.keep(epath.Path(tmp_path), found)

    return check


def test_a_run_goes_on_where_its_data_was_moved_to_and_with_no_other(tmp_path, run):
    run(write(tmp_path / "job1" / "data", "folder"), began=True)
    run(tmp_path / "job1" / "data")
    run(tmp_path / "job1" / "data", kind="folder")
    shutil.move(tmp_path / "job1", tmp_path / "job2")
    run(tmp_path / "job2" / "data")
    other = write(tmp_path / "other", "folder", change=1)
    with pytest.raises(UserError, match=r"began with other records in .*\.pairs \(4 then, 4 now"):
        run(other)
    (tmp_path / "job2" / "data" / "3.png").unlink()
    with pytest.raises(UserError, match=r"\(4 then, 3 now, fingerprint .*; then it had path="):
        run(tmp_path / "job2" / "data")


def test_without_a_record_of_the_data_its_path_may_not_change(tmp_path, run):
    data = write(tmp_path / "data", "folder")
    run(data, began=True)
    (tmp_path / same_data.FILE).unlink()
    run(data)
    shutil.copytree(data, tmp_path / "copy")
    with pytest.raises(UserError, match=r"path='.*data', not '.*copy', begun before fingerprints"):
        run(tmp_path / "copy")


def test_keys_of_the_same_records_may_change_others_of_a_source_not():
    config = config_lib.default()
    config.model = config_lib.models.zoo.config("tiny")
    config.objectives.clip = config_lib.entry("objectives")
    config.data.train.pairs = config_lib.entry("data.train", path="a.csv")
    other = config_lib.from_json(config_lib.to_json(config))
    other.data.train.pairs.update(path="b.csv", timeout=3.0, drop="x.json", kind="csv")
    config_check.validate_resume(config, other, "runs/a")
    other.data.train.pairs.filter = "width > 3"
    with pytest.raises(UserError, match=r"pairs\.filter='', and this command has 'width > 3'"):
        config_check.validate_resume(config, other, "runs/a")
