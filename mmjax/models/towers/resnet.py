"""The image tower of OpenAI's CLIP RN50, RN101 and RN50x4: a ResNet with an attention pool.

It is here to read published weights. Batch norms use their stored statistics always, in training
too: frozen, they are constants of a fine-tuned model, and of no use to one that starts from
scratch (`config_check` refuses it).
"""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.attention import attend
from mmjax.models.convolutions import FrozenNorm, conv, halve
from mmjax.models.graph import Function
from mmjax.models.heads import POOLED, Head, check_head, normal, project, tower_outputs
from mmjax.models.layers import Dense, Kernel
from mmjax.models.parts import register
from mmjax.models.towers.vision import MEAN, STD, Deviation, Mean
from mmjax.parallel.mesh import constrain
from mmjax.schema import SHAPE_FREE
from mmjax.values import COUNT

EXPANSION = 4  # a bottleneck's output is this many times as wide as its middle
STRIDE = 32  # pixels a side of a cell of the last feature map


@register("resnet")
class ModifiedResNet(nn.Module):
    """Images [B, S, S, 3], uint8 or float32 in 0..255 -> "tokens" [B, N, 32 W], "features" and
    "embed" [B, D].

    Against the usual ResNet: three convolutions at the start, average pooling instead of strides,
    and one attention query pools (Radford et al., 2021, section 2.4; OpenAI's code). The fields are
    the config keys `model.image.*` of kind "resnet".

    Attributes:
      embed_dim: Width of the shared embedding space.
      dtype: Compute dtype.
      size: Side of the square image in pixels.
      width: Channels of the first stage's middle.
      stages: Blocks of the four stages, each twice as wide as the last.
      heads: Attention heads of the pool.
      head: Projection into the shared space; tanh: with bias and tanh, as BERT's pooler; mlp: two
        layers with ReLU between them; tanh_mlp: both (CLAP's text); narrow_mlp and wide_mlp: two
        with GELU, of open_clip's texts from transformers and of its ConvNeXt; normed: a norm and
        two without (AltCLIP).
      mean: Mean of RGB in 0..1.
      std: Deviation of RGB in 0..1.
      attention: Kernel: auto, xla, or what GPUs (cudnn) and TPUs (splash) have.
    """

    embed_dim: int
    dtype: jnp.dtype
    size: Annotated[int, COUNT] = 224
    width: Annotated[int, COUNT] = 768
    stages: Annotated[tuple[int, ...], COUNT] = ()
    heads: Annotated[int, SHAPE_FREE, COUNT] = 12
    head: Head = "linear"
    mean: Mean = MEAN
    std: Deviation = STD
    attention: Kernel = "auto"

    modality = "image"

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        key = f"config.model.{name}"
        if len(spec.stages) != 4 or spec.size % 32 or spec.width % 2:
            raise UserError(
                f"{key}: a resnet has four stages={spec.stages}, a size={spec.size} that 32 "
                f"divides and an even width={spec.width}."
            )
        if 32 * spec.width % spec.heads:
            raise UserError(
                f"{key}: heads={spec.heads} does not divide the resnet's 32 x width={spec.width}."
            )
        check_head(key, spec, model)

    def functions(self, name: str) -> tuple[Function, ...]:
        return (Function(name, "__call__", (("image", name),), tower_outputs(1)),)

    @nn.compact
    def __call__(
        self, outputs: tuple[str, ...], image: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Computes the named outputs; `train` changes nothing.

        "tokens" are the cells of the last feature map row by row, "features" is what is pooled of
        them and projected, "embed" the same at unit length.
        """
        x = (image.astype(jnp.float32) / 255 - jnp.array(self.mean)) / jnp.array(self.std)
        x = Stem(self.width, self.dtype, name="stem")(x.astype(self.dtype))  # [B, S/4, S/4, W]
        for stage, count in enumerate(self.stages):
            for block in range(count):
                stride = 2 if stage and not block else 1
                x = Bottleneck(
                    self.width * 2**stage, stride, self.dtype, name=f"stage{stage + 1}_block{block}"
                )(x)
        x = constrain(x.reshape(x.shape[0], -1, x.shape[-1]), "batch", None, None)  # [B, N, 32 W]
        result = {"tokens": x} if "tokens" in outputs else {}
        if POOLED & set(outputs):
            result |= project(self.pool(x), self.head, self.embed_dim, self.dtype)
        return result

    def pool(self, x: jax.Array) -> jax.Array:
        """[B, N, 32 W] -> [B, 32 W]: the mean, as a token of its own, attends to all tokens."""
        width = x.shape[-1]
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        positions = self.param("position_embed", normal(width**-0.5), (x.shape[1], width))
        x = x + positions.astype(x.dtype)

        def heads(name: str, tokens: jax.Array) -> jax.Array:  # [B, L, 32 W] -> [B, L, heads, d]
            init = normal(width**-0.5)
            y = Dense(width, dtype=self.dtype, kernel_init=init, name=f"pool_{name}")(tokens)
            return y.reshape(*y.shape[:-1], self.heads, -1)

        y = attend(heads("query", x[:, :1]), heads("key", x), heads("value", x),
                   implementation=self.attention)  # fmt: skip
        return y.reshape(-1, width)


class Stem(nn.Module):
    """[B, S, S, 3] -> [B, S/4, S/4, W]."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for number, width in enumerate((self.width // 2, self.width // 2, self.width), start=1):
            stride = 2 if number == 1 else 1
            x = conv(width, 3, self.dtype, f"conv{number}", stride)(x)
            x = nn.relu(FrozenNorm(self.dtype, name=f"norm{number}")(x))
        return halve(x)


class Bottleneck(nn.Module):
    """[B, R, R, C] -> [B, R / stride, R / stride, 4 · planes]."""

    planes: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def norm(name: str) -> FrozenNorm:
            return FrozenNorm(self.dtype, name=name)

        out = EXPANSION * self.planes
        y = nn.relu(norm("norm1")(conv(self.planes, 1, self.dtype, "conv1")(x)))
        y = nn.relu(norm("norm2")(conv(self.planes, 3, self.dtype, "conv2")(y)))
        if self.stride > 1:
            x, y = halve(x), halve(y)
        y = norm("norm3")(conv(out, 1, self.dtype, "conv3")(y))
        if self.stride > 1 or x.shape[-1] != out:
            x = norm("norm_shortcut")(conv(out, 1, self.dtype, "conv_shortcut")(x))
        return nn.relu(x + y)
