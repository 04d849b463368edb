"""Statistics of all B × M pairs of a global batch, without the B × M matrix.

A contrastive loss reads the logits l_ij = s·x_i·y_j + b only through a few numbers a row and a
column: log-sum-exps, or sums. Each device keeps its n = B/N rows of x, while the rows of y go round
the ring of N devices and meet every x once:

    for hop in range(N):                          device d holds y of device d - hop
        for tile of y:
            l = s · x @ tileᵀ                     [n, t], the largest array there ever is
            fold l into the rows' statistics      these stay at home
            fold l into the columns' statistics   these travel with their tile
            pass the tile on to device d + 1      while the next tile is worked on

After N hops all statistics are complete and at home. The gradient goes round once more: it makes
each tile's logits anew from x and y, and the tile's gradient dy travels with it. So a device holds
O(n·D + n·t) numbers, forward and backward, where the matrix would take n·M; four matrix products
are computed instead of three. Neighbours alone talk to each other, as in ring attention (Liu et
al., 2023) and Inf-CL (Cheng et al., 2024).

The ring runs over the mesh axes `data` and `fsdp` taken as one; devices along `tensor` do the same
work. Without a mesh, or on one device, what remains is the loop over tiles.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from mmjax.parallel.mesh import BATCH

TILE_ENTRIES = 2**20  # logits at a time on a device: 4 MiB in float32
NOTHING = -1e30  # the maximum of no logits; finite, since inf - inf is no number


class Side(NamedTuple):
    """One side of the pairs; leading axes are split over the devices.

    embed: [B, D], bfloat16 or float32. ids: int32 [B], a pair with equal ids is positive.
    mask: bool [B, M] instead of ids, on the rows' side. teacher: [B, D'], whose logits weigh
    "teacher_mean". there: bool [B], False on what is in no pair; on both sides or on none.
    """

    embed: jax.Array
    ids: jax.Array | None = None
    mask: jax.Array | None = None
    teacher: jax.Array | None = None
    there: jax.Array | None = None


class Scalars(NamedTuple):
    """l_ij = scale · x_i·y_j + bias, and the teacher's scale; float32 scalars."""

    scale: jax.Array
    bias: jax.Array
    teacher_scale: jax.Array


class Tile(NamedTuple):
    """A block of pairs, each array [n, t].

    dots: x·yᵀ. logits: of the loss, -inf where one of the pair is not there. same: bool, the
    positives; teacher: its logits; None where the sides do not give them.
    """

    dots: jax.Array
    logits: jax.Array
    same: Any
    teacher: Any


Names = tuple[str, ...]
Values = tuple[jax.Array, ...]


class Statistic(NamedTuple):
    """A number for each row (or column) that is folded together tile by tile.

    start: initial accumulators. fold(accumulators, tile, axis): folds the tile in, reducing `axis`.
    value(accumulators): what the loss reads. slope(tile, accumulators): d value_i / d l_ij of the
    tile's pairs, given the complete accumulators.
    """

    start: tuple[float, ...]
    fold: Callable[[Values, Tile, int], Values]
    value: Callable[[Values], jax.Array]
    slope: Callable[[Tile, Values], jax.Array]


def _log_sum_exp(of: Callable[[Tile], jax.Array]) -> Statistic:
    """log Σ_j e^{l_ij}, NOTHING of no pair; the accumulators are the maximum so far and the sum
    relative to it."""

    def fold(acc, tile, axis):
        top, total = acc
        new = jnp.maximum(top, of(tile).max(axis))
        added = jnp.exp(of(tile) - jnp.expand_dims(new, axis)).sum(axis)
        return new, total * jnp.exp(top - new) + added

    def some(total):  # 1 where nothing was added, so that neither log nor quotient is infinite
        return jnp.where(total == 0, 1.0, total)

    # Not e^{l - lse}: where the maximum is large, its last digits would be lost in the lse.
    return Statistic(
        (NOTHING, 0.0),
        fold,
        lambda acc: acc[0] + jnp.log(some(acc[1])),
        lambda tile, acc: jnp.exp(of(tile) - acc[0]) / some(acc[1]),
    )


def _sum(of: Callable[[Tile], jax.Array], slope: Callable[[Tile], jax.Array]) -> Statistic:
    """Σ_j of(l_ij)."""
    return Statistic(
        (0.0,),
        lambda acc, tile, axis: (acc[0] + of(tile).sum(axis),),
        lambda acc: acc[0],
        lambda tile, _: slope(tile),
    )


