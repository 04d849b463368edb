"""Batches for training: position → record → what the modalities read → columns, run by grain.

The batch of step s is a function of (seed, s) alone: not of hosts, workers, threads or restarts.
"""

import logging
import math
from collections import Counter
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from mmjax.data import packing
from mmjax.data.buckets import Buckets, buckets_of, loaded
from mmjax.data.draw import Draw
from mmjax.data.modalities import Column, Modality, Text
from mmjax.data.order import Address, Order
from mmjax.data.records import BadRecord, Record, Source, read_records
from mmjax.data.sources import KEYS
from mmjax.data.workers import Batch, read_ahead
from mmjax.errors import UserError
from mmjax.schema import entry

log = logging.getLogger("mmjax.data")

TOGETHER = 64  # records to read at once: hides the latency of a store, and keeps memory small
TRIES = 16  # neighbours to try instead of a bad record
FOREVER = 1 << 40  # steps
BAD_WINDOW = 1000  # examples below which the share of bad ones is not judged
MAX_LEFT_OUT = 0.1  # share of the texts that find no room in packed rows
COUNTED = "counted/"  # how columns begin that are counts of a batch, and no columns of it
NAMED = 10_000  # bad records named in the log: memory stays flat


OF_EXAMPLES = {"label": Column((), np.int32), "group": Column((), np.int32)}


def train_columns(modalities: Collection[Modality]) -> dict[str, Column]:
    """The columns of `train_batches`, texts at their full length."""
    columns = dict(OF_EXAMPLES)
    for modality in modalities:
        columns |= modality.columns
    return columns


def train_batches(
    sources: Sequence[Source],
    config: ConfigDict,
    modalities: Collection[Modality],
    *,
    rows: np.ndarray | Mapping[int, np.ndarray],
    start_step: int,
    seen: int = 0,
    lengths: Sequence[Sequence[int]] = (),
    counts: Counter[str] | None = None,
    classes: int = 0,
) -> Generator[Batch]:
    """Endless training batches from step `start_step` on.

    Args:
      sources: the opened `config.data.train`, sorted by name (`open_sources`).
      config: the run's; read are seed, batch_size and data.
      modalities: what the model and its teachers read of a record (`modalities.build`).
      rows: the rows of the global batch to load, any of 0 … batch_size - 1 (of a super-batch where
        there is one); where batches have several sizes (buckets.py), size → those of a batch so
        large.
      start_step: the first step to yield.
      seen: the position in the run's order of the first example of step 0, which is of a later
        phase of the run.
      lengths: of each source, how many tokens the longest caption of a record has (lengths.py).
        Without them a host that loads a part of the batch trims no text.
      counts: if given, is kept up to date: `data/examples` that were loaded here,
        `data/substituted`, those that stood in for one that could not be used, `data/left_out`,
        texts without room in packed rows, `data/special_tokens`, captions that spell one out (not
        counted where rows are packed), and what modalities count, such as `data/boxes_dropped`.
      classes: how many the model tells apart by `label`; 0: nobody learns from labels.

    Yields:
      The columns of the modalities; label int32 [b], -1 if there is none; group int32 [b]: records
      of one group (or, without groups, one record met twice) are positives of each other.
      With data.pack several texts share a row (packing.py).
      Close the iterator to stop the worker processes.

    Raises:
      UserError: a larger share of the examples than data.max_bad had to be substituted, or a label
        is none of the classes.
    """
    every = loaded(config, config.batch_size)
    load = _TrainBatch(
        sources=list(sources),
        buckets=buckets_of(config),
        order=train_order(sources, config),
        modalities=tuple(modalities),
        seed=config.seed,
        copies=config.data.copies,
        rows=rows if isinstance(rows, Mapping) else {every: np.asarray(rows)},
        lengths=tuple(lengths),
        pack=config.data.pack,
        classes=classes,
        seen=seen,
    )
    batches = read_ahead(
        load, start_step, FOREVER, workers=config.data.workers, prefetch=config.data.prefetch
    )
    return _watch(batches, config.data.max_bad, Counter() if counts is None else counts)


