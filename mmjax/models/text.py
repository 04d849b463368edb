"""The text tower: causal with EOT pooling (CLIP) or a class token at the end (CoCa), bidirectional
(SigLIP), or post-norm (BERT)."""

from collections.abc import Collection
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mmjax.models.attention import may_see
from mmjax.models.layers import ACTIVATIONS, Cache, Dense, layer_norm, stack
from mmjax.models.tokens import TokenScores, Words, token_scores
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
    tags: int
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
            self.mlm = MlmHead(
                self.width, self.vocab_size, self.activation, self.norm_eps, self.dtype
            )

    @nn.compact
    def __call__(
        self,
        text: jax.Array,
        text_mask: jax.Array,
        outputs: Collection[str],
        *,
        text_ar: jax.Array | None = None,
        text_segment: jax.Array | None = None,
        cache: dict[str, Cache] | None = None,
        place: jax.Array | None = None,
    ) -> dict[str, Any]:
        """`text_mask` [B, L] is True on real tokens, EOT included: lengths, never ids, say so.

        "text_tokens" are the last layer's tokens, normalised; "text_features" what is pooled of
        them and projected; "token_logits" [B, L, V] are `token_logits` of all of them. `text_ar`
        says what a token sees (`may_see`) in a tower that is not causal already. `text_segment`
        int32 [B, L] numbers the texts that share a row: each begins at place 0 and sees itself
        alone; there are no "text_features" of them. With a `cache` the texts are the tokens from
        `place` on, `text_mask` is of all that the cache holds, and there is a new "cache", too.
        """
        mask: jax.Array | None
        if self.mask_padding and self.ends_in_padding(text_ar, text_segment, cache):
            mask = text_mask.sum(axis=1, dtype=jnp.int32)
        elif self.causal and cache is None:
            mask = may_see(text_mask) if self.mask_padding else None
        elif cache is not None or self.mask_padding or text_ar is not None:
            seen = text_mask if cache is not None or self.mask_padding else text_mask | True
            mask = may_see(seen, text_ar)
        else:
            mask = None
        append = self.pool == "appended" and "text_features" in outputs
        if append:
            mask = self.seen_of_appended(text, text_mask)
        if text_segment is not None:
            own = (text_segment[:, :, None] == text_segment[:, None, :])[:, None]
            mask = own if mask is None else mask & own
            place = places_in_segments(text_segment)
        x, cache = stack(
            self.embed(text, place, append),
            mask,
            cache=cache,
            place=None if text_segment is not None else place,
            depth=self.depth,
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm=self.norm,
            norm_eps=self.norm_eps,
            causal=self.causal and cache is None,
            attention=self.attention,
            remat=self.remat,
            unroll=self.unroll,
            dtype=self.dtype,
        )
        norm = lambda x: x  # noqa: E731 (post-norm blocks end with one)
        if self.norm == "pre":
            norm = layer_norm(self.norm_eps, self.dtype, "norm_post")
        tokens = x[:, :-1] if append else x
        result: dict[str, Any] = {} if cache is None else {"cache": cache}
        if "text_tokens" in outputs:
            result["text_tokens"] = norm(tokens)
        if "token_logits" in outputs:
            result["token_logits"] = self.token_logits(norm(tokens))
        if "text_features" in outputs:
            # The norm is per token, so pooling a single token first gives the same for less.
            if self.pool == "mean":
                pooled = self.masked_mean(norm(x), text_mask)
            else:
                pooled = norm(x[:, -1] if append else self.pick(x, text_mask))
            result["text_features"] = project(pooled, self.head, self.embed_dim, self.dtype)
        return result

    def ends_in_padding(self, ar: Any, segment: Any, cache: Any) -> bool:
        """Whether a token sees the real tokens, which are the first of its row (not so with tags:
        they have padding before them), but for causality."""
        return not self.tags and (self.causal or ar is None) and segment is None and cache is None

    def embed(
        self, text: jax.Array, place: jax.Array | None = None, append: bool = False
    ) -> jax.Array:
        """[B, L] -> [B, L, W]: token, place and (BERT) type, 1 on tags.

        Places are counted from `place` on, or are given, as int32 [B, L]. `append` puts a class
        token behind, with a position of its own: [B, L + 1, W].
        """
        rows = self.position_offset + self.context_length + (self.pool == "appended")
        table = self.param("position_embed", normal(0.01), (rows, self.width))
        first = self.position_offset + (0 if place is None else place)
        if jnp.ndim(first):
            positions = table[first]
        else:
            positions = jax.lax.dynamic_slice_in_dim(table, first, text.shape[1])
        x = self.token_embed(text) + positions.astype(self.dtype)
        if self.token_types:
            types = self.param("type_embed", normal(0.02), (self.token_types, self.width))
            is_tag = np.arange(text.shape[1]) >= self.context_length - self.tags
            x = x + types[is_tag.astype(int) if self.tags else 0].astype(self.dtype)
        if append:
            token = self.param("class_embed", normal(0.01), (self.width,)) + table[-1]
            token = jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], 1, self.width))
            x = jnp.concatenate([x, token], axis=1)
        return layer_norm(self.norm_eps, self.dtype, "norm_embed")(x) if self.embed_norm else x

    def seen_of_appended(self, text: jax.Array, text_mask: jax.Array) -> jax.Array:
        """bool [B, 1, 1, L + 1], the places that the appended token (and all others) may see.

        As open_clip's CoCa was trained: id 0 is taken for padding, and the mask lies one place too
        far to the right, so that the first padding is seen and the class token is not.
        """
        seen = text_mask & (text != 0)
        return jnp.pad(seen, ((0, 0), (1, 0)), constant_values=True)[:, None, None, :]

    def token_logits(self, tokens: jax.Array) -> jax.Array:
        """Scores of the vocabulary, [..., W] -> [..., V], by the masked-language head."""
        return self.mlm(tokens, self.token_embed)

    def scores(
        self, tokens: jax.Array, targets: jax.Array, places: jax.Array | None = None
    ) -> TokenScores:
        """How well the head tells `targets` [B, K] (-1: none) from `tokens` [B, L, W].

        `places` are as of `hidden`.
        """
        return token_scores(self.hidden(tokens, places), targets, *self.words())

    def hidden(self, tokens: jax.Array, places: jax.Array | None = None) -> jax.Array:
        """What the head makes of `tokens` [B, L, W] before it meets the vocabulary, [B, K, W].

        `places` [B, K] are those of the tokens that tell the targets; None: token k tells target k.
        """
        if places is not None:
            tokens = jnp.take_along_axis(tokens, places[:, :, None], axis=1)
        return self.mlm.hidden(tokens)

    def words(self) -> Words:
        """The token embedding and the bias of the scores."""
        return Words(self.token_embed.embedding, self.mlm.bias)

    def pool_tokens(self, x: jax.Array, text_mask: jax.Array) -> jax.Array:
        """[B, L, W] -> [B, W] as `pool` says."""
        return self.masked_mean(x, text_mask) if self.pool == "mean" else self.pick(x, text_mask)

    def pick(self, x: jax.Array, text_mask: jax.Array) -> jax.Array:
        """[B, L, W] -> [B, W]: the first token (cls), the last (last), else the last real one."""
        if self.pool in ("eot", "appended"):
            last = text_mask.sum(axis=1) - 1
            return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        return x[:, 0] if self.pool == "cls" else x[:, -1]

    def masked_mean(self, x: jax.Array, text_mask: jax.Array) -> jax.Array:
        weights = text_mask[:, :, None].astype(x.dtype)
        return (x * weights).sum(axis=1) / weights.sum(axis=1)


