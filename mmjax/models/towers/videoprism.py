"""The video tower of VideoPrism: space, then time, then both (Zhao et al., 2024).

Its factorised encoder is ViViT's model 2 (Arnab et al., 2021); VideoPrism-LvT adds joint layers and
attention pooling (github.com/google-deepmind/videoprism). Its text tower is a "transformer".
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.attention import attend, may_see
from mmjax.models.graph import Function
from mmjax.models.heads import check_heads, normal
from mmjax.models.layers import Activation, Dense, Remat, Unroll, layer_norm, stack, unit_length
from mmjax.models.parts import register
from mmjax.models.patches import PatchEmbed
from mmjax.models.towers.vision import Deviation, Mean
from mmjax.schema import RESUMABLE, SHAPE_FREE
from mmjax.values import COUNT, NATURAL, POSITIVE, POSITIVE_OR_0

SCALE = 1.442695041  # 1 / softplus(0): a parameter at its initial 0 leaves a dimension as it is


@register("videoprism")
class VideoPrism(nn.Module):
    """Videos [B, T, S, S, 3], uint8 or float32 in 0..255 -> "features" and "embed" [B, D].

    A video of one frame is an image.

    Attributes:
      embed_dim: Width of the shared embedding space.
      dtype: Compute dtype.
      size: Side of a frame in pixels.
      patch_size: Side of a patch in pixels.
      frames: Frames of a video; a shorter one is padded.
      width: Width of the tokens, equal to embed_dim.
      depth: Blocks over the patches of each frame.
      time_depth: Blocks over the frames of each patch.
      joint_depth: Blocks over all patches of all frames.
      heads: Attention heads; must divide width and mlp_dim.
      mlp_dim: Hidden width of the blocks' MLP, and width of the attention that pools.
      activation: Activation of the MLP.
      norm_eps: Epsilon of the layer norms, which scale by 1 + their parameter.
      softcap: Attention's logits x become softcap · tanh(x / softcap); 0: they stay.
      attention: Kernel: auto, xla, or what TPUs (splash) have.
      remat: What the backward pass recomputes to save memory.
      unroll: Write the layers out (fast on CPU) or loop (compiles fast).
      mean: Mean of RGB in 0..1.
      std: Deviation of RGB in 0..1.
    """

    embed_dim: int
    dtype: jnp.dtype
    size: Annotated[int, COUNT] = 288
    patch_size: Annotated[int, COUNT] = 18
    frames: Annotated[int, COUNT] = 16
    width: Annotated[int, COUNT] = 768
    depth: Annotated[int, COUNT] = 12
    time_depth: Annotated[int, NATURAL] = 4
    joint_depth: Annotated[int, NATURAL] = 2
    heads: Annotated[int, SHAPE_FREE, COUNT] = 12
    mlp_dim: Annotated[int, COUNT] = 3072
    activation: Activation = "gelu"
    norm_eps: Annotated[float, SHAPE_FREE, POSITIVE] = 1e-6
    softcap: Annotated[float, SHAPE_FREE, POSITIVE_OR_0] = 50.0
    attention: Annotated[Literal["auto", "xla", "splash"], RESUMABLE] = "auto"
    remat: Remat = "none"
    unroll: Unroll = True
    mean: Mean = (0.0, 0.0, 0.0)
    std: Deviation = (1.0, 1.0, 1.0)

    modality = "video"

    SMOKE: ClassVar = {
        "size": 32, "patch_size": 8, "width": 32, "heads": 4, "mlp_dim": 64,
        "frames": lambda frames: min(frames, 4), "depth": lambda depth: min(depth, 2),
        "time_depth": 1, "joint_depth": 1,
    }  # fmt: skip

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        key = f"config.model.{name}"
        check_heads(key, spec)
        if spec.mlp_dim % spec.heads:
            raise UserError(f"{key}: heads={spec.heads} does not divide mlp_dim={spec.mlp_dim}.")
        if spec.width != model.embed_dim:
            raise UserError(
                f"{key}.width={spec.width} must equal config.model.embed_dim={model.embed_dim}: "
                "this tower has no projection."
            )
        if spec.patch_size > spec.size:
            raise UserError(
                f"{key}.patch_size={spec.patch_size} is larger than a frame (size={spec.size})."
            )

    def functions(self, name: str) -> tuple[Function, ...]:
        reads = (("video", name), ("mask", f"{name}_mask"))
        return (Function(name, "__call__", reads, ("features", "embed")),)

    @nn.compact
    def __call__(
        self,
        outputs: tuple[str, ...],
        video: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Computes the named outputs; `mask` bool [B, T] is False on frames that are padding.

        Images [B, S, S, 3] are videos of one frame. `train` changes nothing.
        """
        del outputs, train
        video = video[:, None] if video.ndim == 4 else video
        rows, frames = video.shape[:2]
        if mask is None:
            mask = jnp.ones((rows, frames), bool)
        width = self.width
        embed = PatchEmbed(self.patch_size, width, True, self.mean, self.std, self.dtype,
                           name="patch_embed")  # fmt: skip
        x = embed(video.reshape(-1, *video.shape[2:]))
        patches = x.shape[1]
        space = self.param("position_embed", normal(width**-0.5), (patches, width))
        time = self.param("time_embed", normal(width**-0.5), (self.frames, width))
        fields: dict[str, Any] = {
            "heads": self.heads, "mlp_dim": self.mlp_dim, "activation": self.activation,
            "norm": "pre", "norm_eps": self.norm_eps, "causal": False,
            "attention": self.attention, "remat": self.remat, "unroll": self.unroll,
            "dtype": self.dtype, "softcap": self.softcap, "centred_norms": True,
        }  # fmt: skip

        def norm(name: str, x: jax.Array) -> jax.Array:
            return layer_norm(self.norm_eps, self.dtype, name, centred=True)(x)

        x = stack(x + space.astype(x.dtype), None, depth=self.depth, **fields)[0]
        x = norm("norm_space", x).reshape(rows, frames, patches, width).swapaxes(1, 2)
        x = x.reshape(-1, frames, width) + time[:frames].astype(x.dtype)
        seen = may_see(jnp.repeat(mask, patches, axis=0))
        x = norm("norm_time", Blocks(self.time_depth, fields, name="time")(x, seen))
        x = x.reshape(rows, patches, frames, width).swapaxes(1, 2).reshape(rows, -1, width)
        seen = may_see(jnp.repeat(mask, patches, axis=1))
        x = Blocks(self.joint_depth, fields, name="joint")(x, seen)
        x = Pool(self.heads, self.mlp_dim, self.dtype, name="pool")(x, seen)
        x = norm("norm_pool", x)
        return {"features": x, "embed": unit_length(x)}


