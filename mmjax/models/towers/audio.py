"""The audio tower: a vision transformer on patches of a spectrogram (AST, Gong et al., 2021)."""

from typing import Annotated, ClassVar, Literal

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from mmjax.data.sounds import Fill, samples
from mmjax.errors import UserError
from mmjax.models.graph import Function
from mmjax.models.heads import check_head, check_heads, tower_outputs
from mmjax.models.parts import register
from mmjax.models.patches import PatchKernel
from mmjax.models.spectrogram import kaldi_fbank, log_mel
from mmjax.models.towers.vision import VisionTower, check_pool
from mmjax.parallel.mesh import constrain
from mmjax.schema import SHAPE_FREE
from mmjax.values import ANY, COUNT, POSITIVE

_OF_IMAGES = ("size", "pixel_head", "stem", "stem_width")


@register("audio_vit")
class AudioTower(VisionTower):
    """Waveforms float32 [B, N] in -1..1, N = sample_rate · seconds -> "tokens" [B, P, W],
    "features" and "embed" [B, D].

    The patches are those of a spectrogram [frames, bins], row by row, whose rows are moments. What
    is not said here is as of the kind "vit".

    Attributes:
      sample_rate: Samples a second that sounds are resampled to.
      seconds: Seconds that are heard: a part of a longer sound.
      fill: How a shorter sound is filled: repeated as often as it fits, then zeros (CLAP), or zeros
        alone.
      spectrogram: Kaldi's filter banks, of frames of 25 ms that are 10 ms apart (AST), or a log-mel
        in dB (CLAP).
      bins: Mel filters.
      window: spectrogram=log_mel: samples of a frame.
      hop: spectrogram=log_mel: samples from one frame to the next.
      high: Hz where the last filter ends; at most half the sample rate.
      patch_size: Frames, and bins, of a patch.
      patch_stride: From one patch to the next; less than patch_size lets them overlap (AST: 10).
      mean: Subtracted from the spectrogram.
      std: What the spectrogram is divided by.
    """

    sample_rate: Annotated[int, COUNT] = 16_000
    seconds: Annotated[float, POSITIVE] = 10.24
    fill: Annotated[Fill, SHAPE_FREE] = "zeros"
    spectrogram: Literal["kaldi", "log_mel"] = "kaldi"
    bins: Annotated[int, COUNT] = 128
    window: Annotated[int, COUNT] = 1024
    hop: Annotated[int, COUNT] = 480
    high: Annotated[float, SHAPE_FREE, POSITIVE] = 8000.0
    patch_size: Annotated[int, COUNT] = 16
    patch_stride: Annotated[int, COUNT] = 16
    # Of AudioSet, as transformers' ASTFeatureExtractor has them; it divides by twice the deviation.
    mean: Annotated[float, SHAPE_FREE, ANY] = -4.2677393  # type: ignore[assignment]
    std: Annotated[float, SHAPE_FREE, POSITIVE] = 9.1379948  # type: ignore[assignment]

    DERIVED = _OF_IMAGES
    modality = "audio"

    SMOKE: ClassVar = {
        **{key: value for key, value in VisionTower.SMOKE.items() if key not in _OF_IMAGES},
        "patch_size": 16, "patch_stride": 16, "seconds": 1.0, "bins": 64,
    }  # fmt: skip

    @classmethod
    def check(cls, name: str, spec: ConfigDict, model: ConfigDict) -> None:
        key = f"config.model.{name}"
        check_heads(key, spec)
        check_head(key, spec, model)
        check_pool(key, spec, model)
        if 2 * spec.high > spec.sample_rate:
            raise UserError(
                f"{key}.high={spec.high:g} Hz is more than half of sample_rate={spec.sample_rate}: "
                f"set it to {spec.sample_rate // 2} or less."
            )
        frames = _frames(spec)
        if frames < spec.patch_size:
            raise UserError(
                f"{key}.seconds={spec.seconds:g} gives {max(0, frames)} frames, fewer than "
                f"patch_size={spec.patch_size}."
            )
        if spec.bins < spec.patch_size:
            raise UserError(f"{key}.bins={spec.bins} is less than patch_size={spec.patch_size}.")

    def functions(self, name: str) -> tuple[Function, ...]:
        return (Function(name, "__call__", (("image", name),), tower_outputs(self.depth)),)

    @property
    def grid(self) -> tuple[int, int]:
        p, stride = self.patch_size, self.patch_stride
        return (_frames(self) - p) // stride + 1, (self.bins - p) // stride + 1

    def embed_patches(self, audio: jax.Array) -> jax.Array:
        """[B, N] -> [B, P, W]: a convolution over the spectrogram."""
        p, w = self.patch_size, self.width
        kernel_init = nn.initializers.lecun_normal(in_axis=(0, 1, 2), out_axis=3)
        kernel = PatchKernel((p, p, 1, w), self.patch_bias, kernel_init, name="patch_embed")()
        if self.spectrogram == "kaldi":
            found = kaldi_fbank(audio, self.sample_rate, bins=self.bins, high=self.high)
        else:
            found = log_mel(
                audio, self.sample_rate, bins=self.bins, window=self.window, hop=self.hop,
                high=self.high,
            )  # fmt: skip
        found = (found - self.mean) / self.std
        x = jax.lax.conv_general_dilated(
            found[..., None].astype(self.dtype), kernel["kernel"].astype(self.dtype),
            (self.patch_stride,) * 2, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        x = x.reshape(x.shape[0], -1, w)
        if self.patch_bias:
            x = x + kernel["bias"].astype(self.dtype)
        return constrain(x, "batch", None, None)


def _frames(spec: AudioTower | ConfigDict) -> int:
    """Of the spectrogram."""
    count = samples(spec.sample_rate, spec.seconds)
    if spec.spectrogram == "kaldi":
        return 1 + (count - spec.sample_rate // 40) // (spec.sample_rate // 100)
    return 1 + count // spec.hop if count > spec.window // 2 else 0
