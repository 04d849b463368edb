"""Images: one random crop an example in training, the exact resize in evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image as Pillow

from mmjax.data.augment import Augment, Crop
from mmjax.data.draw import Draw
from mmjax.data.images import (
    MAX_PIXELS,
    Interpolation,
    Resize,
    check_size,
    eval_transform,
    open_image,
)
from mmjax.data.modalities.base import Column, LoadTokenizer, Modality, register
from mmjax.data.records import BadRecord, Record, Source
from mmjax.errors import UserError


@register("image")
@dataclass(frozen=True)
class Image(Modality):
    """The field "image" of a record as NAME, uint8 [size, size, 3].

    Those that differ in their names alone are equal: their columns would be.
    """

    name: str = field(compare=False)
    size: int
    resize: Resize = "shortest"
    interpolation: Interpolation = "bicubic"
    augment: Augment = field(default_factory=Augment)
    max_pixels: int = MAX_PIXELS

    @classmethod
    def of(
        cls, name: str, spec: Any, data: ConfigDict | None, tokenizer: LoadTokenizer | None
    ) -> "Image":
        if data is None:
            return cls(name, spec.size)
        augment = Augment(**data.augment)
        return cls(name, spec.size, data.resize, data.interpolation, augment, data.max_pixels)

    @property
    def columns(self) -> Mapping[str, Column]:
        return {self.name: Column((self.size, self.size, 3), np.uint8)}

    def read(self, record: Record, draw: Draw | None) -> np.ndarray:
        image = record.part("image")
        try:
            if draw is None:
                if isinstance(image, bytes):
                    check_size(image, self.max_pixels)
                return self.shown(open_image(image))
            crop = drawn_crop(image, draw, self.augment, self.max_pixels)
            return crop.at((self.size, self.size))
        except BadRecord as error:
            raise BadRecord(f"{record.key} {error}") from error

    def shown(self, image: Pillow.Image) -> np.ndarray:
        """The item of an opened image, as outside of training."""
        return eval_transform(
            image, self.size, resize=self.resize, interpolation=self.interpolation
        )

    def check(self, source: Source, spec: Mapping[str, Any], key: str) -> None:
        if spec.get("media", "image") != "image":
            raise UserError(f"config.model.{self.name} reads images: set {key}.media='image'.")


def drawn_crop(
    image: bytes | np.ndarray, draw: Draw, augment: Augment, max_pixels: int = MAX_PIXELS
) -> Crop:
    """The crop of an example's image: readers at other sizes (a teacher's), and of boxes in it, all
    show the same one of the same pixels. BadRecord, without the record's key."""
    return draw.once("image", lambda: Crop(image, draw.rng("image"), augment, max_pixels))
