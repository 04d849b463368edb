"""A path means what it says, for every format of data and every command."""

import csv
import json
import os
import random
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from awkward import ALL, NAMES
from PIL import Image

from mmjax import options, paths
from mmjax.data import open_source
from mmjax.datatools import convert
from mmjax.errors import UserError

films = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "data" / "films.py")))
CONFIG = """
from mmjax import config as config_lib, models
def get_config(arg=None):
    config = config_lib.default()
    config.total_steps, config.batch_size = 2, 8
    config.model = models.zoo.config("tiny")
    config.model.embed_dim = 16
    config.model.image.update(size=16, patch_size=8, width=16, depth=1, heads=2, mlp_dim=16)
    config.model.text.update(
        width=16, depth=1, heads=2, mlp_dim=16, vocab_size=600, context_length=8)
    config.objectives.clip = config_lib.entry("objectives")
    config.data.train.pairs = config_lib.entry("data.train")
    config.data.tokenizer, config.data.workers = "captions:600", 0
    config.log.tensorboard = False
    if arg:
        config.teachers.big = config_lib.entry("teachers")
    return config
"""


def write_pairs(folder, count=4):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((20, 20, 3), 30 * number, np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"picture number {number}")
    return folder


def tar(folder, pairs):
    convert(str(pairs), str(folder / "out"), to="tar")
    return folder / "out" / "00000.tar"


def array_record(folder, pairs):
    convert(str(pairs), str(folder / "out"), to="arrayrecord")
    return folder / "out" / "00000.array_record"