def _teacher_mean() -> Statistic:
    """Σ_j p_ij l_ij, p the softmax of the teacher's logits, which takes no gradient."""

    def fold(acc, tile, axis):
        top, total, weighted = acc
        new = jnp.maximum(top, tile.teacher.max(axis))
        old, p = jnp.exp(top - new), jnp.exp(tile.teacher - jnp.expand_dims(new, axis))
        return new, total * old + p.sum(axis), weighted * old + (p * tile.logits).sum(axis)

    return Statistic(
        (NOTHING, 0.0, 0.0),
        fold,
        lambda acc: acc[2] / acc[1],
        lambda tile, acc: jnp.exp(tile.teacher - acc[0]) / acc[1],
    )


STATISTICS = {
    "lse": _log_sum_exp(lambda tile: tile.logits),
    "positive_lse": _log_sum_exp(lambda tile: jnp.where(tile.same, tile.logits, -jnp.inf)),
    "negative_lse": _log_sum_exp(lambda tile: jnp.where(tile.same, -jnp.inf, tile.logits)),
    # The logit of the one positive there is.
    "positive": _sum(
        lambda tile: jnp.where(tile.same, tile.logits, 0.0),
        lambda tile: tile.same.astype(tile.logits.dtype),
    ),
    "softplus": _sum(
        lambda tile: jax.nn.softplus(tile.logits), lambda tile: jax.nn.sigmoid(tile.logits)
    ),
    "teacher_mean": _teacher_mean(),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def pair_statistics(
    x: Side, y: Side, scalars: Scalars, rows: Names, columns: Names
) -> tuple[Values, Values]:
    """The named statistics of the matrix of logits, exact over the whole batch.

    Differentiable in both `embed`, in scale and in bias (reverse mode, once).

    Args:
      x: [B, ...], the rows.
      y: [M, ...], the columns; the number of devices divides B and M.
      scalars: of the logits.
      rows: names in STATISTICS, each gives float32 [B].
      columns: the same over columns, each gives float32 [M].
    """
    return _forward(x, y, scalars, rows, columns)[0]


def _forward(x, y, scalars, rows, columns):
    split, same = P(batch_axes()), P()
    local = functools.partial(_forward_on_device, rows=rows, columns=columns)
    values, accumulators = _on_devices(local, (split, split, same), split)(x, y, scalars)
    return values, (x, y, scalars, accumulators)


def _backward(rows, columns, residuals, gradients):
    x, y, scalars, accumulators = residuals
    split, same = P(batch_axes()), P()
    local = functools.partial(_backward_on_device, rows=rows, columns=columns)
    dx, dy, dscale, dbias = _on_devices(
        local, (split, split, same, split, split), (split, split, same, same)
    )(x, y, scalars, accumulators, gradients)
    return Side(dx), Side(dy), Scalars(dscale, dbias, jnp.zeros_like(scalars.teacher_scale))


pair_statistics.defvjp(_forward, _backward)


def _forward_on_device(x: Side, y: Side, scalars: Scalars, rows: Names, columns: Names):
    """(values, accumulators) of this device's rows and columns, each a pair (rows, columns)."""
    ring = _Ring(x, y)

    def step(k, carry):
        home, travelling = carry
        part, column_acc = ring.take(travelling, k)
        tile = _tile(x, part, scalars, ring.column(k))
        home = fold(rows, home, tile, 1)
        return home, ring.pass_on(travelling, (part, fold(columns, column_acc, tile, 0)), k)

    def fold(names, accumulators, tile, axis):
        return tuple(
            STATISTICS[name].fold(acc, tile, axis)
            for name, acc in zip(names, accumulators, strict=True)
        )

    def values(names, accumulators):
        return tuple(
            STATISTICS[name].value(acc) for name, acc in zip(names, accumulators, strict=True)
        )

    carry = ring.accumulators(rows, x), (y, ring.accumulators(columns, y))
    home, (_, column_acc) = jax.lax.fori_loop(0, ring.steps, step, carry)
    return (values(rows, home), values(columns, column_acc)), (home, column_acc)


def _backward_on_device(
    x: Side, y: Side, scalars: Scalars, accumulators, gradients, rows: Names, columns: Names
):
    """(dx, dy, dscale, dbias) given the gradients of the row and column values."""
    ring = _Ring(x, y)
    row_acc, row_gradients = accumulators[0], gradients[0]

    def step(k, carry):
        (dx, dscale, dbias), travelling = carry
        part, column_acc, column_gradients, dy = ring.take(travelling, k)
        tile = _tile(x, part, scalars, ring.column(k))
        g = jnp.zeros_like(tile.logits)  # d loss / d logits
        for name, gradient, acc in zip(rows, row_gradients, row_acc, strict=True):
            acc = tuple(a[:, None] for a in acc)
            g += gradient[:, None] * STATISTICS[name].slope(tile, acc)
        for name, gradient, acc in zip(columns, column_gradients, column_acc, strict=True):
            g += gradient * STATISTICS[name].slope(tile, acc)
        dscale += (g * tile.dots).sum()
        dbias += g.sum()
        # As in any product of half-precision arrays; the sums are float32.
        g = g.astype(x.embed.dtype)
        dx += _matmul(g, part.embed)
        dy += _matmul(g.T, x.embed)
        travelling = ring.pass_on(travelling, (part, column_acc, column_gradients, dy), k)
        return (dx, dscale, dbias), travelling

    zeros = [jnp.zeros(side.embed.shape, jnp.float32) for side in (x, y)]
    dx, dscale, dbias, dy = ring.varying((zeros[0], jnp.zeros(()), jnp.zeros(()), zeros[1]))
    carry = (dx, dscale, dbias), (y, accumulators[1], gradients[1], dy)
    (dx, dscale, dbias), (*_, dy) = jax.lax.fori_loop(0, ring.steps, step, carry)
    dx, dy = ((scalars.scale * d).astype(x.embed.dtype) for d in (dx, dy))
    return dx, dy, ring.total(dscale), ring.total(dbias)


class _Ring:
    """The way of the tiles of y round the devices, seen from one of them."""

    def __init__(self, x: Side, y: Side):
        self.axes = batch_axes()
        self.devices = devices()
        columns = y.embed.shape[0]
        self.width = tile_width(x.embed.shape[0], columns)
        self.tiles = columns // self.width  # of a device's part of y
        self.steps = self.devices * self.tiles

    def column(self, k: jax.Array) -> jax.Array:
        """The number, in the whole of y, of the first column of the tile of step k."""
        device = jax.lax.axis_index(self.axes) if self.axes else 0
        home = (device - k // self.tiles) % self.devices
        return (home * self.tiles + k % self.tiles) * self.width

    def take(self, travelling: Any, k: jax.Array) -> Any:
        """The tile of step k of every array [m, ...] that is here now."""
        start = k % self.tiles * self.width
        return jax.tree.map(
            lambda array: jax.lax.dynamic_slice_in_dim(array, start, self.width), travelling
        )

    def pass_on(self, travelling: Any, tile: Any, k: jax.Array) -> Any:
        """Sends the tile to the next device; the one that arrives replaces it."""
        start = k % self.tiles * self.width
        if self.devices > 1:
            ring = [(i, (i + 1) % self.devices) for i in range(self.devices)]
            tile = jax.lax.ppermute(tile, self.axes, ring)
        return jax.tree.map(
            lambda array, new: jax.lax.dynamic_update_slice_in_dim(array, new, start, 0),
            travelling,
            tile,
        )

    def accumulators(self, names: Names, side: Side) -> tuple[Values, ...]:
        n = side.embed.shape[0]
        return tuple(
            tuple(self.varying(jnp.full(n, value, jnp.float32)) for value in STATISTICS[name].start)
            for name in names
        )

    def varying(self, tree: Any) -> Any:
        """Marks constants as values that will differ between devices."""
        return jax.lax.pcast(tree, self.axes, to="varying") if self.axes else tree

    def total(self, value: jax.Array) -> jax.Array:
        return jax.lax.psum(value, self.axes) if self.axes else value


def _tile(x: Side, part: Side, scalars: Scalars, column: jax.Array) -> Tile:
    dots = _matmul(x.embed, part.embed.T)
    same = teacher = None
    if x.mask is not None:
        same = jax.lax.dynamic_slice_in_dim(x.mask, column, part.embed.shape[0], axis=1)
    elif x.ids is not None and part.ids is not None:
        same = x.ids[:, None] == part.ids[None, :]
    if x.teacher is not None and part.teacher is not None:
        teacher = scalars.teacher_scale * _matmul(x.teacher, part.teacher.T)
    logits = scalars.scale * dots + scalars.bias
    if x.there is not None and part.there is not None:
        there = x.there[:, None] & part.there[None, :]
        logits = jnp.where(there, logits, -jnp.inf)
        same = None if same is None else same & there
    return Tile(dots, logits, same, teacher)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """In float32: products of bfloat16 are exact there; float32 is not to be rounded before."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def batch_axes() -> tuple[str, ...]:
    """The axes of the current mesh over which the batch is split."""
    return tuple(a for a in BATCH if a in jax.sharding.get_abstract_mesh().axis_names)


def devices() -> int:
    """The number of devices in the ring."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes[axis] for axis in batch_axes())


def tile_width(rows: int, columns: int) -> int:
    """The least divisor of `columns` that makes tiles of TILE_ENTRIES logits, or `columns`."""
    enough = (w for w in range(1, columns) if columns % w == 0 and rows * w >= TILE_ENTRIES)
    return next(enough, columns)


def _on_devices(local: Callable, in_specs: Sequence[P], out_specs: Any) -> Callable:
    """`local` run by every device on its part of the arrays."""
    if not batch_axes():
        return jax.jit(local)
    return jax.jit(jax.shard_map(local, in_specs=tuple(in_specs), out_specs=out_specs))
