"""One process that is killed, asked to end, out of disk, or not alone; then the same command."""

import os
import random
import resource
import shutil
import signal

import pytest
from faulty_config import EVERY, STEPS
from runs import Run, assert_same_end, children, final, losses

from mmjax.errors import Preempted

long = pytest.mark.long  # make test has one of these, and test_many.py


@long
def test_killed_then_asked_to_end_then_finished(alone, tmp_path):
    workdir, rng = tmp_path / "run", random.Random(1)
    run = Run(workdir, arg="slow=0.02")
    run.reach(rng.randint(1, 5))
    assert run.kill() == 128 + signal.SIGKILL
    run = Run(workdir, arg="slow=0.02")
    run.reach(7)
    assert run.kill(signal.SIGTERM) == Preempted.STATUS
    saved = int(final(workdir)["rest"]["step"])
    assert 7 <= saved < STEPS  # where it was, not the multiple of EVERY before
    assert f"Stopped by SIGTERM; saved step {saved}" in run.log
    Run(workdir).finish()
    assert f"resuming at step {saved}" in run.log
    assert_same_end(workdir, alone)


def test_ctrl_c_saves_and_says_so_and_a_second_one_ends_at_once(alone, tmp_path):
    """As a terminal sends it: to the run and to its data workers."""
    workdir = tmp_path / "run"
    run = Run(workdir, "data.workers=1", arg="slow=0.02")
    run.reach(2)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.wait() == Preempted.INTERRUPTED
    saved = int(final(workdir)["rest"]["step"])
    assert 2 <= saved < STEPS
    assert f"Stopped by SIGINT; saved step {saved}" in run.log
    run = Run(workdir, "data.workers=1", arg="slow=9")  # no step will ever end
    run.wait_for(lambda: f"resuming at step {saved}" in run.log)
    run.wait_for(lambda: children(run.process.pid, b"spawn_main"))  # it ignores no signal yet
    os.killpg(run.process.pid, signal.SIGINT)
    run.wait_for(lambda: run.log.count("Ctrl-C again to quit") == 2)
    os.killpg(run.process.pid, signal.SIGINT)
    assert run.wait() == Preempted.INTERRUPTED
    assert "mmjax: interrupted" in run.log
    assert "Traceback" not in run.log
    Run(workdir).finish()
    assert_same_end(workdir, alone)


def test_killed_in_the_middle_of_a_checkpoint(alone, tmp_path):
    workdir = tmp_path / "run"
    run = Run(workdir)
    folder = workdir / "checkpoints"
    run.wait_for(lambda: list(folder.glob(f"{EVERY}.orbax-checkpoint-tmp*")))
    run.kill()
    assert not (folder / str(EVERY)).exists()
    Run(workdir).finish()
    assert_same_end(workdir, alone)
    assert not list(folder.glob("*tmp*"))


@long
def test_disk_full_while_saving_then_space(alone, tmp_path):
    workdir = tmp_path / "run"
    run = Run(workdir, arg="slow=0.02")
    run.wait_for(lambda: (workdir / "checkpoints" / str(EVERY)).exists())
    written = (workdir / "metrics.jsonl").stat().st_size
    # The kernel refuses what is beyond this size, as it does on a full disk.
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (written + 8192, written + 8192))
    assert run.wait() == 2
    (error,) = [line for line in run.log.splitlines() if line.startswith("mmjax: ")]
    assert error.startswith("mmjax: A checkpoint could not be written to")
    assert "the same command goes on" in error
    Run(workdir).finish()
    assert f"resuming at step {EVERY}" in run.log
    assert_same_end(workdir, alone)


@pytest.mark.faults_slow  # in one process: tests/runs/test_checkpoint.py
@pytest.mark.parametrize("damage", ["truncated", "one bit"])
def test_damaged_newest_checkpoint(alone, tmp_path, damage):
    workdir = tmp_path / "run"
    shutil.copytree(alone, workdir)
    newest = workdir / "checkpoints" / str(STEPS)
    (file,) = (newest / "params" / "d").iterdir()
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 8
    file.write_bytes(content)
    run = Run(workdir)
    run.finish()
    assert f"checkpoint {STEPS} is damaged" in run.log
    assert f"resuming at step {STEPS - EVERY}" in run.log
    assert [p.name for p in (workdir / "checkpoints" / "unreadable").iterdir()] == [str(STEPS)]
    assert_same_end(workdir, alone)


@pytest.mark.faults_slow  # the lock alone: tests/runs/test_lock.py
def test_second_job_on_a_workdir_is_told_of_the_first(tmp_path):
    workdir = tmp_path / "run"
    first = Run(workdir, arg="slow=0.2")
    first.wait_for(lambda: (workdir / "lock.json").exists() and first.step() > 0)
    before = losses(workdir)
    second = Run(workdir)
    assert second.wait() == 2
    assert f"is in use by process {first.process.pid} of " in second.log
    assert before.items() <= losses(workdir).items()
    first.kill()


@long
def test_loader_process_killed(alone, tmp_path):
    workdir = tmp_path / "run"
    run = Run(workdir, "data.workers=1", arg="slow=0.05")
    run.reach(2)
    for pid in children(run.process.pid, b"spawn_main"):
        os.kill(pid, signal.SIGKILL)
    run.finish()
    assert "Starting new ones." in run.log
    assert_same_end(workdir, alone)
