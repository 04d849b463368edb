"""What watches a run, on one interface: where the time goes, speed, traces, hangs, logs."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any


class Observer:
    """Told of a run's phases and of what is logged; whatever it does not care for does nothing.

    A phase is "data" (waiting for a batch), "step" (sending one to the devices), "eval NAME" or
    "save".
    """

    def enter(self, phase: str, step: int) -> None:
        """The run moves on to a phase of `step`."""

    def leave(self, phase: str, step: int, result: Any) -> None:
        """The phase is over; `result`: of "step" (metrics, batch), both of the devices."""

    def read(self, step: int) -> dict[str, float]:
        """What it has to say in a log line, for the interval since the last one."""
        return {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the values of a log line, or of evaluations."""

    def close(self) -> None:
        """The run is over."""


class Observers(Observer):
    """Several as one, told in their order."""

    def __init__(self, *observers: Observer):
        self._all = observers

    @contextlib.contextmanager
    def phase(self, name: str, step: int) -> Iterator[list[Any]]:
        """A phase is what runs in the `with` block, which may put its result into the list."""
        result: list[Any] = []
        for observer in self._all:
            observer.enter(name, step)
        yield result
        for observer in self._all:
            observer.leave(name, step, result[0] if result else None)

    def read(self, step: int) -> dict[str, float]:
        return {name: x for observer in self._all for name, x in observer.read(step).items()}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for observer in self._all:
            observer.log(step, values)

    def close(self) -> None:
        with contextlib.ExitStack() as cleanup:
            for observer in self._all:
                cleanup.callback(observer.close)
