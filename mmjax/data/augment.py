"""Random augmentation for training.

Each augmentation is a small function that returns a matrix; all geometry becomes one matrix and one
warp, all colour changes become another and one pass over the pixels. What is drawn depends on no
size, so that one draw and one decode serve several sizes. A size is (height, width); output is
uint8 [height, width, 3].
"""

import math
import threading
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import cv2
import numpy as np

from mmjax.data.images import (
    MAX_PIXELS,
    WHITE,
    check_size,
    composite,
    decode,
    is_jpeg,
    jpeg_size,
)
from mmjax.values import ASCENDING, NATURAL, POSITIVE, SHARE, Range

LINEAR_UP_TO = 1.25  # pixels on one of the crop; measured, see _resize
Size = tuple[int, int]  # height, width
Interval = Annotated[tuple[float, float], POSITIVE, ASCENDING]
_of_thread = threading.local()
GRAY = np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601, as Pillow and torchvision


@dataclass(frozen=True)
class Augment:
    """Strengths of a `Crop`: the keys of `config.data.augment`.

    Attributes:
      crop_scale: Area of a random crop as a share of the image's; above 1 shows the background
        around.
      crop_ratio: Width / height of the crop, as a factor of crop_aspect.
      crop_aspect: The shape of a crop of ratio 1: a square, or that of the image, as a tower of
        kind naflex needs.
      flip: Probability of a mirror image.
      rotate: Largest angle in degrees.
      translate: Largest shift as a share of the crop.
      brightness, contrast, saturation: Factor drawn from 1 ± this.
      hue: Largest shift of the hue, in turns (0.5 is all).
      grayscale: Probability of losing all colour.
      background: Colour behind transparent pictures and uncovered corners.
    """

    crop_scale: Interval = (0.9, 1.0)
    crop_ratio: Interval = (3 / 4, 4 / 3)
    crop_aspect: Literal["square", "image"] = "square"
    flip: Annotated[float, SHARE] = 0.0
    rotate: Annotated[float, Range(0, 180)] = 0.0
    translate: Annotated[float, SHARE] = 0.0
    brightness: Annotated[float, NATURAL] = 0.0
    contrast: Annotated[float, NATURAL] = 0.0
    saturation: Annotated[float, NATURAL] = 0.0
    hue: Annotated[float, Range(0, 0.5)] = 0.0
    grayscale: Annotated[float, SHARE] = 0.0
    background: Literal["white", "random"] = "white"


class Augmentation:
    """One random augmentation, drawn when it is made: what it shows of pictures of one shape.

    Args:
      shape: height and width of the pictures.
      rng: the only source of randomness.
      augment: what to draw from.

    Attributes:
      crop_shape: height and width of the crop in pixels of the pictures, not rounded.
    """

    def __init__(self, shape: tuple[int, int], rng: np.random.Generator, augment: Augment):
        self._shape = height, width = shape
        aspect = width / height if augment.crop_aspect == "image" else 1.0
        box = random_crop(rng, height, width, augment.crop_scale, augment.crop_ratio, aspect)
        self.crop_shape = crop = float(box[1, 1]), float(box[0, 0])
        shown = crop[1] / crop[0] if augment.crop_aspect == "image" else 1.0  # else squashed
        affine = random_affine(rng, augment.rotate, augment.translate, augment.flip, shown)
        self._box = box @ affine
        random_colour = augment.background == "random"
        self._background = tuple(rng.integers(256, size=3).tolist()) if random_colour else WHITE
        self._colours = random_colours(rng, augment)

    @property
    def to_image(self) -> np.ndarray:
        """3 × 3, from what is shown, [-0.5, 0.5]², to pixels of the pictures."""
        return self._box

    def shrink(self, size: Size) -> float:
        """Pixels of the pictures that fall on one of what is shown, on the denser side."""
        return _shrink(self._box, (1.0, 1.0), size)

    def laid(self, pixels: np.ndarray) -> np.ndarray:
        """RGB or RGBA on the background."""
        return composite(pixels, self._background)

    def show(self, pixels: np.ndarray, size: Size) -> np.ndarray:
        """uint8 [*size, 3] of a picture [h, w, 3], which may be smaller than `shape`."""
        crop = warp(pixels, self._box, self._shape, size, self._background)
        return crop if self._colours is None else self._colours.apply(crop)


class Decoded:
    """An image that several crops share, decoded once for all that want it alike.

    Args:
      image: an encoded file, or uint8 RGB or RGBA [H, W, 3 or 4].
      max_pixels: the largest image to decode: a file of some kB can claim gigabytes.

    Attributes:
      shape: height and width.

    Raises:
      BadRecord: the bytes are no image, or too large a one.
    """

    def __init__(self, image: bytes | np.ndarray, max_pixels: int = MAX_PIXELS):
        if isinstance(image, bytes):
            check_size(image, max_pixels)
            if not is_jpeg(image):
                image = decode(image)
        self._image = image
        height, width = jpeg_size(image) if isinstance(image, bytes) else image.shape[:2]
        self.shape = height, width
        self._decoded: dict[tuple[int, bool], np.ndarray] = {}

    def how(self, shrink: float) -> tuple[int, bool]:
        """How to `decode` for a crop that shows so many pixels as one."""
        if not isinstance(self._image, bytes):  # there is one way
            return 1, False
        return _reduction(shrink), shrink > LINEAR_UP_TO

    def pixels(self, how: tuple[int, bool]) -> np.ndarray:
        """RGB or RGBA, decoded so. BadRecord."""
        if not isinstance(self._image, bytes):
            return self._image
        if how not in self._decoded:
            self._decoded[how] = decode(self._image, *how)
        return self._decoded[how]


