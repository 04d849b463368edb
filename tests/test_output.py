"""What commands print, as real processes of a user without an accelerator: their own lines only.

No library's log lines or warnings, no escape codes where nobody sees colours, and at the end what
was written.
"""

import os
import pty
import re
import runpy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mmjax import options

LOCAL = Path(__file__).parents[1] / "launch" / "local.py"
films, people = (
    SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / file)))
    for file in ("data/films.py", "video/test_benchmark.py")
)
MMJAX = [sys.executable, "-m", "mmjax"]
TEACHER = "--config.teachers.teacher.source=random:tiny"
# Two chains of commands: each reads what those before it in its chain have written.
CHAINS = (
    {
        "train": "train --config=pairs:smoke --workdir=run",
        "eval": "eval --workdir=run --task=retrieval --data=generated:32 --output=e.json",
        "export": "export --workdir=run --output=huggingface",
        "convert": "convert run open_clip --format=open_clip",
        "report": "report --workdir=run",
        "video keyframes": "video keyframes clips/film.mp4 --count=2 --output=frames",
        "video summarize": "video summarize clips/film.mp4 --seconds=1 --output=summary",
        "video search": "video search clips --query=red --model=run",
        "video benchmark": "video benchmark people.npz --protocol=tvsum",
    },
    {
        "data inspect": "data inspect generated:32 --sheet=sheet.png --json=facts.json",
        "data convert": "data convert generated:32 tars --to=tar",
        "data dedup": "data dedup tars --output=drop.json",
        "doctor": "doctor --workdir=elsewhere/run --json=doctor.json",
        "plan": "plan --config=pairs:smoke --topology=v5e:2x2 --json=plan.json",
        "embed": f"embed --config=clip_kd:smoke {TEACHER} --config.data.copies=1 --output=embeds",
        "launch": "launch --copy=launch",
        "models": "models tiny",
        "completion": "completion bash",
    },
)
ALL = [name for chain in CHAINS for name in chain]
WROTE = {
    "train": "newest checkpoint: run/checkpoints/6",
    "eval": "wrote e.json",
    "export": "wrote huggingface",
    "convert": "wrote open_clip",
    "report": "wrote .*/run/report.html",
    "data inspect": "wrote sheet.png\nwrote facts.json",
    "data convert": "wrote tars",
    "data dedup": "wrote drop.json",
    "doctor": "wrote doctor.json",
    "plan": "wrote plan.json",
    "embed": "wrote embeds/teacher",
    "launch": "wrote 9 files into launch",
    "video keyframes": "wrote frames/sheet.png",
    "video summarize": "wrote summary/summary.mp4",
}
# On stderr is what was found in the data, and what a command is busy with.
OURS = re.compile(
    r"\S+: [\d,]+ records|  (read as|captions are|left out:|not read:|the JSON of|\d+ classes) .*"
    r"|\S+: (indexing|counting|converting|hashing) .*|trained a tokenizer of \d+ tokens"
    r"|evaluating step [\d,]+ of \S+|\S+: .* is read as a pattern: .*|warning: .*"
)
# The kinds of lines that libraries print: levels, time stamps, places in code, Python's warnings.
THEIRS = re.compile(
    r"(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b|[IWEF]\d{4} |\d{4}-\d\d-\d\d[ T]|\[[A-Z]\w+\] "
    r"|.*(\w+Warning: |site-packages|\.(py|cc|cpp|h):\d+)"
)


