"""From parameters and local batches to embeddings that every host holds whole.

Each host loads its own rows and gets all of the results, so that all hosts see the same numbers and
none is special.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from mmjax import models
from mmjax.data import Source, Tokenizer, eval_batches, modalities
from mmjax.data.modalities import Modality
from mmjax.errors import UserError
from mmjax.evaluation.progress import track
from mmjax.evaluation.skips import report_unreadable
from mmjax.models import Graph
from mmjax.models.text import ignores_padding
from mmjax.parallel.mesh import BATCH, local_rows, make_mesh, platform, put_batch
from mmjax.params import Role, map_roles

Columns = dict[str, np.ndarray]
INPUTS = {"image/embed": ("image",), "text/embed": ("text", "text_mask")}


@dataclass(frozen=True)
class Embedder:
    """Embeds images and texts with a model, `batch_size` at a time over all devices.

    The batch is rounded up to a multiple of the devices that share it: it changes speed and memory,
    never which rows count.
    """

    model: Graph
    tokenizer: Tokenizer | None
    batch_size: int
    image: Modality | None  # of the model's
    context_length: int
    trim: bool  # texts to their longest
    workers: int
    allow_skips: bool  # of unreadable images

    @classmethod
    def of(
        cls, spec: Any, config: ConfigDict, model: Graph, tokenizer: Tokenizer | None
    ) -> "Embedder":
        """For an evaluator with the keys `spec` of a run's model."""
        text = config.model.get("text")
        return cls(
            model=model,
            tokenizer=tokenizer,
            batch_size=spec.batch_size,
            image=modalities.build(models.inputs(config.model), data=config.data).get("image"),
            context_length=text.context_length if text else 0,
            trim=bool(text) and ignores_padding(text),
            workers=config.data.workers,
            allow_skips=spec.allow_skips,
        )

    def images(self, params: Any, source: Source) -> tuple[Columns, dict[str, float]]:
        """All images of a source in order.

        Returns:
          image_embed float32 [N, D], label int32 [N] and index int32 [N] (the record's number) of
          the images that can be read; and with `allow_skips` how many are left out, as "skipped".

        Raises:
          UserError: some cannot, and may not be skipped; on every host, after all were tried.
        """
        if "image/embed" not in self.model.outputs() or self.image is None:
            raise UserError("this model has no image tower, so it cannot embed images.")
        size, rows = self._global_batch()
        read = (self.image,)
        batches: Iterable[Columns] = eval_batches(
            source, read, batch_size=size, rows=rows, workers=self.workers
        )
        batches = track(batches, len(source), size, f"{source.name}: images")
        columns = _collect(
            _jitted(self.model, "image/embed"), self._laid_out(params), batches, size
        )
        unreadable = columns.pop("unreadable")
        skipped = report_unreadable(source, columns["index"][unreadable], read, self.allow_skips)
        kept = {name: value[~unreadable] for name, value in columns.items()}
        return kept, {"skipped": float(skipped)} if self.allow_skips else {}

    def texts(self, params: Any, tokens: Columns) -> np.ndarray:
        """float32 [N, D] of what `tokenize` returned."""
        size, rows = self._global_batch()
        batches = track(_cut(tokens, size, rows), len(tokens["text"]), size, "texts")
        embed = _jitted(self.model, "text/embed")
        return _collect(embed, self._laid_out(params), batches, size)["text/embed"]

    def tokenize(self, texts: Sequence[str]) -> Columns:
        """text int32 and text_mask bool [N, L], the same on every host.

        L is the full context, or for a tower that does not look at padding what the longest of the
        texts needs, rounded up to a multiple of 8: the same embeddings for less.
        """
        if "text/embed" not in self.model.outputs() or self.tokenizer is None:
            lacks = "tokenizer" if "text/embed" in self.model.outputs() else "text tower"
            raise UserError(
                f"this model has no {lacks}, which texts need; probe and knn need none."
            )
        text, mask = self.tokenizer.encode(texts, self.context_length)
        longest = int(mask.sum(axis=1).max())
        length = (
            min(-(-longest // 8) * 8, self.context_length) if self.trim else self.context_length
        )
        return {"text": text[:, :length], "text_mask": mask[:, :length]}

    def _laid_out(self, params: Any) -> Any:
        """The parameters as they are used fastest."""
        parts = (part.module for part in self.model.parts.values())
        written_out = all(getattr(module, "unroll", True) for module in parts)
        return layers_apart(params) if platform() == "cpu" and written_out else params

    def _global_batch(self) -> tuple[int, np.ndarray]:
        """The batch size on the current mesh and this host's rows of it."""
        shards = batch_shards()
        size = -(-self.batch_size // shards) * shards
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
def _jitted(model: Graph, output: str) -> Callable:
    inputs = INPUTS[output]

    def embed(params, batch):
        passed = ("label", "index", "unreadable", "mask")
        kept = {name: batch[name] for name in passed if name in batch}
        columns = {name: batch[name] for name in inputs}
        embeds: Any = model.apply({"params": layers_together(params)}, columns, (output,))
        return kept | embeds

    return jax.jit(embed)


@jax.jit
def layers_apart(params: Any) -> Any:
    """The kernels of each layer as arrays of their own.

    On CPUs a program that writes the layers out copies them from the stack otherwise, in every
    batch. Takes the kernels' memory once more.
    """

    def unstack(role: Role, value: jax.Array) -> Any:
        return jnp.unstack(value) if role.stacked and role.kind == "matrix" else value

    return map_roles(unstack, params)


def layers_together(params: Any) -> Any:
    """The inverse; compiled, it costs nothing: a slice of a stack is what was stacked."""
    return jax.tree.map(
        lambda value: jnp.stack(value) if isinstance(value, tuple) else value,
        params,
        is_leaf=lambda value: isinstance(value, tuple),
    )


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
