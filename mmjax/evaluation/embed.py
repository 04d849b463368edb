"""From parameters and local batches to embeddings that every host holds whole.

Each host loads its own rows and gets all of the results, so that all hosts see the same numbers and
none is special.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from mmjax.data import Source, Tokenizer, eval_batches
from mmjax.models import Multimodal
from mmjax.parallel.mesh import BATCH, local_rows, make_mesh, put_batch

Columns = dict[str, np.ndarray]
INPUTS = {"image_embed": ("image",), "text_embed": ("text", "text_mask")}


class Embedder:
    """Embeds images and texts with a model, `batch_size` at a time over all devices.

    The batch is rounded up to a multiple of the devices that share it: it changes speed and memory,
    never which rows count.
    """

    def __init__(
        self, model: Multimodal, config: ConfigDict, tokenizer: Tokenizer, batch_size: int
    ):
        self.config, self.tokenizer = config, tokenizer
        self._batch_size = batch_size
        self._image = _jitted(model, "image_embed")
        self._text = _jitted(model, "text_embed")

    def images(self, params: Any, source: Source) -> Columns:
        """All images of a source in order: image_embed float32 [N, D], label int32 [N]."""
        size, rows = self._global_batch()
        batches = eval_batches(
            source,
            image_size=self.config.model.image.size,
            tokenizer=None,
            text_length=0,
            batch_size=size,
            rows=rows,
            workers=self.config.data.workers,
            resize=self.config.data.resize,
            interpolation=self.config.data.interpolation,
        )
        return _collect(self._image, params, batches, size)

    def texts(self, params: Any, tokens: Columns) -> np.ndarray:
        """float32 [N, D] of what `tokenize` returned."""
        size, rows = self._global_batch()
        return _collect(self._text, params, _cut(tokens, size, rows), size)["text_embed"]

    def tokenize(self, texts: Sequence[str]) -> Columns:
        """text int32 and text_mask bool [N, L], the same on every host.

        L is the smallest of `data.text_lengths` that holds the longest of the texts, else the full
        context. That is exact: a tower that sees its padding may not have such lengths.
        """
        text, mask = self.tokenizer.encode(texts, self.config.model.text.context_length)
        longest = int(mask.sum(axis=1).max())
        lengths = [n for n in self.config.data.text_lengths if n >= longest]
        length = min(lengths, default=text.shape[1])
        return {"text": text[:, :length], "text_mask": mask[:, :length]}

    def _global_batch(self) -> tuple[int, np.ndarray]:
        """The batch size on the current mesh and this host's rows of it."""
        shards = batch_shards()
        size = -(-self._batch_size // shards) * shards
        return size, local_rows(size)


@contextlib.contextmanager
def on_mesh(params: Any) -> Iterator[Any]:
    """Gives the parameters under the current mesh; without one, copied to all devices."""
    if not jax.sharding.get_mesh().empty:
        yield params
        return
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        yield jax.device_put(params, NamedSharding(mesh, P()))


def batch_shards() -> int:
    """How many devices the batch is split over: of the current mesh, or all if there is none."""
    mesh = jax.sharding.get_mesh()
    return jax.device_count() if mesh.empty else int(np.prod([mesh.shape[axis] for axis in BATCH]))


@functools.lru_cache(maxsize=8)  # the evaluators of a run compile their towers once
def _jitted(model: Multimodal, output: str) -> Callable:
    inputs = INPUTS[output]

    def embed(params, batch):
        kept = {name: batch[name] for name in ("label", "mask") if name in batch}
        columns = {name: batch[name] for name in inputs}
        embeds: Any = model.apply({"params": params}, columns, (output,))
        return kept | embeds

    return jax.jit(embed)


def _collect(embed: Callable, params: Any, batches: Iterable[Columns], size: int) -> Columns:
    """Runs all batches and puts the rows that count together in order."""
    queue, done = [], []
    for batch in batches:
        queue.append(embed(params, put_batch(batch, size)))
        if len(queue) > 1:  # read one behind: devices compute one while the next is decoded
            done.append(_rows(queue.pop(0)))
    done += map(_rows, queue)
    return {name: np.concatenate([part[name] for part in done]) for name in done[0]}


def _rows(outputs: dict[str, jax.Array]) -> Columns:
    columns = {name: whole(value) for name, value in outputs.items()}
    mask = columns.pop("mask")
    return {name: value[mask] for name, value in columns.items()}


def whole(array: jax.Array) -> np.ndarray:
    """A global array on this host; a collective if other hosts hold parts of it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _cut(columns: Columns, size: int, rows: np.ndarray) -> Iterator[Columns]:
    """This host's rows of each global batch; past the end the last row is repeated, mask False."""
    count = len(next(iter(columns.values())))
    for start in range(0, count, size):
        numbers = start + rows
        clipped = np.minimum(numbers, count - 1)
        yield {name: value[clipped] for name, value in columns.items()} | {"mask": numbers < count}
