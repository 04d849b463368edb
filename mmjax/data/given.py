"""What a program gives a model, as columns of a batch: files, bytes, arrays, clips."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mmjax import paths
from mmjax.data.modalities import Modality
from mmjax.data.records import BadRecord, Record
from mmjax.data.videos import Clip
from mmjax.data.workers import Batch
from mmjax.errors import UserError


def alone(given: Any, dimensions: int) -> bool:
    """Whether this is one thing to show and not several: a path, bytes, a clip or an array of so
    many dimensions."""
    if isinstance(given, np.ndarray):
        return given.ndim == dimensions
    return isinstance(given, str | Path | bytes) or hasattr(given, "_fields")  # Clip, Waveform


def read_given(
    given: Sequence[Any], modality: Modality, medium: str, called: str, first: int = 0
) -> Batch:
    """The columns [N, …] of a modality, of what it reads without a draw.

    Args:
      given: stored forms of the field `medium` of a record (`Record`), and paths.
      modality: reads them, with a thread a core.
      medium: the field.
      called: what they are called in messages, with the number of each.
      first: the number of the first.

    Raises:
      UserError: one cannot be read or is of a type that none is.
    """

    def read(number: int) -> Any:
        stored, key = _typed(given[number]), f"{called}[{first + number}]"
        name = stored.data if isinstance(stored, Clip) else stored
        named = f"{key}, {name}," if isinstance(name, str) else key
        try:
            return modality.read(Record(named, {medium: stored}), None)
        except BadRecord as error:
            raise UserError(f"{error}.") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"{key} is of type {type(stored).__name__}: give the path or the bytes of a file, "
                "a Clip of one, or an array as mmjax.data.from_records takes it."
            ) from error

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return modality.batch(list(threads.map(read, range(len(given)))))


def _typed(stored: Any) -> Any:
    """With the path as it was typed, such as ~/clip.mp4, made whole."""
    if isinstance(stored, Clip):
        return stored._replace(data=_typed(stored.data))
    return paths.typed(str(stored)) if isinstance(stored, str | Path) else stored
