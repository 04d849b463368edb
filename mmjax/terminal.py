"""What a command prints: its own sentences as they are, and no chatter of libraries."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

OURS = "mmjax"  # the logger of the package
WIDTH = 160  # of a file or a pipe, which cuts no columns


def console(file: TextIO | None = None) -> "Console":
    """Where a command prints what is more than a line; without colours where nobody sees them.

    The stream is stdout unless another is given.
    """
    from rich.console import Console

    found = Console(highlight=False, soft_wrap=True, file=file)
    if not found.is_terminal:
        found.width = WIDTH
    return found


class _Sentences(logging.Handler):
    """Prints records to stderr: those of mmjax as they are, warnings of libraries with their name.

    absl's own handler, and the one that Python makes up on the first record without a handler,
    would put the level and the logger in front of every sentence.
    """

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name.partition(".")[0] == OURS
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"warning: {text}" if ours else f"{record.name}: {text}"
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def sentences() -> Iterator[logging.Handler]:
    """Inside, what is logged is printed for a person to read; the handler's level is the least."""
    handler = _Sentences()
    root, of_data = logging.getLogger(), logging.getLogger("mmjax.data")
    before = of_data.level
    root.addHandler(handler)
    # What was found in the data, and what of it is not read, is said at the start.
    of_data.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        of_data.setLevel(before)
        root.removeHandler(handler)


def keep_stdout() -> None:
    """Gives Python's stdout a descriptor of its own; what C++ writes to descriptor 1 is dropped.

    Gloo, which connects the processes of a job on CPUs, prints a line there for each group of
    devices, and has no switch for it.
    """
    stdout = sys.stdout
    try:
        if not isinstance(stdout, io.TextIOWrapper) or stdout.fileno() != 1:
            return  # of a notebook or a test: C++ does not write there
    except io.UnsupportedOperation:
        return
    stdout.flush()
    sys.stdout = open(  # noqa: SIM115 - it is open as long as the process is
        os.dup(1), "w", encoding=stdout.encoding, errors=stdout.errors,
        buffering=1 if stdout.line_buffering or stdout.write_through else -1,
    )  # fmt: skip
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
