"""A student that starts from a part of its teacher (TinyCLIP; DistilBERT's layers)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.params import path_string, role
from mmjax.teachers.source import read_params
from mmjax.teachers.teacher import Teacher

# What must be equal for a leading part of the parameters to mean the same.
_EQUAL = ("image.size", "image.patch_size", "text.vocab_size")


def inherit(teacher: Teacher, config: ConfigDict, like: Any) -> Any:
    """Parameters of `like` (the student's shapes with shardings), cut out of the teacher's.

    Of L layers the student's l take numbers ⌊i·L/l⌋, of every dimension the leading part: of
    attention the leading heads, and of each its leading channels.

    UserError: the student is no part of the teacher, or the teacher's weights are not at hand.
    """
    key = f"config.teachers.{teacher.name}.start"
    weights = teacher.weights
    if weights is None:
        raise UserError(f"{key} needs the teacher's weights: set its source, too.")
    theirs = weights.config.model
    for path in _EQUAL:
        tower, field = path.split(".")
        both = tower in config.model and tower in theirs
        if both and theirs[tower].get(field) != config.model[tower].get(field):
            raise UserError(
                f"{key}: the teacher has {path}={theirs[tower].get(field)}, the student "
                f"{config.model[tower].get(field)}: set config.model.{path} to the teacher's."
            )

    def cut(params: Any) -> Any:
        known = {path_string(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}
        return jax.tree_util.tree_map_with_path(
            lambda p, x: _part(known, path_string(p), x.shape, theirs, config.model, key), like
        )

    shardings = jax.tree.map(lambda x: x.sharding, like)
    params = read_params(weights, jax.sharding.get_mesh())
    return jax.jit(cut, out_shardings=shardings)(params)


def _part(
    known: dict[str, jax.Array],
    path: str,
    shape: tuple[int, ...],
    theirs: ConfigDict,
    ours: ConfigDict,
    key: str,
) -> jax.Array:
    if path not in known:
        raise UserError(f"{key}: the teacher has no parameter {path}, so the student cannot.")
    x, tower = known[path], path.split("/")[0]
    if x.ndim != len(shape) or any(s > t for s, t in zip(shape, x.shape, strict=True)):
        raise UserError(
            f"{key}: the student's {path} {shape} is larger than the teacher's {x.shape}."
        )
    of = role(path)
    if of.heads and "heads" not in theirs[tower]:
        raise UserError(
            f"{key}: config.model.{tower} is of the kind {theirs[tower].kind!r}, whose heads "
            "differ from stage to stage: a student of it cannot start from its teacher."
        )
    if of.stacked:
        x = x[np.arange(shape[0]) * x.shape[0] // shape[0]]
    heads_axis = x.ndim - of.split if of.heads else None
    for axis in range(int(of.stacked), x.ndim):
        if axis == heads_axis:
            x = _leading_heads(x, axis, theirs[tower].heads, ours[tower].heads, shape[axis], key)
        else:
            x = jax.lax.slice_in_dim(x, 0, shape[axis], axis=axis)
    return x


def _leading_heads(
    x: jax.Array, axis: int, theirs: int, ours: int, width: int, key: str
) -> jax.Array:
    size, wanted = x.shape[axis] // theirs, width // ours
    if ours > theirs or wanted > size:
        raise UserError(
            f"{key}: the student has {ours} heads of {wanted} channels, the teacher {theirs} of "
            f"{size}: take no more of either."
        )
    split = jnp.reshape(x, (*x.shape[:axis], theirs, size, *x.shape[axis + 1 :]))
    split = jax.lax.slice_in_dim(split, 0, ours, axis=axis)
    split = jax.lax.slice_in_dim(split, 0, wanted, axis=axis + 1)
    return split.reshape((*x.shape[:axis], width, *x.shape[axis + 1 :]))
