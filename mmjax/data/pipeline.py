"""Batches for training: position → record → augmented image and tokens → batch, run by grain.

The batch of step s is a function of (seed, s) alone: not of hosts, workers, threads or restarts.
Teachers add columns of their own (`Columns`).
"""

import functools
import logging
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from ml_collections import ConfigDict

from mmjax.data import packing
from mmjax.data.augment import Augment
from mmjax.data.examples import Columns, Example, Views, group_of
from mmjax.data.images import MAX_PIXELS
from mmjax.data.order import Address, Order
from mmjax.data.records import BadRecord, Record, Source, read_records
from mmjax.data.segments import Segments
from mmjax.data.tokenize import Tokenizer
from mmjax.data.workers import Batch, read_ahead
from mmjax.errors import UserError

log = logging.getLogger("mmjax.data")

TOGETHER = 64  # records to read at once: hides the latency of a store, and keeps memory small
TRIES = 16  # neighbours to try in place of a bad record
FOREVER = 1 << 40  # steps
BAD_WINDOW = 1000  # examples below which the share of bad ones is not judged
MAX_LEFT_OUT = 0.1  # share of the texts that find no room in packed rows
NAMED = 10_000  # bad records named in the log: memory stays flat


def train_batches(
    sources: Sequence[Source],
    config: ConfigDict,
    tokenizer: Tokenizer,
    *,
    rows: np.ndarray,
    start_step: int,
    columns: Sequence[Columns] = (),
    lengths: Sequence[Sequence[int]] = (),
    counts: Counter[str] | None = None,
) -> Generator[Batch]:
    """Endless training batches from step `start_step` on.

    Args:
      sources: the opened `config.data.train`, sorted by name (`open_sources`).
      config: the run's; read are seed, batch_size, model.image.size, model.text.context_length
        and data.
      tokenizer: for the captions.
      rows: the rows of the global batch to load, any of 0 … batch_size - 1.
      start_step: the first step to yield.
      columns: what adds to the batch.
      lengths: of each source, how many tokens the longest caption of a record has (lengths.py).
        Without them a host that loads a part of the batch trims no text.
      counts: if given, is kept up to date: `data/examples` that were loaded here,
        `data/substituted`, those that stood in for one that could not be used, and `data/left_out`,
        texts without room in packed rows.

    Yields:
      image uint8 [b, S, S, 3] where the model has an image tower, or regions float32 [b, R, F] and
      regions_mask bool [b, R] where it reads those; text int32 [b, L], text_mask bool [b, L], the
      tags at its end where it reads any; group int32 [b]: records of one group (or, without groups,
      one record met twice) are positives of each other. With data.pack also text_segment int32
      [b, L] (packing.py).
      Close the iterator to stop the worker processes.

    Raises:
      UserError: a larger share of the examples than data.max_bad had to be substituted.
    """
    augment, limit = Augment(**config.data.augment), config.data.get("max_pixels", MAX_PIXELS)
    segments = Segments.of(config.model)
    pictures = "image" in config.model.get("towers", ("image", "text")) and not segments.regions
    load = _TrainBatch(
        sources=list(sources),
        order=train_order(sources, config),
        tokenizer=tokenizer,
        views=Views(config.seed, augment, config.data.copies, limit, segments),
        batch_size=config.batch_size,
        rows=np.asarray(rows),
        image_size=config.model.image.size if pictures else 0,
        text_length=config.model.text.context_length,
        text_lengths=tuple(config.data.text_lengths),
        columns=tuple(columns),
        lengths=tuple(lengths),
        pack=config.data.get("pack", 0),
    )
    batches = read_ahead(
        load, start_step, FOREVER, workers=config.data.workers, prefetch=config.data.prefetch
    )
    return _watch(batches, config.data.max_bad, Counter() if counts is None else counts)


def train_order(sources: Sequence[Source], config: ConfigDict) -> Order:
    """Which record is at each position of the run: row r of step s is at s · batch_size + r; with
    data.pack texts a row, those of its group of rows (see packing.py) begin at pack times that."""
    names = sorted(config.data.train)
    if len(names) != len(sources):
        raise ValueError(f"{len(sources)} sources for {len(names)} entries of data.train")
    specs = [config.data.train[name] for name in names]
    weights = [spec.get("weight", 1.0) for spec in specs]
    # A block that nobody asked for is the source's own: what its kind reads at once.
    blocks = [
        spec.get("block", 0) or getattr(source, "block", 1)
        for spec, source in zip(specs, sources, strict=True)
    ]
    return Order([len(source) for source in sources], weights, config.seed, blocks)


