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
from mmjax.models.form import BIASED, CLIP, Form
from mmjax.models.rope import rotate
from mmjax.parallel.mesh import constrain
from mmjax.schema import RESUMABLE, SHAPE_FREE

# Types of the keys that more than one part of a model has.
Activation = Annotated[Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"], SHAPE_FREE]
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
    "silu": jax.nn.silu,
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
    form: Form = CLIP
    norm_eps: float = 1e-6  # of the norms that the form may have
    project_query: bool = True

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
        angles: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache]:
        """The result [B, L, W], and the keys and values that it was taken over.

        `mask` is as of `attend`. Queries and keys of `x` are turned by `angles` float32
        [B or 1, L, d/2], where there are some (`rope.py`). A `cache` is attended to instead of
        `context`, after the keys and values of `x` were written into it at `position`; without a
        position it stays as it is.
        """
        width = x.shape[-1]
        context = x if context is None else context
        biased = BIASED[self.form.qkv_bias] + ("out",) * self.form.bias

        def dense(name: str, std: float) -> Dense:
            return Dense(
                width, dtype=self.dtype, kernel_init=nn.initializers.normal(std), name=name,
                use_bias=name in biased,
            )  # fmt: skip

        def norm(name: str) -> nn.Module:
            return layer_norm(self.norm_eps, self.dtype, name, rms=self.form.rms_norm)

        def placed(name: str, y: jax.Array) -> jax.Array:  # a query or key, as it is compared
            y = norm(name)(y) if self.form.qk_norm else y
            return y if angles is None else rotate(y, angles, self.form.rope_pairs)

        def split(y: jax.Array) -> jax.Array:  # [B, L, W] -> [B, L, heads, W / heads]
            y = y.reshape(*y.shape[:-1], self.heads, width // self.heads)
            return constrain(y, "batch", None, "tensor", None)

        std = width**-0.5
        query = dense("query", std)(x) if self.project_query else x
        query = placed("norm_query", split(query))
        if cache is not None and position is None:
            key, value = cache
        else:
            key = placed("norm_key", split(dense("key", std)(context)))
            value = split(dense("value", std)(context))
        if cache is not None and position is not None:
            key, value = (
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), position, axis=1)
                for old, new in zip(cache, (key, value), strict=True)
            )
        y = self.attend(query, key, value, mask, causal).reshape(x.shape)
        y = norm("norm_out")(y) if self.form.inner_norms else y
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
    """Two linear layers with an activation between, or (gated) the activation of a third times what
    the first gives: [B, L, W] -> [B, L, W]."""

    hidden: int
    activation: str
    dtype: jnp.dtype
    out_std: float | None = None
    form: Form = CLIP
    norm_eps: float = 1e-6  # of the norms that the form may have

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]

        def dense(name: str, size: int, std: float) -> Dense:
            return Dense(
                size, dtype=self.dtype, kernel_init=nn.initializers.normal(std), name=name,
                use_bias=self.form.bias,
            )  # fmt: skip

        def norm(name: str) -> nn.Module:
            return layer_norm(self.norm_eps, self.dtype, name, rms=self.form.rms_norm)

        std, activation = (2 * width) ** -0.5, ACTIVATIONS[self.activation]
        x = norm("norm_in")(x) if self.form.mlp_norm else x
        h = dense("fc1", self.hidden, std)(x)
        h = activation(dense("gate", self.hidden, std)(x)) * h if self.form.gated else activation(h)
        h = constrain(h, "batch", None, "tensor")
        h = norm("norm")(h) if self.form.inner_norms else h
        return dense("fc2", width, self.out_std or width**-0.5)(h)


