"""The transformer every tower is made of: attention, MLP, block, and the stack of blocks.

Kernels are two-dimensional [in, out] (heads are a reshape), q, k and v stay apart, and a stack
holds its blocks' parameters with a leading layer axis however it is executed.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.attention import attend
from mmjax.parallel.mesh import constrain
from mmjax.schema import RESUMABLE, SHAPE_FREE

# Types of the keys that more than one part of a model has.
Activation = Annotated[Literal["gelu", "gelu_tanh", "quick_gelu", "relu"], SHAPE_FREE]
Norm = Literal["pre", "post"]
Kernel = Annotated[Literal["auto", "xla", "cudnn", "splash"], RESUMABLE]
Remat = Annotated[Literal["none", "dots", "full"], RESUMABLE]
Unroll = Annotated[bool, RESUMABLE]

Cache = tuple[jax.Array, jax.Array]  # keys and values [B, M, heads, d] of tokens seen before

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # OpenAI's CLIP weights
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}

REMAT_POLICIES: dict[str, Callable | None] = {
    "full": None,  # keep a block's input alone
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # keep the matmuls' outputs
}


class Dense(nn.Dense):
    """nn.Dense [..., in] -> [..., out] over flattened tokens.

    The weight gradient is then one plain matmul; contracted over [B, L] it costs twice as much on
    CPU. Merging the leading axes keeps the batch's split over devices.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        y = super().__call__(x.reshape(-1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], self.features)


class Attention(nn.Module):
    """Multi-head attention of `x` [B, L, W] over `context` [B, M, W] (default: itself)."""

    heads: int
    dtype: jnp.dtype
    out_std: float | None = None  # of the output projection; None: W^-0.5
    implementation: str = "auto"
    softcap: float = 0.0  # as of `attend`
    qkv_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        causal: bool = False,
        cache: Cache | None = None,
        position: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache]:
        """The result [B, L, W], and the keys and values that it was taken over.

        `mask` is as of `attend`. A `cache` is attended to instead of `context`, after the keys and
        values of `x` were written into it at `position`; without a position it stays as it is.
        """
        width = x.shape[-1]
        context = x if context is None else context

        def dense(name: str, std: float) -> Dense:
            return Dense(
                width, dtype=self.dtype, kernel_init=nn.initializers.normal(std), name=name,
                use_bias=self.qkv_bias or name == "out",
            )  # fmt: skip

        def split(y: jax.Array) -> jax.Array:  # [B, L, W] -> [B, L, heads, W / heads]
            y = y.reshape(*y.shape[:-1], self.heads, width // self.heads)
            return constrain(y, "batch", None, "tensor", None)

        std = width**-0.5
        query = split(dense("query", std)(x))
        if cache is not None and position is None:
            key, value = cache
        else:
            key = split(dense("key", std)(context))
            value = split(dense("value", std)(context))
        if cache is not None and position is not None:
            key, value = (
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), position, axis=1)
                for old, new in zip(cache, (key, value), strict=True)
            )
        y = self.attend(query, key, value, mask, causal).reshape(x.shape)
        out_std = std if self.out_std is None else self.out_std
        return dense("out", out_std)(y), (key, value)

    def attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, mask: Any, causal: bool
    ) -> jax.Array:
        """[B, L, heads, d] of the queries, after the keys and values that they see."""
        return attend(
            query, key, value, mask=mask, causal=causal, implementation=self.implementation,
            softcap=self.softcap,
        )  # fmt: skip


class Mlp(nn.Module):
    """Two linear layers with an activation between: [B, L, W] -> [B, L, W]."""

    hidden: int
    activation: str
    dtype: jnp.dtype
    out_std: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        normal = nn.initializers.normal
        h = Dense(
            self.hidden, dtype=self.dtype, kernel_init=normal((2 * width) ** -0.5), name="fc1"
        )(x)
        h = constrain(ACTIVATIONS[self.activation](h), "batch", None, "tensor")
        std = self.out_std or width**-0.5
        return Dense(width, dtype=self.dtype, kernel_init=normal(std), name="fc2")(h)


