"""Name tables: our parameter path ↔ the name another library gives it.

One row says how a parameter is called on both sides and how it is laid out there; the same rows
export and import. Both directions are strict: every parameter has exactly one name, of the right
shape, or the `UserError` names it. Reading takes one parameter at a time into the shards it is for.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from mmjax.errors import UserError

LINEAR = (1, 0)  # ours [in, out] ↔ theirs [out, in]
CONV = (3, 2, 0, 1)  # ours [P, P, 3, W] ↔ theirs [W, 3, P, P]

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """One of their parameters, and which of ours it is.

    Attributes:
      ours: path in our tree, "image/norm_post/scale"; or several, whose concatenation along the
        first axis (of their layout) theirs is: query, key and value in one.
      theirs: their name. A "{}" in it stands for the layer number: ours is one array stacked over
        layers, theirs is one array a layer.
      axes: which of our axes (of one layer) each of theirs is; None where they agree.
      shape: their shape (of one of `ours`, one layer) where it is a reshape of what `axes` gives:
        big_vision's [W, heads, head_dim], SigLIP's [1] for a scalar.
    """

    ours: str | tuple[str, ...]
    theirs: str
    axes: tuple[int, ...] | None = None
    shape: Shape | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.ours,) if isinstance(self.ours, str) else self.ours

    @property
    def stacked(self) -> bool:
        return "{}" in self.theirs

    def names(self, shape: Shape) -> list[str]:
        """Their name or, if stacked, their names in order of layers; `shape` is of ours."""
        return [self.theirs.format(i) for i in range(shape[0])] if self.stacked else [self.theirs]

    def matches(self, name: str) -> bool:
        """Whether `name` is this parameter's, of whatever layer."""
        return re.fullmatch(re.escape(self.theirs).replace(r"\{\}", r"\d+"), name) is not None

    def their_shape(self, shapes: Sequence[Shape]) -> Shape:
        """The shape of (each of) theirs; `shapes` are those of `paths`."""
        parts = [self.shape or self._permuted(shape) for shape in shapes]
        return (sum(p[0] for p in parts), *parts[0][1:]) if len(parts) > 1 else parts[0]

    def to_theirs(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """Ours (one layer of each of `paths`) in their layout, C-contiguous."""
        parts = [a if self.axes is None else a.transpose(self.axes) for a in arrays]
        parts = [a if self.shape is None else a.reshape(self.shape) for a in parts]
        return np.asarray(np.concatenate(parts) if len(parts) > 1 else parts[0], order="C")

    def from_theirs(self, array: np.ndarray, shapes: Sequence[Shape]) -> Iterator[np.ndarray]:
        """Theirs (of one layer) as views of ours, for each of `paths`; `shapes` are of ours."""
        start = 0
        for shape in shapes:
            part = array
            if len(shapes) > 1:
                size = (self.shape or self._permuted(shape))[0]
                part, start = array[start : start + size], start + size
            if self.shape is not None:
                part = part.reshape(self._permuted(shape))
            yield part if self.axes is None else part.transpose(np.argsort(self.axes))

    def _permuted(self, shape: Shape) -> Shape:
        shape = shape[1:] if self.stacked else shape
        return shape if self.axes is None else tuple(shape[axis] for axis in self.axes)


def to_theirs(params: Any, table: Sequence[Row], like: Any) -> dict[str, np.ndarray]:
    """Our parameter tree as a flat dict of their names, C-contiguous, dtypes as they are.

    Args:
      params: nested dict of arrays.
      table: rows, each of our parameters in one.
      like: nested dict of anything with `.shape`: what the parameters must be.

    Raises:
      UserError: a parameter is missing, has no row, or is of another shape than in `like`.
    """
    ours, shapes = _flat(params), _shapes(like)
    _check_names(ours, shapes, shapes.__contains__, "the parameters", "the model of this config")
    _check_shapes(ours, shapes, "the parameters", "the model of this config")
    _check_covered(table, shapes)
    state = {}
    for row in table:
        arrays = [np.asarray(ours[path]) for path in row.paths]
        for layer, name in enumerate(row.names(arrays[0].shape)):
            state[name] = row.to_theirs([a[layer] if row.stacked else a for a in arrays])
    return state


def their_shapes(table: Sequence[Row], like: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """Their names and shapes of the parameters in `like` that have a row."""
    shapes = _shapes(like)
    theirs: dict[str, jax.ShapeDtypeStruct] = {}
    for row in table:
        if all(path in shapes for path in row.paths):
            ours = [shapes[path] for path in row.paths]
            found = jax.ShapeDtypeStruct(row.their_shape(ours), np.float32)
            theirs |= dict.fromkeys(row.names(ours[0]), found)
    return theirs


def from_theirs(
    state: Mapping[str, Any],
    table: Sequence[Row],
    like: Any,
    *,
    ignored: Sequence[str] = (),
    what: str = "the weights",
) -> dict[str, Any]:
    """The inverse of `to_theirs`: a flat dict of their names as our parameter tree.

    Args:
      state: their name → anything with `.shape` that `np.asarray` reads: arrays, or `files.Tensor`s
        that are read one at a time.
      table: rows, each parameter of the whole model in one.
      like: nested dict of anything with `.shape` and `.dtype`: our tree, or the part of it that is
        wanted; the dtypes become these. A leaf with a `.sharding` is put on its devices before
        the next parameter is read, one without stays in NumPy.
      ignored: regular expressions of names in files that are no parameters of the model.
      what: they are called in messages.

    Raises:
      UserError: a parameter is missing, unexpected, or of the wrong shape (both are named).
    """
    wanted, shapes = _flat(like), _shapes(like)
    _check_covered(table, shapes)
    rows = [row for row in table if any(path in shapes for path in row.paths)]
    others = [row for row in table if row not in rows]
    full = {row: _shapes_of(row, shapes) for row in rows}
    theirs: dict[str, Shape] = {}
    for row, ours in full.items():
        theirs |= dict.fromkeys(row.names(ours[0]), row.their_shape(ours))

    def known(name: str) -> bool:
        return (
            name in theirs
            or any(re.fullmatch(pattern, name) for pattern in ignored)
            or any(row.matches(name) for row in others)
        )

    _check_names(state, theirs, known, what, "this model")
    _check_shapes(state, theirs, what, "this model")
    result = {}
    for row, ours in full.items():
        arrays = {
            path: np.empty(wanted[path].shape, wanted[path].dtype)
            for path in row.paths
            if path in wanted
        }
        for layer, name in enumerate(row.names(ours[0])):
            parts = row.from_theirs(_floats(np.asarray(state[name]), name, what), ours)
            for path, part in zip(row.paths, parts, strict=True):
                if path in arrays:
                    arrays[path][layer if row.stacked else ...] = part
        for path in list(arrays):
            result[path] = _put(arrays.pop(path), wanted[path])
    return flax.traverse_util.unflatten_dict(result, sep="/")


def _floats(array: np.ndarray, name: str, what: str) -> np.ndarray:
    """The array, unless it is of integers: such weights are quantised, and have scales beside."""
    if array.dtype.kind in "iub":
        raise UserError(
            f"{what} hold {name} as {array.dtype}, quantised: get them in bfloat16, float16 or "
            "float32."
        )
    return array


def _shapes_of(row: Row, shapes: Mapping[str, Shape]) -> list[Shape]:
    """Shapes of a row's paths; what is not wanted of a fused one is as large as what is."""
    present = next(shapes[path] for path in row.paths if path in shapes)
    return [shapes.get(path, present) for path in row.paths]


def _put(array: np.ndarray, target: Any) -> Any:
    sharding = getattr(target, "sharding", None)
    if sharding is None:
        return array
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _flat(tree: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def _shapes(tree: Any) -> dict[str, Shape]:
    return {path: tuple(leaf.shape) for path, leaf in _flat(tree).items()}


def _check_names(
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    known: Callable[[str], bool],
    what: str,
    model: str,
) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(f"{what} lack {_first(missing)}, which {model} has: is it another model?")
    unexpected = [name for name in found if not known(name)]
    if unexpected:
        raise UserError(f"{what} hold {_first(unexpected)}, which {model} does not have.")


def _check_shapes(
    found: Mapping[str, Any], shapes: Mapping[str, Shape], what: str, model: str
) -> None:
    for name, shape in shapes.items():
        if tuple(found[name].shape) != shape:
            raise UserError(
                f"{name} has shape {tuple(found[name].shape)} in {what}, but {shape} in {model}."
            )


def _check_covered(table: Sequence[Row], shapes: Mapping[str, Shape]) -> None:
    """Every parameter of the model has a row. (A format says itself what it cannot hold, in the
    user's terms, before it comes to this.)"""
    covered = {path for row in table for path in row.paths}
    uncovered = [path for path in shapes if path not in covered]
    if uncovered:
        raise UserError(f"the parameter {_first(uncovered)} has no name in this format.")


def _first(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
