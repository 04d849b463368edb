"""Says where a run hangs: host, step and phase, when nothing has moved for a while."""

import logging
import socket
import sys
import threading
import time
import traceback

import jax

from mmjax.runs.observers import Observer

log = logging.getLogger("mmjax.runs")


class Watchdog(Observer):
    """Told of each phase by `enter`, it logs one that takes longer than `seconds` (0: never)."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._watched = threading.get_ident()
        self._where = (0, "start", time.monotonic())
        self._stop = threading.Event()
        if seconds:
            threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def enter(self, phase: str, step: int) -> None:
        self._where = (step, phase, time.monotonic())

    def close(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        named, patience = None, self._seconds
        while not self._stop.wait(min(self._seconds / 4, 10)):
            step, phase, since = where = self._where
            if where != named:
                patience = self._seconds
            if time.monotonic() - since > patience:
                # Again after twice the time, so that a log shows that it lasts and is not flooded.
                named, patience = where, 2 * patience
                frame = sys._current_frames().get(self._watched)
                log.error(
                    "nothing has moved for %.0f s: host %d (%s), step %d, phase %s; it is at\n%s",
                    time.monotonic() - since, jax.process_index(), socket.gethostname(), step,
                    phase, "".join(traceback.format_stack(frame)[-8:]) if frame else "?",
                )  # fmt: skip
