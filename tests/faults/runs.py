"""Runs of `faulty_config` as processes that a test can watch and kill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

HERE = Path(__file__).parent
LOCAL = HERE.parents[1] / "launch" / "local.py"
TIMEOUT = 300.0


class Run:
    """`mmjax train` in `workdir`, in one process, or in several through launch/local.py."""

    def __init__(self, workdir, *overrides, processes=1, devices=2, arg="", **environ):
        command = [
            sys.executable, "-m", "mmjax", "train", f"--config={HERE / 'faulty_config.py'}"
            + (f":{arg}" if arg else ""), f"--workdir={workdir}",
            *(f"--config.{override}" for override in overrides),
        ]  # fmt: skip
        variables = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONUNBUFFERED": "1"}
        if processes > 1:
            cluster = [f"--processes={processes}", f"--devices={devices}", "--"]
            command = [sys.executable, str(LOCAL), *cluster, *command, "--distributed"]
            variables["MMJAX_HEARTBEAT"] = "60"
        self.workdir = Path(workdir)
        self._log = Path(f"{workdir}.log")
        self.process = subprocess.Popen(
            command, env=variables | environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._log.open("ab", buffering=0) as log:
            for line in self.process.stdout:
                log.write(line)

    @property
    def log(self) -> str:
        """What all runs in this workdir have printed."""
        return self._log.read_text() if self._log.exists() else ""

    def wait(self) -> int:
        """The exit status, as a shell reports it."""
        try:
            status = self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running after {TIMEOUT} s:\n{self.log}") from None
        self._reader.join(timeout=5)
        return status if status >= 0 else 128 - status

    def finish(self) -> None:
        assert self.wait() == 0, self.log

    def step(self) -> int:
        """The last step that metrics.jsonl tells of."""
        lines = metrics(self.workdir)
        return lines[-1]["step"] if lines else 0

    def wait_for(self, condition) -> None:
        """Returns when `condition()` holds; the run must still go on."""
        until = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.poll()}:\n{self.log}"
            assert time.monotonic() < until, self.log
            time.sleep(0.005)

    def reach(self, step: int) -> None:
        self.wait_for(lambda: self.step() >= step)

    def processes(self) -> list[int]:
        """Process ids of the hosts, by number."""
        found = {}
        for pid in children(self.process.pid):
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            number = next(v for v in variables if v.startswith(b"MMJAX_PROCESS="))
            found[int(number.partition(b"=")[2])] = pid
        return [found[number] for number in sorted(found)]

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Signals the process, or the launcher, and returns the exit status."""
        self.process.send_signal(number)
        return self.wait()


def children(pid: int, command: bytes = b"") -> list[int]:
    """The processes that `pid` started, those with `command` in their command line."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for task in tasks for child in task.read_text().split()]
    return [child for child in found if command in Path(f"/proc/{child}/cmdline").read_bytes()]


def metrics(workdir) -> list[dict]:
    """The complete lines of metrics.jsonl."""
    path = Path(workdir) / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses(workdir) -> dict[int, float]:
    """Step → loss; a step that was done again must have had the same."""
    found: dict[int, float] = {}
    for line in metrics(workdir):
        if "loss" not in line:  # the last line of a process tells where its time went
            continue
        assert found.setdefault(line["step"], line["loss"]) == line["loss"], line
    return found


def final(workdir):
    """All arrays of the newest checkpoint, on the host."""
    folder = Path(workdir).absolute() / "checkpoints"
    step = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    handler = ocp.PyTreeCheckpointHandler()
    found = {}
    for item in ("params", "rest"):
        path = folder / str(step) / item
        tree = handler.metadata(path).tree
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        found[item] = handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=numpy))
    return found


def assert_same_end(workdir, other) -> None:
    """The same final step and the same bits in every array, and the same loss at every step."""
    ours, theirs = final(workdir), final(other)
    assert int(ours["rest"]["step"]) == int(theirs["rest"]["step"])
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert losses(workdir) == losses(other)