class Block(nn.Module):
    """Transformer block: attention, attention to `context` where there is one, MLP.

    Norm "pre": x + attention(norm(x)), then x + mlp(norm(x)); "post", as in Vaswani et al. (2017)
    and BERT: norm(x + attention(x)), then norm(x + mlp(x)).
    """

    heads: int
    mlp_dim: int
    activation: str
    norm: str
    norm_eps: float
    causal: bool
    attention: str
    depth: int  # of the whole stack: the residual branches start smaller the deeper it is
    dtype: jnp.dtype
    softcap: float = 0.0  # of attention's logits
    centred_norms: bool = False  # as of `layer_norm`

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None,
        context: jax.Array | None = None,
        cache: dict[str, Cache] | None = None,
        position: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Cache] | None]:
        """`mask` is of the tokens among themselves; the whole `context` may be seen.

        With a `cache` ("own" of the tokens, "context" once that was seen) the new one is returned,
        as nn.scan wants it: (carry, what each layer gives).
        """
        out_std = (2 * self.depth * x.shape[-1]) ** -0.5
        x = constrain(x, "batch", None, None)
        kept: dict[str, Cache] = {}

        def attention(name: str) -> Attention:
            return Attention(
                self.heads, self.dtype, out_std, self.attention, self.softcap, name=name
            )

        def own(y):
            old = cache["own"] if cache else None
            y, kept["own"] = attention("attention")(
                y, mask=mask, causal=self.causal, cache=old, position=position
            )
            return y

        def of_context(y):
            old = cache.get("context") if cache else None
            y, kept["context"] = attention("cross")(y, context, cache=old)
            return y

        x = self.add("norm1", x, own)
        if context is not None or (cache and "context" in cache):
            x = self.add("norm_cross", x, of_context)
        mlp = Mlp(self.mlp_dim, self.activation, self.dtype, out_std, name="mlp")
        x = self.add("norm2", x, mlp)
        return x, kept if cache else None

    def add(self, name: str, x: jax.Array, branch: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """The residual connection, with the layer norm on the branch or on the sum."""
        norm = layer_norm(self.norm_eps, self.dtype, name, self.centred_norms)
        return norm(x + branch(x)) if self.norm == "post" else x + branch(norm(x))


def unit_length(x: jax.Array) -> jax.Array:
    """[..., D] -> float32 [..., D] of Euclidean length 1."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def layer_norm(
    eps: float, dtype: jnp.dtype, name: str | None = None, centred: bool = False
) -> nn.Module:
    """LayerNorm with float32 statistics, computed in two passes as the reference weights were;
    `centred`: it scales by 1 + its parameter."""
    if centred:
        return CentredLayerNorm(eps, dtype, name=name)
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)


class CentredLayerNorm(nn.Module):
    """A layer norm that scales by 1 + its parameter, which begins at 0 (VideoPrism)."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.zeros, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        plain = nn.LayerNorm(
            epsilon=self.epsilon, use_scale=False, use_bias=False, use_fast_variance=False,
            dtype=jnp.float32,
        )(x)  # fmt: skip
        return (plain * (1 + scale) + bias).astype(self.dtype)


def stack(
    x: jax.Array,
    mask: jax.Array | None,
    *,
    context: jax.Array | None = None,
    cache: dict[str, Cache] | None = None,
    position: jax.Array | None = None,
    depth: int,
    remat: str,
    unroll: bool,
    block: type[nn.Module] = Block,
    **fields: Any,
) -> tuple[jax.Array, dict[str, Cache] | None]:
    """Runs `depth` blocks on `x` [B, L, W]; call it inside a compact method.

    `fields` are those of `block`; `context` [B, M, W], `cache` (each array with a leading layer
    axis) and `position` are as of `Block` and `Attention`. Returns the tokens and the new cache.
    """
    if not depth:
        return x, cache
    layers = repeat(block, depth, remat, unroll, depth=depth, **fields)
    return layers(x, mask, context, cache, position)


def repeat(block: type[nn.Module], count: int, remat: str, unroll: bool, **fields: Any) -> Any:
    """`count` blocks as one module, called (x, mask, context, cache, position) as a block is.

    Parameters lie in `blocks/...` with a leading axis [count, ...]. `unroll` writes the layers out
    (faster on CPU, slower to compile); `remat` names what the backward pass recomputes: "none",
    "dots" (all but matmuls), "full" (all). Neither changes the parameters or the result.
    """
    if remat != "none":
        # Inside a loop nothing can be shared between passes, so CSE needs no barrier.
        block = nn.remat(block, policy=REMAT_POLICIES[remat], prevent_cse=unroll)
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, nn.broadcast, 0, nn.broadcast),
        length=count,
        unroll=count if unroll else 1,
    )(**fields, name="blocks")