class Blocks(nn.Module):
    """A stack of blocks under a name of its own, [B, L, W] -> [B, L, W]; `fields` are as of
    `stack`."""

    depth: int
    fields: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        return stack(x, mask, depth=self.depth, **self.fields)[0]


class Pool(nn.Module):
    """One learned query over tokens [B, N, W] -> [B, W], in attention of another width; each
    dimension of a head has a scale of its own."""

    heads: int
    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        width = x.shape[-1]

        def dense(name: str, size: int, x: jax.Array) -> jax.Array:
            init = normal(x.shape[-1] ** -0.5)
            return Dense(size, dtype=self.dtype, kernel_init=init, name=name)(x)

        def split(x: jax.Array) -> jax.Array:
            return x.reshape(*x.shape[:-1], self.heads, self.hidden // self.heads)

        probe = self.param("query_embed", normal(width**-0.5), (1, width))
        zeros = nn.initializers.zeros
        scale = self.param("per_dim_scale", zeros, (self.hidden // self.heads,))
        query = jnp.broadcast_to(probe.astype(x.dtype), (x.shape[0], 1, width))
        query = split(dense("query", self.hidden, query))
        query = query * (SCALE * jax.nn.softplus(scale)).astype(x.dtype)
        key, value = (split(dense(name, self.hidden, x)) for name in ("key", "value"))
        y = attend(query, key, value, mask=mask)
        return dense("out", width, y.reshape(x.shape[0], self.hidden))
