"""Models: `create("ViT-B/32")` by name, `from_config(config.model)` from a config, `init` both."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.models import zoo
from mmjax.models.decoder import generate
from mmjax.models.fusion import OF_TEXT, Fusion
from mmjax.models.keys import KINDS
from mmjax.models.multimodal import Multimodal
from mmjax.models.regions import RegionTower
from mmjax.models.text import TextTower
from mmjax.models.vision import VisionTower
from mmjax.parallel.mesh import batch_shards, platform

__all__ = ["Multimodal", "create", "dummy_batch", "from_config", "generate", "init", "zoo"]


def create(name: str) -> Multimodal:
    """The named architecture (`zoo.names()`), e.g. "ViT-B/32"; UserError for an unknown name."""
    return from_config(zoo.config(name))


def from_config(config: ConfigDict) -> Multimodal:
    """Builds the model of `config.model`."""
    shared = {"embed_dim": config.embed_dim, "dtype": compute_dtype(config.dtype)}
    image: Any = KINDS[config.image.kind]
    keys = {field.name for field in dataclasses.fields(image)}  # the other kinds have other keys
    return Multimodal(
        image=image(**{k: v for k, v in {**config.image, **shared}.items() if k in keys})
        if "image" in config.towers
        else None,
        text=TextTower(**config.text, **shared) if "text" in config.towers else None,
        fusion=_fusion(config, shared["dtype"]) if config.fusion.style != "none" else None,
        logit_scale_init=config.logit_scale_init,
        logit_bias_init=config.logit_bias_init,
    )


def _fusion(config: ConfigDict, dtype: jnp.dtype) -> Fusion:
    return Fusion(**config.fusion, **{name: config.text[name] for name in OF_TEXT}, dtype=dtype)


def compute_dtype(name: str) -> jnp.dtype:
    """ "auto" is float32 on CPU, where bfloat16 is slower, and bfloat16 elsewhere."""
    if name == "auto":
        name = "float32" if platform() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def dummy_batch(model: Multimodal) -> dict[str, jax.Array]:
    """The smallest batch that the model accepts: black images, texts of a single token.

    One example for each part that the current mesh cuts a batch into: a kernel inside a shard_map
    takes no fewer.
    """
    rows, batch = batch_shards(), {}
    if isinstance(model.image, RegionTower):
        count, width = model.image.regions, model.image.region_width
        batch["regions"] = jnp.zeros((rows, count, width), jnp.float32)
        batch["regions_mask"] = jnp.ones((rows, count), bool)
    elif model.image is not None:
        size = model.image.size
        batch["image"] = jnp.zeros((rows, size, size, 3), jnp.uint8)
        if isinstance(model.image, VisionTower) and model.image.pixel_head:
            batch["patch_mask"] = jnp.zeros((rows, (size // model.image.patch_size) ** 2), bool)
    if model.text is not None:
        length = model.text.context_length
        batch["text"] = jnp.zeros((rows, length), jnp.int32)
        batch["text_mask"] = jnp.broadcast_to(jnp.arange(length) == 0, (rows, length))
        batch["targets"] = jnp.zeros((rows, 1), jnp.int32)
        batch["target_places"] = jnp.zeros((rows, 1), jnp.int32)
    return batch


def init(model: Multimodal, key: jax.Array) -> Any:
    """Random parameters, float32. Every output is asked for: Linen creates only what is run."""
    return model.init(key, dummy_batch(model), model.outputs())["params"]
