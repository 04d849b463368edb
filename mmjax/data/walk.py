"""Batches for evaluation: every record of a source once, in order, nothing random, nothing skipped.

The last batch is padded with rows whose `mask` is False; every host yields the same number of
batches, each its own rows. What cannot be read is marked and not raised: the other hosts, which
read other rows, have to hear of it.
"""

import math
from collections.abc import Collection, Generator, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmjax.data.modalities import Modality
from mmjax.data.records import BadRecord, Source
from mmjax.data.workers import Batch, read_ahead

PREFETCH = 4


def eval_batches(
    source: Source,
    modalities: Collection[Modality],
    *,
    batch_size: int,
    rows: np.ndarray,
    workers: int = 0,
) -> Generator[Batch]:
    """All records in order.

    Args:
      source: what to walk.
      modalities: what is read of a record; the other fields are not even decoded.
      batch_size: rows of the global batch.
      rows: the rows of the global batch to load here.
      workers: worker processes; 0 reads with threads.

    Yields:
      The columns of the modalities; label int32 [b], -1 if there is none; group int32 [b], the
      record's, or without one a negative number of its own; index int32 [b], the record's number;
      mask bool [b], False on padding rows; unreadable bool [b], True where the record cannot be
      read (its columns are blank): see `why_unreadable`.
    """
    load = _EvalBatch(source, tuple(modalities), batch_size, np.asarray(rows))
    steps = -(-len(source) // batch_size)
    return read_ahead(load, 0, steps, workers=workers, prefetch=PREFETCH)


def why_unreadable(source: Source, number: int, modalities: Iterable[Modality]) -> str:
    """What is wrong with a record that was unreadable, by name."""
    try:
        record = source[number]
        for modality in modalities:
            modality.read(record, None)
    except BadRecord as error:
        return str(error)
    return f"{record.key} could not be read a moment ago"


@dataclass
class _EvalBatch:
    """step → batch; what each worker process holds."""

    source: Source
    modalities: tuple[Modality, ...]
    batch_size: int
    rows: np.ndarray

    def __call__(self, step: int) -> Batch:
        numbers = step * self.batch_size + self.rows
        mask = numbers < len(self.source)
        batch = {
            "label": np.full(len(numbers), -1, np.int32),
            "group": np.full(len(numbers), -1, np.int32),
            "index": np.where(mask, numbers, 0).astype(np.int32),
            "mask": mask,
            "unreadable": np.zeros(len(numbers), bool),
        }
        items: list[list[Any]] = [[None] * len(numbers) for _ in self.modalities]
        for row in np.flatnonzero(mask):
            number = int(numbers[row])
            try:
                record = self.source[number]
                found = [modality.read(record, None) for modality in self.modalities]
            except BadRecord:
                batch["unreadable"][row] = True
                continue
            batch["label"][row], batch["group"][row] = record.label, record.group_or(number)
            for column, item in zip(items, found, strict=True):
                column[row] = item
        for modality, column in zip(self.modalities, items, strict=True):
            batch |= modality.batch(column, math.inf)
        return batch
