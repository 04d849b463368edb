"""The mesh from its sizes, and batches on it."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from mmjax.errors import UserError
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.hardware import describe


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((-1, 2, 2), (2, 2, 2)),
        ((2, -1, 1), (2, 4, 1)),
        ((1, 1, -1), (1, 1, 8)),
        ((4, 2, 1), (4, 2, 1)),
        ((8, -1, 1), (8, 1, 1)),
    ],
)
def test_one_size_may_be_the_rest(sizes, shape):
    mesh = mesh_lib.make_mesh(*sizes)
    assert tuple(mesh.shape.values()) == shape
    assert mesh.axis_names == ("data", "fsdp", "tensor")


@pytest.mark.parametrize(
    "sizes", [(3, 1, 1), (-1, -1, 1), (-1, 3, 1), (16, 1, 1), (0, 1, 1), (-1, 0, 1), (-2, -4, 1)]
)
def test_sizes_that_do_not_fit_are_named(sizes):
    with pytest.raises(UserError, match=rf"config\.mesh\.data={sizes[0]}.*8 device") as error:
        mesh_lib.make_mesh(*sizes)
    assert f"config.mesh.fsdp={sizes[1]}" in str(error.value)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)])
def test_a_batch_goes_to_the_devices_row_by_row(sizes):
    batch = {"text": np.arange(48).reshape(16, 3), "group": np.arange(16)}
    with jax.set_mesh(mesh_lib.make_mesh(*sizes)):
        np.testing.assert_array_equal(mesh_lib.local_rows(16), np.arange(16))
        placed = mesh_lib.put_batch(batch, 16)
    rows = 16 // (sizes[0] * sizes[1])
    for name, array in placed.items():
        np.testing.assert_array_equal(array, batch[name])
        assert array.sharding.spec == P(("data", "fsdp"))
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {rows}


def test_hosts_load_the_rows_of_their_devices(monkeypatch):
    """Two hosts of four devices each, the second host's devices described by their ids: with
    `tensor` across the hosts both own all rows, and neither owns a half."""

    def rows(mesh, devices):
        with jax.set_mesh(mesh):
            sharding = mesh_lib.batch_sharding()
            full = sharding.devices_indices_map((16,))
            own = {device: full[device] for device in devices}
            monkeypatch.setattr(
                type(sharding), "addressable_devices_indices_map", lambda self, shape: own
            )
            return mesh_lib.local_rows(16)

    devices = jax.devices()
    by_data = mesh_lib.make_mesh(4, 2, 1)
    np.testing.assert_array_equal(rows(by_data, devices[4:]), np.arange(8, 16))
    crossed = jax.sharding.Mesh(
        np.array(devices).reshape(2, 4).T.reshape(4, 1, 2), mesh_lib.AXES,
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
    )  # fmt: skip
    np.testing.assert_array_equal(rows(crossed, devices[:4]), np.arange(16))
    np.testing.assert_array_equal(rows(crossed, devices[4:]), np.arange(16))


def test_without_a_mesh_activations_pass_as_they_are():
    x = jax.numpy.ones((4, 2))
    assert mesh_lib.constrain(x, "batch", None) is x


def test_an_activation_is_split_by_batch_and_tensor():
    mesh = mesh_lib.make_mesh(2, 2, 2)
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: mesh_lib.constrain(x, "batch", "tensor"))(np.ones((8, 4)))
    assert y.sharding.spec == P(("data", "fsdp"), "tensor")


@pytest.mark.parametrize("topology", ["v5p:8x8x16", "2*v5p:4x4x4", "v5e:16x16"])
def test_an_axis_may_be_smaller_than_every_side_of_the_torus(topology):
    devices = describe(topology).devices
    mesh = mesh_lib.make_mesh(-1, 2, 1, devices=devices)
    assert dict(mesh.shape) == {"data": len(devices) // 2, "fsdp": 2, "tensor": 1}
    assert set(mesh.devices.flat) == set(devices)
