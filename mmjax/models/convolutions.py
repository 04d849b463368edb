"""Convolutions: what towers of them share, and what stands for the patch embedding of two vision
transformers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.layers import layer_norm

STEM_STRIDE = 16  # pixels on a side of what becomes a token


class FrozenNorm(nn.Module):
    """Batch norm by its stored statistics over [..., C]; `mean` and `var` are never trained.

    They begin as `initial`, a mean and a variance.
    """

    dtype: jnp.dtype
    eps: float = 1e-5
    initial: tuple[float, float] = (0.0, 1.0)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def vector(name: str, value: float) -> jax.Array:
            return self.param(name, nn.initializers.constant(value), x.shape[-1:])

        scale, bias = vector("scale", 1.0), vector("bias", 0.0)
        mean, var = vector("mean", self.initial[0]), vector("var", self.initial[1])
        factor = scale * jax.lax.rsqrt(var + self.eps)
        return (x * factor + (bias - mean * factor)).astype(self.dtype)


def conv(
    width: int,
    side: int,
    dtype: jnp.dtype,
    name: str,
    stride: int = 1,
    *,
    bias: bool = False,
    each: bool = False,
    padding: int | None = None,
) -> nn.Conv:
    """A convolution that pads each border by half the kernel, as PyTorch's usually do, or by
    `padding`; `each`: of each channel by itself (depthwise)."""
    padding = side // 2 if padding is None else padding
    return nn.Conv(
        width, (side, side), stride, padding=padding, use_bias=bias, dtype=dtype, name=name,
        kernel_init=nn.initializers.he_normal(), feature_group_count=width if each else 1,
    )  # fmt: skip


def halve(x: jax.Array) -> jax.Array:
    """Means of 2 x 2; a last odd row or column is left out."""
    return nn.avg_pool(x, (2, 2), (2, 2))


class ConvStem(nn.Module):
    """Normalised images [B, S, S, 3] -> [B, (S / 16)², W]: three convolutions without overlap and
    batch norms (MobileCLIP-B, Vasu et al., 2024); `hidden` is the first two's width."""

    width: int
    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, side in ((1, 4), (2, 2)):
            x = conv(self.hidden, side, self.dtype, f"conv{i}", side, padding=0)(x)
            x = nn.gelu(FrozenNorm(self.dtype, name=f"norm{i}")(x), approximate=False)
        x = conv(self.width, 2, self.dtype, "conv3", 2, padding=0, bias=True)(x)
        return x.reshape(x.shape[0], -1, self.width)


class MbConvStem(nn.Module):
    """Normalised images [B, S, S, 3] -> [B, (S / 16)², W]: the first two stages of ViTamin (Chen et
    al., 2024), of 2 and 4 inverted bottlenecks; `hidden` is the width of the first, half that of
    the second."""

    width: int
    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = conv(self.hidden, 3, self.dtype, "conv1", 2, bias=True)(x)
        x = nn.gelu(layer_norm(1e-6, self.dtype, "norm1")(x), approximate=False)
        x = conv(self.hidden, 3, self.dtype, "conv2", bias=True)(x)
        for stage, count in enumerate((2, 4)):
            for block in range(count):
                name = f"stage{stage + 1}_block{block}"
                width, stride = self.hidden * 2**stage, 1 if block else 2
                x = InvertedBottleneck(width, stride, self.dtype, name=name)(x)
        x = layer_norm(1e-6, self.dtype, "norm_pool")(x)
        x = conv(self.width, 3, self.dtype, "conv_pool", 2, bias=True)(x)
        return x.reshape(x.shape[0], -1, self.width)


class InvertedBottleneck(nn.Module):
    """[B, R, R, C] -> [B, R / stride, R / stride, W]: wide inside, a convolution of each channel
    there, a layer norm before, and the input added, its means of 3 x 3 where there is a stride."""

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inside = 4 * self.width
        y = layer_norm(1e-6, self.dtype, "norm")(x)
        y = nn.gelu(conv(inside, 1, self.dtype, "conv1", bias=True)(y), approximate=False)
        y = conv(inside, 3, self.dtype, "conv2", self.stride, bias=True, each=True)(y)
        y = nn.gelu(y, approximate=False)
        y = conv(self.width, 1, self.dtype, "conv3", bias=True)(y)
        if self.stride > 1:
            border = ((1, 1), (1, 1))
            x = nn.avg_pool(x, (3, 3), (2, 2), padding=border, count_include_pad=False)
        if x.shape[-1] != self.width:
            x = conv(self.width, 1, self.dtype, "conv_shortcut", bias=True)(x)
        return x + y


STEMS: dict[str, Any] = {"convolutions": ConvStem, "mbconv": MbConvStem}
