"""Where a teacher's parameters come from, and a fingerprint that tells one teacher from another."""

import hashlib
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from mmjax import models
from mmjax.data.keys import PREPROCESS
from mmjax.errors import UserError
from mmjax.interop import registry
from mmjax.interop.formats import Weights
from mmjax.models import parts, zoo
from mmjax.parallel import rules
from mmjax.params import path_string
from mmjax.runs.checkpoint import checksum
from mmjax.schema import TRAINING_ONLY, entry

RANDOM = "random:"


def open_source(source: str, key: str, run: ConfigDict) -> Weights:
    """The weights of anything that `mmjax.load` takes, or "random:ARCHITECTURE": random ones with
    the vocabulary of `run`, for plans and smoke runs.

    UserError: there is nothing of the kind; it begins with the config `key`.
    """
    try:
        return _random(source, run) if source.startswith(RANDOM) else registry.find(source)
    except UserError as error:
        raise UserError(f"{key}.source={source!r}: {error}") from error


class Fingerprint(NamedTuple):
    """`mark` tells one teacher from another; `before` is what records of version 0 call it."""

    mark: str
    before: str

    def matches(self, recorded: str) -> bool:
        return recorded in self


def fingerprint(config: ConfigDict, params: Any) -> Fingerprint:
    """Of every bit of the parameters, and of all keys that say what is computed with them.

    The same on any number of devices and hosts: sums of integers, whatever their order.
    """
    used = [
        f"{path}={value!r}"
        for path, key, value in parts.of_model(config.model)
        if not key.resumable and TRAINING_ONLY not in key.marks
    ]
    sums = _checksums(params)
    lines = [
        f"{path_string(path)} {int(value)}\n"
        for path, value in jax.tree_util.tree_leaves_with_path(sums)
    ]
    digest = hashlib.sha256("\n".join([*used, *lines]).encode())
    return Fingerprint(f"1:{digest.hexdigest()[:16]}", _version_0(config.model, lines))


@jax.jit
def _checksums(params: Any) -> Any:
    return jax.tree.map(checksum, params)


def read_params(weights: Weights, mesh: jax.sharding.Mesh) -> Any:
    """The parameters of `weights`, on the mesh."""
    model = models.from_config(weights.config.model)
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0)))
    return weights.read(rules.with_shardings(shapes, mesh))


def _version_0(model: ConfigDict, lines: list[str]) -> str:
    """The mark in teachers.json and teacher.json of mmjax up to config.json's version 0."""
    # It was of both towers; what one does not have had the default of all kinds.
    image, text = entry(parts.KINDS["vit"].keys), entry(parts.KINDS["transformer"].keys)
    for tower, name in ((image, "image"), (text, "text")):
        own = model.get(name, ConfigDict())
        tower.update({key: own[key] for key in tower if key in own})
    use = (image.size, image.mean, image.std, image.activation, text.context_length,
           text.activation, text.causal)  # fmt: skip
    return hashlib.sha256("".join([repr(use), *lines]).encode()).hexdigest()[:16]


def _random(source: str, run: ConfigDict) -> Weights:
    model = zoo.config(source.removeprefix(RANDOM))
    config = ConfigDict({"model": model, "data": entry(PREPROCESS)})
    rows = [part.vocab_size for part in parts.vocabularies(run.model).values()]
    for part in parts.vocabularies(model).values():
        part.vocab_size = max([part.vocab_size, *rows])

    def read(like: Any) -> Any:
        model = models.from_config(config.model)
        shardings = jax.tree.map(lambda x: x.sharding, like)
        return jax.jit(lambda key: models.init(model, key), out_shardings=shardings)(
            jax.random.key(0)
        )

    return Weights(source, config, read)
