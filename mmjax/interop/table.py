"""Name tables: our parameter path ↔ the name another library gives it.

One row says how a parameter is called on both sides and how its axes are ordered there; the same
rows export and import. Both directions are strict: every parameter has exactly one place, of the
right shape, or the `UserError` names it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

from mmjax.errors import UserError

LINEAR = (1, 0)  # ours [in, out] ↔ theirs [out, in]
CONV = (3, 2, 0, 1)  # ours [P, P, 3, W] ↔ theirs [W, 3, P, P]


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter on both sides.

    Attributes:
      ours: path in our tree, "image/norm_post/scale".
      theirs: their name. A "{}" in it stands for the layer number: ours is one array stacked over
        layers, theirs is one array a layer.
      axes: which of our axes (of one layer) each of theirs is; None where they agree.
    """

    ours: str
    theirs: str
    axes: tuple[int, ...] | None = None

    @property
    def stacked(self) -> bool:
        return "{}" in self.theirs

    def names(self, shape: tuple[int, ...]) -> list[str]:
        """Their name or, if stacked, their names in order of layers; `shape` is of ours."""
        return [self.theirs.format(i) for i in range(shape[0])] if self.stacked else [self.theirs]

    def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of (each of) theirs; `shape` is of ours."""
        shape = shape[1:] if self.stacked else shape
        return shape if self.axes is None else tuple(shape[axis] for axis in self.axes)


def to_theirs(params: Any, table: Sequence[Row], like: Any) -> dict[str, np.ndarray]:
    """Our parameter tree as a flat dict of their names, C-contiguous, dtypes as they are.

    Args:
      params: nested dict of arrays.
      table: rows, one a parameter.
      like: nested dict of anything with `.shape`: what the parameters must be.

    Raises:
      UserError: a parameter is missing, has no row, or is of another shape than in `like`.
    """
    ours, shapes = _flat(params), _shapes(like)
    _check(ours, shapes, "the parameters", "the model of this config")
    _check_covered(table, shapes)
    state = {}
    for row in table:
        array = np.asarray(ours[row.ours])
        names = row.names(array.shape)
        for name, layer in zip(names, array if row.stacked else [array], strict=True):
            layer = layer if row.axes is None else layer.transpose(row.axes)
            state[name] = np.asarray(layer, order="C")
    return state


def from_theirs(state: Mapping[str, Any], table: Sequence[Row], like: Any) -> dict[str, Any]:
    """The inverse of `to_theirs`: a flat dict of their names as our parameter tree.

    Args:
      state: their name → array, or a lazy mapping that reads one array at a time.
      table: rows, one a parameter.
      like: nested dict of anything with `.shape` and `.dtype`, our tree; the dtypes become these.

    Raises:
      UserError: a parameter is missing, unexpected, or of the wrong shape (both are named).
    """
    wanted = flax.traverse_util.flatten_dict(like, sep="/")
    shapes = _shapes(like)
    _check_covered(table, shapes)
    theirs = {
        name: row.their_shape(shapes[row.ours])
        for row in table
        for name in row.names(shapes[row.ours])
    }
    _check(state, theirs, "the weights", "this model")
    ours = {}
    for row in table:
        target = wanted[row.ours]
        back = None if row.axes is None else np.argsort(row.axes)
        arrays = [np.asarray(state[name]) for name in row.names(target.shape)]
        arrays = [a if back is None else a.transpose(back) for a in arrays]
        array = np.stack(arrays) if row.stacked else arrays[0]
        ours[row.ours] = np.asarray(array, dtype=target.dtype, order="C")
    return flax.traverse_util.unflatten_dict(ours, sep="/")


def _flat(tree: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in _flat(tree).items()}


def _check(found: Mapping[str, Any], shapes: Mapping[str, tuple], what: str, model: str) -> None:
    """Same names, same shapes, or an error that names the first that differs."""
    missing = [name for name in shapes if name not in found]
    if missing:
        raise UserError(f"{what} lack {_first(missing)}, which {model} has: is it another model?")
    unexpected = [name for name in found if name not in shapes]
    if unexpected:
        raise UserError(f"{what} hold {_first(unexpected)}, for which {model} has no place.")
    for name, shape in shapes.items():
        if tuple(found[name].shape) != shape:
            raise UserError(
                f"{name} has shape {tuple(found[name].shape)} in {what}, but {shape} in {model}."
            )


def _check_covered(table: Sequence[Row], shapes: Mapping[str, tuple]) -> None:
    """Every parameter of the model has a row. (A format says itself what it cannot hold, in the
    user's terms, before it comes to this.)"""
    uncovered = [path for path in shapes if path not in {row.ours for row in table}]
    if uncovered:
        raise UserError(f"the parameter {_first(uncovered)} has no name in this format.")


def _first(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
