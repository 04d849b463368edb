"""Each benchmark that trains on emoji still runs: a few steps of its own command, to its table.

Their data, which `make demo` fetches, is drawn here: four styles of a few pictures.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import pair, write_tar

ROOT = Path(__file__).parents[2]
TINY = ("--seeds=1", "--steps=2", "--batch=16")
RUNS: dict[str, tuple[str, ...]] = {
    "captions": TINY,
    "curation": TINY,
    "dense": TINY,
    "fusion": TINY,
    "mlm": TINY,
    "motion": (*TINY, "--only=transformer"),
    "naflex": (*TINY, "--only=accuracy"),
    "stages": ("--seeds=1", "--steps=8", "--batch=16"),
}
# Run by hand: they time programs for minutes, compile for slices, or train the demo's teacher.
BY_HAND = {"checkpoint", "contrastive_memory", "data_loader", "distill", "eval", "train_step",
           "video_loader", "weak_scaling"}  # fmt: skip
GROUPS = 10
COLOURS = ("red", "green", "blue")


def test_every_benchmark_is_run_here_or_by_hand():
    names = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    mains = {n for n in names if "__main__" in (ROOT / f"benchmarks/{n}.py").read_text("utf-8")}
    assert mains == RUNS.keys() | BY_HAND


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    """A folder in which data/emoji is, as the demo writes it."""
    source = (ROOT / "benchmarks/motion.py").read_text("utf-8")
    (line,) = [line for line in source.splitlines() if line.startswith("SPRITES = ")]
    names = [*ast.literal_eval(line.removeprefix("SPRITES = "))]
    names += [f"{colour} thing {'abcdefghij'[n]}" for n in range(GROUPS) for colour in COLOURS]
    folder = tmp_path_factory.mktemp("emoji")
    for style in ("google", "fluent", "openmoji", "twitter"):
        members = []
        for number, name in enumerate(names):
            members += pair(number, name, label=number % GROUPS, group=number)
        (folder / "data/emoji" / style).mkdir(parents=True)
        write_tar(folder / "data/emoji" / style / "000000.tar", members)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_runs_to_its_table(emoji, name):
    command = [sys.executable, str(ROOT / f"benchmarks/{name}.py"), *RUNS[name], "--markdown"]
    done = subprocess.run(command, cwd=emoji, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| --- |" in done.stdout
