"""Starting a model from weights made elsewhere: which parameters fit, resized, taken or left.

Weights are first read as what they are, then matched with the wanted model path by path, so that a
tower of one family starts a tower of another model.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import flax.traverse_util
import jax
import numpy as np
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.interop.formats import Weights, shapes
from mmjax.interop.resize import resize_patches, resize_positions, resize_sequence
from mmjax.interop.table import Shape
from mmjax.models.parts import of_model, sections
from mmjax.models.towers.vision import class_positions
from mmjax.params import role
from mmjax.schema import SHAPE_FREE, TRAINING_ONLY
from mmjax.values import PATTERN


@dataclasses.dataclass(frozen=True)
class InitFrom:
    """The keys of `config.init_from`: weights read once, before the first step of a fresh run.

    Attributes:
      source: Folder, file, workdir or hub name of the weights that a fresh run starts from; '':
        random.
      parts: Patterns of what is taken, e.g. ('image/',) for LiT; (): all that fits.
      rename: (part of the weights, part of config.model) pairs, e.g. (('image', 'video'),) for
        frames of videos; parts has the new names.
    """

    source: str = ""
    parts: Annotated[tuple[str, ...], PATTERN] = ()
    rename: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Report:
    """Paths of parameters: `taken` from the weights, `left` in them, `missing` in them; and
    `differing`, sentences on what the parameters were made for."""

    taken: list[str]
    left: list[str]
    missing: list[str]
    differing: list[str]

    def __str__(self) -> str:
        lines = [f"took {len(self.taken)} parameters: {grouped(self.taken)}"]
        if self.left:
            lines.append(f"left {len(self.left)}: {grouped(self.left)}")
        if self.missing:
            lines.append(f"not in it, random: {grouped(self.missing)}")
        return "\n".join(lines + self.differing)


def renamed(weights: Weights, names: Sequence[tuple[str, str]]) -> Weights:
    """The weights with some parts called otherwise: (their name, its new one) pairs.

    Raises:
      UserError: they have no such part, or another of the new name.
    """
    new, model = dict(names), weights.config.model
    for old in new:
        if old not in sections(model):
            raise UserError(
                f"config.init_from.rename: {weights.source} has no part {old!r}: it has "
                f"{', '.join(sections(model))}."
            )
    called = [new.get(name, name) for name in sections(model)]
    if len(set(called)) < len(called):
        raise UserError(
            f"config.init_from.rename={tuple(names)!r} gives two parts of {weights.source} one "
            "name: give each its own."
        )
    back = {name: old for old, name in new.items()}

    def read(like: Any) -> Any:
        found = weights.read({back.get(name, name): tree for name, tree in like.items()})
        return {new.get(name, name): tree for name, tree in found.items()}

    config = weights.config.copy_and_resolve_references()
    config.model = ConfigDict({new.get(name, name): value for name, value in model.items()})
    for part in sections(config.model).values():
        if "of" in part:
            part.of = tuple(new.get(name, name) for name in part.of)
    return dataclasses.replace(weights, config=config, read=read)


def start_from(
    weights: Weights, model: ConfigDict, params: Any, parts: Sequence[str] = ()
) -> tuple[Any, Report]:
    """`params` replaced by those of `weights`, and the report.

    Args:
      weights: to start from.
      model: `config.model` of `params`.
      params: our tree, of arrays as they shall lie on the devices.
      parts: regular expressions, matched from the start of a path, of what is taken, as in
        `config.optim.freeze`; () is all that the weights have.

    Raises:
      UserError: nothing fits, a pattern matches nothing, or a parameter has another shape.
    """
    report = plan(weights, model, parts)
    result = flax.traverse_util.flatten_dict(params, sep="/")
    theirs = flax.traverse_util.flatten_dict(shapes(weights.config.model), sep="/")
    for part in sorted({path.split("/")[0] for path in report.taken}):  # one tower at a time
        like = {}
        for path in report.taken:
            if path.split("/")[0] == part:
                fits = theirs[path].shape == result[path].shape
                sharding = result[path].sharding if fits else None
                like[path] = jax.ShapeDtypeStruct(
                    theirs[path].shape, result[path].dtype, sharding=sharding
                )
        found = weights.read(flax.traverse_util.unflatten_dict(like, sep="/"))
        for path, x in flax.traverse_util.flatten_dict(found, sep="/").items():
            if x.shape != result[path].shape:
                wanted = result[path].shape
                x = resized(path, np.asarray(x), wanted, weights.config.model, model)
                x = jax.device_put(x, result[path].sharding)
            result[path] = x
    return flax.traverse_util.unflatten_dict(result, sep="/"), report


def plan(weights: Weights, model: ConfigDict, parts: Sequence[str] = ()) -> Report:
    """What `start_from` would do; nothing is read. Raises the same."""
    source = weights.config.model
    theirs, ours = (flax.traverse_util.flatten_dict(shapes(m), sep="/") for m in (source, model))
    for pattern in parts:
        if not any(re.match(pattern, path) for path in theirs):
            raise UserError(
                f"config.init_from.parts: {pattern!r} matches no parameter of {weights.source}, "
                f"which holds {grouped(theirs)}."
            )

    def wanted(path: str) -> bool:
        part, _, rest = path.partition("/")
        if rest.startswith("head/") and source[part].head != model[part].head:
            return False  # BERT's pooler is no projection
        return not parts or any(re.match(pattern, path) for pattern in parts)

    taken = [path for path in theirs if path in ours and wanted(path)]
    if not taken:
        raise UserError(
            f"config.init_from: {weights.source} is of another architecture: it holds "
            f"{grouped(theirs)}, none of which config.model has."
        )
    for path in taken:
        shapes_of = (theirs[path].shape, ours[path].shape)
        if len({*shapes_of}) > 1 and not _resizable(path, *shapes_of, source, model):
            raise UserError(
                f"{path} has shape {theirs[path].shape} in {weights.source}, but "
                f"{ours[path].shape} in config.model: make config.model that of the weights, or "
                "leave the parameter out with config.init_from.parts."
            )
    made_with = {path: value for path, _, value in of_model(source)}
    differing = [
        f"config.model.{path}={value!r}, but the weights were made with {made_with[path]!r}"
        for path, key, value in of_model(model)
        if SHAPE_FREE in key.marks and TRAINING_ONLY not in key.marks
        if any(name.startswith(f"{path.split('.')[0]}/blocks/") for name in taken)
        if made_with.get(path, value) != value
    ]
    left = [path for path in theirs if path not in taken] + list(weights.left)
    missing = [path for path in ours if path not in taken]
    return Report(taken, left, missing, differing)


IMAGES = ("vit", "video_vit", "naflex")  # kinds with positions on a grid of patches


def _resizable(path: str, old: Shape, new: Shape, source: ConfigDict, model: ConfigDict) -> bool:
    of = role(path)
    if path.endswith("/patch_embed/kernel"):  # [P, P, C, W], of tubelets [T, P, P, C, W]
        return old[-2:] == new[-2:] and old[:-4] in ((), new[:-4])
    if of.kind != "position" or old[1] != new[1]:
        return False
    theirs, ours = source[of.part], model[of.part]
    if is_of_time(path):
        return True
    if {theirs.kind, ours.kind} <= {*IMAGES}:
        return class_positions(theirs) == class_positions(ours)
    if theirs.kind == ours.kind and "position_offset" in ours:
        appended = {part.pool == "appended" for part in (theirs, ours)}
        return theirs.position_offset == ours.position_offset and len(appended) == 1
    return False


def is_of_time(path: str) -> bool:
    """Whether positions are those of frames."""
    return path.endswith(("/time_embed", "/time/position_embed"))


def resized(
    path: str, x: np.ndarray, shape: Shape, source: ConfigDict, model: ConfigDict
) -> np.ndarray:
    """Image positions for another grid; text positions cut, which is exact, or stretched; those of
    frames stretched either way; a patch kernel for another patch size, and as that of a tubelet's
    central frame, all others at zero (ViViT's central-frame initialisation)."""
    if path.endswith("/patch_embed/kernel"):
        size = (shape[-4], shape[-3])
        if x.shape[-4:-2] != size:
            frames = x.reshape(-1, *x.shape[-4:])
            x = np.stack([resize_patches(frame, size) for frame in frames]).reshape(
                *x.shape[:-4], *size, *x.shape[-2:]
            )
        if x.ndim == len(shape):
            return x
        kernel = np.zeros(shape, x.dtype)
        kernel[shape[0] // 2] = x
        return kernel
    theirs, ours = (m[role(path).part] for m in (source, model))
    if is_of_time(path):
        return resize_sequence(x, shape[0])
    if ours.kind in IMAGES:
        old, new = (part.size // part.patch_size for part in (theirs, ours))
        return resize_positions(
            x, (old, old), (new, new), class_token=bool(class_positions(theirs)),
            method=theirs.get("position_resize", "cubic"),
        )  # fmt: skip
    offset, length = ours.position_offset, ours.context_length
    end = len(x) - (theirs.pool == "appended")  # whose position stays
    positions = x[offset : offset + length]
    if offset + length > end:
        positions = resize_sequence(x[offset:end], length)
    return np.concatenate([x[:offset], positions, x[end:]])


def grouped(paths: Iterable[str]) -> str:
    """Paths by their first two parts, "image/blocks (16), text/head"; theirs have dots."""
    counts: dict[str, int] = {}
    for path in paths:
        group = "/".join(path.replace(".", "/").split("/")[:2])
        counts[group] = counts.get(group, 0) + 1
    return ", ".join(name if n == 1 else f"{name} ({n})" for name, n in counts.items())
