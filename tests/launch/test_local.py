"""The cluster over loopback: processes that join, one that fails, commands that cannot be."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmjax.errors import UserError
from mmjax.parallel import distributed

LAUNCHER = str(Path(__file__).parents[2] / "launch" / "local.py")
JOINED = """
import jax
from mmjax.parallel import distributed
distributed.initialize()
print(jax.process_index(), jax.process_count(), jax.device_count(), jax.local_device_count())
"""
ONE_FAILS = """
import os, sys, time
if os.environ["MMJAX_PROCESS"] == "1":
    sys.exit(3)
time.sleep(600)
"""


def launch(*arguments):
    return subprocess.run(
        [sys.executable, LAUNCHER, *arguments], capture_output=True, text=True, timeout=120
    )


def test_processes_join_with_their_devices():
    done = launch("--processes=2", "--devices=3", "--", sys.executable, "-c", JOINED)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.endswith(" 2 6 3")]
    assert sorted(lines) == ["[0] 0 2 6 3", "[1] 1 2 6 3"]


def test_one_failure_ends_the_job_with_its_status():
    begun = time.monotonic()
    done = launch("--processes=3", "--", sys.executable, "-c", ONE_FAILS)
    assert done.returncode == 3
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("arguments", [(), ("--processes=0", "--", "true"), ("--", "nosuchthing")])
def test_what_cannot_run_is_said(arguments):
    done = launch(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_half_a_job_description_is_said(monkeypatch):
    monkeypatch.setenv("MMJAX_COORDINATOR", "127.0.0.1:1")
    with pytest.raises(UserError, match="MMJAX_PROCESSES is not set"):
        distributed.initialize()
    monkeypatch.setenv("MMJAX_PROCESSES", "two")
    monkeypatch.setenv("MMJAX_PROCESS", "0")
    with pytest.raises(UserError, match="are numbers"):
        distributed.initialize()
