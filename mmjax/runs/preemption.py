"""A run that is asked to end (preemption, time limit, an operator, Ctrl-C) saves first."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils


class Preemption:
    """Notices SIGTERM and the first Ctrl-C; `watch` in a `with` statement around the run.

    A second Ctrl-C raises KeyboardInterrupt. `by`: the signal that asked, None before.
    """

    by: signal.Signals | None = None

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Takes the signals over. In a distributed job JAX has SIGTERM, and tells all hosts of it:
        there Ctrl-C is passed on as one."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set handlers
            return
        taken = [signal.SIGINT]
        if not jax.distributed.is_initialized():
            taken.append(signal.SIGTERM)
        before = {number: signal.signal(number, self._ask) for number in taken}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, _) -> None:
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            message = "\nstopping: saves after this step (Ctrl-C again to quit without saving)\n"
            os.write(2, message.encode())  # print may be in the middle of a line
        if jax.distributed.is_initialized():
            os.kill(os.getpid(), signal.SIGTERM)
        self.by = signal.Signals(number)

    def reached(self, step: int) -> bool:
        """Whether to save and end after `step`, the same on all hosts; ask after every step."""
        if jax.distributed.is_initialized():
            return multihost_utils.reached_preemption_sync_point(step)
        return self.by is not None
