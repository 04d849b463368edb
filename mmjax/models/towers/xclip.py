"""X-CLIP's video tower (Ni et al., 2022): frames exchange messages in every block."""

from typing import Annotated, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.form import KEYS
from mmjax.models.graph import Function
from mmjax.models.heads import check_head, check_heads, normal
from mmjax.models.layers import Attention, Block, Dense, layer_norm, unit_length
from mmjax.models.parts import register
from mmjax.models.towers.video import OverTime
from mmjax.models.towers.vision import VisionTower
from mmjax.schema import SHAPE_FREE
from mmjax.values import COUNT


@register("xclip")
class XClipTower(VisionTower):
    """Videos [B, T, S, S, 3], uint8 or float32 in 0..255 -> "features" and "embed" [B, D], "frames"
    [B, T, D], the features of each frame, and "patches" [B, N, D], the mean over time of each
    patch, by which a text may be conditioned.

    In every block each frame makes a token of its class token, those of all frames attend to each
    other, and the patches of the frame see the result. A transformer over the frames' features,
    their mean added, makes the video of them. The parameters of a frame are those of the kind
    "vit", under the same names, so that weights of CLIP start it.

    Attributes:
      frames: Frames of a video; there must be so many. Of a video that has fewer (as its mask
        says) the frames are repeated, each for as long.
      time_depth: Blocks over the frames' features.
      time_heads: Attention heads of these; must divide embed_dim.
      time_mlp_dim: Hidden width of these.
    """

    frames: Annotated[int, COUNT] = 8
    time_depth: Annotated[int, COUNT] = 1
    time_heads: Annotated[int, SHAPE_FREE, COUNT] = 8
    time_mlp_dim: Annotated[int, COUNT] = 2048

    modality = "video"

    # Of one form, that of CLIP.
    DERIVED: ClassVar = (
        "pool", "queries", "pool_heads", "map_heads", "map_mlp_dim", "norm_pooled", "block_norm",
        "class_position", "stem", "stem_width", "position", "position_resize", "norm_pre",
        "norm_patch", "patch_bias", "patch_dropout", "pixel_head", "rope", "rope_grid", "registers",
        "mask_token", *KEYS,
    )  # fmt: skip
    SMOKE: ClassVar = {
        **{key: value for key, value in VisionTower.SMOKE.items() if key != "stem"},
        "frames": lambda frames: min(frames, 4), "time_depth": 1,
        "time_heads": 1, "time_mlp_dim": 64,
    }  # fmt: skip

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        key = f"config.model.{name}"
        check_heads(key, spec)
        check_head(key, spec, model)
        if spec.depth < 1:
            raise UserError(f"{key}.depth=0 gives frames no features: set it to 1 or more.")
        if spec.patch_size > spec.size:
            raise UserError(
                f"{key}.patch_size={spec.patch_size} is larger than a frame (size={spec.size})."
            )
        if model.embed_dim % spec.time_heads:
            raise UserError(
                f"{key}.time_heads={spec.time_heads} must divide config.model.embed_dim="
                f"{model.embed_dim}."
            )

    def functions(self, name: str) -> tuple[Function, ...]:
        reads = (("video", name), ("mask", f"{name}_mask"))
        return (Function(name, "__call__", reads, ("features", "embed", "frames", "patches")),)

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        outputs: tuple[str, ...],
        video: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Computes the named outputs; `mask` bool [B, T] is False on frames that are padding, which
        come last; `train` changes nothing.

        Raises:
          UserError: videos of another number of frames.
        """
        if video.ndim != 5 or video.shape[1] != self.frames:
            found = f"{video.shape[1]} frames" if video.ndim == 5 else "images"
            raise UserError(
                f"This model reads videos of {self.frames} frames and was given {found}: sample "
                f"{self.frames} of each."
            )
        if mask is not None:
            video = stretched(video, mask)
        x, _ = self.embed_tokens(video.reshape(-1, *video.shape[2:]), None, train)
        # [B·T, 1 + N, W]
        x = self.run_blocks(x, train=train, block=MessageBlock, frames=self.frames)
        result = {}
        if "patches" in outputs:
            result["patches"] = self.patches(x[:, 1:])
        if {"features", "embed", "frames"} & set(outputs):
            frames = self.read_out(x, ("features",))["features"]
            frames = frames.reshape(-1, self.frames, self.embed_dim)
            over_time = OverTime(
                self.time_depth, self.time_heads, self.frames, self.remat, self.unroll, self.dtype,
                self.time_mlp_dim, self.activation, self.norm_eps, name="time",
            )  # fmt: skip
            features = (frames + over_time(frames, None)).astype(jnp.float32).mean(axis=1)
            result |= {"frames": frames, "features": features, "embed": unit_length(features)}
        return result

    def patches(self, x: jax.Array) -> jax.Array:
        """[B·T, N, W] -> [B, N, D]. The mean comes before the projection, which is linear: it then
        costs a T-th."""
        x = layer_norm(self.norm_eps, self.dtype, "norm_patches")(x)
        x = x.reshape(-1, self.frames, *x.shape[1:])
        x = x.astype(jnp.float32).mean(axis=1).astype(self.dtype)
        init = normal(self.width**-0.5)
        return Dense(self.embed_dim, use_bias=False, dtype=self.dtype, kernel_init=init,
                     name="patches_head")(x)  # fmt: skip


class MessageBlock(Block):
    """A block over the tokens of each frame [B·T, L, W] and a message of all T `frames`."""

    frames: int = 1

    @nn.compact
    def __call__(self, x, mask, *unused):
        del unused
        message = Message(
            self.frames, self.heads, self.norm_eps, self.attention, self.depth, self.dtype,
            name="message",
        )(x[:, 0])  # fmt: skip
        x, cache = Block.__call__(self, jnp.concatenate([x, message], axis=1), mask)
        return x[:, :-1], cache


class Message(nn.Module):
    """What the frames of a video tell each other: their class tokens [B·T, W] -> [B·T, 1, W]."""

    frames: int
    heads: int
    norm_eps: float
    attention: str
    depth: int  # as of Block
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = Dense(width, dtype=self.dtype, kernel_init=normal(width**-0.5), name="fc")(x)
        x = x.reshape(-1, self.frames, width)
        y = layer_norm(self.norm_eps, self.dtype, "norm")(x)
        out_std = (2 * self.depth * width) ** -0.5
        attention = Attention(self.heads, self.dtype, out_std, self.attention, name="attention")
        return (x + attention(y)[0]).reshape(-1, 1, width)


def stretched(video: jax.Array, mask: jax.Array) -> jax.Array:
    """Videos [B, T, …] without their padding: the n real frames of each, which come first, fill its
    T places in their order, frame ⌊(i + ½) n / T⌋ the place i, as X-CLIP samples short videos."""
    frames = video.shape[1]
    real = jnp.maximum(mask.sum(axis=1, dtype=jnp.int32), 1)
    number = (2 * jnp.arange(frames) + 1) * real[:, None] // (2 * frames)
    return jnp.take_along_axis(video, number.reshape(*number.shape, 1, 1, 1), axis=1)
