"""The transformer every tower is made of: attention, MLP, block, and the stack of blocks.

Kernels are two-dimensional [in, out] (heads are a reshape), q, k and v stay apart, and a stack
holds its blocks' parameters with a leading layer axis however it is executed.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.attention import attend
from mmjax.parallel.mesh import constrain

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),  # OpenAI's CLIP weights
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
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

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        causal: bool = False,
    ) -> jax.Array:
        """`mask` is boolean, broadcastable to [B, heads, L, M]; True means "may be seen"."""
        width = x.shape[-1]
        context = x if context is None else context

        def dense(name: str, std: float) -> Dense:
            return Dense(
                width, dtype=self.dtype, kernel_init=nn.initializers.normal(std), name=name
            )

        def split(y: jax.Array) -> jax.Array:  # [B, L, W] -> [B, L, heads, W / heads]
            y = y.reshape(*y.shape[:-1], self.heads, width // self.heads)
            return constrain(y, "batch", None, "tensor", None)

        std = width**-0.5
        query = split(dense("query", std)(x))
        key = split(dense("key", std)(context))
        value = split(dense("value", std)(context))
        y = attend(query, key, value, mask=mask, causal=causal, implementation=self.implementation)
        return dense("out", self.out_std or std)(y.reshape(x.shape))


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
    """Transformer block of norm "pre": x + attention(norm(x)), then x + mlp(norm(x)); or "post" as
    in Vaswani et al. (2017) and BERT: norm(x + attention(x)), then norm(x + mlp(x))."""

    heads: int
    mlp_dim: int
    activation: str
    norm: str
    norm_eps: float
    causal: bool
    attention: str
    depth: int  # of the whole stack: the residual branches start smaller the deeper it is
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, None]:
        out_std = (2 * self.depth * x.shape[-1]) ** -0.5
        x = constrain(x, "batch", None, None)
        norm1 = layer_norm(self.norm_eps, self.dtype, "norm1")
        norm2 = layer_norm(self.norm_eps, self.dtype, "norm2")
        attention = Attention(self.heads, self.dtype, out_std, self.attention, name="attention")
        mlp = Mlp(self.mlp_dim, self.activation, self.dtype, out_std, name="mlp")
        if self.norm == "post":
            x = norm1(x + attention(x, mask=mask, causal=self.causal))
            x = norm2(x + mlp(x))
        else:
            x = x + attention(norm1(x), mask=mask, causal=self.causal)
            x = x + mlp(norm2(x))
        return x, None  # (carry, no per-layer output), as nn.scan wants it


def layer_norm(eps: float, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """LayerNorm with float32 statistics, computed in two passes as the reference weights were."""
    return nn.LayerNorm(epsilon=eps, dtype=dtype, use_fast_variance=False, name=name)


def stack(
    x: jax.Array,
    mask: jax.Array | None,
    *,
    depth: int,
    heads: int,
    mlp_dim: int,
    activation: str,
    norm: str,
    norm_eps: float,
    causal: bool,
    attention: str,
    remat: str,
    unroll: bool,
    dtype: jnp.dtype,
) -> jax.Array:
    """Runs `depth` blocks on `x` [B, L, W]; call it inside a compact method.

    Parameters lie in `blocks/...` with a leading axis [depth, ...]. `unroll` writes the layers out
    (faster on CPU, slower to compile); `remat` names what the backward pass recomputes: "none",
    "dots" (all but matmuls), "full" (all); `attention` the kernel. None of them changes the
    parameters or the result.
    """
    block = Block
    if remat != "none":
        # Inside a loop nothing can be shared between passes, so CSE needs no barrier.
        block = nn.remat(Block, policy=REMAT_POLICIES[remat], prevent_cse=unroll)
    layers = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=depth,
        unroll=depth if unroll else 1,
    )(heads, mlp_dim, activation, norm, norm_eps, causal, attention, depth, dtype, name="blocks")
    return layers(x, mask)[0]
