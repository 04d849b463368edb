"""Models: `create("ViT-B/32")` by name, `from_config(config.model)` from a config, `init` both."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mmjax.data import modalities
from mmjax.models import fusion, prompts, scale, zoo  # noqa: F401 - they register
from mmjax.models.decoder import generate
from mmjax.models.graph import Function, Graph
from mmjax.models.parts import from_config, register
from mmjax.models.towers import (  # noqa: F401 - they register
    audio,
    convnext,
    htsat,
    naflex,
    regions,
    resnet,
    text,
    video,
    videoprism,
    vision,
    xclip,
)
from mmjax.parallel.mesh import batch_shards

__all__ = [
    "Function",
    "Graph",
    "create",
    "dummy_batch",
    "from_config",
    "generate",
    "init",
    "inputs",
    "register",
    "zoo",
]


def create(name: str) -> Graph:
    """The architecture "ViT-B/32" or another of `zoo.list_models()`; UserError: no such name."""
    return from_config(zoo.config(name))


def inputs(config: ConfigDict) -> dict[str, tuple[str, Any]]:
    """Part of `config.model` → (kind of the modality that it reads, the part's keys)."""
    return from_config(config).inputs()


def dummy_batch(model: Graph) -> dict[str, jax.Array]:
    """The smallest batch that the model accepts: zeros, of which none is padding.

    One example for each part that the current mesh cuts a batch into: a kernel inside a shard_map
    takes no fewer.
    """
    rows, columns = batch_shards(), dict[str, modalities.Column]()
    for modality in modalities.build(model.inputs()).values():
        columns |= modality.columns
    return {
        name: jnp.full((rows, *shape), dtype == np.bool_, dtype)
        for name, (shape, dtype) in columns.items()
    }


def init(model: Graph, key: jax.Array) -> Any:
    """Random parameters, float32. Every output is asked for: Linen creates only what is run."""
    return model.init(key, dummy_batch(model), model.outputs())["params"]
