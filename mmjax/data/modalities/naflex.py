"""Images in their own shape: as many patches as fit a sequence, their mask and their grid (NaFlex,
Tschannen et al., 2025)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image as Pillow

from mmjax.data.augment import Augment, Crop
from mmjax.data.images import MAX_PIXELS, Interpolation, to_rgb
from mmjax.data.modalities.base import Column, LoadTokenizer, register
from mmjax.data.modalities.image import OfImage
from mmjax.data.workers import Batch

Item = tuple[np.ndarray, np.ndarray, np.ndarray]
SEARCH = (1e-6, 100.0)  # factors between which the largest that fits is sought
PRECISION = 1e-5


@register("naflex")
@dataclass(frozen=True)
class Naflex(OfImage):
    """The field "image" of a record as patches, row by row, whose rows and columns keep its shape:

    NAME uint8 [patches, 3 · patch_size²], each patch in the order (y, x, colour); NAME_mask bool
    [patches], False on padding, which is at the end; NAME_shape int32 [2], rows and columns.

    In evaluation the pixels are those of transformers' Siglip2ImageProcessor (with Pillow).

    Attributes:
      lengths: numbers of patches that the batches of a run have, one for each batch; (): `patches`
        in all of them.
    """

    name: str = field(compare=False)
    patch_size: int
    patches: int
    lengths: tuple[int, ...] = ()
    interpolation: Interpolation = "bicubic"
    augment: Augment = field(default_factory=Augment)
    max_pixels: int = MAX_PIXELS

    @classmethod
    def of(
        cls, name: str, spec: Any, data: ConfigDict | None, tokenizer: LoadTokenizer | None
    ) -> "Naflex":
        if data is None:
            return cls(name, spec.patch_size, spec.patches)
        return cls(
            name, spec.patch_size, spec.patches, tuple(data.image_lengths), data.interpolation,
            Augment(**data.augment), data.max_pixels,
        )  # fmt: skip

    def at(self, length: int) -> "Naflex":
        return dataclasses.replace(self, patches=length) if self.lengths else self

    @property
    def columns(self) -> Mapping[str, Column]:
        return {
            self.name: Column((self.patches, 3 * self.patch_size**2), np.uint8),
            f"{self.name}_mask": Column((self.patches,), np.bool_),
            f"{self.name}_shape": Column((2,), np.int32),
        }

    def shown(self, image: Pillow.Image) -> Item:
        height, width = fitting(image.height, image.width, self.patch_size, self.patches)
        method = Pillow.Resampling[self.interpolation.upper()]
        return self.cut(np.asarray(to_rgb(image).resize((width, height), method)))

    def cropped(self, crop: Crop) -> Item:
        return self.cut(crop.at(fitting(*crop.shape, self.patch_size, self.patches)))

    def cut(self, pixels: np.ndarray) -> Item:
        """uint8 [H, W, 3] of whole patches, `patches` at most, as an item."""
        side = self.patch_size
        rows, columns = (pixels.shape[axis] // side for axis in (0, 1))
        grid = pixels.reshape(rows, side, columns, side, 3).swapaxes(1, 2)
        patches = np.zeros((self.patches, 3 * side**2), np.uint8)
        patches[: rows * columns] = grid.reshape(rows * columns, -1)
        mask = np.arange(self.patches) < rows * columns
        return patches, mask, np.array([rows, columns], np.int32)

    def batch(self, items: Sequence[Any], longest: float | None = None) -> Batch:
        return super().batch([self.blank() if i is None else i for i in items], longest)

    def blank(self) -> Item:
        """One black patch: no tower divides by a length of 0."""
        return self.cut(np.zeros((self.patch_size, self.patch_size, 3), np.uint8))


def fitting(height: int, width: int, patch_size: int, patches: int) -> tuple[int, int]:
    """Height and width in pixels that an image is resized to: whole patches, `patches` at most, and
    about its own shape.

    The rule of transformers' Siglip2ImageProcessor and of big_vision's `resize_to_sequence`: with
    the largest factor that fits, found by bisection, each side is rounded up to whole patches.
    Small images are enlarged, up to a hundredfold.
    """

    def scaled(factor: float, side: int) -> int:
        return max(patch_size, math.ceil(side * factor / patch_size) * patch_size)

    low, high = SEARCH
    while high - low >= PRECISION:
        factor = (low + high) / 2
        rows, columns = (scaled(factor, side) / patch_size for side in (height, width))
        if rows * columns <= patches:
            low = factor
        else:
            high = factor
    return scaled(low, height), scaled(low, width)
