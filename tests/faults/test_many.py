"""Fifty kills at random moments of the life of a process, from its first import to its last write.

make test-faults        MMJAX_FAULT_SEED=7 make test-faults    other moments

Two of them are part of make test.
"""

import os
import random
import signal
import time

import pytest
from faulty_config import STEPS
from runs import Run, assert_same_end

SEED = int(os.environ.get("MMJAX_FAULT_SEED", "0"))


def disturb(workdir, rng, kills, **job) -> None:
    """Kills the run at `kills` random moments and starts it again; then lets it finish.

    A moment is a time after the start, or after a step or a checkpoint has begun. Each time either
    everything dies at once, or one host, or one is asked to end.
    """
    for _ in range(kills):
        run = Run(workdir, *job.get("overrides", ()), **job["how"])
        moment = rng.choice(["time", "step", "write"])
        if moment == "time":
            time.sleep(rng.uniform(0, 8))
        else:
            step = min(run.step() + rng.randint(1, 4), STEPS)
            folder = workdir / "checkpoints"
            while run.process.poll() is None and not (
                run.step() >= step if moment == "step" else list(folder.glob("*tmp*"))
            ):
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.05))
        hosts = run.processes() if job["how"].get("processes") else [run.process.pid]
        if run.process.poll() is None and hosts:
            number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            for pid in hosts if rng.random() < 0.5 else [rng.choice(hosts)]:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        status = run.wait()
        assert status != 2, run.log  # no accident may look like a mistake of the user
    Run(workdir, *job.get("overrides", ()), **job["how"]).finish()


def test_two_kills(alone, tmp_path):
    disturb(tmp_path / "run", random.Random(f"two kills {SEED}"), 2, how={"arg": "slow=0.02"})
    assert_same_end(tmp_path / "run", alone)


@pytest.mark.faults_slow
@pytest.mark.parametrize("part", range(4))
def test_one_process(alone, tmp_path, part):
    rng = random.Random(f"one {part} {SEED}")
    disturb(tmp_path / "run", rng, 10, how={"arg": "slow=0.02"})
    assert_same_end(tmp_path / "run", alone)


@pytest.mark.faults_slow
@pytest.mark.parametrize("part", range(2))
def test_two_hosts(pair, tmp_path, part):
    rng = random.Random(f"two {part} {SEED}")
    how = {"arg": "slow=0.02", "processes": 2, "devices": 1}
    disturb(tmp_path / "run", rng, 6, how=how, overrides=["mesh.fsdp=2"])
    assert_same_end(tmp_path / "run", pair)
