"""The command line as a user meets it: help, mistakes, exit status."""

import re
import subprocess
import sys
import types

import pytest

from mmjax import cli

CONFIG = """
from mmjax import config as config_lib, models
def get_config(arg=None):
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    config.objectives.clip = config_lib.entry("objectives")
    config.data.train.pairs = config_lib.entry("data.train")
    return config_lib.smoke(config) if arg == "smoke" else config
"""


@pytest.fixture
def config_file(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(CONFIG)
    return str(file)


def fails_with(capsys, *argv):
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def test_module_and_console_script_are_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "mmjax", "train", "--keys"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "config.optim.lr = 0.001" in done.stdout


def test_unknown_key_names_the_nearest(config_file, capsys):
    error = fails_with(capsys, "train", f"--config={config_file}", "--config.optim.lrate=1",
                       "--workdir=w")  # fmt: skip
    assert "config.optim.lrate: there is no such key; the nearest is config.optim.lr" in error


def test_wrong_type_names_the_key(config_file, capsys):
    error = fails_with(capsys, "train", f"--config={config_file}", "--config.optim.lr=fast",
                       "--workdir=w")  # fmt: skip
    assert "config.optim.lr" in error
    assert "fast" in error


def test_missing_config_file(capsys):
    assert "there is no file nowhere.py" in fails_with(
        capsys, "train", "--config=nowhere.py", "--workdir=w"
    )


def test_missing_flags_and_unknown_flags(config_file, capsys):
    assert "needs --config" in fails_with(capsys, "train")
    assert "unrecognized argument --wrkdir=x" in fails_with(capsys, "train", "--wrkdir=x")
    assert "--config.optim.lr=1" in fails_with(
        capsys, "export", "--workdir=w", "--output=o", "--config.optim.lr=1"
    )


@pytest.mark.parametrize("process", [0, 1])
def test_distributed_joins_the_processes_before_training(process, config_file, monkeypatch, capsys):
    from mmjax.parallel import distributed
    from mmjax.training import loop

    calls = []

    def initialize(*given):
        calls.append("join")
        return distributed.Job("host:1", 2, process)

    def train(config, workdir, **_):
        calls.append(workdir)
        return types.SimpleNamespace(step=6)

    monkeypatch.setattr(distributed, "initialize", initialize)
    monkeypatch.setattr(loop, "train", train)
    cli.main(["train", f"--config={config_file}:smoke", "--workdir=w", "--distributed"])
    assert calls == ["join", "w"]
    said = "newest checkpoint: w/checkpoints/6\nnext: mmjax eval --workdir=w --task=TASK"
    assert capsys.readouterr().out.startswith(said) == (process == 0)


@pytest.mark.parametrize("option", ["optim.grad_clip=-1", "log.every=0", "checkpoint.keep=0"])
def test_a_value_outside_of_its_range_stops_before_the_first_step(
    option, config_file, tmp_path, capsys
):
    path, _, value = option.partition("=")
    error = fails_with(
        capsys, "train", f"--config={config_file}:smoke", f"--workdir={tmp_path / 'w'}",
        f"--config.{option}",
    )  # fmt: skip
    assert error.startswith(f"mmjax: config.{path}='{value}' must be a")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("train --processes=0", "argument --processes: '0' must be an integer of 1 or more"),
        ("train --process=-1", "argument --process: '-1' must be an integer of 0 or more"),
        ("doctor --processes=x", "argument --processes: 'x' must be an integer"),
        ("data inspect x --samples=-1", "argument --samples: '-1' must be .* 1 or more, or 0"),
        ("data dedup x --output=y --distance=65", "argument --distance: '65' must be .* 0 to 64"),
        ("data dedup x --output=y --workers=-1", "argument --workers: '-1' must be"),
        ("data convert x y --to=tar --shard_size=0", "argument --shard-size: '0' must be"),
        ("data convert x y --to=tar --label_offset=a", "argument --label-offset: 'a' must be"),
    ],
)
def test_numbers_of_commands_have_ranges_too(argv, said, capsys):
    assert re.search(said, fails_with(capsys, *argv.split()))


