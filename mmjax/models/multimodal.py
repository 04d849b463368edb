"""Towers put together: a batch goes in, the named outputs come out, nothing else is computed."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.resnet import ModifiedResNet
from mmjax.models.text import TextTower
from mmjax.models.vision import VisionTower

IMAGE_OUTPUTS = ("image_tokens", "image_features", "image_embed")
TEXT_OUTPUTS = ("text_tokens", "text_features", "text_embed")
MODEL_OUTPUTS = ("logit_scale", "logit_bias")  # of the model, not of an example


class Multimodal(nn.Module):
    """An image tower and a text tower that meet in one embedding space, with scale and bias; or one
    of them alone, the other being None (a BERT, a ViT classifier)."""

    image: VisionTower | ModifiedResNet | None
    text: TextTower | None
    logit_scale_init: float
    logit_bias_init: float | None

    @nn.compact
    def __call__(
        self, batch: dict[str, jax.Array], outputs: tuple[str, ...], train: bool = False
    ) -> dict[str, jax.Array]:
        """Computes `outputs` (names of `self.outputs()`) of a batch as in DESIGN's contract.

        Returns:
          float32 "image_embed", "text_embed" [B, D] of unit length; "image_features",
          "text_features" [B, D], the same before they are scaled to it (the class scores of a
          classifier); "image_tokens" [B, N, W] and "text_tokens" [B, L, W]; "token_logits" as of
          `token_logits`, of every text token; these in the compute dtype. Scalars "logit_scale"
          (multiplicative, e^parameter) and "logit_bias".
        """
        result: dict[str, jax.Array] = {}
        wanted = set(outputs)
        absent = wanted - set(self.outputs())
        if absent:
            raise ValueError(f"this model has no output {min(absent)!r}: {self.outputs()}")
        of_towers = wanted | {name.replace("_embed", "_features") for name in wanted}
        if self.image is not None and wanted & set(IMAGE_OUTPUTS):
            result |= self.image(batch["image"], of_towers, train)
        if self.text is not None and wanted & {*TEXT_OUTPUTS, "token_logits"}:
            result |= self.text(batch["text"], batch["text_mask"], of_towers)
        for name in ("image_embed", "text_embed"):
            if name in wanted:
                result[name] = unit_length(result[name.replace("_embed", "_features")])
        result = {name: value for name, value in result.items() if name in wanted}
        if "logit_scale" in wanted:
            init = nn.initializers.constant(self.logit_scale_init)
            result["logit_scale"] = jnp.exp(self.param("logit_scale", init, ()))
        if "logit_bias" in wanted and self.logit_bias_init is not None:
            init = nn.initializers.constant(self.logit_bias_init)
            result["logit_bias"] = self.param("logit_bias", init, ())
        return result

    def outputs(self) -> tuple[str, ...]:
        """Every output this model can give."""
        result: tuple[str, ...] = ()
        if self.image is not None:
            result += IMAGE_OUTPUTS
        if self.text is not None:
            result += TEXT_OUTPUTS + ("token_logits",) * self.text.mlm_head
        if self.image is not None and self.text is not None:
            result += MODEL_OUTPUTS if self.logit_bias_init is not None else MODEL_OUTPUTS[:1]
        return result

    def token_logits(self, tokens: jax.Array) -> jax.Array:
        """Scores of the vocabulary for "text_tokens" that were chosen, [..., W] -> [..., V].

        A masked-language loss needs them at its few masked places only:
        `model.apply({"params": params}, tokens, method="token_logits")`.
        """
        if self.text is None or not self.text.mlm_head:
            raise ValueError("this model has no MLM head: model.text.mlm_head is False")
        return self.text.token_logits(tokens)


def unit_length(x: jax.Array) -> jax.Array:
    """[..., D] -> float32 [..., D] of Euclidean length 1."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