def train_order(sources: Sequence[Source], config: ConfigDict) -> Order:
    """Which record is at each position of the run: row r of a step is r behind the first of its
    batch (`buckets_of`); with data.pack texts a row, those of its group of rows (see packing.py)
    begin at pack times that."""
    names = sorted(config.data.train)
    if len(names) != len(sources):
        raise ValueError(f"{len(sources)} sources for {len(names)} entries of data.train")
    specs = [entry(KEYS, config.data.train[name]) for name in names]
    weights = [spec.weight for spec in specs]
    # A block that nobody asked for is the source's own: what its kind reads at once.
    blocks = [
        spec.block or getattr(source, "block", 1)
        for spec, source in zip(specs, sources, strict=True)
    ]
    return Order([len(source) for source in sources], weights, config.seed, blocks)


class Example(NamedTuple):
    """What the modalities read of one record. `problem` says why it stands in for another record,
    "" if it does not."""

    items: tuple[Any, ...]
    label: int
    group: int
    problem: str = ""


@dataclass
class _TrainBatch:
    """step → batch; what each worker process holds."""

    sources: list[Source]
    buckets: Buckets
    order: Order
    modalities: tuple[Modality, ...]
    seed: int
    copies: int  # augmented copies of an example, repeated epoch after epoch; 0: always new ones
    rows: Mapping[int, np.ndarray]  # by the size of the batch
    lengths: Sequence[Sequence[int]]  # source → record → tokens; () where they are not known
    pack: int  # texts a row on average; 0: one, and no more
    classes: int  # that labels may be of; 0: any
    seen: int  # position of the first example of step 0

    def __call__(self, step: int) -> Batch:
        start, (length, size) = self.buckets(step)
        start += self.seen
        if self.pack:
            return self._packed(start, size)
        modalities = [modality.at(length) for modality in self.modalities]
        addresses = [self.order(start + row) for row in self.rows[size]]
        examples: list[Example] = []
        for first in range(0, len(addresses), TOGETHER):
            examples += self._examples(addresses[first : first + TOGETHER], modalities)
        batch = {
            "label": np.array([e.label for e in examples], np.int32),
            "group": np.array([e.group for e in examples], np.int32),
            "substituted": np.array([e.problem for e in examples]),
        }
        longest, counted = self._longest(start, size), dict[str, int]()
        for number, modality in enumerate(modalities):
            items = [e.items[number] for e in examples]
            batch |= modality.batch(items, longest)
            for name, count in modality.counted(items).items():  # of two that read the same, once
                counted[name] = max(count, counted.get(name, 0))
        batch |= {f"{COUNTED}{name}": np.array([count]) for name, count in counted.items()}
        # Teachers read the same texts once more.
        spelled = [modality.spelled(batch) for modality in modalities]
        batch["spelled"] = np.array([max(spelled, default=0)])
        return batch

    def _packed(self, start: int, size: int) -> Batch:
        """A batch of texts, several in a row."""
        (text,), rows = self.modalities, self.rows[size]
        assert isinstance(text, Text)  # packing.check
        batch = {name: np.zeros((len(rows), *c.shape), c.dtype)
                 for name, c in text.columns.items()}  # fmt: skip
        problems, left_out = list[str](), 0
        for group, mine in packing.groups(rows, size):
            first = (start + group.start) * self.pack
            addresses = [self.order(first + number) for number in range(len(group) * self.pack)]
            examples = self._examples(addresses, self.modalities)
            found, without_room = text.packed([e.items[0] for e in examples], len(group))
            for name, column in found.items():
                batch[name][mine] = column[rows[mine] - group.start]
            problems += [e.problem for e in examples]
            left_out += without_room
        return batch | {
            "label": np.full(len(rows), -1, np.int32),
            "group": (-1 - rows).astype(np.int32),  # no row has a positive
            "substituted": np.array(problems),
            "left_out": np.array([left_out]),
        }

    def _examples(self, addresses: list[Address], modalities: Sequence[Modality]) -> list[Example]:
        """Examples whose records are read together, which is what remote sources are quick at."""
        records: dict[Address, Record | BadRecord] = {}
        for number, source in enumerate(self.sources):
            mine = [address for address in addresses if address.source == number]
            records |= zip(mine, read_records(source, [a.index for a in mine]), strict=True)
        return [self._example(address, records[address], modalities) for address in addresses]

    def _example(
        self, address: Address, found: Record | BadRecord, modalities: Sequence[Modality]
    ) -> Example:
        source, problem = self.sources[address.source], ""
        if self.copies:
            address = replace(address, epoch=address.epoch % self.copies)
        for attempt in range(TRIES):
            # The next record of the source stands in for a bad one: fixed, so that every run and
            # every host sees the same.
            there = replace(address, index=(address.index + attempt) % len(source))
            try:
                record = found if attempt == 0 else source[there.index]
                if isinstance(record, BadRecord):
                    raise record
                draw = Draw(self.seed, there, record)
                items = tuple(modality.read(record, draw) for modality in modalities)
            except BadRecord as error:
                problem = problem or f"{source.name}: {error}"
                continue
            if self.classes and not -1 <= record.label < self.classes:
                raise UserError(
                    f"{source.name}: {record.key} has the label {record.label}, and the model "
                    f"tells {self.classes:,} classes apart, 0 … {self.classes - 1}."
                )
            number = sum(self.order.lengths[: there.source]) + there.index
            return Example(items, record.label, record.group_or(number), problem)
        raise UserError(
            f"{problem}, nor can the {TRIES - 1} records after it; are these the right files?"
        )

    def _longest(self, start: int, size: int) -> float | None:
        """Tokens of the longest text of the global batch, as `Modality.batch` takes it."""
        if len(self.rows[size]) == size:
            return None
        if not self.lengths:
            return math.inf  # other hosts hold the other captions, and all must agree
        addresses = map(self.order, range(start, start + size))
        return max(self.lengths[a.source][a.index] for a in addresses)


