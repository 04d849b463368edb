"""The text tower: causal with EOT pooling (CLIP), or bidirectional (BERT's and SigLIP's forms)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.layers import layer_norm, stack
from mmjax.models.vision import project


class TextTower(nn.Module):
    """int32 ids [B, L], L ≤ context -> {"text_tokens": [B, L, W], "text_embed": [B, D]}.

    The fields are the config keys `model.text.*`; `mmjax/config.py` says what each means.
    """

    vocab_size: int
    context_length: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    activation: str
    causal: bool
    mask_padding: bool
    pool: str
    head: str
    norm_eps: float
    attention: str
    remat: str
    unroll: bool
    embed_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, text: jax.Array, text_mask: jax.Array, outputs: tuple[str, ...]
    ) -> dict[str, jax.Array]:
        """`text_mask` [B, L] is True on real tokens, EOT included: lengths, never ids, say so."""
        length = text.shape[1]
        normal = nn.initializers.normal
        embed = nn.Embed(
            self.vocab_size, self.width, dtype=self.dtype, embedding_init=normal(0.02),
            name="token_embed",
        )  # fmt: skip
        positions = self.param("position_embed", normal(0.01), (self.context_length, self.width))
        x = embed(text) + positions[:length].astype(self.dtype)  # [B, L, W]
        x = stack(
            x,
            text_mask[:, None, None, :] if self.mask_padding else None,
            depth=self.depth,
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm_eps=self.norm_eps,
            causal=self.causal,
            attention=self.attention,
            remat=self.remat,
            unroll=self.unroll,
            dtype=self.dtype,
        )
        norm = layer_norm(self.norm_eps, self.dtype, "norm_post")
        result = {}
        if "text_tokens" in outputs:
            result["text_tokens"] = norm(x)
        if "text_embed" in outputs:
            # The norm is per token, so pooling a single token first gives the same for less.
            pooled = self.masked_mean(norm(x), text_mask) if self.pool == "mean" else norm(
                self.pick(x, text_mask)
            )  # fmt: skip
            result["text_embed"] = project(pooled, self.head, self.embed_dim, self.dtype)
        return result

    def pick(self, x: jax.Array, text_mask: jax.Array) -> jax.Array:
        """[B, L, W] -> [B, W]: the first token (cls), the last (last), the last real one (eot)."""
        if self.pool == "eot":
            last = text_mask.sum(axis=1) - 1
            return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        return x[:, 0] if self.pool == "cls" else x[:, -1]

    def masked_mean(self, x: jax.Array, text_mask: jax.Array) -> jax.Array:
        weights = text_mask[:, :, None].astype(x.dtype)
        return (x * weights).sum(axis=1) / weights.sum(axis=1)
