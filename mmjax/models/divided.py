"""Divided space–time attention, as in Frozen in Time (Bain et al., 2021; video_transformer.py of
github.com/m-bain/frozen-in-time), after TimeSformer (Bertasius et al., 2021)."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.models.attention import attend
from mmjax.models.layers import Attention, Block, layer_norm
from mmjax.parallel.mesh import constrain


class DividedAttention(Attention):
    """Attention among the patches of a frame ("space"), or among the frames of a patch ("time").

    Tokens [B, 1 + T·N, W] are those of one video, frame by frame, after its class token (if it has
    one), which sees all of them and which all of them see. The mask bool [B, T] is False on frames
    that are padding.
    """

    over: Literal["space", "time"] = "space"
    class_token: bool = True

    def attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, mask: Any, causal: bool
    ) -> jax.Array:
        rows, frames = mask.shape
        first, head = int(self.class_token), query.shape[2:]
        patches = (query.shape[1] - first) // frames
        in_time = self.over == "time"
        groups, length = (patches, frames) if in_time else (frames, patches)

        def turned(x: jax.Array) -> jax.Array:  # [B, T, N, …] ↔ [B, N, T, …]
            return x.swapaxes(1, 2) if in_time else x

        def grouped(x: jax.Array) -> jax.Array:  # the patches, [B · groups, length, heads, d]
            x = x[:, first:].reshape(rows, frames, patches, *head)
            return turned(x).reshape(-1, length, *head)

        def seen(x: jax.Array) -> jax.Array:  # the same after the class token
            token = jnp.repeat(x[:, :first], groups, axis=0)
            return jnp.concatenate([token, grouped(x)], axis=1)

        valid = None  # in space nothing is padding: whole frames are
        if in_time:
            valid = jnp.pad(mask, ((0, 0), (first, 0)), constant_values=True)
            valid = jnp.repeat(valid, groups, axis=0)[:, None, None]
        y = attend(grouped(query), seen(key), seen(value), mask=valid,
                   implementation=self.implementation)  # fmt: skip
        y = turned(y.reshape(rows, groups, length, *head)).reshape(rows, -1, *head)
        if not first:
            return y
        every = jnp.pad(jnp.repeat(mask, patches, axis=1), ((0, 0), (1, 0)), constant_values=True)
        token = attend(query[:, :1], key, value, mask=every[:, None, None])
        return jnp.concatenate([token, y], axis=1)


class DividedBlock(Block):
    """A pre-norm block of a video: x + space(x + time(x)), then the MLP.

    Without `time`, whose result begins at 0, it is a `Block`, whose parameters it has under the
    same names. It is left out of rows of a single frame: these are images.
    """

    class_token: bool = True

    @nn.compact
    def __call__(  # type: ignore[override]
        self,
        x: jax.Array,
        mask: jax.Array,
        context: None = None,
        cache: None = None,
        position: None = None,
        angles: None = None,
        dropped: jax.Array | None = None,
        context_mask: None = None,
    ) -> tuple[jax.Array, None]:
        """`mask` bool [B, T] is False on frames that are padding; `dropped` is as of `Block`."""
        out_std = (2 * self.depth * x.shape[-1]) ** -0.5
        x = constrain(x, "batch", None, None)

        def branch(norm: str, name: str, over: Any, kernel: str, std: float, x: Any) -> jax.Array:
            attention = DividedAttention(
                self.heads, self.dtype, std, kernel, form=self.form, norm_eps=self.norm_eps,
                over=over, class_token=self.class_token, name=name,
            )  # fmt: skip
            before = layer_norm(self.norm_eps, self.dtype, norm, rms=self.form.rms_norm)
            return attention(before(x), mask=mask)[0]

        # Frames are too few for a kernel.
        time = branch("norm_time", "time", "time", "xla", 0.0, x)
        several = mask.sum(axis=1) > 1
        moved = x + jnp.where(several[:, None, None], time, 0)
        space = branch("norm1", "attention", "space", self.attention, out_std, moved)
        x = x + self.scaled("norm1", space, dropped)
        return self.add("norm2", x, self.mlp(out_std), dropped), None