def table(folder, pairs):
    with open(folder / "t.csv", "w", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption"])
        rows.writerows((f"{pairs.name}/{n}.png", f"picture number {n}") for n in range(4))
    return folder / "t.csv"


def lines(folder, pairs):
    (folder / "t.txt").write_text("".join(f"picture number {number}\n" for number in range(4)))
    return folder / "t.txt"


def parquet(folder, pairs):
    rows = [{"image": f"{pairs.name}/{n}.png", "caption": f"picture number {n}"} for n in range(4)]
    pa.parquet.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
    return folder / "t.parquet"


def coco(folder, pairs):
    images = [{"id": n, "file_name": f"{pairs.name}/{n}.png"} for n in range(4)]
    texts = [{"image_id": n, "caption": f"picture number {n}"} for n in range(4)]
    (folder / "t.json").write_text(json.dumps({"images": images, "annotations": texts}))
    return folder / "t.json"


@pytest.mark.parametrize("write", [tar, array_record, table, lines, parquet, coco])
def test_every_format_is_read_from_any_folder_and_file(tmp_path, write):
    pairs = write_pairs(tmp_path / "plain" / ALL)
    file = write(pairs.parent, pairs)
    for name in NAMES:
        folder = tmp_path / name
        pairs.parent.rename(folder)
        there = folder / file.relative_to(pairs.parent)
        named = there.rename(there.with_name(f"{name}{there.suffix}"))
        for path in (named, f"{folder}/../{name}/{named.relative_to(folder)}"):
            source = open_source({"path": str(path)})
            captions = [source.captions(n) for n in range(len(source))]
            assert captions == [(f"picture number {n}",) for n in range(4)], path
            if write is not lines:
                assert len(source[3].parts["image"]) > 0
        named.rename(there)
        folder.rename(pairs.parent)


def test_folders_are_read_with_any_name_and_a_trailing_slash(tmp_path):
    for name in NAMES:
        folder = write_pairs(tmp_path / name)
        assert len(open_source({"path": f"{folder}/"})) == 4


def test_what_is_there_as_written_wins_over_the_pattern(tmp_path, caplog):
    for folder in ("a[1]", "a1", "a{1,2}", "a2"):
        (tmp_path / folder).mkdir()
        for name in ("x", "y[2]", "y2"):
            (tmp_path / folder / f"{name}.txt").write_text(f"{folder} {name}\n")
    (tmp_path / "a1" / "y2.txt").unlink()

    def read(path):
        source = open_source({"path": f"{tmp_path}/{path}", "kind": "text"})
        return [source.captions(n)[0] for n in range(len(source))]

    assert read("a[1]/x.txt") == ["a[1] x"]
    assert read("a[1]/*.txt") == ["a[1] x", "a[1] y2", "a[1] y[2]"]
    assert read("a[1]/y[2].txt") == ["a[1] y[2]"]
    assert read("a1/y[2].txt") == ["a1 y[2]"]
    assert read("a[12]/x.txt") == ["a1 x", "a2 x"]
    assert read("a{1,2}/x.txt") == ["a{1,2} x"]
    assert read("a{1..2}/[x].txt") == ["a1 x", "a2 x"]
    with caplog.at_level("INFO", "mmjax.data"):
        read("a1/*.txt")
    assert f"{tmp_path}/a1/*.txt is read as a pattern: 2 files" in caplog.text
    with pytest.raises(UserError, match=r"nothing at .*b\*\.txt, which is read as a pattern"):
        read("b*.txt")


def test_any_file_that_is_there_is_that_one_file(tmp_path):
    draw = random.Random(0)
    tried = 0
    while tried < 300:
        parts = ["".join(draw.choices("ab[]*?{},~.%#é -", k=draw.randint(1, 5))) for _ in range(3)]
        path = tmp_path.joinpath("any", *parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError:  # an earlier example made a file where this one has a folder
            continue
        if path.is_file():
            tried += 1
            assert paths.matches(str(path)) == [str(path)]


def test_home_is_meant_by_a_tilde_at_the_front_alone(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert paths.typed("~") == "/home/me"
    assert paths.typed("~/x~") == "/home/me/x~"
    for path in ("./~", "a/~/b", "x~", "~nobody-at-all/x", "gs://~/x", ""):
        assert paths.typed(path) == path
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _: {}["no entry"])
    with pytest.raises(UserError, match="~/x: this user has no home folder; set HOME"):
        paths.typed("~/x")


COMMANDS = {
    "train": (f"--workdir=~/{ALL}/", "--config=~/c.py", "--config.data.train.pairs.path=~/pairs/"),
    "export": (f"--workdir=~/{ALL}/", f"--output=~/{ALL}.hf/"),
    "export of a step": (f"--workdir=~/{ALL}/checkpoints/2", f"--output=~/{ALL}.step"),
    "convert": (f"~/{ALL}/", f"~/{ALL}.clip/", "--format=open_clip"),
    "eval": (
        f"--workdir=~/{ALL}", "--task=retrieval", "--data=~/pairs/", f"--output=~/{ALL}.json"
    ),
    "report": (f"--workdir=~/{ALL}/", f"--output=~/{ALL}.html"),
    "data inspect": ("~/pairs/", f"--json=~/{ALL}.facts.json", f"--sheet=~/{ALL}.png"),
    "data convert": ("~/pairs/", f"~/{ALL}.tars/", "--to=tar"),
    "data dedup": ("~/pairs/", "--against=~/pairs", f"--output=~/{ALL}.drop.json"),
    "launch": ("--copy", f"~/{ALL}.scripts/"),
    "video keyframes": ("~/film.mp4", "--count=2", f"--output=~/{ALL}.frames/"),
    "video summarize": ("~/film.mp4", "--seconds=1", f"--output=~/{ALL}.summary/"),
    "video search": ("~/", "--query=red", f"--model=~/{ALL}", f"--index=~/{ALL}.index/"),
    "embed": (
        "--config=~/c.py:embed", "--config.data.train.pairs.path=~/pairs",
        "--config.data.copies=1", f"--config.teachers.big.source=~/{ALL}",
        f"--output=~/{ALL}.embeds/",
    ),
}  # fmt: skip
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
RUN = """
import json, os, sys
from mmjax import cli
for command, arguments in json.loads(sys.argv[1]).items():
    before = set(os.listdir())
    try:
        cli.main([*command.removesuffix(" of a step").split(), *arguments])
        problem = ""
    except SystemExit as error:
        problem = f"status {error}"
    print("MADE", json.dumps([command, problem, sorted(set(os.listdir()) - before)]), flush=True)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder of an awkward name, what each command made in it, and what they said on a
    console of latin-1."""
    home = tmp_path_factory.mktemp("home") / ALL
    write_pairs(home / "pairs", 8)
    (home / "c.py").write_text(CONFIG)
    (home / "film.mp4").write_bytes(films.film(np.repeat(films.pictures(2), 25, axis=0)))
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(COMMANDS)], cwd=home, encoding="latin-1",
        env=os.environ | {"HOME": str(home), "JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": QUICK,
                          "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said = (line.split(" ", 1)[1] for line in done.stdout.splitlines() if line[:5] == "MADE ")
    made = {command: (problem, set(files)) for command, problem, files in map(json.loads, said)}
    return home, made, done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_reads_and_writes_any_path(home, command):
    _, made, log = home
    assert "Traceback" not in log
    problem, files = made[command]
    assert not problem, log
    outputs = {word.partition("~/")[2].rstrip("/") for word in COMMANDS[command]}
    named = {name for name in outputs if name.startswith(f"{ALL}.")} or {ALL}
    files = {name for name in files if name[0] != "."}  # libraries have folders such as .config
    assert files == named


def test_a_run_is_where_it_was_to_be_and_nowhere_else(home):
    home, _, log = home
    assert (home / ALL / "checkpoints" / "2").is_dir()
    config = json.loads((home / ALL / "config.json").read_text())
    assert config["data"]["train"]["pairs"]["path"] == f"{home}/pairs/"
    assert f"-> {ALL}" in log  # no markup, and a console that has no →
    assert [path.name for path in home.parent.iterdir()] == [ALL]


def test_every_command_that_takes_a_path_is_among_those_above():
    """Of plan and doctor, which compile and measure for long, tests have cases of their own."""
    (commands,) = (action for action in options.parser()._actions if action.choices)
    tried = {command.split()[0] for command in COMMANDS}
    assert set(commands.choices) - {"models", "plan", "doctor", "completion"} == tried
