"""XProf traces of a few steps: what the devices and the host did, for TensorBoard's profiler."""

import dataclasses
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
from etils import epath

from mmjax.errors import UserError
from mmjax.runs.goodput import Clock
from mmjax.runs.observers import Observer

log = logging.getLogger("mmjax.runs")
FOLDER = "profile"


@dataclasses.dataclass(frozen=True)
class Profile:
    """The keys of `config.profile`.

    Attributes:
      steps: FIRST:END, as 10:15: the XProf trace of the steps from FIRST up to, without, END goes
        into WORKDIR/profile; '': none.
    """

    steps: str = ""


class Profiler(Observer):
    """Traces the steps FIRST … END - 1 of `steps`, written "FIRST:END", into WORKDIR/profile.

    Every host writes its own file. Of steps that were done before a restart there is no trace.
    """

    def __init__(self, steps: str, workdir: epath.Path, clock: Clock):
        self._first, self._end = parse(steps)
        self._folder, self._clock = workdir / FOLDER, clock
        self._tracing = ""

    def enter(self, phase: str, step: int) -> None:
        if phase == "step" and step == self._first:
            # The profiler writes to this machine only.
            remote = "://" in str(self._folder)
            self._tracing = tempfile.mkdtemp() if remote else str(self._folder)
            with self._clock.spend("profile"):
                jax.profiler.start_trace(self._tracing)

    def leave(self, phase: str, step: int, result: Any) -> None:
        if phase == "step" and self._tracing and step == self._end - 1:
            jax.block_until_ready(result[0])
            with self._clock.spend("profile"):
                self.close()

    def close(self) -> None:
        """Writes the trace of a run that ends before its last step was traced."""
        if not self._tracing:
            return
        jax.profiler.stop_trace()
        if self._tracing != str(self._folder):
            for file in Path(self._tracing).rglob("*"):
                if file.is_file():
                    target = self._folder / str(file.relative_to(self._tracing))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(file.read_bytes())
            shutil.rmtree(self._tracing)
        self._tracing = ""
        log.info("the trace is in %s: tensorboard --logdir=%s", self._folder, self._folder)


def parse(steps: str) -> tuple[int, int]:
    """(FIRST, END) of "FIRST:END"; (0, 0) of "". UserError: it is anything else."""
    if not steps:
        return 0, 0
    first, _, end = steps.partition(":")
    if not (first.isdigit() and end.isdigit() and 1 <= int(first) < int(end)):
        raise UserError(
            f"config.profile.steps={steps!r} should be FIRST:END with 1 <= FIRST < END, as 10:15."
        )
    return int(first), int(end)
