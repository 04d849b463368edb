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
from mmjax.models.multimodal import Multimodal
from mmjax.models.regions import RegionTower
from mmjax.models.resnet import ModifiedResNet
from mmjax.models.text import TextTower
from mmjax.models.vision import VisionTower
from mmjax.parallel.mesh import batch_shards, platform

__all__ = [
    "Multimodal",
    "create",
    "dummy_batch",
    "from_config",
    "generate",
    "init",
    "inputs",
    "zoo",
]


def create(name: str) -> Multimodal:
    """The named architecture (`zoo.names()`), e.g. "ViT-B/32"; UserError for an unknown name."""
    return from_config(zoo.config(name))


def from_config(config: ConfigDict) -> Multimodal:
    """Builds the model of `config.model`."""
    shared = {"embed_dim": config.embed_dim, "dtype": compute_dtype(config.dtype)}
    kinds = {"vit": VisionTower, "resnet": ModifiedResNet, "regions": RegionTower}
    image: Any = kinds[config.image.kind]
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
    """The fusion's layers are the text tower's in all but their number."""
    names = ("width", "heads", "mlp_dim", "activation", "norm", "norm_eps", "attention", "remat",
             "unroll")  # fmt: skip
    return Fusion(**config.fusion, **{name: config.text[name] for name in names}, dtype=dtype)


def compute_dtype(name: str) -> jnp.dtype:
    """ "auto" is float32 on CPU, where bfloat16 is slower, and bfloat16 elsewhere."""
    if name == "auto":
        name = "float32" if platform() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def inputs(config: ConfigDict) -> dict[str, tuple[str, Any]]:
    """Part of `config.model` → (kind of the modality that it reads, the part's keys)."""
    return from_config(config).inputs()


def dummy_batch(model: Multimodal) -> dict[str, jax.Array]:
    """The smallest batch that the model accepts: zeros, of which none is padding.

    One example for each part that the current mesh cuts a batch into: a kernel inside a shard_map
    takes no fewer.
    """
    rows, batch = batch_shards(), {}
    for modality in modalities.build(model.inputs()).values():
        for name, (shape, dtype) in modality.columns.items():
            batch[name] = jnp.full((rows, *shape), dtype == np.bool_, dtype)
    if isinstance(model.image, VisionTower) and model.image.pixel_head:
        patches = (model.image.size // model.image.patch_size) ** 2
        batch["patch_mask"] = jnp.zeros((rows, patches), bool)
    if model.text is not None:
        batch["targets"] = jnp.zeros((rows, 1), jnp.int32)
        batch["target_places"] = jnp.zeros((rows, 1), jnp.int32)
    return batch


def init(model: Multimodal, key: jax.Array) -> Any:
    """Random parameters, float32. Every output is asked for: Linen creates only what is run."""
    return model.init(key, dummy_batch(model), model.outputs())["params"]
