"""Reading back a checkpoint that was just written, by the reader that would restore it.

Training goes on meanwhile and its devices are left alone: arrays are read to this host, a few at a
time, and their checksums compared with those that the devices computed of the state.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

TOGETHER = 1 << 28  # bytes of the arrays that are read at once
CHUNK = 1 << 20  # elements whose checksum is computed at once: they stay in the cache
_ODD = 2 * np.arange(CHUNK, dtype=np.uint32) + 1


def problem(folder: epath.Path, items: Mapping[str, Any], sums: Mapping[str, Any]) -> str:
    """What is wrong with the checkpoint that was written to `folder`; "" if nothing is.

    Args:
      folder: holds a folder for each item, and that of their checksums, `sums`.
      items: name → the shapes and dtypes of its arrays, in the tree that was saved.
      sums: name → uint32 [arrays], `checkpoint.checksums` of what was saved.

    Raises:
      Exception: of many kinds, where Orbax cannot read it.
    """
    written = _read(folder / "sums", dict.fromkeys(items, 0))
    for name, tree in items.items():
        expected = np.asarray(sums[name])
        if not np.array_equal(written[name], expected):
            return f"the checksums of {name} are not those that were written"
        leaves = jax.tree.leaves_with_path(tree)
        for first, arrays in _groups(folder / name, tree):
            for number, array in enumerate(arrays, first):
                path, leaf = leaves[number]
                as_saved = (array.shape, array.dtype) == (leaf.shape, leaf.dtype)
                if not as_saved or checksum(array) != expected[number]:
                    where = jax.tree_util.keystr(path, simple=True, separator="/")
                    return f"{name}/{where} is not what was written"
    return ""


def checksum(array: np.ndarray) -> np.uint32:
    """The same number as `checkpoint.checksum`, on this host."""
    bits = np.ascontiguousarray(array).reshape(-1).view(f"uint{8 * array.dtype.itemsize}")
    total = np.uint32(0)
    with np.errstate(over="ignore"):  # modulo 2³², as meant
        for at in range(0, bits.size, CHUNK):
            chunk = bits[at : at + CHUNK].astype(np.uint32)
            total += np.dot(chunk, _ODD[: chunk.size]) + np.uint32(2 * at % 2**32) * chunk.sum(
                dtype=np.uint32
            )
    return total


def _groups(folder: epath.Path, tree: Any) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(number of the first, arrays) of all arrays in order, at most TOGETHER bytes or one array."""
    leaves, structure = jax.tree.flatten(tree)
    starts = np.cumsum([0, *(x.size * x.dtype.itemsize for x in leaves)])
    first = 0
    while first < len(leaves):
        last = int(np.searchsorted(starts, starts[first] + TOGETHER, side="right")) - 1
        last = max(first + 1, last)
        some = [x if first <= n < last else ocp.PLACEHOLDER for n, x in enumerate(leaves)]
        found = _read(folder, jax.tree.unflatten(structure, some))
        yield first, [x for x in jax.tree.leaves(found) if x is not ocp.PLACEHOLDER]
        first = last


def _read(folder: epath.Path, tree: Any) -> Any:
    """The arrays of an item as NumPy's; the other hosts are not waited for.

    By Orbax's handler of one item: its `Checkpointer` refuses what is not committed yet.
    """
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=here, active_processes={here})
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    reader = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    try:
        args = ocp.args.PyTreeRestore(item=tree, restore_args=as_numpy)
        return reader.restore(folder, args=args)
    finally:
        reader.close()
