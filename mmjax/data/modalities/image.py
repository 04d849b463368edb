"""Images: one random crop an example in training, the exact resize in evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image as Pillow

from mmjax.data.augment import Augment, Crop, Decoded
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


class OfImage(Modality):
    """The field "image" of a record, in a shape that `shown` and `cropped` give it."""

    media = ("image",)

    name: str
    augment: Augment
    max_pixels: int

    def shown(self, image: Pillow.Image) -> Any:
        """The item of an opened image, as outside of training."""
        raise NotImplementedError

    def cropped(self, crop: Crop) -> Any:
        """The item of a crop in training."""
        raise NotImplementedError

    def read(self, record: Record, draw: Draw | None) -> Any:
        image = record.part("image")
        try:
            if draw is not None:
                return self.cropped(drawn_crop(image, draw, self.augment, self.max_pixels))
            if isinstance(image, bytes):
                check_size(image, self.max_pixels)
            return self.shown(open_image(image))
        except BadRecord as error:
            raise BadRecord(f"{record.key} {error}") from error

    def check(self, source: Source, spec: Mapping[str, Any], key: str) -> None:
        if spec.get("media", "image") != "image":
            raise UserError(f"config.model.{self.name} reads images: set {key}.media='image'.")


@register("image")
@dataclass(frozen=True)
class Image(OfImage):
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

    def shown(self, image: Pillow.Image) -> np.ndarray:
        return eval_transform(
            image, self.size, resize=self.resize, interpolation=self.interpolation
        )

    def cropped(self, crop: Crop) -> np.ndarray:
        return crop.at((self.size, self.size))


def drawn_crop(
    image: bytes | np.ndarray, draw: Draw, augment: Augment, max_pixels: int = MAX_PIXELS
) -> Crop:
    """The crop of an example's image: readers at other sizes (a teacher's), and of boxes in it, all
    show the same one of the same pixels. BadRecord, without the record's key."""
    return draw.once(
        "image", lambda: Crop(decoded(image, draw, max_pixels), draw.rng("image"), augment)
    )


def decoded(image: bytes | np.ndarray, draw: Draw, max_pixels: int = MAX_PIXELS) -> Decoded:
    """An example's image, which all its crops share. BadRecord, without the record's key."""
    return draw.once("decoded", lambda: Decoded(image, max_pixels))
