"""A run that is asked to end (SIGTERM: preemption, time limit, an operator) saves first."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Notices SIGTERM; `watch` in a `with` statement around the run."""

    def __init__(self) -> None:
        self._asked = False

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Takes SIGTERM over. In a distributed job JAX has, and tells all hosts of it."""
        if jax.distributed.is_initialized() or threading.current_thread() is not (
            threading.main_thread()  # only there may Python set handlers
        ):
            yield
            return
        before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ask(self, *_) -> None:
        self._asked = True

    def reached(self, step: int) -> bool:
        """Whether to save and end after `step`, the same on all hosts; ask after every step."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked
