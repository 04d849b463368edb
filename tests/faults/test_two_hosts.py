"""A host of two that is killed, asked to end, frozen, or alone in seeing damage."""

import os
import shutil
import signal
import time

import pytest
from faulty_config import EVERY, STEPS
from runs import Run, assert_same_end, final

from mmjax.errors import Preempted

pytestmark = pytest.mark.long


def two(workdir, arg="", *overrides, **environ) -> Run:
    return Run(
        workdir, "mesh.fsdp=2", *overrides, processes=2, devices=1, arg=arg, **environ
    )  # fmt: skip


def test_one_host_killed_then_the_coordinator_then_one_asked_to_end(pair, tmp_path):
    workdir = tmp_path / "run"
    run = two(workdir, "slow=0.02")
    run.reach(5)
    os.kill(run.processes()[1], signal.SIGKILL)
    assert run.wait() != 0  # and the launcher has ended the other one
    run = two(workdir, "slow=0.02")
    run.reach(6)
    os.kill(run.processes()[0], signal.SIGKILL)  # the coordinator
    assert run.wait() != 0
    assert f"resuming at step {EVERY}" in run.log
    run = two(workdir, "slow=0.02")
    run.reach(7)
    os.kill(run.processes()[1], signal.SIGTERM)  # both agree on a step to save
    assert run.wait() == Preempted.STATUS
    saved = int(final(workdir)["rest"]["step"])
    assert 7 <= saved < STEPS
    two(workdir).finish()
    assert f"resuming at step {saved}" in run.log
    assert_same_end(workdir, pair)


def test_damage_that_one_host_sees_is_agreed_on_and_a_frozen_host_is_named(pair, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(pair, workdir)
    newest = workdir / "checkpoints" / str(STEPS) / "params"
    (file,) = (newest / "d").iterdir()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    run = two(workdir, "", "log.watchdog=1.0")
    run.wait_for(lambda: f"resuming at step {STEPS - EVERY}" in run.log)
    host = run.processes()[1]
    os.kill(host, signal.SIGSTOP)
    time.sleep(3)
    os.kill(host, signal.SIGCONT)
    run.finish()
    assert f"checkpoint {STEPS} is damaged" in run.log
    assert_same_end(workdir, pair)
    assert "nothing has moved for" in run.log
    assert "host 0 (" in run.log
