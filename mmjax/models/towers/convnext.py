"""ConvNeXt (Liu et al., 2022), an image tower of convolutions, as timm and open_clip have it."""

from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.convolutions import conv
from mmjax.models.graph import Function
from mmjax.models.heads import POOLED, Head, check_head, project, tower_outputs
from mmjax.models.layers import Mlp, Remat, Unroll, layer_norm, repeat
from mmjax.models.parts import register
from mmjax.models.patches import PatchEmbed
from mmjax.models.towers.vision import MEAN, STD, Deviation, Mean
from mmjax.parallel.mesh import constrain
from mmjax.schema import SHAPE_FREE, TRAINING_ONLY
from mmjax.values import COUNT, POSITIVE

PATCH = 4  # pixels on a side of a cell of the first stage
STRIDE = 32  # and of the last


@register("convnext")
class ConvNext(nn.Module):
    """Images [B, S, S, 3], uint8 or float32 in 0..255 -> "tokens" [B, N, 8 W], "features" and
    "embed" [B, D].

    Attributes:
      embed_dim: Width of the shared embedding space.
      dtype: Compute dtype.
      size: Side of the square image in pixels, a multiple of 32.
      width: Channels of the first stage.
      stages: Blocks of the four stages, each twice as wide as the last.
      norm_eps: Epsilon of the layer norms.
      layer_scale: First value of learned factors of what blocks add.
      head: Projection into the shared space; tanh: with bias and tanh, as BERT's pooler; mlp: two
        layers with ReLU between them; tanh_mlp: both (CLAP's text); narrow_mlp and wide_mlp: two
        with GELU, of open_clip's texts from transformers and of its ConvNeXt; normed: a norm and
        two without (AltCLIP).
      mean: Mean of RGB in 0..1.
      std: Deviation of RGB in 0..1.
      remat: What the backward pass recomputes to save memory.
      unroll: Write the layers out (fast on CPU) or loop (compiles fast).
    """

    embed_dim: int
    dtype: jnp.dtype
    size: Annotated[int, COUNT] = 224
    width: Annotated[int, COUNT] = 128
    stages: Annotated[tuple[int, ...], COUNT] = (3, 3, 27, 3)
    norm_eps: Annotated[float, SHAPE_FREE, POSITIVE] = 1e-6
    layer_scale: Annotated[float, TRAINING_ONLY, POSITIVE] = 1e-6
    head: Head = "linear"
    mean: Mean = MEAN
    std: Deviation = STD
    remat: Remat = "none"
    unroll: Unroll = True

    modality = "image"

    SMOKE: ClassVar = {"size": 64, "width": 16, "stages": (1, 1, 1, 1)}

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        key = f"config.model.{name}"
        if len(spec.stages) != 4 or spec.size % STRIDE:
            raise UserError(
                f"{key}: a convnext has four stages={spec.stages} and a size={spec.size} that "
                f"{STRIDE} divides."
            )
        check_head(key, spec, model, 8 * spec.width)

    def functions(self, name: str) -> tuple[Function, ...]:
        return (Function(name, "__call__", (("image", name),), tower_outputs(1)),)

    @nn.compact
    def __call__(
        self, outputs: tuple[str, ...], image: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Computes the named outputs; `train` changes nothing.

        "tokens" are the cells of the last feature map row by row; "features" is their mean,
        normalised and projected, and "embed" the same at unit length.
        """
        side = self.size // PATCH
        x = PatchEmbed(PATCH, self.width, True, self.mean, self.std, self.dtype,
                       name="patch_embed")(image)  # fmt: skip
        x = x.reshape(-1, side, side, self.width)
        x = layer_norm(self.norm_eps, self.dtype, "norm_patch")(x)
        for stage, count in enumerate(self.stages):
            x = Stage(
                count, self.width * 2**stage, 2 if stage else 1, self.remat, self.unroll,
                self.dtype, self.norm_eps, self.layer_scale, name=f"stage{stage + 1}",
            )(x)  # fmt: skip
        x = constrain(x.reshape(x.shape[0], -1, x.shape[-1]), "batch", None, None)  # [B, N, 8 W]
        result = {"tokens": x} if "tokens" in outputs else {}
        if POOLED & set(outputs):
            pooled = layer_norm(self.norm_eps, self.dtype, "norm_post")(x.mean(axis=1))
            result |= project(pooled, self.head, self.embed_dim, self.dtype)
        return result


class Stage(nn.Module):
    """[B, R, R, C] -> [B, R / stride, R / stride, W]."""

    count: int
    width: int
    stride: int
    remat: str
    unroll: bool
    dtype: jnp.dtype
    norm_eps: float
    layer_scale: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.stride > 1:
            x = layer_norm(self.norm_eps, self.dtype, "norm")(x)
            x = conv(self.width, 2, self.dtype, "conv", self.stride, bias=True, padding=0)(x)
        blocks = repeat(
            ConvNextBlock, self.count, self.remat, self.unroll, width=self.width,
            norm_eps=self.norm_eps, layer_scale=self.layer_scale, dtype=self.dtype,
        )  # fmt: skip
        y: jax.Array = blocks(x, None)[0]
        return y


class ConvNextBlock(nn.Module):
    """[B, R, R, W] -> the same: a convolution of each channel by itself, a norm and an MLP."""

    width: int
    norm_eps: float
    layer_scale: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, *unused: Any) -> tuple[jax.Array, None]:
        y = conv(self.width, 7, self.dtype, "conv", bias=True, each=True)(x)
        y = layer_norm(self.norm_eps, self.dtype, "norm")(y)
        cells = y.reshape(y.shape[0], -1, self.width)
        y = Mlp(4 * self.width, "gelu", self.dtype, name="mlp")(cells).reshape(y.shape)
        begin = nn.initializers.constant(self.layer_scale)
        factor = self.param("layer_scale", begin, (self.width,))
        return x + y * factor.astype(y.dtype), None
