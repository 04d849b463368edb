"""Rows of arrays that are split over the devices, moved to other devices.

Indexing the global arrays, x[rows], has every device hold all of the chosen rows before it keeps
its own. Here blocks of rows go round the devices as in the ring (`ring.py`), both ways, no further
than a row has to go. Ascending rows that are spread evenly over the batch lie at home or next door.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from mmjax.parallel.ring import batch_axes, devices


def take_rows(arrays: Mapping[str, jax.Array], rows: jax.Array) -> dict[str, jax.Array]:
    """The rows `rows` of arrays [B, …], split over the devices as these are.

    A device holds two blocks of B / devices rows at a time and its rows of the result.

    Args:
      arrays: name → [B, …]; the number of devices divides B.
      rows: int32 [b], each in 0 … B - 1, the same on all devices, whose number divides b.
    """
    if devices() == 1:
        return {name: array[rows] for name, array in arrays.items()}
    split = P(batch_axes())
    take = jax.shard_map(_take_on_device, in_specs=(split, P()), out_specs=split)
    return jax.jit(take)(dict(arrays), rows)


def _take_on_device(block: dict[str, jax.Array], rows: jax.Array) -> dict[str, jax.Array]:
    axes, count = batch_axes(), devices()
    here = jax.lax.axis_index(axes)
    size, share = jax.tree.leaves(block)[0].shape[0], rows.shape[0] // count
    homes, owners = rows // size, jnp.arange(rows.shape[0]) // share
    mine = jax.lax.dynamic_slice_in_dim(rows, here * share, share)

    def merged(found: Any, passing: Any, home: jax.Array) -> Any:
        """`found` with those of my rows that lie in the block whose home is that device."""
        there = mine // size == home
        return jax.tree.map(
            lambda kept, array: jnp.where(
                there.reshape(-1, *(1,) * (array.ndim - 1)), array[mine % size], kept
            ),
            found,
            passing,
        )

    def go_round(found: Any, direction: int) -> Any:
        hops = jnp.max(direction * (owners - homes))  # the same on all devices
        ring = [(device, (device + direction) % count) for device in range(count)]

        def hop(state: Any) -> Any:
            number, passing, found = state
            passing = jax.tree.map(lambda x: jax.lax.ppermute(x, axes, ring), passing)
            return number + 1, passing, merged(found, passing, here - direction * number)

        start = jnp.ones((), jnp.int32), block, found
        return jax.lax.while_loop(lambda state: state[0] <= hops, hop, start)[2]

    found = jax.tree.map(lambda array: array[mine % size], block)
    return go_round(go_round(found, 1), -1)
