"""What comes after the layers of a tower: pooling, the projection, the head of a vocabulary."""

from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.attention import may_see
from mmjax.models.form import CLIP
from mmjax.models.layers import ACTIVATIONS, Attention, Dense, Mlp, layer_norm, unit_length
from mmjax.models.tokens import Unembedding

Head = Literal[
    "linear", "linear_bias", "tanh", "mlp", "tanh_mlp", "narrow_mlp", "wide_mlp", "normed", "none"
]
HIDDEN = {  # of these two, from the width of what is projected and that of embeddings
    "narrow_mlp": lambda width, embed_dim: (width + embed_dim) // 2,
    "wide_mlp": lambda width, embed_dim: 2 * embed_dim,
}
POOLED = {"features", "embed"}  # outputs of one vector an example
normal = nn.initializers.normal


def tower_outputs(depth: int) -> tuple[str, ...]:
    """What a tower gives: without layers it is an embedding for a joint, and pools nothing."""
    return ("tokens", "features", "embed") if depth else ("tokens",)


def check_heads(key: str, spec: ConfigDict) -> None:
    """UserError: the heads do not divide the width of a part, `key` in the config."""
    if spec.width % spec.heads:
        raise UserError(f"{key}: heads={spec.heads} does not divide width={spec.width}.")


def check_head(key: str, spec: ConfigDict, model: ConfigDict, width: int = 0) -> None:
    """UserError: a projection that keeps the width, and another size of embeddings. `width` is that
    of what is projected; 0: the key `width`."""
    width = width or spec.width
    if spec.head in ("none", "tanh") and width != model.embed_dim:
        raise UserError(
            f"{key}.head={spec.head!r} wants width={width} equal to config.model.embed_dim="
            f"{model.embed_dim}; or set head='linear'."
        )


def project(
    pooled: jax.Array, head: str, embed_dim: int, dtype: jnp.dtype, norm_eps: float = 1e-5
) -> dict[str, jax.Array]:
    """The projection into the shared space: "features" [B, W] -> [B, D], and "embed", the same at
    unit length.

    `head` is "linear", "linear_bias", "none"; "tanh": linear with bias, then tanh, the pooler of
    BERT and of Hugging Face's ViT; "mlp": two linear layers with bias and ReLU between them;
    "tanh_mlp": both, the pooler of the width W first (CLAP's text, Wu et al., 2023); or two linear
    layers with GELU between them, "narrow_mlp" of the hidden width (W + D) / 2 and without biases
    (open_clip's for texts), "wide_mlp" of 2 D, and the first with a bias (its for ConvNeXt);
    "normed": a norm and two linear layers, the first with a bias (AltCLIP, Chen et al., 2022).
    `norm_eps` is of its norm.
    """

    def dense(x: jax.Array, width: int, name: str, bias: bool = head != "linear") -> jax.Array:
        init = normal(x.shape[-1] ** -0.5)
        return nn.Dense(width, use_bias=bias, dtype=dtype, kernel_init=init, name=name)(x)

    if head == "tanh_mlp":
        pooled = jnp.tanh(dense(pooled, pooled.shape[-1], "pooler"))
    if head in ("mlp", "tanh_mlp"):
        pooled = dense(nn.relu(dense(pooled, embed_dim, "head_fc1")), embed_dim, "head_fc2")
    elif head == "normed":
        pooled = layer_norm(norm_eps, dtype, "norm_head")(pooled)
        pooled = dense(dense(pooled, embed_dim, "head_fc1"), embed_dim, "head_fc2", False)
    elif head in HIDDEN:
        hidden = HIDDEN[head](pooled.shape[-1], embed_dim)
        hidden = dense(pooled, hidden, "head_fc1", head == "wide_mlp")
        pooled = dense(nn.gelu(hidden, approximate=False), embed_dim, "head_fc2", False)
    elif head != "none":
        pooled = dense(pooled, embed_dim, "head")
    if head == "tanh":
        pooled = jnp.tanh(pooled)
    return {"features": pooled, "embed": unit_length(pooled)}


def pool_tokens(x: jax.Array, mask: jax.Array, pool: str) -> jax.Array:
    """[B, L, W] -> [B, W] by a text tower's `pool`: the first token (cls), the last (last), the
    mean of the real ones, else the last real one."""
    if pool == "mean":
        return masked_mean(x, mask)
    if pool in ("eot", "appended"):
        last = mask.sum(axis=1) - 1
        return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
    return x[:, 0] if pool == "cls" else x[:, -1]


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """[B, L, W] -> [B, W], the mean of the tokens where `mask` is True."""
    weights = mask[:, :, None].astype(x.dtype)
    return (x * weights).sum(axis=1) / weights.sum(axis=1)


class QueryPool(nn.Module):
    """Attention of learned queries [Q, D] over tokens [B, N, W]: the first `count` answers,
    [B, count, D]."""

    queries: int
    heads: int
    embed_dim: int
    norm_eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, count: int) -> jax.Array:
        query = self.param("query_embed", normal(1.0), (self.queries, self.embed_dim))[:count]
        query = layer_norm(self.norm_eps, self.dtype, "norm_query")(query.astype(x.dtype))
        query = jnp.broadcast_to(query, (x.shape[0], *query.shape))
        x = layer_norm(self.norm_eps, self.dtype, "norm_tokens")(x)
        return Attention(self.heads, self.dtype, name="attention")(query, x)[0]


class MapPool(nn.Module):
    """Multi-head attention pooling (Lee et al., 2019; as in big_vision): [B, N, W] -> [B, W] of the
    tokens where the mask, bool [B, N], is True."""

    heads: int
    mlp_dim: int
    activation: str
    norm_eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        width = x.shape[-1]
        mask = None if mask is None else may_see(mask)
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, width))
        query = jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, width))
        y, _ = Attention(self.heads, self.dtype, name="attention")(query, x, mask=mask)
        z = layer_norm(self.norm_eps, self.dtype, "norm")(y)
        return (y + Mlp(self.mlp_dim, self.activation, self.dtype, name="mlp")(z))[:, 0]


class ProbePool(nn.Module):
    """Attention of a learned query, which is not projected, over tokens (AIMv2, Fini et al., 2024):
    [B, N, W] -> [B, W] of the tokens where the mask, bool [B, N], is True.

    Keys and values have biases as `qkv_bias` says, the projection of what is pooled always."""

    heads: int
    qkv_bias: str
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        width = x.shape[-1]
        mask = None if mask is None else may_see(mask)
        probe = self.param("probe", normal(0.02), (1, width))
        query = jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, width))
        form = CLIP._replace(qkv_bias=self.qkv_bias)
        attention = Attention(
            self.heads, self.dtype, form=form, project_query=False, name="attention"
        )
        return attention(query, x, mask=mask)[0][:, 0]


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


class LmHead(flax.struct.PyTreeNode):
    """What makes logits of a vocabulary out of tokens: the head's own parameters, and the token
    embedding [V, W] that it shares."""

    params: Any
    embedding: jax.Array
    module: MlmHead = flax.struct.field(pytree_node=False)

    def hidden(self, tokens: jax.Array) -> jax.Array:
        """[..., W] -> what meets the unembedding, [..., W]."""
        hidden: Any = self.module.apply({"params": self.params}, tokens, method="hidden")
        return hidden

    def unembedding(self) -> Unembedding:
        return Unembedding(self.embedding, self.params["bias"])