class Crop:
    """An `Augmentation` of an image, that can be shown at any size.

    Args:
      image: `Decoded`, or what that takes.
      rng, augment: of `Augmentation`.
      max_pixels: of `Decoded`.

    Attributes:
      image_shape: height and width of the image.

    Raises:
      BadRecord: the bytes are no image, or too large a one.
    """

    def __init__(
        self,
        image: bytes | np.ndarray | Decoded,
        rng: np.random.Generator,
        augment: Augment,
        max_pixels: int = MAX_PIXELS,
    ):
        self._image = image if isinstance(image, Decoded) else Decoded(image, max_pixels)
        self.image_shape = self._image.shape
        self._augmentation = Augmentation(self.image_shape, rng, augment)
        self._laid: dict[tuple[int, bool], np.ndarray] = {}

    @property
    def shape(self) -> Size:
        """Height and width of the crop in pixels of the image, to the nearest."""
        height, width = (max(1, round(side)) for side in self._augmentation.crop_shape)
        return height, width

    @property
    def to_image(self) -> np.ndarray:
        """As of `Augmentation`."""
        return self._augmentation.to_image

    def at(self, size: Size) -> np.ndarray:
        """uint8 [*size, 3]. Sizes that decode the file alike share the pixels. BadRecord."""
        how = self._image.how(self._augmentation.shrink(size))
        if how not in self._laid:
            self._laid[how] = self._augmentation.laid(self._image.pixels(how))
        return self._augmentation.show(self._laid[how], size)


# Geometry: 3×3 matrices from the unit square [-0.5, 0.5]² of the crop to pixels of the image.


def random_crop(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    aspect: float = 1.0,
) -> np.ndarray:
    """A box of random area and shape at a random position (Inception's random-resized-crop).

    A side is at most the image's, times sqrt(area share) where that is above 1. `ratio` is a factor
    of `aspect`, width / height.
    """
    area = rng.uniform(*scale)
    aspect *= math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    limit = max(1.0, math.sqrt(area))
    w = min(math.sqrt(area * height * width * aspect), limit * width)
    h = min(math.sqrt(area * height * width / aspect), limit * height)
    x = w / 2 + rng.random() * (width - w)  # below 0 to the left edge where the box is wider
    y = h / 2 + rng.random() * (height - h)
    return np.array([[w, 0, x], [0, h, y], [0, 0, 1]])


def random_affine(
    rng: np.random.Generator, rotate: float, translate: float, flip: float, aspect: float = 1.0
) -> np.ndarray:
    """A turn about the centre, a shift, a mirror image; `aspect` is the width / height shown."""
    angle = math.radians(rng.uniform(-rotate, rotate))
    dx, dy = rng.uniform(-translate, translate, size=2)
    mirror = -1.0 if rng.random() < flip else 1.0
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c * mirror, -s / aspect, dx], [s * mirror * aspect, c, dy], [0, 0, 1]])


