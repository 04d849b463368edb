"""The one engine that runs a model over data without training: evaluation, `mmjax embed`, `load`.

Batches of any columns go in, padded and split over the devices; the next one is decoded while one
is computed. Every host loads its own rows and gets all results, so that all see the same numbers.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.core.views import run_plain
from mmjax.models import Graph, generate
from mmjax.models.layers import unit_length
from mmjax.parallel.mesh import batch_shards, local_rows, make_mesh, platform, put_batch
from mmjax.params import Role, map_roles

Columns = dict[str, np.ndarray]


def run(
    model: Graph,
    params: Any,
    batches: Iterable[Columns],
    outputs: tuple[str, ...],
    size: int,
    *,
    microbatches: int = 1,
) -> Columns:
    """Runs the model over all batches, under the current mesh.

    Args:
      model: gives `outputs`.
      params: its parameters, as they lie on the mesh.
      batches: this host's rows of each global batch: the columns that the outputs are computed
        from, and any others; `mask` bool [b], False on padding.
      outputs: names of outputs with a row for each example.
      size: rows of a global batch (`global_batch`).
      microbatches: pieces that a batch is cut into on the devices.

    Returns:
      The outputs, float32 or as the model gives them, and the columns that nothing is computed
      from, of the rows that are no padding, in order, whole on every host.
    """
    compute = functools.partial(_jitted(model, outputs, microbatches), laid_out(model, params))
    return _over(batches, size, compute)


def cosines(
    model: Graph,
    params: Any,
    batches: Iterable[Columns],
    texts: np.ndarray,
    size: int,
    of: tuple[str, str],
) -> Columns:
    """Compares examples with texts by a model whose texts depend on the example that they are
    compared with (`Graph.conditioned`), under the current mesh.

    Args:
      model, params, batches, size: as of `run`; the batches have the columns that of[0] reads.
      texts: float [K, M, D], the "features" that of[1] gives for M texts of each of K classes. A
        class is the mean of its texts at unit length, at unit length again; with M = 1 a text.
      of: the part of the examples and that of the texts.

    Returns:
      "cosine" float32 [N, K] and the columns that nothing is computed from, as of `run`.
    """
    compare = _comparing(model, of)
    params, features = laid_out(model, params), np.swapaxes(texts, 0, 1)
    return _over(batches, size, lambda batch: compare(params, batch, features))


def say(
    model: Graph,
    params: Any,
    batches: Iterable[Columns],
    size: int,
    *,
    of: str,
    reads: str,
    end_id: int,
) -> Columns:
    """Goes on greedily with the texts that stand in the batches, under the current mesh.

    Args:
      model, params, batches, size: as of `run`; the batches have the column `reads` and "prompt"
        int32 [b, L], of which the first "given" int32 [b] tokens are given.
      of: the part that predicts the next token, as of `models.generate`.
      reads: the column that the model reads beside the text.
      end_id: the tokenizer's `eot_id`.

    Returns:
      "said" int32 [N, L], the whole texts, and the other columns, as of `run`.
    """

    def compute(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        kept = {name: value for name, value in batch.items() if name != reads}
        prompt = batch["prompt"], batch["given"]
        found = generate(
            model, params, {reads: batch[reads]}, start_id=end_id, end_id=end_id, of=of,
            length=prompt[0].shape[1], prompt=prompt,
        )  # fmt: skip
        return {**kept, "said": found.tokens}

    return _over(batches, size, compute)


def _over(batches: Iterable[Columns], size: int, compute: Callable[[Any], Any]) -> Columns:
    """`compute` of every batch, as `run` returns it."""
    queue, done = list[Any](), list[Columns]()
    for batch in batches:
        queue.append(compute(put_batch(batch, size)))
        if len(queue) > 1:  # read one behind: devices compute one while the next is decoded
            done.append(_rows(queue.pop(0)))
    done += map(_rows, queue)
    return {name: np.concatenate([part[name] for part in done]) for name in done[0]}


def global_batch(batch_size: int) -> tuple[int, np.ndarray]:
    """The batch size rounded up to a multiple of the devices that share it on the current mesh, and
    this host's rows: it changes speed and memory, never which rows count."""
    shards = batch_shards()
    size = -(-batch_size // shards) * shards
    return size, local_rows(size)


def cut(columns: Mapping[str, np.ndarray], size: int, rows: np.ndarray) -> Iterator[Columns]:
    """This host's rows of each global batch of columns [N, …] in memory; past the end the last row
    is repeated, `mask` False."""
    count = len(next(iter(columns.values())))
    for start in range(0, count, size):
        numbers = start + rows
        clipped = np.minimum(numbers, count - 1)
        yield {name: value[clipped] for name, value in columns.items()} | {"mask": numbers < count}


@contextlib.contextmanager
def on_mesh(params: Any) -> Iterator[Any]:
    """Gives the parameters under the current mesh; without one, copied to all devices."""
    if not jax.sharding.get_mesh().empty:
        yield params
        return
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        yield jax.device_put(params, NamedSharding(mesh, P()))


def whole(array: jax.Array) -> np.ndarray:
    """A global array on this host; a collective if other hosts hold parts of it."""
    if array.is_fully_addressable:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


@functools.lru_cache(maxsize=32)  # users of the same model compile it once
def _jitted(model: Graph, outputs: tuple[str, ...], microbatches: int) -> Callable:
    def compute(params: Any, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
        read = model.sources(outputs, batch)
        kept = {name: value for name, value in batch.items() if name not in read}
        columns = {name: batch[name] for name in read}
        found = run_plain(model, layers_together(params), columns, outputs, microbatches)
        return {**kept, **found}

    return jax.jit(compute)


@functools.lru_cache(maxsize=32)
def _comparing(model: Graph, of: tuple[str, str]) -> Callable:
    embed, instead = f"{of[0]}/embed", model.conditioned()[f"{of[1]}/embed"]
    reads = model.sources((instead,), set(model.outputs()) - {instead})
    (text,) = (name for name in reads if name.startswith(f"{of[1]}/"))
    others = tuple(sorted(reads - {text}))

    def compute(params: Any, batch: Mapping[str, jax.Array], texts: jax.Array) -> dict[str, Any]:
        params, read = layers_together(params), model.sources((embed, *others), batch)
        seen = run_plain(model, params, {name: batch[name] for name in read}, (embed, *others))

        def add(total: jax.Array, features: jax.Array) -> tuple[jax.Array, None]:
            """One text of each class, [K, D], as every example of the batch has it, [b, K, D]."""
            each = jnp.broadcast_to(features, total.shape)
            known = {name: seen[name] for name in others} | {text: each}
            found: Any = model.apply({"params": params}, known, (instead,))
            return total + found[instead], None

        shape = (len(seen[embed]), *texts.shape[1:])
        total, _ = jax.lax.scan(add, jnp.zeros(shape, jnp.float32), texts)
        highest = jax.lax.Precision.HIGHEST
        cosine = jnp.einsum("bd,bkd->bk", seen[embed], unit_length(total), precision=highest)
        return {n: x for n, x in batch.items() if n not in read} | {"cosine": cosine}

    return jax.jit(compute)


def _rows(outputs: dict[str, jax.Array]) -> Columns:
    columns = {name: whole(value) for name, value in outputs.items()}
    mask = columns.pop("mask")
    return {name: value[mask] for name, value in columns.items()}


class _LaidOut:
    """The parameters as they are used fastest, kept for as long as those that they are made of."""

    def __init__(self) -> None:
        self._of: list[weakref.ref] = []
        self._made: Any = None

    def __call__(self, model: Graph, params: Any) -> Any:
        modules = (part.module for part in model.parts.values())
        written_out = all(getattr(module, "unroll", True) for module in modules)
        if platform() != "cpu" or not written_out:
            return params
        leaves = jax.tree.leaves(params)
        if not all(isinstance(leaf, jax.Array) for leaf in leaves):  # may be changed in place
            return layers_apart(params)
        same = len(leaves) == len(self._of)
        if not same or any(of() is not x for of, x in zip(self._of, leaves, strict=True)):
            self._made = layers_apart(params)
            self._of = [weakref.ref(leaf, self._forget) for leaf in leaves]
        return self._made

    def _forget(self, _: weakref.ref) -> None:
        self._of, self._made = [], None


laid_out = _LaidOut()


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
