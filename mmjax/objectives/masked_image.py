"""Masked image modelling: the pixels of hidden patches from those that are seen (SimMIM, MAE)."""

from typing import Annotated

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.models.patches import cut_patches
from mmjax.objectives.registry import Batch, Objective, Outputs, View, register
from mmjax.values import Range


@register("masked_image")
def masked_image(
    name: str,
    model: ConfigDict,
    of: str = "image",
    rate: Annotated[float, Range(above=0, most=1)] = 0.6,
) -> Objective:
    """Mean squared error of the pixels of hidden patches, each patch at mean 0 and variance 1.

    Hidden patches become one learned token and stay in the tower (Xie et al., 2022, SimMIM); the
    target is that of He et al. (2022, MAE, table 1d).

    Args:
      of: The tower whose images are masked.
      rate: Share of an image's patches that are hidden, at least one.
    """
    if "pixel_head" not in model.get(of, {}):
        raise ValueError(f"of={of!r} should name a vision transformer (vit) of the model")
    side = model[of].patch_size
    patches = (model[of].size // side) ** 2
    hidden, patch_mask = max(1, round(rate * patches)), f"{of}_patch_mask"

    def view(batch: Batch, key: jax.Array, frozen: Outputs) -> Batch:
        del frozen
        return {**batch, patch_mask: some_patches(key, batch[of].shape[0], patches, hidden)}

    def loss(outputs, batch, own):
        del own
        made = outputs[name]
        target = normal_patches(batch[of], side)
        errors = jnp.square(made[f"{of}/pixels"] - target).mean(axis=2)
        return jnp.where(made[patch_mask], errors, 0.0).sum() / made[patch_mask].sum(), {}

    return Objective(
        {name: (f"{of}/pixels",)}, loss, views={name: View(view)},
        owns=(f"{of}/mask_embed", f"{of}/pixels/"),
    )  # fmt: skip


def some_patches(key: jax.Array, rows: int, patches: int, hidden: int) -> jax.Array:
    """bool [rows, patches], True on as many of each row as are hidden, by chance."""
    noise = jax.random.uniform(key, (rows, patches))
    return noise.argsort(axis=1).argsort(axis=1) < hidden


def normal_patches(image: jax.Array, side: int) -> jax.Array:
    """uint8 [B, S, S, 3] -> float32 [B, N, 3 side²], each patch with mean 0 and variance 1."""
    patches = cut_patches(image.astype(jnp.float32) / 255, side)
    mean, var = patches.mean(axis=2, keepdims=True), patches.var(axis=2, ddof=1, keepdims=True)
    return (patches - mean) / jnp.sqrt(var + 1e-6)
