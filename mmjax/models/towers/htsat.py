"""HTS-AT, the audio tower of CLAP: a Swin transformer on a log-mel spectrogram (Chen et al., 2022;
Liu et al., 2021, for Swin).

The spectrogram, long and low, is folded into a square: pieces of time lie below one another. The
numbers are those of transformers' `ClapAudioModel` without feature fusion.
"""

import functools
from typing import Annotated, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mmjax.data.sounds import Fill, samples
from mmjax.errors import UserError
from mmjax.models.convolutions import FrozenNorm
from mmjax.models.graph import Function
from mmjax.models.heads import POOLED, Head, check_head, normal, project, tower_outputs
from mmjax.models.layers import REMAT_POLICIES, Activation, Dense, Mlp, Remat, layer_norm
from mmjax.models.parts import register
from mmjax.models.patches import PatchKernel
from mmjax.models.spectrogram import log_mel
from mmjax.parallel.mesh import constrain
from mmjax.schema import SHAPE_FREE, TRAINING_ONLY
from mmjax.values import ANY, COUNT, NATURAL, POSITIVE

EPS = 1e-5  # of the norms outside of the blocks


@register("htsat")
class Htsat(nn.Module):
    """Sounds float32 [B, sample_rate · seconds] in -1..1 -> "mel" [B, T, bins] in dB, "tokens"
    [B, N, W'], "features" and "embed" [B, D]. W' is the width of the last stage.

    The fields are the config keys `model.audio.*` of kind "htsat".

    Attributes:
      embed_dim: Width of the shared embedding space.
      dtype: Compute dtype.
      sample_rate: Samples a second that sounds are resampled to.
      seconds: Seconds that are heard: a part of a longer sound.
      fill: How a shorter sound is filled: repeated as often as it fits, then zeros (CLAP), or zeros
        alone.
      bins: Mel filters.
      window: Samples of a frame of the spectrogram.
      hop: Samples from one frame to the next.
      low: Where the first filter begins, in Hz.
      high: Where the last filter ends, in Hz.
      mel_mean: Mean of a mel bin, in dB, which a new model subtracts and keeps (its batch norm).
      mel_std: Deviation of a mel bin, in dB, by which a new model divides and which it keeps.
      size: Side of the square that the spectrogram is folded into.
      patch_size: Side of a patch of that square.
      width: Width of the first stage's tokens; each next stage's are twice as wide.
      stages: Blocks of each stage; between two stages 2 x 2 tokens become one.
      stage_heads: Attention heads of each stage.
      window_tokens: Side of the windows of tokens inside which there is attention.
      mlp_ratio: Hidden width of the blocks' MLP, times the width.
      activation: Activation of the MLP.
      norm_eps: Epsilon of the layer norms in the blocks.
      head: Projection into the shared space; mlp: two layers with ReLU between them, as CLAP has.
      remat: What the backward pass recomputes to save memory.
    """

    embed_dim: int
    dtype: jnp.dtype
    sample_rate: Annotated[int, SHAPE_FREE, COUNT] = 48_000
    seconds: Annotated[float, SHAPE_FREE, POSITIVE] = 10.0
    fill: Annotated[Fill, SHAPE_FREE] = "repeat"
    bins: Annotated[int, COUNT] = 64
    window: Annotated[int, SHAPE_FREE, COUNT] = 1024
    hop: Annotated[int, SHAPE_FREE, COUNT] = 480
    low: Annotated[float, SHAPE_FREE, NATURAL] = 50.0
    high: Annotated[float, SHAPE_FREE, POSITIVE] = 14_000.0
    mel_mean: Annotated[float, TRAINING_ONLY, ANY] = -30.0
    mel_std: Annotated[float, TRAINING_ONLY, POSITIVE] = 20.0
    size: Annotated[int, SHAPE_FREE, COUNT] = 256
    patch_size: Annotated[int, COUNT] = 4
    width: Annotated[int, COUNT] = 96
    stages: Annotated[tuple[int, ...], COUNT] = (2, 2, 6, 2)
    stage_heads: Annotated[tuple[int, ...], COUNT] = (4, 8, 16, 32)
    window_tokens: Annotated[int, COUNT] = 8
    mlp_ratio: Annotated[float, POSITIVE] = 4.0
    activation: Activation = "gelu"
    norm_eps: Annotated[float, SHAPE_FREE, POSITIVE] = 1e-5
    head: Head = "mlp"
    remat: Remat = "none"

    modality = "audio"

    SMOKE: ClassVar = {
        "sample_rate": 8_000, "seconds": 1.0, "window": 256, "hop": 80, "high": 4_000.0, "bins": 16,
        "size": 64, "width": 16, "stages": (2, 2), "stage_heads": (2, 4),
    }  # fmt: skip

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        key, count = f"config.model.{name}", len(spec.stages)
        if not count or len(spec.stage_heads) != count:
            raise UserError(
                f"{key}: stages={spec.stages} and stage_heads={spec.stage_heads} say a number for "
                "each stage: give as many of both."
            )
        for stage, heads in enumerate(spec.stage_heads):
            if spec.width * 2**stage % heads:
                raise UserError(
                    f"{key}: stage_heads={spec.stage_heads}: {heads} does not divide the width "
                    f"{spec.width * 2**stage} of stage {stage + 1}."
                )
        side = spec.patch_size * 2 ** (count - 1) * spec.window_tokens
        if spec.size % side:
            raise UserError(
                f"{key}.size={spec.size} is no multiple of {side} = patch_size x window_tokens x "
                f"{2 ** (count - 1)}, so that windows would not fit in the last stage."
            )
        if spec.size % spec.bins:
            raise UserError(f"{key}.size={spec.size} is no multiple of bins={spec.bins}.")
        if not spec.low < spec.high <= spec.sample_rate / 2:
            raise UserError(
                f"{key}: low={spec.low} and high={spec.high} must lie in that order below half of "
                f"sample_rate={spec.sample_rate}."
            )
        length = samples(spec.sample_rate, spec.seconds)
        frames, most = 1 + length // spec.hop, spec.size**2 // spec.bins
        if length <= spec.window // 2 or frames > most:
            raise UserError(
                f"{key}: a sound of {spec.seconds} seconds has {length} samples and {frames} "
                f"frames; it must have more than window / 2 = {spec.window // 2} samples and at "
                f"most size² / bins = {most} frames."
            )
        check_head(key, spec, model, spec.width * 2 ** (count - 1))

    def functions(self, name: str) -> tuple[Function, ...]:
        return (
            Function(name, "mel", (("audio", name),), ("mel",)),
            Function(name, "__call__", (("mel", f"{name}/mel"),), tower_outputs(1)),
        )

    def mel(
        self, outputs: tuple[str, ...], audio: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """ "mel" float32 [B, T, bins], in dB, of sounds [B, sample_rate · seconds]."""
        del outputs, train
        found = log_mel(audio, self.sample_rate, bins=self.bins, window=self.window, hop=self.hop,
                        low=self.low, high=self.high)  # fmt: skip
        return {"mel": found}

    @nn.compact
    def __call__(
        self, outputs: tuple[str, ...], mel: jax.Array, train: bool = False
    ) -> dict[str, jax.Array]:
        """Computes the named outputs of spectrograms [B, T, bins]; `train` changes nothing.

        "tokens" are the last stage's, normalised, row by row of the square; "features" is their
        mean, projected, and "embed" the same at unit length, in float32.
        """
        initial = (self.mel_mean, self.mel_std**2)
        normalise = FrozenNorm(jnp.dtype("float32"), EPS, initial, name="norm_mel")
        mel = normalise(mel.astype(jnp.float32))
        x = self.embed_patches(fold(mel, self.size))  # [B, G, G, W]
        block, side = SwinBlock, self.window_tokens
        if self.remat != "none":
            block = nn.remat(block, policy=REMAT_POLICIES[self.remat])
        for stage, (count, heads) in enumerate(zip(self.stages, self.stage_heads, strict=True)):
            if stage:
                x = Merge(self.dtype, name=f"stage{stage + 1}_merge")(x)
            for number in range(count):
                # A window that holds all tokens is not shifted.
                shift = side // 2 if number % 2 and x.shape[1] > side else 0
                x = block(
                    heads, round(self.mlp_ratio * x.shape[-1]), side, shift,
                    self.activation, self.norm_eps, sum(self.stages), self.dtype,
                    name=f"stage{stage + 1}_block{number}",
                )(x)  # fmt: skip
        x = layer_norm(EPS, self.dtype, "norm_post")(x.reshape(x.shape[0], -1, x.shape[-1]))
        result = {"tokens": x} if "tokens" in outputs else {}
        if POOLED & set(outputs):
            result |= project(x.mean(axis=1), self.head, self.embed_dim, self.dtype)
        return result

    def embed_patches(self, image: jax.Array) -> jax.Array:
        """[B, S, S] -> [B, S / P, S / P, W]: a convolution of stride P as a matmul, normalised."""
        p, w, grid = self.patch_size, self.width, self.size // self.patch_size
        init = nn.initializers.lecun_normal(in_axis=(0, 1, 2), out_axis=3)
        conv = PatchKernel((p, p, 1, w), True, init, name="patch_embed")()
        patches = image.reshape(-1, grid, p, grid, p).swapaxes(2, 3).reshape(-1, grid, grid, p * p)
        x = patches.astype(self.dtype) @ conv["kernel"].reshape(-1, w).astype(self.dtype)
        x = layer_norm(EPS, self.dtype, "norm_patch")(x + conv["bias"].astype(self.dtype))
        return constrain(x, "batch", None, None, None)


class SwinBlock(nn.Module):
    """[B, G, G, C] -> the same: attention inside windows, then an MLP, each on a residual."""

    heads: int
    mlp_dim: int
    window: int
    shift: int
    activation: str
    norm_eps: float
    depth: int  # of all stages: the residual branches start smaller the deeper the tower is
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        out_std = (2 * self.depth * x.shape[-1]) ** -0.5
        x = constrain(x, "batch", None, None, None)
        y = layer_norm(self.norm_eps, self.dtype, "norm1")(x)
        x = x + WindowAttention(self.heads, self.window, self.shift, out_std, self.dtype,
                                name="attention")(y)  # fmt: skip
        y = layer_norm(self.norm_eps, self.dtype, "norm2")(x).reshape(x.shape[0], -1, x.shape[-1])
        y = Mlp(self.mlp_dim, self.activation, self.dtype, out_std, name="mlp")(y)
        return x + y.reshape(x.shape)


class WindowAttention(nn.Module):
    """Attention among the tokens [B, G, G, C] of a window, with a bias for each relative position.

    With a `shift` the windows lie that many tokens further down and to the right; those that go
    over the edge continue at the opposite one, whose tokens they do not see (Liu et al., 2021,
    figure 4).
    """

    heads: int
    window: int
    shift: int
    out_std: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        grid, width = x.shape[1], x.shape[-1]
        x = cut_windows(
            jnp.roll(x, (-self.shift, -self.shift), (1, 2)), self.window
        )  # [B, n, N, C]

        def dense(name: str, std: float, y: jax.Array) -> jax.Array:
            return Dense(width, dtype=self.dtype, kernel_init=normal(std), name=name)(y)

        query, key, value = (
            dense(name, width**-0.5, x).reshape(*x.shape[:3], self.heads, -1)
            for name in ("query", "key", "value")
        )
        logits = jnp.einsum("bnqhd,bnkhd->bnhqk", query * query.shape[-1] ** -0.5, key)
        table = self.param("position_bias", normal(0.02), ((2 * self.window - 1) ** 2, self.heads))
        bias = table[relative_positions(self.window)]  # [N, N, heads]
        logits = logits.astype(jnp.float32) + bias.transpose(2, 0, 1).astype(jnp.float32)
        if self.shift:
            seen = sees(grid, self.window, self.shift)[:, None]  # [n, 1, N, N]
            logits = jnp.where(seen, logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits).astype(value.dtype)
        y = jnp.einsum("bnhqk,bnkhd->bnqhd", weights, value).reshape(x.shape)
        y = join_windows(dense("out", self.out_std, y), grid)
        return jnp.roll(y, (self.shift, self.shift), (1, 2))


class Merge(nn.Module):
    """[B, G, G, C] -> [B, G / 2, G / 2, 2 C]: 2 x 2 tokens, column by column, become one."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        rows, grid, width = x.shape[0], x.shape[1] // 2, x.shape[-1]
        x = x.reshape(rows, grid, 2, grid, 2, width).transpose(0, 1, 3, 4, 2, 5)
        x = layer_norm(EPS, self.dtype, "norm")(x.reshape(rows, grid, grid, 4 * width))
        init = normal((4 * width) ** -0.5)
        return Dense(
            2 * width, use_bias=False, dtype=self.dtype, kernel_init=init, name="reduction"
        )(x)


def fold(mel: jax.Array, size: int) -> jax.Array:
    """[B, T, bins] -> [B, size, size]: time is stretched to size² / bins frames, cut into pieces of
    `size` frames, and these lie below one another with their bins downward."""
    rows, frames, bins = mel.shape
    pieces = size // bins
    mel = jnp.einsum(
        "ts,bsf->btf", bicubic(frames, size * pieces), mel, precision=jax.lax.Precision.HIGHEST
    )
    return mel.reshape(rows, pieces, size, bins).swapaxes(2, 3).reshape(rows, size, size)


@functools.cache
def bicubic(count: int, target: int) -> np.ndarray:
    """float32 [target, count]: stretches `count` numbers so that first and last stay where they are
    (PyTorch's bicubic interpolation with `align_corners`; Keys, 1981, with a = -0.75)."""
    at = np.arange(target) * (count - 1) / max(1, target - 1)
    whole = np.floor(at).astype(int)
    matrix = np.zeros((target, count), np.float32)
    a = -0.75
    for tap in (-1, 0, 1, 2):
        x = np.abs(at - whole - tap)
        near = ((a + 2) * x - (a + 3)) * x**2 + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        taken = np.clip(whole + tap, 0, count - 1)
        np.add.at(matrix, (np.arange(target), taken), np.where(x <= 1, near, far))
    return matrix


def cut_windows(x: jax.Array, side: int) -> jax.Array:
    """[B, G, G, C] -> [B, (G / side)², side², C], row by row."""
    rows, count, width = x.shape[0], x.shape[1] // side, x.shape[-1]
    x = x.reshape(rows, count, side, count, side, width).swapaxes(2, 3)
    return x.reshape(rows, count**2, side**2, width)


def join_windows(x: jax.Array, grid: int) -> jax.Array:
    """The inverse of `cut_windows`, for a grid of that side."""
    rows, width, side = x.shape[0], x.shape[-1], round(x.shape[2] ** 0.5)
    count = grid // side
    x = x.reshape(rows, count, count, side, side, width).swapaxes(2, 3)
    return x.reshape(rows, grid, grid, width)


def relative_positions(side: int) -> np.ndarray:
    """int [side², side²]: the row of the table of biases for a query and a key of a window."""
    y, x = (axis.reshape(-1) for axis in np.mgrid[:side, :side])
    return (y[:, None] - y + side - 1) * (2 * side - 1) + x[:, None] - x + side - 1


def sees(grid: int, side: int, shift: int) -> np.ndarray:
    """bool [(G / side)², side², side²]: whether a query of a shifted window may see a key, which
    comes from the same side of the edge."""
    places = np.arange(grid)
    region = (places >= grid - side).astype(int) + (places >= grid - shift)
    regions = np.asarray(cut_windows((3 * region[:, None] + region)[None, :, :, None], side))
    regions = regions[0, :, :, 0]
    return regions[:, :, None] == regions[:, None, :]