def environment(**more):
    """Of a user who has set nothing: the platform is found, not told."""
    ours = ("JAX_", "XLA_", "TF_", "PYTHONWARNINGS", "MMJAX_", "NO_COLOR", "FORCE_COLOR")
    return {k: v for k, v in os.environ.items() if not k.startswith(ours)} | more


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """Name → what the process printed, of every command."""
    folder = tmp_path_factory.mktemp("output")
    (folder / "clips").mkdir()
    (folder / "clips" / "film.mp4").write_bytes(
        films.film(np.repeat(films.pictures(2), 25, axis=0))
    )
    np.savez(folder / "people.npz", **{f"video/{k}": x for k, x in people.made().items()})

    def run(chain):
        return {
            name: subprocess.run(
                [*MMJAX, *command.split()], cwd=folder, env=environment(), timeout=600,
                capture_output=True, text=True,
            )
            for name, command in chain.items()
        }  # fmt: skip

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(run, CHAINS)
    return one | other | {"folder": folder}


def test_every_command_runs():
    doors = {a.get_default("door") for a in _parsers(options.parser())} - {None, "data", "video"}
    assert doors == set(ALL)


def _parsers(parser):
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for sub in action.choices.values():
                yield sub
                yield from _parsers(sub)


@pytest.mark.parametrize("name", ALL)
def test_only_our_own_lines_are_printed(printed, name):
    done = printed[name]
    busy = 1 if name == "doctor" and "warning" in done.stdout else 0  # the machine may be slow
    assert done.returncode == busy, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert [line for line in done.stderr.splitlines() if not OURS.fullmatch(line)] == []
    if name not in ("completion", "models"):
        assert [line for line in done.stdout.splitlines() if THEIRS.match(line)] == []


@pytest.mark.parametrize("name", WROTE)
def test_at_the_end_it_says_what_it_wrote(printed, name):
    end = "\n".join(printed[name].stdout.splitlines()[-4:])
    assert re.search(f"^{WROTE[name]}", end, re.MULTILINE), end


def test_nothing_is_left_that_was_not_asked_for(printed):
    """Of the doctor's workdir nothing is left."""
    wanted = {"run", "e.json", "huggingface", "open_clip", "sheet.png", "facts.json", "tars"}
    wanted |= {"drop.json", "doctor.json", "plan.json", "embeds", "launch"}
    wanted |= {"clips", "people.npz", "frames", "summary"}
    assert {path.name for path in printed["folder"].iterdir()} == wanted


def test_a_run_says_what_it_is_then_how_it_goes_then_what_to_do_next(printed):
    order = ["62,849 parameters", "step 1/6", "step 6/6", "finished at step 6", "newest checkpoint",
             "next: mmjax eval --workdir=run", "mmjax report --workdir=run"]  # fmt: skip
    lines = printed["train"].stdout.splitlines()
    found = [next(n for n, line in enumerate(lines) if text in line) for text in order]
    assert found == sorted(found)


def test_several_processes_print_no_more(tmp_path):
    """Gloo says in each process, and for each group of devices, that it is connected."""
    done = subprocess.run(
        [sys.executable, LOCAL, "--processes=2", "--devices=2", "--", *MMJAX, "train",
         "--distributed", "--config=pairs:smoke", "--config.total_steps=2", "--workdir=run",
         "--config.mesh.fsdp=2"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [re.sub(r"^\[?\d+\]?:? ", "", line) for line in done.stdout.splitlines()]
    assert "[Gloo]" not in done.stdout + done.stderr
    assert [line for line in lines if THEIRS.match(line)] == []
    assert sum("pairs: 64 records" in line for line in lines + done.stderr.splitlines()) == 1
    assert sum("newest checkpoint: run/checkpoints/2" in line for line in lines) == 1


@pytest.mark.parametrize("no_colour", [True, False])
def test_a_terminal_has_colours_unless_they_are_unwanted(no_colour):
    ours, theirs = pty.openpty()
    more = {"TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if no_colour else {})
    code = "from mmjax import terminal; terminal.console().print('[red]a[/]')"
    subprocess.run([sys.executable, "-c", code], stdout=theirs, env=environment(**more), check=True)
    os.close(theirs)
    said = b""
    try:
        while some := os.read(ours, 4096):
            said += some
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert bool(re.search(rb"\x1b\[[\d;]*3[0-7]m", said)) != no_colour
