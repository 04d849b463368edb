"""Batches for training: position → record → augmented image and tokens → batch, run by grain.

The batch of step s is a function of (seed, s) alone: not of hosts, workers, threads or restarts.
Teachers add columns of their own (`Columns`).
"""

import atexit
import contextlib
import functools
import logging
import multiprocessing
import os
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import cv2
import grain
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from mmjax.data.augment import Augment, train_transform
from mmjax.data.order import Address, Order
from mmjax.data.records import BadRecord, Record, Source
from mmjax.data.tokenize import Tokenizer
from mmjax.errors import UserError

Batch = dict[str, np.ndarray]
log = logging.getLogger("mmjax.data")

TRIES = 16  # neighbours to try in place of a bad record
FOREVER = 1 << 40  # steps
NO_IMAGE = np.zeros(0, np.uint8)
BAD_WINDOW = 1000  # examples below which the share of bad ones is not judged


class Example(NamedTuple):
    """One example of a batch. `address` is of the record that is shown, with the epoch whose
    augmentation it has; `problem` says why it stands in for another record ("" if it does not)."""

    address: Address
    record: Record
    caption: str
    image: np.ndarray
    group: int
    problem: str = ""


Transform = Callable[[Example, int], np.ndarray]


class Columns(Protocol):
    """What adds columns to a batch; it pickles cheaply, every worker process gets one."""

    def __call__(self, examples: Sequence[Example], transform: Transform) -> Batch:
        """The columns, [b, ...]. `transform(example, size)` is the example's view at a size: the
        same crop and colours, uint8 [size, size, 3]."""
        ...


