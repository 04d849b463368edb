"""Progress bars of an evaluation, with the time that is left: for `mmjax eval`, on the first host.

Library calls and evaluators inside of training show none: only within `shown()` is there a bar.
"""

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

import jax
from rich import progress
from rich.console import Console
from rich.markup import escape

T = TypeVar("T")
_BARS: ContextVar[progress.Progress | None] = ContextVar("bars", default=None)


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Shows the bars of all `track` inside, on stderr; in a notebook, where a bar would need
    ipywidgets, only what is said."""
    columns = (
        progress.TextColumn("{task.description}"), progress.BarColumn(),
        progress.MofNCompleteColumn(), progress.TimeRemainingColumn(),
    )  # fmt: skip
    if jax.process_index() != 0:
        yield
        return
    console = Console(stderr=True)
    off = not console.is_terminal or console.is_jupyter  # a file would get an empty line
    with progress.Progress(*columns, console=console, transient=True, disable=off) as bars:
        token = _BARS.set(bars)
        try:
            yield
        finally:
            _BARS.reset(token)


def say(line: str) -> None:
    """Prints a line on stderr, above the bars; nothing without them."""
    bars = _BARS.get()
    if bars is not None:
        bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


def track(batches: Iterable[T], total: int, batch_size: int, what: str) -> Iterator[T]:
    """The batches as they are; the bar advances by `batch_size` up to `total` as they are taken."""
    bars = _BARS.get()
    if bars is None:
        yield from batches
        return
    task = bars.add_task(escape(what), total=total)
    for number, batch in enumerate(batches):
        bars.update(task, completed=min(number * batch_size, total))
        yield batch
    bars.update(task, completed=total)