class Block(nn.Module):
    """Transformer block: attention, attention to `context` where there is one, MLP.

    Norm "pre": x + attention(norm(x)), then x + mlp(norm(x)); "post", as in Vaswani et al. (2017)
    and BERT: norm(x + attention(x)), then norm(x + mlp(x)); "branch", as in EVA-02-CLIP's E:
    x + norm(attention(x)), then x + norm(mlp(x)).
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
    form: Form = CLIP

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None,
        context: jax.Array | None = None,
        cache: dict[str, Cache] | None = None,
        position: jax.Array | None = None,
        angles: jax.Array | None = None,
        dropped: jax.Array | None = None,
        context_mask: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Cache] | None]:
        """`mask` is of the tokens among themselves, `context_mask` of what they see of `context`;
        both are as of `attend`. `angles` are as of `Attention`; to a share `dropped` (a scalar) of
        the examples nothing is added (rng "dropout").

        With a `cache` ("own" of the tokens, "context" once that was seen) the new one is returned,
        as nn.scan wants it: (carry, what each layer gives).
        """
        out_std = (2 * self.depth * x.shape[-1]) ** -0.5
        x = constrain(x, "batch", None, None)
        kept: dict[str, Cache] = {}

        def attention(name: str) -> Attention:
            return Attention(
                self.heads, self.dtype, out_std, self.attention, self.softcap, self.form,
                self.norm_eps, name=name,
            )  # fmt: skip

        def own(y):
            old = cache["own"] if cache else None
            y, kept["own"] = attention("attention")(
                y, mask=mask, causal=self.causal, cache=old, position=position, angles=angles
            )
            return y

        def of_context(y):
            old = cache.get("context") if cache else None
            y, kept["context"] = attention("cross")(y, context, mask=context_mask, cache=old)
            return y

        x = self.add("norm1", x, own, dropped)
        if context is not None or (cache and "context" in cache):
            x = self.add("norm_cross", x, of_context, dropped)
        x = self.add("norm2", x, self.mlp(out_std), dropped)
        return x, kept if cache else None

    def mlp(self, out_std: float) -> Mlp:
        return Mlp(
            self.mlp_dim, self.activation, self.dtype, out_std, self.form, self.norm_eps, name="mlp"
        )

    def add(
        self,
        name: str,
        x: jax.Array,
        branch: Callable[[jax.Array], jax.Array],
        dropped: jax.Array | None = None,
    ) -> jax.Array:
        """The residual connection, with the layer norm before the branch, on it or on the sum."""
        norm = layer_norm(
            self.norm_eps, self.dtype, name, self.centred_norms, rms=self.form.rms_norm
        )
        if self.norm == "post":
            return norm(x + self.scaled(name, branch(x), dropped))
        if self.norm == "branch":
            return x + self.scaled(name, norm(branch(x)), dropped)
        return x + self.scaled(name, branch(norm(x)), dropped)

    def scaled(self, name: str, y: jax.Array, dropped: jax.Array | None) -> jax.Array:
        """What a branch gives, times its LayerScale; and 0, for as many examples as are dropped,
        the others greater by as much. `name` is of its norm."""
        if self.form.layer_scale is not None:
            begin = nn.initializers.constant(self.form.layer_scale)
            factor = self.param(name.replace("norm", "layer_scale"), begin, y.shape[-1:])
            y = y * factor.astype(y.dtype)
        if dropped is not None:
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - dropped, (len(y), 1, 1))
            y = jnp.where(kept, y / (1 - dropped), 0).astype(y.dtype)
        return y


def unit_length(x: jax.Array) -> jax.Array:
    """[..., D] -> float32 [..., D] of Euclidean length 1."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def layer_norm(
    eps: float,
    dtype: jnp.dtype,
    name: str | None = None,
    centred: bool = False,
    *,
    rms: bool = False,
) -> nn.Module:
    """LayerNorm with float32 statistics, computed in two passes as the reference weights were;
    `centred`: it scales by 1 + its parameter; `rms`: an RMSNorm."""
    if rms:
        return nn.RMSNorm(epsilon=eps, dtype=dtype, name=name)
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
    angles: jax.Array | None = None,
    dropped: jax.Array | None = None,
    context_mask: jax.Array | None = None,
    depth: int,
    remat: str,
    unroll: bool,
    block: type[nn.Module] = Block,
    **fields: Any,
) -> tuple[jax.Array, dict[str, Cache] | None]:
    """Runs `depth` blocks on `x` [B, L, W]; call it inside a compact method.

    `fields` are those of `block`; `context` [B, M, W], its mask, `cache` (each array with a leading
    layer axis), `position` and `angles` are as of `Block` and `Attention`, and `dropped` [depth] is
    a number for each block. Returns the tokens and the new cache.
    """
    if not depth:
        return x, cache
    layers = repeat(block, depth, remat, unroll, depth=depth, **fields)
    return layers(x, mask, context, cache, position, angles, dropped, context_mask)


def repeat(
    block: type[nn.Module], count: int, remat: str, unroll: bool, **fields: Any
) -> Callable[..., Any]:
    """`count` blocks as one module, called (x, mask, context, cache, position, angles, dropped,
    context_mask) as a block is; all but the first two may be left out.

    Parameters lie in `blocks/...` with a leading axis [count, ...]. `unroll` writes the layers out
    (faster on CPU, slower to compile); `remat` names what the backward pass recomputes: "none",
    "dots" (all but matmuls), "full" (all). Neither changes the parameters or the result.
    """
    if remat != "none":
        # Inside a loop nothing can be shared between passes, so CSE needs no barrier.
        block = nn.remat(block, policy=REMAT_POLICIES[remat], prevent_cse=unroll)

    def run(x, mask, context=None, cache=None, position=None, angles=None, dropped=None,
            context_mask=None):  # fmt: skip
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, **({} if dropped is None else {"dropout": True})},
            in_axes=(nn.broadcast, nn.broadcast, 0, nn.broadcast, nn.broadcast, 0, nn.broadcast),
            length=count,
            unroll=count if unroll else 1,
        )(**fields, name="blocks")
        return layers(x, mask, context, cache, position, angles, dropped, context_mask)

    return run
