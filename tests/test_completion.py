"""Completion as a user has it: keys typed into a bash that has read the script."""

import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest
import shtab

from mmjax import completion, options, shipped

PRINT = b"\x01echo :\n"  # to the front of the line, and print what the line has become
TYPED = {
    "mmjax tr\t": "mmjax train",
    "mmjax train --wo\t": "mmjax train --workdir",
    "mmjax train --config=siglip_b\t": "mmjax train --config=siglip_b16",
    "mmjax train --config siglip_b\t": "mmjax train --config siglip_b16",
    "mmjax train --config=pairs:smoke --wo\t": "mmjax train --config=pairs:smoke --workdir",
    "mmjax export --workdir=a --format=bi\t": "mmjax export --workdir=a --format=big_vision",
    "mmjax data conv\t": "mmjax data convert",
    "mmjax data convert a b --to=arr\t": "mmjax data convert a b --to=arrayrecord",
    "mmjax eval --output=resu\t": "mmjax eval --output=results.json",
    "mmjax eval --workdir=ru\t": "mmjax eval --workdir=runs/",
}


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """type(keys) → the line that stands there, in an interactive bash with a folder and a file."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "runs").mkdir()
    (folder / "results.json").touch()
    with (folder / "script").open("w") as file:
        run = [sys.executable, "-m", "mmjax", "completion", "bash"]
        subprocess.run(run, stdout=file, check=True)
    ours, theirs = pty.openpty()
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=theirs, stdout=theirs, stderr=theirs,
        cwd=folder, start_new_session=True, env=os.environ | {"TERM": "dumb", "COLUMNS": "200"},
    )  # fmt: skip
    os.write(ours, b"bind 'set bell-style none'; source ./script\n")

    def typed(keys):
        os.write(ours, keys.encode() + PRINT)
        said, until = "", time.monotonic() + 60
        while not (line := re.search(r"\n:(mmjax[^\r\n]*?) *\r\n", said)):
            assert time.monotonic() < until, said
            if select.select([ours], [], [], 1)[0]:
                said += os.read(ours, 4096).decode()
        return line[1]

    yield typed
    bash.kill()
    bash.wait()
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("keys", TYPED)
def test_bash_completes_commands_options_and_values(shell, keys):
    assert shell(keys) == TYPED[keys]


@pytest.mark.parametrize("shell_name", options.SHELLS)
def test_every_shell_gets_the_commands_and_the_names_of_recipes(shell_name):
    assert shell_name in shtab.SUPPORTED_SHELLS
    text = completion.script(shell_name)
    assert all(name in text for name in (*shipped.recipes(), "inspect", "big_vision"))


def test_zsh_takes_a_value_after_an_equals_sign():
    """_arguments reads --option=[help]:what:(values); another colon would end it."""
    specs = re.findall(r'^ *"\*?(--[a-z-]+=?)\[.*?\](:.*)?"$', completion.script("zsh"), re.M)
    assert len(specs) > 40
    for option, value in specs:
        assert option.endswith("=") == bool(value)
        assert value.count(":") in (0, 2)