def places_in_segments(segment: jax.Array) -> jax.Array:
    """int32 [B, L] -> int32 [B, L]: how many tokens of the same run of numbers come before."""
    index = jnp.broadcast_to(jnp.arange(segment.shape[1]), segment.shape)
    begins = jnp.pad(segment[:, 1:] != segment[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)


class MlmHead(nn.Module):
    """BERT's masked-language head (Devlin et al., 2019): a layer, then the token embedding again.

    [..., W] -> [..., V]: norm(activation(dense(x))) · embeddingᵀ + bias.
    """

    width: int
    vocab_size: int
    activation: str
    norm_eps: float
    dtype: jnp.dtype

    def setup(self):
        init = normal(self.width**-0.5)
        self.dense = Dense(self.width, dtype=self.dtype, kernel_init=init)
        self.norm = layer_norm(self.norm_eps, self.dtype)
        self.bias = self.param("bias", nn.initializers.zeros, (self.vocab_size,))

    def __call__(self, tokens: jax.Array, embed: nn.Embed) -> jax.Array:
        return embed.attend(self.hidden(tokens)) + self.bias.astype(self.dtype)

    def hidden(self, tokens: jax.Array) -> jax.Array:
        """[..., W] -> what meets the embedding, [..., W]."""
        return self.norm(ACTIVATIONS[self.activation](self.dense(tokens)))
