"""The demo's own arithmetic: what it reports of a run, restarts included."""

import json
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from demo import run
from mmjax import options
from mmjax.config_file import load_config


def test_training_time_counts_every_interval_of_a_resumed_run(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"batch_size": 10}))
    lines = [
        {"step": 1, "examples_per_second": 5.0},  # 2 s, with compilation
        {"step": 11, "examples_per_second": 100.0},  # 1 s
        {"step": 11, "twitter/image_to_text/R@1": 0.2},  # an evaluation is no training
        {"step": 6, "examples_per_second": 10.0},  # resumed at 5: not a negative interval
        {"step": 16, "examples_per_second": 50.0},  # 2 s
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seconds, speed = run.training_time(tmp_path)
    assert seconds == pytest.approx(5.0)
    assert speed == pytest.approx(210 / 5)


def test_table_shows_both_directions_and_the_groups():
    recall = {"R@1": 0.31, "R@5": 0.5, "R@10": 0.6}
    results = {
        "train_seconds": 300.0,
        "total_seconds": 400.0,
        "examples_per_second": 600.0,
        "heldout": {"image_to_text": recall, "text_to_image": recall, "candidates": 1923},
        "zero_shot": {"top1": 0.4, "top5": 0.8, "classes": 10},
    }
    console = Console(width=120)
    with console.capture() as shown:
        console.print(run.table(results))
    text = shown.get()
    assert "image to text (1,923 labels)" in text
    assert "31.0%" in text
    assert "zero-shot, 10 groups" in text


def test_the_last_lines_say_what_to_do_next(monkeypatch):
    """In short lines, whose commands are right, with the program where the PATH lacks it."""
    for path in ("", str(Path(run.sys.executable).parent)):
        monkeypatch.setenv("PATH", path)
        lines = run.closing(Path("runs/demo"))
        assert all(len(line) < 80 for line in lines)
        text = "\n".join(lines).replace("\\\n", "")
        assert "runs/demo/demo.png" in text
        (notebook,) = re.findall(r"notebooks/\S+\.ipynb", text)
        root = Path(run.__file__).parents[1]
        assert (root / notebook).is_file() or not (root / "notebooks").is_dir()
        commands = [
            shlex.split(line) for line in re.findall(r"(\S*mmjax (?:report|train) .*)", text)
        ]
        doors = set()
        for program, *argv in commands:
            assert Path(program).name == "mmjax"
            assert (program == "mmjax") == bool(path)
            args, rest = options.parse(argv)
            doors.add(args.door)
            if args.door == "train":
                config = load_config(args.config, options.overrides(args, rest, argv))
                assert config.data.train.pairs.path == "captions.csv"
        assert doors == {"report", "train"}