def warp(
    image: np.ndarray,
    box: np.ndarray,
    shape: Size,
    size: Size,
    background: tuple[int, int, int],
) -> np.ndarray:
    """What `box` shows of `image`, antialiased; outside the image is `background`.

    `shape` is the height and width that the box was drawn for: the image may be smaller by now.
    """
    scale = (image.shape[1] / shape[1], image.shape[0] / shape[0])
    upright = box[0, 1] == box[1, 0] == 0
    if upright and (part := _cut(image, box, scale)) is not None:
        crop = _resize(part, size)
        return crop if box[0, 0] > 0 else cv2.flip(crop, 1)
    shrink = _shrink(box, scale, size)
    if shrink >= 2:  # average over whole pixels: what is left to the warp is less than 1.5
        small = (max(1, image.shape[1] // int(shrink)), max(1, image.shape[0] // int(shrink)))
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        scale = (small[0] / shape[1], small[1] / shape[0])
    # Between 1.5 and 2 linear interpolation would skip pixels: sample twice as densely, average.
    dense = (2 * size[0], 2 * size[1]) if 1.5 <= shrink < 2 else size
    to_image = np.array([[scale[0], 0, -0.5], [0, scale[1], -0.5], [0, 0, 1]])
    high, wide = dense
    unit = np.array([[1 / wide, 0, 0.5 / wide - 0.5], [0, 1 / high, 0.5 / high - 0.5], [0, 0, 1]])
    crop = cv2.warpAffine(
        image,
        (to_image @ box @ unit)[:2],
        (wide, high),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=background,
    )
    return cv2.resize(crop, size[::-1], interpolation=cv2.INTER_AREA) if dense > size else crop


# Colour: 4×4 matrices on homogeneous RGB; products are clipped once, at the end.


class Colours(NamedTuple):
    """Factors of brightness, contrast and saturation and turns of the hue; None: unchanged."""

    brightness: float
    contrast: float | None
    saturation: float | None
    hue: float | None
    gray: bool

    def apply(self, image: np.ndarray) -> np.ndarray:
        """torchvision's ColorJitter, in turn: brightness, contrast, saturation, hue; grayscale."""
        matrix = brightness(self.brightness)
        if self.contrast is not None:
            mean = GRAY @ cv2.mean(image)[:3] * matrix[0, 0]
            matrix = contrast(self.contrast, mean) @ matrix
        if self.saturation is not None:
            matrix = saturation(self.saturation) @ matrix
        if self.hue is not None:
            matrix = hue(self.hue) @ matrix
        if self.gray:
            matrix = saturation(0.0) @ matrix
        return cv2.transform(image, matrix[:3])


def random_colours(rng: np.random.Generator, augment: Augment) -> Colours | None:
    """Colour changes of these strengths; None where all are 0."""
    a = augment
    if not (a.brightness or a.contrast or a.saturation or a.hue or a.grayscale):
        return None
    return Colours(
        _factor(rng, a.brightness),
        _factor(rng, a.contrast) if a.contrast else None,
        _factor(rng, a.saturation) if a.saturation else None,
        rng.uniform(-a.hue, a.hue) if a.hue else None,
        rng.random() < a.grayscale,
    )


def brightness(factor: float) -> np.ndarray:
    return np.diag([factor, factor, factor, 1.0])


def contrast(factor: float, mean: float) -> np.ndarray:
    """Away from, or towards, a gray of level `mean`."""
    matrix = brightness(factor)
    matrix[:3, 3] = (1 - factor) * mean
    return matrix


def saturation(factor: float) -> np.ndarray:
    """Away from, or towards, each pixel's own gray; 0 gives the grayscale image."""
    matrix = np.eye(4)
    matrix[:3, :3] = factor * np.eye(3) + (1 - factor) * GRAY
    return matrix


_TO_YIQ = np.array([GRAY, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def hue(turns: float) -> np.ndarray:
    """Turns the colour circle of YIQ, which keeps the luma."""
    c, s = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    matrix = np.eye(4)
    matrix[:3, :3] = _FROM_YIQ @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ _TO_YIQ
    return matrix


def _factor(rng: np.random.Generator, strength: float) -> float:
    return rng.uniform(max(0.0, 1 - strength), 1 + strength)


def _cut(image: np.ndarray, box: np.ndarray, scale: tuple[float, float]) -> np.ndarray | None:
    """The pixels in an upright box; None if it reaches beyond the image."""
    half = abs(box[0, 0]) / 2, abs(box[1, 1]) / 2
    left, right = (round((box[0, 2] + side) * scale[0]) for side in (-half[0], half[0]))
    top, bottom = (round((box[1, 2] + side) * scale[1]) for side in (-half[1], half[1]))
    if left < 0 or top < 0 or right > image.shape[1] or bottom > image.shape[0]:
        return None
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def _resize(image: np.ndarray, size: Size) -> np.ndarray:
    """To [*size, 3], antialiased; benchmarks/data_loader.py has its distance from Pillow's.

    Averaging every pixel (INTER_AREA) is slow unless the factor is whole, and a JPEG comes with one
    below 2: there, linear sampling at twice the density and averaging by fours is as good; up to
    LINEAR_UP_TO linear sampling alone is.
    """
    height, width = size
    shrink = min(image.shape[0] / height, image.shape[1] / width)
    if shrink >= 2:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    if shrink > LINEAR_UP_TO:
        dense = _drawing_board((2 * height, 2 * width))
        image = cv2.resize(
            image, (2 * width, 2 * height), dst=dense, interpolation=cv2.INTER_LINEAR
        )
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _drawing_board(size: Size) -> np.ndarray:
    """uint8 [*size, 3] of this thread, with anything in it: memory that is warm already."""
    board = getattr(_of_thread, "board", None)
    if board is None or board.shape[:2] != size:
        board = _of_thread.board = np.empty((*size, 3), np.uint8)
    return board


def _shrink(box: np.ndarray, scale: tuple[float, float], size: Size) -> float:
    """Pixels of an image scaled by (x, y) that fall on one of the crop, on the denser side."""
    across = math.hypot(box[0, 0] * scale[0], box[1, 0] * scale[1])
    down = math.hypot(box[0, 1] * scale[0], box[1, 1] * scale[1])
    return min(across / size[1], down / size[0]) + 1e-6


def _reduction(shrink: float) -> int:
    return 8 if shrink >= 8 else 4 if shrink >= 4 else 2 if shrink >= 2 else 1
