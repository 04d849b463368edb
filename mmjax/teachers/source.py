"""Where a teacher's parameters come from, and a fingerprint that tells one teacher from another."""

import hashlib
from typing import Any

import jax
from ml_collections import ConfigDict

from mmjax import config as config_lib
from mmjax import models
from mmjax.errors import UserError
from mmjax.interop import pretrained
from mmjax.interop.formats import Weights
from mmjax.models import zoo
from mmjax.params import path_string
from mmjax.runs.checkpoint import checksum

RANDOM = "random:"


def open_source(source: str, key: str, run: ConfigDict) -> Weights:
    """The weights of anything that `mmjax.load` takes, or "random:ARCHITECTURE": random ones with
    the vocabulary of `run`, for plans and smoke runs.

    UserError: there is nothing of the kind; it begins with the config `key`.
    """
    try:
        return _random(source, run) if source.startswith(RANDOM) else pretrained.find(source)
    except UserError as error:
        raise UserError(f"{key}.source={source!r}: {error}") from error


def fingerprint(config: ConfigDict, params: Any) -> str:
    """16 hexadecimal digits of every bit of the parameters, and of what is done with them.

    The same on any number of devices and hosts: sums of integers, whatever their order.
    """
    image, text = config.model.image, config.model.text
    use = (image.size, image.mean, image.std, image.activation, text.context_length,
           text.activation, text.causal)  # fmt: skip
    digest = hashlib.sha256(repr(use).encode())
    sums = jax.jit(lambda tree: jax.tree.map(checksum, tree))(params)
    for path, value in jax.tree_util.tree_leaves_with_path(sums):
        digest.update(f"{path_string(path)} {int(value)}\n".encode())
    return digest.hexdigest()[:16]


def _random(source: str, run: ConfigDict) -> Weights:
    config = config_lib.default()
    config.model = zoo.config(source.removeprefix(RANDOM))
    config.model.text.vocab_size = max(
        config.model.text.vocab_size, run.model.text.vocab_size
    )  # fmt: skip

    def read(like: Any) -> Any:
        model = models.from_config(config.model)
        shardings = jax.tree.map(lambda x: x.sharding, like)
        return jax.jit(lambda key: models.init(model, key), out_shardings=shardings)(
            jax.random.key(0)
        )

    return Weights(source, config, read)
