"""Rows that move between devices are the rows that were asked for, wherever they lay."""

import jax
import numpy as np
import pytest

from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.exchange import take_rows

SIZE = 32
RNG = np.random.default_rng(0)
ROWS = {
    "spread": np.sort(RNG.permutation(SIZE)[:16]),
    "all of the last devices": np.arange(16, SIZE),
    "in any order": RNG.permutation(SIZE)[:8],
}


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1, 1), (2, 2, 2), (4, 2, 1)])
def test_rows_are_those_of_numpy_and_split_as_a_batch(sizes):
    arrays = {
        "image": RNG.integers(0, 256, (SIZE, 3, 2), dtype=np.uint8),
        "there": RNG.random(SIZE) < 0.5,
        "embed": RNG.normal(size=(SIZE, 4)).astype(np.float32),
    }
    with jax.set_mesh(mesh_lib.make_mesh(*sizes, jax.devices()[: int(np.prod(sizes))])):
        batch, sharding = mesh_lib.put_batch(arrays, SIZE), mesh_lib.batch_sharding()
        for rows in ROWS.values():
            found = take_rows(batch, rows.astype(np.int32))
            for name, array in arrays.items():
                np.testing.assert_array_equal(np.asarray(found[name]), array[rows])
                assert found[name].sharding.is_equivalent_to(sharding, array.ndim)
