"""The device mesh, and the batch on it.

One mesh of three axes serves every run: `data` (replicas), `fsdp` (replicas that split the
parameters), `tensor` (devices that split heads and hidden units). The batch is split over
(`data`, `fsdp`). Everything here reads the mesh of the surrounding `jax.set_mesh`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.errors import UserError
from mmjax.values import Range

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")
Axis = Annotated[int, Range(1, also=(-1,))]  # -1: all that remain


def make_mesh(
    data: Axis = -1, fsdp: Axis = 1, tensor: Axis = 1, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
    """Builds the mesh; one size may be -1, "all that remain".

    Args:
      data: Replicas; -1: all remaining devices.
      fsdp: Devices that split parameters and batch; -1: all remaining devices.
      tensor: Devices that split heads and hidden units; -1: all remaining devices.
      devices: to lay it on; None: all.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or `data` to that of slices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dict(zip(AXES, (data, fsdp, tensor), strict=True))
    free = [axis for axis, size in sizes.items() if size == -1]
    fixed = [size for size in sizes.values() if size != -1]
    given = int(np.prod(fixed))
    valid = all(size > 0 for size in fixed)
    if valid and len(free) == 1 and len(devices) % given == 0:
        sizes[free[0]] = len(devices) // given
    elif free or not valid or given != len(devices):
        asked = ", ".join(f"config.mesh.{axis}={size}" for axis, size in sizes.items())
        raise UserError(
            f"{asked} cannot be laid on {len(devices)} device(s): let the sizes multiply to "
            f"{len(devices)}, with at most one -1 for the rest."
        )
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        # An axis may be smaller than any side of the torus: then a side is split.
        array = mesh_utils.create_device_mesh(
            tuple(sizes.values()), devices, allow_split_physical_axes=True
        )
        return jax.sharding.Mesh(array, AXES, axis_types=types)
    if sizes["data"] % slices:
        raise UserError(
            f"config.mesh.data={sizes['data']} is no multiple of the {slices} slices: replicas go "
            "over the slow network between them, parameters and heads never do."
        )
    inside = (sizes["data"] // slices, sizes["fsdp"], sizes["tensor"])
    array = mesh_utils.create_hybrid_device_mesh(
        inside, (slices, 1, 1), devices, allow_split_physical_axes=True
    )
    return jax.sharding.Mesh(array, AXES, axis_types=types)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins the layout of an activation: an axis is "batch", "tensor" or None (not split).

    Without a mesh (a single device, a notebook) the array is returned as it is.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(*(BATCH if a == "batch" else a for a in axes)))


def platform() -> str:
    """ "cpu", "gpu" or "tpu": that of the current mesh, whose devices may only be described."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def batch_shards() -> int:
    """How many parts the current mesh cuts a batch into; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else math.prod(mesh.shape[axis] for axis in BATCH)


def batch_sharding() -> NamedSharding:
    """How a batch lies on the current mesh: leading axis over (`data`, `fsdp`)."""
    return NamedSharding(jax.sharding.get_mesh(), P(BATCH))


def local_rows(batch_size: int) -> np.ndarray:
    """Row numbers [n] int64 of the global batch that this host's devices own, ascending.

    Hosts that share rows (with `tensor` across hosts) both load them.
    """
    slices = batch_sharding().addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[s] for s in slices]))


def put_batch(batch: Mapping[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
    """Makes global arrays [batch_size, ...] of this host's rows (those of `local_rows`)."""
    sharding, rows = batch_sharding(), local_rows(batch_size)

    def put(local: np.ndarray) -> jax.Array:
        def piece(index):
            start, stop, _ = index[0].indices(batch_size)
            begin = np.searchsorted(rows, start)
            return local[begin : begin + stop - start]

        return jax.make_array_from_callback((batch_size, *local.shape[1:]), sharding, piece)

    return {name: put(local) for name, local in batch.items()}