def _count_spelled(found: int, counts: Counter[str]) -> None:
    if not found:
        return
    if "data/special_tokens" not in counts:
        log.warning(
            "captions spell special tokens out, as <|endoftext|>: they are these tokens, and a "
            "text may be pooled there; data/special_tokens counts such captions"
        )
    counts["data/special_tokens"] += found


def _watch(batches: Generator[Batch], max_bad: float, counts: Counter[str]) -> Generator[Batch]:
    """Takes the column `substituted` out, counts and logs it, and stops when it is too much."""
    named: set[str] = set()
    try:
        for batch in batches:
            loaded = batch.pop("substituted")
            problems = [str(problem) for problem in loaded if problem]
            counts["data/examples"] += len(loaded)
            counts["data/substituted"] += len(problems)
            if "spelled" in batch:
                _count_spelled(int(batch.pop("spelled").sum()), counts)
            for name in [name for name in batch if name.startswith(COUNTED)]:
                counts[f"data/{name.removeprefix(COUNTED)}"] += int(batch.pop(name).sum())
            if "left_out" in batch:
                counts["data/left_out"] += int(batch.pop("left_out").sum())
            seen, bad = counts["data/examples"], counts["data/substituted"]
            for problem in problems:
                if problem not in named and len(named) < NAMED:  # once, not every epoch
                    named.add(problem)
                    log.warning(
                        "%s; replaced by another record (%d replacements so far)", problem, bad
                    )
            if bad > max_bad * max(seen, BAD_WINDOW):
                raise UserError(
                    f"{bad} of {seen} examples could not be used, more than data.max_bad="
                    f"{max_bad:g} allows; the last was {problems[-1]}."
                )
            left_out = counts["data/left_out"]
            if left_out > MAX_LEFT_OUT * max(seen, BAD_WINDOW):
                raise UserError(
                    f"{left_out} of {seen} texts found no room in their rows: set data.pack to "
                    "less, or model.text.context_length to more."
                )
            yield batch
    finally:
        batches.close()
