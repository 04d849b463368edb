"""Goodput: the share of a run's wall time in steps that count, and what the rest went to.

Each log line says where the time since the line before went (`seconds/CAUSE`). From these lines in
metrics.jsonl the account of a run is made, over all its restarts; nothing else is kept.
"""

import contextlib
import json
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from etils import epath

from mmjax.runs.observers import Observer

CAUSES = {
    "steps": "steps that count",
    "start": "from the start of a process to the end of its first step: restoring, compiling",
    "data": "devices idle, waiting for a batch",
    "eval": "evaluation",
    "save": "saving that blocked the loop",
    "profile": "starting and writing a trace",
    "lost": "steps that a restart did again",
    "away": "between two processes: dead, in a queue, or not yet at its first line",
}


class Clock(Observer):
    """Where the time of this process goes; the rest of it is in steps.

    A step that was sent to the devices is computed while the loop goes on, so waiting for a batch
    costs only what is left of the wait once the devices have nothing more to do. A thread notices
    when that is.
    """

    def __init__(self) -> None:
        self._account = Account()
        self._began = 0.0
        self.idle = 0.0  # seconds of the last wait for a batch
        self._last = time.perf_counter()
        self._spent: dict[str, float] = defaultdict(float)
        self._starting = True
        self._steps: queue.SimpleQueue[jax.Array | None] = queue.SimpleQueue()
        self._sent = self._done = 0
        self._done_at = 0.0

    def resume(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Goodput counts these log lines of the run so far, too."""
        self._account = Account(rows)

    def enter(self, phase: str, step: int) -> None:
        self._began = time.perf_counter()

    def leave(self, phase: str, step: int, result: Any) -> None:
        cause = phase.partition(" ")[0]
        if cause == "data":
            self.idle = self.waited(self._began)
        elif cause == "step":
            self.sent(result[0]["loss"])
        else:
            self._spent[cause] += time.perf_counter() - self._began

    @contextlib.contextmanager
    def spend(self, cause: str) -> Iterator[None]:
        """The time in the `with` block goes to `cause`; the devices should be done with steps."""
        begun = time.perf_counter()
        yield
        self._spent[cause] += time.perf_counter() - begun

    def sent(self, result: jax.Array) -> None:
        """A step was sent to the devices; `result` is there when they are done with it."""
        if not self._sent:
            threading.Thread(target=self._watch, daemon=True, name="goodput").start()
        self._sent += 1
        self._steps.put(result)

    def waited(self, since: float) -> float:
        """Seconds that the devices were idle while the loop waited for a batch since `since`, of
        time.perf_counter()."""
        if self._done < self._sent:
            return 0.0
        idle = time.perf_counter() - max(since, self._done_at)
        self._spent["data"] += idle
        return idle

    def read(self, step: int) -> dict[str, float]:
        """`time`, `seconds/CAUSE` since the line before, and the goodput of the whole run."""
        now = time.perf_counter()
        total, self._last = now - self._last, now
        spent = {"start": total} if self._starting else self._spent
        spent["steps"] = max(0.0, total - sum(spent.values()))
        self._spent, self._starting = defaultdict(float), False
        found = {"time": time.time()} | {f"seconds/{cause}": s for cause, s in spent.items()}
        self._account.add({"step": step, **found})
        return {**found, "goodput": self._account.goodput()}

    def close(self) -> None:
        self._steps.put(None)

    def _watch(self) -> None:
        while (result := self._steps.get()) is not None:
            with contextlib.suppress(Exception):  # a step that failed is the loop's to report
                result.block_until_ready()
            self._done_at = time.perf_counter()
            self._done += 1


class Account:
    """The seconds of a run by cause, from its log lines in the order in which they were written.

    Attributes:
      seconds: cause → seconds, all of CAUSES.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()):
        self.seconds: dict[str, float] = dict.fromkeys(CAUSES, 0.0)
        self._spans: list[tuple[int, int, float]] = []  # after which step, to which, seconds
        self._step, self._time = 0, 0.0  # of the last line
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts one more line; one without times is passed over."""
        if "time" not in row:
            return
        found = {cause: row.get(f"seconds/{cause}", 0.0) for cause in CAUSES}
        if "seconds/start" in row:  # the first line of a process, after its first step
            begun = row["time"] - sum(found.values())
            if self._time:
                self.seconds["away"] += max(0.0, begun - self._time)
            self._lose(row["step"] - 1)
            self._step = row["step"] - 1
        for cause, seconds in found.items():
            self.seconds[cause] += seconds
        if row["step"] > self._step:
            self._spans.append((self._step, row["step"], found["steps"]))
        self._step, self._time = row["step"], row["time"]

    def goodput(self) -> float:
        """The share of the time in steps that count; 0 before the first."""
        total = sum(self.seconds.values())
        return self.seconds["steps"] / total if total else 0.0

    def _lose(self, restored: int) -> None:
        """What came after step `restored` is done again."""
        kept = []
        for begin, end, seconds in self._spans:
            share = max(0, end - max(begin, restored)) / (end - begin)
            self.seconds["lost"] += share * seconds
            self.seconds["steps"] -= share * seconds
            if begin < restored:
                kept.append((begin, min(end, restored), (1 - share) * seconds))
        self._spans = kept


def read_rows(workdir: epath.Path) -> list[dict[str, Any]]:
    """The lines of WORKDIR/metrics.jsonl as they were written; [] if there are none.

    A line that a killed process left half-written is passed over.
    """
    path = workdir / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows
