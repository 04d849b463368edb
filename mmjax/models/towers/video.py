"""The video tower: an image tower on every frame, and what the frames become together."""

from typing import Annotated, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.attention import may_see
from mmjax.models.divided import DividedBlock
from mmjax.models.graph import Function
from mmjax.models.heads import masked_mean, normal
from mmjax.models.layers import stack, unit_length
from mmjax.models.parts import register
from mmjax.models.towers.vision import VisionTower
from mmjax.values import COUNT

ONE_SEQUENCE = ("divided", "joint")


@register("video_vit")
class VideoTower(VisionTower):
    """Videos [B, T, S, S, 3], uint8 or float32 in 0..255 -> "features" and "embed" [B, D], and
    "frames" [B, T, D], the features of each frame.

    The parameters of a frame are those of the kind "vit", under the same names, so that weights of
    an image tower start it. A video of one frame is an image.

    Attributes:
      frames: Frames of a video; a shorter one is padded.
      over_time: What frames become together: their mean; the mean of a transformer over them
        (CLIP4Clip's seqTransf, Luo et al., 2021), which knows their order; or one sequence of the
        patches of all, whose blocks attend to time, then to space (divided; Frozen in Time, Bain
        et al., 2021), or to all of it (joint; ViViT's model 1, Arnab et al., 2021).
      tubelet: over_time=divided or joint: frames that a patch spans (ViViT); must divide frames.
      time_depth: over_time=transformer: its blocks.
      time_heads: over_time=transformer: attention heads; must divide embed_dim.
      normalise: over_time=mean or transformer: what has unit length, each frame's features before
        the mean, the mean after it, or both (CLIP4Clip). Only before leaves an embedding shorter
        than 1 (Perception Encoder).
    """

    frames: Annotated[int, COUNT] = 8
    over_time: Literal["mean", "transformer", "divided", "joint"] = "mean"
    tubelet: Annotated[int, COUNT] = 1  # type: ignore[assignment]
    time_depth: Annotated[int, COUNT] = 4
    time_heads: Annotated[int, COUNT] = 8
    normalise: Literal["before", "after", "both"] = "both"

    modality = "video"

    SMOKE: ClassVar = {
        **VisionTower.SMOKE, "frames": lambda frames: min(frames, 4) // 2 * 2 or 1,
        "tubelet": lambda tubelet: min(tubelet, 2), "time_depth": 1, "time_heads": 1,
    }  # fmt: skip

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        VisionTower.check(name, spec, model)
        key = f"config.model.{name}"
        if spec.depth < 1:
            raise UserError(f"{key}.depth=0 gives frames no features: set it to 1 or more.")
        if spec.over_time == "transformer" and model.embed_dim % spec.time_heads:
            raise UserError(
                f"{key}.time_heads={spec.time_heads} must divide config.model.embed_dim="
                f"{model.embed_dim}."
            )
        if spec.pixel_head:
            raise UserError(f"{key}.pixel_head is of images: set it to False.")
        one = spec.over_time in ONE_SEQUENCE
        if one and (spec.rope != "none" or spec.registers):
            raise UserError(
                f"{key}.over_time={spec.over_time!r} makes one sequence of frames, and registers "
                "and RoPE are of one image: set registers=0 and rope='none', or over_time='mean'."
            )
        if one and spec.patch_dropout:
            raise UserError(
                f"{key}.patch_dropout drops other patches of each frame, and over_time="
                f"{spec.over_time!r} wants the same: set it to 0."
            )
        if one and spec.pool == "queries":
            raise UserError(
                f"{key}.pool='queries' cannot leave out frames that are padding: with over_time="
                f"{spec.over_time!r} set it to 'cls', 'mean' or 'map'."
            )
        if spec.over_time == "divided" and spec.block_norm != "pre":
            raise UserError(
                f"{key}.over_time='divided' has blocks of its own: set block_norm='pre', or "
                "over_time to another."
            )
        if spec.tubelet > 1 and not one:
            raise UserError(
                f"{key}.tubelet={spec.tubelet} joins frames, and over_time={spec.over_time!r} "
                "embeds each: set it to 1, or over_time to 'joint' or 'divided'."
            )
        if spec.frames % spec.tubelet:
            raise UserError(f"{key}.tubelet={spec.tubelet} must divide frames={spec.frames}.")

    def functions(self, name: str) -> tuple[Function, ...]:
        reads = (("video", name), ("mask", f"{name}_mask"))
        frames = () if self.over_time in ONE_SEQUENCE else ("frames",)
        return (Function(name, "__call__", reads, ("features", "embed", *frames)),)

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        outputs: tuple[str, ...],
        video: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> dict[str, jax.Array]:
        """Computes the named outputs; `mask` bool [B, T] is False on frames that are padding.

        Images [B, S, S, 3] are videos of one frame.
        """
        video = video[:, None] if video.ndim == 4 else video
        rows, frames = video.shape[:2]
        if mask is None:
            mask = jnp.ones((rows, frames), bool)
        if self.over_time in ONE_SEQUENCE:
            return self.one_sequence(outputs, video, mask, train)
        images = video.reshape(-1, *video.shape[2:])
        found = VisionTower.__call__(self, ("features",), images, None, train)["features"]
        found = found.reshape(rows, frames, -1)
        result = {"frames": found} if "frames" in outputs else {}
        if not {"features", "embed"} & set(outputs):
            return result
        if self.over_time == "transformer":
            # The residual is around all of it: untrained, it changes little.
            found = found + OverTime(self.time_depth, self.time_heads, self.frames, self.remat,
                                     self.unroll, self.dtype, name="time")(found, mask)  # fmt: skip
        found = found.astype(jnp.float32)
        if self.normalise != "after":
            found = unit_length(found)
        pooled = masked_mean(found, mask)
        embed = pooled if self.normalise == "before" else unit_length(pooled)
        return result | {"features": pooled, "embed": embed}

    def one_sequence(
        self, outputs: tuple[str, ...], video: jax.Array, mask: jax.Array, train: bool
    ) -> dict[str, jax.Array]:
        """The patches of all frames (or tubelets) as one sequence with one class token; an image,
        and a video of one, goes through the image tower itself."""
        # The last frame goes on, so that a tubelet that is partly padding is whole.
        count = jnp.maximum(mask.sum(axis=1), 1)
        added = -video.shape[1] % self.tubelet
        kept = jnp.minimum(jnp.arange(video.shape[1] + added), count[:, None] - 1)
        if self.tubelet > 1:
            video = jnp.take_along_axis(video, kept[:, :, None, None, None], axis=1)
        rows, times = len(video), video.shape[1] // self.tubelet
        count = -(-count // self.tubelet)
        images = video.reshape(-1, *video.shape[2:])
        if times == 1:
            return VisionTower.__call__(self, outputs, images, None, train)
        x, _ = self.embed_tokens(images, None, train)  # [B·T, 1 + N, W]
        x = x.reshape(rows, times, -1, self.width)
        first = int(self.class_token)
        token, patches = x[:, 0, :first], x[:, :, first:]
        shape = (self.frames // self.tubelet, self.width)
        time = self.param("time_embed", nn.initializers.zeros, shape)[:times]
        time = jnp.where((count > 1)[:, None, None], time, 0)[:, :, None]
        patches = (patches + time.astype(x.dtype)).reshape(rows, -1, self.width)
        x = jnp.concatenate([token, patches], axis=1)
        mask = jnp.arange(times) < count[:, None]
        seen = jnp.repeat(mask, patches.shape[1] // times, axis=1)
        if self.over_time == "divided":
            x = self.run_blocks(
                x, mask, train=train, block=DividedBlock, class_token=self.class_token
            )
        else:
            lengths = seen.sum(axis=1, dtype=jnp.int32) + first
            x = self.run_blocks(x, lengths, train=train)
        return self.read_out(x, outputs, seen)


class OverTime(nn.Module):
    """A transformer over the features of frames, [B, T, D] -> [B, T, D]."""

    depth: int
    heads: int
    frames: int
    remat: str
    unroll: bool
    dtype: jnp.dtype
    mlp_dim: int = 0  # 0: four times the width
    activation: str = "quick_gelu"
    norm_eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        width = x.shape[-1]
        positions = self.param("position_embed", normal(0.01), (self.frames, width))
        x = x + positions[: x.shape[1]].astype(x.dtype)
        return stack(
            x, None if mask is None else may_see(mask), depth=self.depth, heads=self.heads,
            mlp_dim=self.mlp_dim or 4 * width, activation=self.activation, norm="pre",
            norm_eps=self.norm_eps, causal=False, attention="xla", remat=self.remat,
            unroll=self.unroll, dtype=self.dtype,
        )[0]  # fmt: skip