def train_batches(
    sources: Sequence[Source],
    config: ConfigDict,
    tokenizer: Tokenizer,
    *,
    rows: np.ndarray,
    start_step: int,
    columns: Sequence[Columns] = (),
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

    Yields:
      image uint8 [b, S, S, 3] (where the model has an image tower), text int32 [b, L], text_mask
      bool [b, L], group int32 [b]: records of one group (or, without groups, one record met twice)
      are positives of each other.
      Close the iterator to stop the worker processes.

    Raises:
      UserError: a larger share of the examples than data.max_bad had to be substituted.
    """
    names = sorted(config.data.train)
    if len(names) != len(sources):
        raise ValueError(f"{len(sources)} sources for {len(names)} entries of data.train")
    weights = [config.data.train[name].get("weight", 1.0) for name in names]
    towers = config.model.get("towers", ("image", "text"))
    load = _TrainBatch(
        sources=list(sources),
        order=Order([len(source) for source in sources], weights, config.seed),
        tokenizer=tokenizer,
        views=Views(config.seed, Augment(**config.data.augment), config.data.views),
        batch_size=config.batch_size,
        rows=np.asarray(rows),
        image_size=config.model.image.size if "image" in towers else 0,
        text_length=config.model.text.context_length,
        text_lengths=tuple(config.data.text_lengths),
        columns=tuple(columns),
    )
    batches = read_ahead(
        load, start_step, FOREVER, workers=config.data.workers, prefetch=config.data.prefetch
    )
    return _watch(batches, config.data.max_bad)


def read_ahead(
    load: Callable[[int], Batch], start: int, stop: int, *, workers: int, prefetch: int
) -> Generator[Batch]:
    """load(start), load(start + 1), … in order, computed ahead by threads or worker processes.

    A generator: closing it (or leaving it to the garbage collector) ends the workers.
    """
    if not flags.FLAGS.is_parsed():
        # grain's worker processes read absl flags; a user of the library has none to parse.
        flags.FLAGS.mark_as_parsed()
    if workers and stop - start > 1:
        # One thread a worker: several would take turns at the same interpreter lock.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        dataset = grain.MapDataset.range(start + 1, stop).map(load).to_iter_dataset(options)
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=max(1, prefetch))
        iterator = iter(dataset.mp_prefetch(options, worker_init_fn=_start_worker))
        batches = _read_from_workers(functools.partial(load, start), iterator)
    else:
        threads = max(1, min(prefetch, os.cpu_count() or 1))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(1, prefetch))
        dataset = grain.MapDataset.range(start, stop).map(load).to_iter_dataset(options)
        batches = _read(iter(dataset))
    _reading.add(batches)
    return batches


def _read(iterator: grain.DatasetIterator) -> Generator[Batch]:
    try:
        yield from iterator
    finally:
        iterator.close()


def _read_from_workers(
    first: Callable[[], Batch], iterator: grain.DatasetIterator
) -> Generator[Batch]:
    starter = ThreadPoolExecutor(1)
    try:
        second = starter.submit(next, iterator)  # starts the workers, which takes them seconds
        yield first()
        # Plain arrays go out: those of a worker lie in shared memory that it must get back.
        yield _copy(second.result())
        yield from map(_copy, iterator)
    finally:
        starter.shutdown()
        iterator.close()


def _copy(batch: Batch) -> Batch:
    plain = {key: np.array(value) for key, value in batch.items()}
    batch.clear()  # whoever still holds the dict, the shared memory is given back now
    return plain


_reading: weakref.WeakSet[Generator[Batch]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # grain's iterators cannot close any more once the interpreter takes its modules apart.
    for batches in list(_reading):
        with contextlib.suppress(ValueError):  # another thread is inside of it
            batches.close()


def group_of(record: Record, number: int) -> int:
    """The record's group, or, below 0, a number of its own: -1 would make all others positives."""
    return record.group if record.group >= 0 else -1 - number % (1 << 31)


@dataclass(frozen=True)
class Views:
    """What is shown of a record: a caption and a view, functions of (seed, source, epoch, index).

    `count`: after so many epochs the views repeat; 0: never.
    """

    seed: int
    augment: Augment
    count: int

    def of(self, address: Address) -> Address:
        """The address whose view is shown."""
        return replace(address, epoch=address.epoch % self.count) if self.count else address

    def example(self, address: Address, record: Record, size: int, group: int) -> Example:
        """The record at `address` as an example; of size 0, without an image. Raises BadRecord."""
        if not record.captions:
            raise BadRecord(f"{record.key} is without a caption")
        rng = example_rng(self.seed, address)
        caption = record.captions[rng.integers(len(record.captions))]
        image = _named(record, train_transform, rng, size, self.augment) if size else NO_IMAGE
        return Example(address, record, caption, image, group)

    def transform(self, example: Example, size: int) -> np.ndarray:
        """The same view at another size, uint8 [size, size, 3]."""
        return self.example(example.address, example.record, size, example.group).image


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

    def __call__(self, step: int) -> Batch:
        examples = [self._example(self.order(step * self.batch_size + row)) for row in self.rows]
        text, mask = self.tokenizer.encode([e.caption for e in examples], self.text_length)
        length = self._length(mask)
        batch = {
            "text": np.ascontiguousarray(text[:, :length]),
            "text_mask": np.ascontiguousarray(mask[:, :length]),
            "group": np.array([e.group for e in examples], np.int32),
            "substituted": np.array([e.problem for e in examples]),
        }
        if self.image_size:
            batch["image"] = np.stack([e.image for e in examples])
        for columns in self.columns:
            batch |= columns(examples, self.views.transform)
        return batch

    def _example(self, address: Address) -> Example:
        source, address = self.sources[address.source], self.views.of(address)
        problem = ""
        for attempt in range(TRIES):
            # The next record of the source stands in for a bad one: fixed, so that every run and
            # every host sees the same.
            there = replace(address, index=(address.index + attempt) % len(source))
            try:
                record = source[there.index]
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

    def _length(self, mask: np.ndarray) -> int:
        """The smallest of text_lengths that holds every caption of the global batch."""
        if len(self.rows) < self.batch_size:
            # Other hosts hold the other captions, and all must agree without talking: token
            # lengths are known only after reading, so the full length it is.
            return self.text_length
        longest = int(mask.sum(axis=1).max())
        return min((n for n in self.text_lengths if n >= longest), default=self.text_length)


def example_rng(seed: int, address: Address) -> np.random.Generator:
    """The random numbers of one example: a stream of its own for each (seed, address)."""
    key = [seed % (1 << 64), address.source]
    return np.random.Generator(
        np.random.Philox(key=key, counter=[0, 0, address.epoch, address.index])
    )


def _named(record: Record, transform: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
    """Applies a transform to the record's image; an error names the record."""
    try:
        return transform(record.image, *args)
    except BadRecord as error:
        raise BadRecord(f"{record.key} {error}") from error


def _watch(batches: Generator[Batch], max_bad: float) -> Generator[Batch]:
    """Takes the column `substituted` out, logs what it names, and stops when it is too much."""
    seen = bad = 0
    named: set[str] = set()
    try:
        for batch in batches:
            problems = [str(problem) for problem in batch.pop("substituted") if problem]
            seen += len(batch["group"])
            bad += len(problems)
            for problem in problems:
                if problem not in named:  # once, not every epoch
                    named.add(problem)
                    log.warning("%s; another record stands in (%d so far)", problem, bad)
            if bad > max_bad * max(seen, BAD_WINDOW):
                raise UserError(
                    f"{bad} of {seen} examples could not be used, more than data.max_bad="
                    f"{max_bad:g} allows; the last was {problems[-1]}."
                )
            yield batch
    finally:
        batches.close()


def _start_worker(number: int, count: int) -> None:
    del number, count
    # The workers are the parallelism: none of them should start threads for all cores.
    cv2.setNumThreads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A run that is killed cannot close its workers, and they would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)
