"""Texts that depend on the video that they are compared with: X-CLIP's video-specific prompts."""

from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.form import Form
from mmjax.models.graph import Function
from mmjax.models.layers import Activation, Attention, Mlp, layer_norm, repeat, unit_length
from mmjax.models.parts import register, sections
from mmjax.schema import SHAPE_FREE, TRAINING_ONLY
from mmjax.values import ANY, COUNT


@register("prompts")
class Prompts(nn.Module):
    """Features of texts and patches of videos -> "conditioned", the texts at unit length as each
    video has them (Ni et al., 2022): text + α · decoder(text, patches), whose layers attend from
    the text to the patches.

    The text part then gives no "embed" of its own: it would be another for every video.

    Attributes:
      of: The parts whose "patches" are seen, and whose "features" are texts.
      depth: Layers of the decoder.
      heads: Attention heads; must divide embed_dim.
      activation: Activation of the MLP.
      alpha: Initial α, of which each component of the embedding has its own.
    """

    embed_dim: int
    dtype: jnp.dtype
    video_eps: float  # epsilons of the layer norms of the two parts
    text_eps: float
    unroll: bool  # those of the text part
    remat: str
    of: tuple[str, str] = ("video", "text")
    depth: Annotated[int, COUNT] = 2
    heads: Annotated[int, SHAPE_FREE, COUNT] = 8
    activation: Activation = "quick_gelu"
    alpha: Annotated[float, TRAINING_ONLY, ANY] = 0.1

    DERIVED: ClassVar = ("video_eps", "text_eps", "unroll", "remat")
    SMOKE: ClassVar = {"depth": 1, "heads": 1}

    @classmethod
    def derived(cls, spec: ConfigDict, model: ConfigDict) -> dict[str, Any]:
        video, text = (model[part] for part in spec.of)
        eps = {"video_eps": video.norm_eps, "text_eps": text.norm_eps}
        return {**eps, "unroll": text.unroll, "remat": text.remat}

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        key, parts = f"config.model.{name}", sections(model)
        if len(spec.of) != 2 or any(part not in parts for part in spec.of):
            raise UserError(
                f"{key}.of={spec.of!r} names a part of the kind 'xclip' and a text tower, which "
                f"the model must have: it has {', '.join(parts)}."
            )
        video, text = (parts[part] for part in spec.of)
        if video.kind != "xclip" or "vocab_size" not in text:
            raise UserError(
                f"{key}.of={spec.of!r}: the first part should be of the kind 'xclip', the second "
                "a text tower."
            )
        if model.embed_dim % spec.heads:
            raise UserError(
                f"{key}.heads={spec.heads} must divide config.model.embed_dim={model.embed_dim}."
            )

    def functions(self, name: str) -> tuple[Function, ...]:
        video, text = self.of
        reads = (("patches", f"{video}/patches"), ("text", f"{text}/features"))
        return (Function(name, "__call__", reads, ("conditioned",)),)

    def conditions(self, name: str) -> dict[str, str]:
        return {f"{self.of[1]}/embed": f"{name}/conditioned"}

    @nn.compact
    def __call__(
        self, outputs: tuple[str, ...], patches: jax.Array, text: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """ "conditioned" float32 of the shape of `text`: [B, D], the text of row i as the video of
        row i has it, or [B, K, D], K texts for each video. `patches` are [B, N, D]; `train` changes
        nothing."""
        del outputs, train
        queries = text[:, None] if text.ndim == 2 else text
        seen = layer_norm(self.video_eps, self.dtype, "norm")(patches)
        layers = repeat(
            PromptBlock, self.depth, self.remat, self.unroll, heads=self.heads,
            activation=self.activation, norm_eps=self.text_eps, dtype=self.dtype,
        )  # fmt: skip
        found, _ = layers(queries.astype(self.dtype), None, seen)
        alpha = self.param("alpha", nn.initializers.constant(self.alpha), (self.embed_dim,))
        found = queries + alpha * found
        return {"conditioned": unit_length(found.reshape(text.shape))}


class PromptBlock(nn.Module):
    """x + attention(norm(x), context), then x + mlp(norm(x)): [B, K, D] -> [B, K, D]."""

    heads: int
    activation: str
    norm_eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, mask, context, *unused):
        del mask, unused
        norm1, norm2 = (layer_norm(self.norm_eps, self.dtype, f"norm{i}") for i in (1, 2))
        cross = Attention(self.heads, self.dtype, form=Form(qkv_bias="none"), name="cross")
        x = x + cross(norm1(x), context)[0]
        return x + Mlp(4 * x.shape[-1], self.activation, self.dtype, name="mlp")(norm2(x)), None