def test_how_values_read_is_in_the_help_and_before_the_keys(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    assert 'A tuple\nis written a,b or (a,b) or ["a","b"]' in capsys.readouterr().out
    cli.main(["train", "--keys"])
    keys = capsys.readouterr().out
    assert keys.startswith("0 switches off what a key asks for")
    assert "config.log.every = 50\n      Steps between log lines. An integer of 1 or more." in keys


def test_missing_data(config_file, tmp_path, capsys):
    error = fails_with(
        capsys, "train", f"--config={config_file}", f"--workdir={tmp_path / 'w'}",
        "--config.data.train.pairs.path=nowhere.csv",
    )  # fmt: skip
    assert "nowhere.csv" in error
    assert not (tmp_path / "w").exists()


def test_keys_of_an_evaluator_have_values(capsys):
    assert "--set batch_size: write KEY=VALUE" in fails_with(
        capsys, "eval", "--workdir=w", "--set", "batch_size"
    )


def test_workdir_without_a_run(tmp_path, capsys):
    assert "not a workdir of a run" in fails_with(
        capsys, "export", f"--workdir={tmp_path}", f"--output={tmp_path / 'o'}"
    )


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["train", "--config.data.train.pairs.path=a.tar", "--config.data.train.pairs.path=b.tar"],
         "--config.data.train.pairs.path"),
        (["train", "--workdir=a", "--workdir=a"], "--workdir"),
        (["eval", "--data=a.csv", "--data=b.csv", "--data=c.csv"], "--data"),
        (["eval", "--set", "classes=a", "--set=classes=b"], "--set classes"),
        (["eval", "--batch-size=1", "--set", "batch_size=2"], "--set batch_size"),
        (["data", "inspect", "x", "--caption=a", "--caption=b"], "--caption"),
    ],
)  # fmt: skip
def test_what_is_given_twice_is_refused(argv, name, capsys):
    """As a shell makes of path={00000..00001}.tar that is not in quotes."""
    error = fails_with(capsys, *argv)
    assert re.search(rf"{re.escape(name)} is given [23] times: .* in quotes", error)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("train --batch_size=64", "--batch_size=64; a key of the config is set by --config.batch_"),
        ("train --config.batch_size 64", "--config.batch_size: write --config.batch_size=VALUE"),
        ("models --config.seed=1", "unrecognized argument --config.seed=1: mmjax --help"),
        ("eval --verbose", "unrecognized argument --verbose: mmjax --help"),
    ],
)
def test_how_a_key_is_set_is_said(argv, said, capsys):
    assert said in fails_with(capsys, *argv.split())


def test_keys_of_an_evaluator_are_options_of_eval(monkeypatch, capsys, tmp_path):
    from mmjax import evaluation

    given = {}
    monkeypatch.setattr(evaluation, "evaluate", lambda *args, **keys: given.update(keys) or {})
    cli.main(
        ["eval", "--workdir=w", "--task=knn", "--batch-size=8", "--classes=a=b.txt", "--set", "k=3",
         "--allow-skips", f"--output={tmp_path / 'a.json'}", f"--output={tmp_path / 'b.md'}"]
    )  # fmt: skip
    assert (given["batch_size"], given["classes"], given["k"]) == ("8", "a=b.txt", "3")
    assert given["allow_skips"] == "true"
    assert f"wrote {tmp_path / 'a.json'}\nwrote {tmp_path / 'b.md'}\n" in capsys.readouterr().out


def test_the_values_of_a_config_are_listed(config_file, capsys):
    cli.main(["train", "--keys", f"--config={config_file}", "--config.optim.lr=0.5"])
    lines = capsys.readouterr().out.splitlines()
    assert "* config.optim.lr = 0.5" in lines
    assert "  config.batch_size = 256" in lines
    assert "* config.model.name = 'tiny'" in lines
