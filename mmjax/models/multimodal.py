"""Towers put together: a batch goes in, the named outputs come out, nothing else is computed."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.resnet import ModifiedResNet
from mmjax.models.text import TextTower
from mmjax.models.vision import VisionTower

IMAGE_OUTPUTS = ("image_tokens", "image_embed")
TEXT_OUTPUTS = ("text_tokens", "text_embed")
MODEL_OUTPUTS = ("logit_scale", "logit_bias")  # of the model, not of an example


class Multimodal(nn.Module):
    """An image tower and a text tower that meet in one embedding space, with scale and bias."""

    image: VisionTower | ModifiedResNet
    text: TextTower
    logit_scale_init: float
    logit_bias_init: float | None

    @nn.compact
    def __call__(
        self, batch: dict[str, jax.Array], outputs: tuple[str, ...], train: bool = False
    ) -> dict[str, jax.Array]:
        """Computes `outputs` (names of `self.outputs()`) of a batch as in DESIGN's contract.

        Returns:
          float32 "image_embed", "text_embed" [B, D] of unit length; "image_tokens" [B, N, W] and
          "text_tokens" [B, L, W] in the compute dtype; scalars "logit_scale" (multiplicative,
          e^parameter) and "logit_bias".
        """
        result: dict[str, jax.Array] = {}
        wanted = set(outputs)
        if wanted & set(IMAGE_OUTPUTS):
            result |= self.image(batch["image"], outputs, train)
        if wanted & set(TEXT_OUTPUTS):
            result |= self.text(batch["text"], batch["text_mask"], outputs)
        for name in ("image_embed", "text_embed"):
            if name in result:
                result[name] = unit_length(result[name])
        if "logit_scale" in wanted:
            init = nn.initializers.constant(self.logit_scale_init)
            result["logit_scale"] = jnp.exp(self.param("logit_scale", init, ()))
        if "logit_bias" in wanted:
            if self.logit_bias_init is None:
                raise ValueError("this model has no logit bias: logit_bias_init is None")
            init = nn.initializers.constant(self.logit_bias_init)
            result["logit_bias"] = self.param("logit_bias", init, ())
        return result

    def outputs(self) -> tuple[str, ...]:
        """Every output this model can give."""
        scalars = MODEL_OUTPUTS if self.logit_bias_init is not None else MODEL_OUTPUTS[:1]
        return (*IMAGE_OUTPUTS, *TEXT_OUTPUTS, *scalars)


def unit_length(x: jax.Array) -> jax.Array:
    """[..., D] -> float32 [..., D] of Euclidean length 1."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