@dataclass
class _TrainBatch:
    """step → batch; what each worker process holds."""

    sources: list[Source]
    order: Order
    tokenizer: Tokenizer
    views: Views
    batch_size: int
    rows: np.ndarray
    image_size: int  # 0: no images
    text_length: int
    text_lengths: tuple[int, ...]
    columns: tuple[Columns, ...]
    lengths: Sequence[Sequence[int]]  # source → record → tokens; () where they are not known
    pack: int  # texts a row on average; 0: one, and no more

    def __call__(self, step: int) -> Batch:
        if self.pack:
            return self._packed(step)
        addresses = [self.order(step * self.batch_size + row) for row in self.rows]
        examples: list[Example] = []
        for first in range(0, len(addresses), TOGETHER):
            examples += self._examples(addresses[first : first + TOGETHER])
        captions, tags = [e.caption for e in examples], [e.record.tags for e in examples]
        encode = functools.partial(self.views.segments.encode, self.tokenizer, captions, tags)
        text, mask = encode(self.text_length)
        length = self._length(step, mask)
        if mask[:, length:].any():  # another record stands in, and its text is longer
            text, mask = encode(length)
        batch = {
            "text": np.ascontiguousarray(text[:, :length]),
            "text_mask": np.ascontiguousarray(mask[:, :length]),
            "group": np.array([e.group for e in examples], np.int32),
            "substituted": np.array([e.problem for e in examples]),
        }
        if self.image_size:
            batch["image"] = np.stack([e.image for e in examples])
        if self.views.segments.regions:
            found = [e.regions for e in examples if e.regions is not None]
            batch["regions"], batch["regions_mask"] = map(np.stack, zip(*found, strict=True))
        for columns in self.columns:
            batch |= columns(examples, self.views.transform)
        return batch

    def _packed(self, step: int) -> Batch:
        """A batch of texts, several in a row."""
        shape, problems, left_out = (len(self.rows), self.text_length), list[str](), 0
        batch = {
            "text": np.zeros(shape, np.int32),
            "text_mask": np.zeros(shape, bool),
            "text_segment": np.zeros(shape, np.int32),
            "group": (-1 - self.rows).astype(np.int32),  # no row has a positive
        }
        for group, mine in packing.groups(self.rows, self.batch_size):
            first = (step * self.batch_size + group.start) * self.pack
            addresses = [self.order(first + number) for number in range(len(group) * self.pack)]
            examples = self._examples(addresses)
            tokens = self.tokenizer.encode([e.caption for e in examples], self.text_length)
            found = packing.pack(*tokens, len(group), self.tokenizer.pad_id)
            wanted = self.rows[mine] - group.start
            for name in ("text", "text_mask", "text_segment"):
                batch[name][mine] = getattr(found, name)[wanted]
            problems += [e.problem for e in examples]
            left_out += found.left_out
        return batch | {"substituted": np.array(problems), "left_out": np.array([left_out])}

    def _examples(self, addresses: list[Address]) -> list[Example]:
        """Examples whose records are read together, which is what remote sources are quick at."""
        records: dict[Address, Record | BadRecord] = {}
        for number, source in enumerate(self.sources):
            mine = [address for address in addresses if address.source == number]
            records |= zip(mine, read_records(source, [a.index for a in mine]), strict=True)
        return [self._example(address, records[address]) for address in addresses]

    def _example(self, address: Address, found: Record | BadRecord) -> Example:
        source, address = self.sources[address.source], self.views.of(address)
        problem = ""
        for attempt in range(TRIES):
            # The next record of the source stands in for a bad one: fixed, so that every run and
            # every host sees the same.
            there = replace(address, index=(address.index + attempt) % len(source))
            try:
                record = found if attempt == 0 else source[there.index]
                if isinstance(record, BadRecord):
                    raise record
                group = group_of(record, self._offset(there.source) + there.index)
                example = self.views.example(there, record, self.image_size, group)
            except BadRecord as error:
                problem = problem or f"{source.name}: {error}"
                continue
            return example._replace(problem=problem)
        raise UserError(
            f"{problem}, nor can the {TRIES - 1} records after it; are these the right files?"
        )

    def _offset(self, source: int) -> int:
        return sum(self.order.lengths[:source])

    def _length(self, step: int, mask: np.ndarray) -> int:
        """The smallest of text_lengths that holds every caption of the global batch."""
        if len(self.rows) == self.batch_size:
            longest = int(mask.sum(axis=1).max())
        elif not (self.text_lengths and self.lengths):
            return self.text_length  # other hosts hold the other captions, and all must agree
        else:
            first = step * self.batch_size
            places = map(self.order, range(first, first + self.batch_size))
            longest = max(self.lengths[a.source][a.index] for a in places)
        return min((n for n in self.text_lengths if n >= longest), default=self.text_length)


def _watch(batches: Generator[Batch], max_bad: float, counts: Counter[str]) -> Generator[Batch]:
    """Takes the column `substituted` out, counts and logs it, and stops when it is too much."""
    named: set[str] = set()
    try:
        for batch in batches:
            loaded = batch.pop("substituted")
            problems = [str(problem) for problem in loaded if problem]
            counts["data/examples"] += len(loaded)
            counts["data/substituted"] += len(problems)
            if "left_out" in batch:
                counts["data/left_out"] += int(batch.pop("left_out").sum())
            seen, bad = counts["data/examples"], counts["data/substituted"]
            for problem in problems:
                if problem not in named and len(named) < NAMED:  # once, not every epoch
                    named.add(problem)
                    log.warning("%s; another record stands in (%d so far)", problem, bad)
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
