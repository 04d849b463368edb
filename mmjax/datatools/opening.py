"""What the tools read, and the bar that shows how far they are."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rich import progress
from rich.console import Console
from rich.markup import escape

from mmjax.data import sources
from mmjax.schema import find

T = TypeVar("T")


def spec_of(path: str | Path, keys: Mapping[str, Any]) -> dict[str, Any]:
    """What `open_source` takes, of a path and other keys of a source, as values or as texts.

    Raises:
      UserError: there is no such key, or it cannot have that value.
    """
    spec: dict[str, Any] = {"path": str(path)}
    for key, value in keys.items():
        where = f"data.train.data.{key}"
        spec[key] = find(sources.KEYS, where).parse(where, value)
    return spec


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """The items; on a terminal a bar says how many of them are done."""
    console = Console(stderr=True)
    return progress.track(
        items, escape(what), total, console=console, disable=not console.is_terminal
    )
