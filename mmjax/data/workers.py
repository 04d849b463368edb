"""Reading ahead: a function of the step, run by grain in threads or worker processes, in order."""

import atexit
import contextlib
import functools
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker

import cv2
import grain
import numpy as np
from absl import flags

from mmjax import machine
from mmjax.errors import UserError

Batch = dict[str, np.ndarray]


def read_ahead(
    load: Callable[[int], Batch], start: int, stop: int, *, workers: int, prefetch: int
) -> Generator[Batch]:
    """load(start), load(start + 1), … in order, computed ahead by threads or worker processes.

    A generator: closing it (or leaving it to the garbage collector) ends the workers. OpenCV keeps
    to one thread from then on, in the whole process.
    """
    if not flags.FLAGS.is_parsed():
        # grain's worker processes read absl flags; a user of the library has none to parse.
        flags.FLAGS.mark_as_parsed()
    # The readers are the parallelism: OpenCV's own threads beside them take turns at their cores.
    cv2.setNumThreads(1)
    if workers and stop - start > 1:
        room = machine.shared_bytes()  # before the workers take of it
        _check_room(room, 1)
        # One thread a worker: several would take turns at the same interpreter lock.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
        dataset = grain.MapDataset.range(start + 1, stop).map(load).to_iter_dataset(options)
        options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=max(1, prefetch))
        iterator = iter(dataset.mp_prefetch(options, worker_init_fn=_start_worker))
        held = workers * (max(1, prefetch) + 1)  # batches in shared memory, at most
        batches = _read_from_workers(functools.partial(load, start), iterator, room, held)
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
    first: Callable[[], Batch], iterator: grain.DatasetIterator, room: int, held: int
) -> Generator[Batch]:
    starter = ThreadPoolExecutor(1, initializer=_hold_ctrl_c)
    try:
        second = starter.submit(next, iterator)  # starts the workers, which takes them seconds
        batch = first()
        _check_room(room, held * sum(column.nbytes for column in batch.values()))
        yield batch
        # Plain arrays go out: those of a worker lie in shared memory that it must get back.
        yield _copy(second.result())
        yield from map(_copy, iterator)
    finally:
        starter.shutdown()
        iterator.close()


def _check_room(room: int, needed: int) -> None:
    """A worker that finds no room for a batch is killed by a signal (SIGBUS), without a word."""
    if needed > room:
        raise UserError(
            f"data.workers need {needed / 1e6:,.1f} MB of shared memory for batches, and "
            f"{room / 1e6:,.1f} MB are free in {machine.SHARED}: give the container more (docker "
            "run --shm-size=8g), or set config.data.workers=0, which reads with threads."
        )


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


def _hold_ctrl_c() -> None:
    """What this thread starts inherits that SIGINT waits: a terminal's Ctrl-C would end a worker,
    with a traceback, before it comes to ignore it."""
    resource_tracker.ensure_running()  # starts with the first worker, and would let SIGINT through
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _start_worker(number: int, count: int) -> None:
    del number, count
    # A terminal sends Ctrl-C to all processes, and the run still needs its next batch to save.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A run that is killed cannot close its workers, and they would wait for it for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker
    parent.join()
    os._exit(1)
