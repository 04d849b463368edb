"""Which records a source has, wherever they lie: a run may go on with the same data elsewhere."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mmjax.data.records import BadRecord, Record, Source, read_records

SAMPLED = 256  # records of a source whose content speaks for it


def identity(source: Source) -> str:
    """A fingerprint of the records in their order: names relative to their common folder, sizes
    and what the index knows of each, but no times and no path.

    A source may have its own, as a method `identity()`. Of another it is how many records there
    are, and captions, label, group and size of some of them, evenly over all.
    """
    own = getattr(source, "identity", None)
    if own is not None:
        return own()
    numbers = np.linspace(0, len(source) - 1, min(SAMPLED, len(source))).astype(int).tolist()
    return digest([len(source), *map(_facts, read_records(source, numbers))])


def digest(parts: Iterable[Any]) -> str:
    """16 hexadecimal digits that tell sequences of strings, numbers, tuples and bytes apart."""
    state = hashlib.sha256()
    for part in parts:
        content = bytes(part) if isinstance(part, bytes | memoryview) else repr(part).encode(
            "utf-8", "surrogateescape"
        )  # fmt: skip
        state.update(len(content).to_bytes(8, "big"))
        state.update(content)
    return state.hexdigest()[:16]


def _facts(record: Record | BadRecord) -> tuple:
    if isinstance(record, BadRecord):
        return ()
    sizes = {field: len(part) for field, part in record.parts.items() if hasattr(part, "__len__")}
    return record.captions, record.label, record.group, sorted(sizes.items())


def common_folder(paths: Sequence[str]) -> str:
    """The folder, with its slash, that all paths lie in; "" if there is none."""
    low, high = min(paths), max(paths)
    same = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))
    return low[: low.rfind("/", 0, same) + 1]


def relative(paths: Sequence[str]) -> list[str]:
    """Paths as they are called in their common folder."""
    start = len(common_folder(paths))
    return [path[start:] for path in paths]
