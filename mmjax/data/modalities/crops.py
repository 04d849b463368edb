"""Crops of an image for self-distillation: a large one and several small ones, each with a flip,
colours and a blur of its own (multi-crop; Caron et al., 2020, SwAV)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from ml_collections import ConfigDict

from mmjax.data.augment import Augment, Crop, Decoded, Interval
from mmjax.data.draw import Draw
from mmjax.data.images import MAX_PIXELS
from mmjax.data.modalities.base import Column, LoadTokenizer, Modality, register
from mmjax.data.modalities.image import decoded
from mmjax.data.records import BadRecord, Record
from mmjax.errors import UserError
from mmjax.values import COUNT, NATURAL, SHARE, Range

GLOBAL, LOCAL = "_global", "_local"  # what names of the columns end in, after the tower's
BLUR = (0.1, 2.0)  # deviations that a blur is drawn from, in pixels of the crop


@dataclass(frozen=True)
class Crops:
    """The keys of `config.data.crops`: the crops that self_distill and masked_distill read.

    The defaults are those of DINO (Caron et al., 2021, arXiv:2104.14294, its first global crop and
    its local ones) with the areas of SILC (Naeem et al., 2023, arXiv:2310.13355).

    Attributes:
      count: Local crops of an image.
      size: Side of a local crop in pixels; a global one has the tower's size.
      global_scale: Area of a global crop as a share of the image's.
      local_scale: Area of a local crop as a share of the image's.
      flip: Probability of a mirror image.
      colours: Probability that brightness, contrast, saturation and hue change.
      brightness, contrast, saturation: Factor drawn from 1 ± this.
      hue: Largest shift of the hue, in turns (0.5 is all).
      grayscale: Probability of losing all colour.
      global_blur: Probability that a global crop is blurred.
      local_blur: Probability that a local crop is blurred.
    """

    count: Annotated[int, COUNT] = 8
    size: Annotated[int, COUNT] = 96
    global_scale: Interval = (0.4, 1.0)
    local_scale: Interval = (0.05, 0.4)
    flip: Annotated[float, SHARE] = 0.5
    colours: Annotated[float, SHARE] = 0.8
    brightness: Annotated[float, NATURAL] = 0.4
    contrast: Annotated[float, NATURAL] = 0.4
    saturation: Annotated[float, NATURAL] = 0.2
    hue: Annotated[float, Range(0, 0.5)] = 0.1
    grayscale: Annotated[float, SHARE] = 0.2
    global_blur: Annotated[float, SHARE] = 1.0
    local_blur: Annotated[float, SHARE] = 0.5

    def one(
        self, image: Decoded, rng: np.random.Generator, side: int, scale: Interval, blur: float
    ) -> np.ndarray:
        """A random crop, uint8 [side, side, 3], of areas `scale`, with the probability `blur` of
        being blurred. BadRecord."""
        augment = Augment(crop_scale=scale, flip=self.flip, grayscale=self.grayscale)
        if rng.random() < self.colours:
            augment = replace(
                augment, brightness=self.brightness, contrast=self.contrast,
                saturation=self.saturation, hue=self.hue,
            )  # fmt: skip
        pixels = Crop(image, rng, augment).at((side, side))
        deviation = rng.uniform(*BLUR)
        return cv2.GaussianBlur(pixels, (0, 0), deviation) if rng.random() < blur else pixels


@dataclass(frozen=True)
class OfCrops(Modality):
    """The field "image" of a record as random crops, all from one decode. They are functions of the
    example's draw; without one, they are always the same."""

    media = ("image",)
    stream: ClassVar[str]  # of random numbers

    name: str
    side: int
    crops: Crops = field(default_factory=Crops)
    max_pixels: int = MAX_PIXELS

    def drawn(self, image: Decoded, rng: np.random.Generator) -> np.ndarray:
        raise NotImplementedError

    def read(self, record: Record, draw: Draw | None) -> np.ndarray:
        image = record.part("image")
        try:
            if draw is None:
                return self.drawn(Decoded(image, self.max_pixels), np.random.default_rng(0))
            return self.drawn(decoded(image, draw, self.max_pixels), draw.rng(self.stream))
        except BadRecord as error:
            raise BadRecord(f"{record.key} {error}") from error


@register("global_crop")
class GlobalCrop(OfCrops):
    """One large crop as NAME, uint8 [side, side, 3], at the tower's size."""

    stream = "global crop"

    @classmethod
    def of(
        cls, name: str, spec: Any, data: ConfigDict | None, tokenizer: LoadTokenizer | None
    ) -> "GlobalCrop":
        return cls(name, spec.size, *_settings(data))

    @property
    def columns(self) -> Mapping[str, Column]:
        return {self.name: Column((self.side, self.side, 3), np.uint8)}

    def drawn(self, image: Decoded, rng: np.random.Generator) -> np.ndarray:
        crops = self.crops
        return crops.one(image, rng, self.side, crops.global_scale, crops.global_blur)


@register("local_crops")
class LocalCrops(OfCrops):
    """Small crops as NAME, uint8 [count, side, side, 3]."""

    stream = "local crops"

    @classmethod
    def of(
        cls, name: str, spec: Any, data: ConfigDict | None, tokenizer: LoadTokenizer | None
    ) -> "LocalCrops":
        crops, max_pixels = _settings(data)
        if crops.size % spec.patch_size:
            near = max(1, round(crops.size / spec.patch_size)) * spec.patch_size
            raise UserError(
                f"config.data.crops.size={crops.size} does not divide into patches of config.model."
                f"{name.removesuffix(LOCAL)}.patch_size={spec.patch_size}: set it to {near}."
            )
        return cls(name, crops.size, crops, max_pixels)

    @property
    def columns(self) -> Mapping[str, Column]:
        return {self.name: Column((self.crops.count, self.side, self.side, 3), np.uint8)}

    def drawn(self, image: Decoded, rng: np.random.Generator) -> np.ndarray:
        crops = self.crops
        each = range(crops.count)
        return np.stack(
            [crops.one(image, rng, self.side, crops.local_scale, crops.local_blur) for _ in each]
        )


def _settings(data: ConfigDict | None) -> tuple[Crops, int]:
    """`config.data.crops`, and the largest image to decode."""
    return (Crops(), MAX_PIXELS) if data is None else (Crops(**data.crops), data.max_pixels)
