"""The text tower: causal with EOT pooling (CLIP), bidirectional (SigLIP), or post-norm (BERT)."""

from collections.abc import Collection

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.layers import ACTIVATIONS, Dense, layer_norm, stack
from mmjax.models.vision import project

normal = nn.initializers.normal


class TextTower(nn.Module):
    """int32 ids [B, L], L ≤ context -> {"text_tokens": [B, L, W], "text_features": [B, D]}.

    The fields are the config keys `model.text.*`; `mmjax/config.py` says what each means.
    """

    vocab_size: int
    context_length: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    activation: str
    norm: str
    embed_norm: bool
    token_types: int
    position_offset: int
    causal: bool
    mask_padding: bool
    pool: str
    head: str
    mlm_head: bool
    norm_eps: float
    attention: str
    remat: str
    unroll: bool
    embed_dim: int
    dtype: jnp.dtype

    def setup(self):
        self.token_embed = nn.Embed(
            self.vocab_size, self.width, dtype=self.dtype, embedding_init=normal(0.02)
        )
        if self.mlm_head:
            self.mlm = MlmHead(self.activation, self.norm_eps, self.dtype)

    @nn.compact
    def __call__(
        self, text: jax.Array, text_mask: jax.Array, outputs: Collection[str]
    ) -> dict[str, jax.Array]:
        """`text_mask` [B, L] is True on real tokens, EOT included: lengths, never ids, say so.

        "text_tokens" are the last layer's tokens, normalised; "text_features" what is pooled of
        them and projected; "token_logits" [B, L, V] are `token_logits` of all of them.
        """
        x = stack(
            self.embed(text),
            text_mask[:, None, None, :] if self.mask_padding else None,
            depth=self.depth,
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm=self.norm,
            norm_eps=self.norm_eps,
            causal=self.causal,
            attention=self.attention,
            remat=self.remat,
            unroll=self.unroll,
            dtype=self.dtype,
        )
        norm = lambda x: x  # noqa: E731 (post-norm blocks end with one)
        if self.norm == "pre":
            norm = layer_norm(self.norm_eps, self.dtype, "norm_post")
        result = {}
        if "text_tokens" in outputs:
            result["text_tokens"] = norm(x)
        if "token_logits" in outputs:
            result["token_logits"] = self.token_logits(norm(x))
        if "text_features" in outputs:
            # The norm is per token, so pooling a single token first gives the same for less.
            pooled = self.masked_mean(norm(x), text_mask) if self.pool == "mean" else norm(
                self.pick(x, text_mask)
            )  # fmt: skip
            result["text_features"] = project(pooled, self.head, self.embed_dim, self.dtype)
        return result

    def embed(self, text: jax.Array) -> jax.Array:
        """[B, L] -> [B, L, W]: token, place and (BERT) type, of which every token has the first."""
        rows = self.position_offset + self.context_length
        positions = self.param("position_embed", normal(0.01), (rows, self.width))
        positions = positions[self.position_offset :][: text.shape[1]]
        x = self.token_embed(text) + positions.astype(self.dtype)
        if self.token_types:
            types = self.param("type_embed", normal(0.02), (self.token_types, self.width))
            x = x + types[0].astype(self.dtype)
        return layer_norm(self.norm_eps, self.dtype, "norm_embed")(x) if self.embed_norm else x

    def token_logits(self, tokens: jax.Array) -> jax.Array:
        """Scores of the vocabulary, [..., W] -> [..., V], by the masked-language head."""
        return self.mlm(tokens, self.token_embed)

    def pick(self, x: jax.Array, text_mask: jax.Array) -> jax.Array:
        """[B, L, W] -> [B, W]: the first token (cls), the last (last), the last real one (eot)."""
        if self.pool == "eot":
            last = text_mask.sum(axis=1) - 1
            return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        return x[:, 0] if self.pool == "cls" else x[:, -1]

    def masked_mean(self, x: jax.Array, text_mask: jax.Array) -> jax.Array:
        weights = text_mask[:, :, None].astype(x.dtype)
        return (x * weights).sum(axis=1) / weights.sum(axis=1)


class MlmHead(nn.Module):
    """BERT's masked-language head (Devlin et al., 2019): a layer, then the token embedding again.

    [..., W] -> [..., V]: norm(activation(dense(x))) · embeddingᵀ + bias.
    """

    activation: str
    norm_eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: jax.Array, embed: nn.Embed) -> jax.Array:
        width = tokens.shape[-1]
        dense = Dense(width, dtype=self.dtype, kernel_init=normal(width**-0.5), name="dense")
        x = ACTIVATIONS[self.activation](dense(tokens))
        x = layer_norm(self.norm_eps, self.dtype, "norm")(x)
        bias = self.param("bias", nn.initializers.zeros, (embed.num_embeddings,))
        return embed.attend(x) + bias.astype(self.dtype)
