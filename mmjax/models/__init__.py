"""Models: `create("ViT-B/32")` by name, `from_config(config.model)` from a config, `init` both."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mmjax.data import modalities
from mmjax.models import zoo
from mmjax.models.decoder import generate
from mmjax.models.fusion import Fusion
from mmjax.models.graph import Graph, Part
from mmjax.models.regions import RegionTower
from mmjax.models.resnet import ModifiedResNet
from mmjax.models.scale import Scale
from mmjax.models.text import TextTower
from mmjax.models.vision import VisionTower
from mmjax.parallel.mesh import batch_shards, platform

__all__ = ["Graph", "create", "dummy_batch", "from_config", "generate", "init", "inputs", "zoo"]


def create(name: str) -> Graph:
    """The named architecture (`zoo.names()`), e.g. "ViT-B/32"; UserError for an unknown name."""
    return from_config(zoo.config(name))


def from_config(config: ConfigDict) -> Graph:
    """Builds the model of `config.model`."""
    shared = {"embed_dim": config.embed_dim, "dtype": compute_dtype(config.dtype)}
    kinds = {"vit": VisionTower, "resnet": ModifiedResNet, "regions": RegionTower}
    parts: dict[str, Any] = {}
    if "image" in config.towers:
        image: Any = kinds[config.image.kind]
        keys = {field.name for field in dataclasses.fields(image)}  # other kinds have other keys
        parts["image"] = image(**{k: v for k, v in {**config.image, **shared}.items() if k in keys})
    if "text" in config.towers:
        parts["text"] = TextTower(**config.text, **shared)
    if config.fusion.style != "none":
        parts["fusion"] = _fusion(config, shared["dtype"])
    if len(config.towers) == 2 and config.text.depth and _embeds(config.image):
        parts["logit"] = Scale(
            config.logit_scale_init, config.logit_scale_max, config.logit_bias_init
        )
    return Graph({name: Part(module) for name, module in parts.items()})


def _embeds(image: ConfigDict) -> bool:
    return image.kind == "resnet" or (image.kind == "vit" and image.depth > 0)


def _fusion(config: ConfigDict, dtype: jnp.dtype) -> Fusion:
    """The fusion's layers are the text tower's in all but their number."""
    names = ("width", "heads", "mlp_dim", "activation", "norm", "norm_eps", "attention", "remat",
             "unroll", "causal", "pool")  # fmt: skip
    return Fusion(
        **config.fusion, **{name: config.text[name] for name in names}, dtype=dtype,
        class_token=config.image.kind == "vit" and config.image.pool == "cls",
    )  # fmt: skip


def compute_dtype(name: str) -> jnp.dtype:
    """ "auto" is float32 on CPU, where bfloat16 is slower, and bfloat16 elsewhere."""
    if name == "auto":
        name = "float32" if platform() == "cpu" else "bfloat16"
    return jnp.dtype(name)


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
