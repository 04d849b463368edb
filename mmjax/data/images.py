"""Pictures: decoding, and the exact resize of CLIP for evaluation.

For training, where speed counts, simplejpeg (libjpeg-turbo) and OpenCV decode; Pillow does for
evaluation, where the pixels must be those that everyone else gets.
"""

import io
import struct
import warnings
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from mmjax.data.records import BadRecord

WHITE = (255, 255, 255)
MAX_PIXELS = 89_478_485  # above it Pillow speaks of a decompression bomb


def eval_transform(
    image: Image.Image,
    size: int,
    *,
    resize: Literal["shortest", "squash"] = "shortest",
    interpolation: Literal["bicubic", "bilinear"] = "bicubic",
) -> np.ndarray:
    """The image as a model sees it outside training: uint8 [size, size, 3].

    "shortest" brings the shortest side to `size`, then takes the centre: to the pixel what OpenAI's
    CLIP and open_clip compute with torchvision's Resize and CenterCrop. "squash" ignores the aspect
    ratio (SigLIP, ViT). Transparent pictures are laid on white first. Pillow interpolates.

    Args:
      image: the opened image.
      size: side of the result.
      resize: Outside training: shortest side to size, then the centre; or squash to the square.
      interpolation: Outside training, of the resize.
    """
    image = to_rgb(image)
    method = Image.Resampling[interpolation.upper()]
    if resize == "squash":
        return np.asarray(image.resize((size, size), method))
    width, height = image.size
    short = min(width, height)
    if short != size:
        width, height = (int(size * side / short) for side in (width, height))
        image = image.resize((width, height), method)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def open_image(image: bytes | np.ndarray) -> Image.Image:
    """An image as Pillow sees it, fully decoded. Raises BadRecord."""
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    try:
        opened = Image.open(io.BytesIO(image))
        opened.load()
    except UnidentifiedImageError as error:
        raise BadRecord("cannot be decoded (it is no image)") from error
    except Exception as error:  # each of Pillow's readers has its own kinds
        raise BadRecord(f"cannot be decoded ({error})") from error
    return opened


def to_rgb(image: Image.Image) -> Image.Image:
    """An image without transparency: transparent parts are laid on white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return Image.fromarray(composite(np.asarray(image.convert("RGBA")), WHITE))
    return image.convert("RGB")


def decode(data: bytes, reduce: int = 1, fast: bool = False) -> np.ndarray:
    """An encoded image as uint8 [H, W, 3] RGB, or [H, W, 4] where it is transparent.

    A JPEG is decoded at 1/`reduce` (1, 2, 4 or 8) of its size, which its format makes cheap and
    antialiased; and `fast` with the less exact cosine transform and its colours (which most JPEGs
    store at half the size) not interpolated: where pixels are averaged afterwards, that costs some
    1.5 dB of PSNR and still is nearer to Pillow's bicubic than its bilinear, mostly
    (benchmarks/data_loader.py).
    EXIF orientation is ignored, as open_clip does. Raises BadRecord.
    """
    if is_jpeg(data):
        return _decode_jpeg(data, reduce, fast)
    image = _decode(data) if data else None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        return np.asarray(to_rgb(open_image(data)))  # what OpenCV cannot read; or it is no image
    if image.dtype == np.uint16:
        image = (image // 256).astype(np.uint8)
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _decode_jpeg(data: bytes, reduce: int, fast: bool) -> np.ndarray:
    height, width = (-(-side // reduce) for side in jpeg_size(data))
    try:
        return simplejpeg.decode_jpeg(
            data, "RGB", fastdct=fast, fastupsample=fast, min_height=height, min_width=width
        )
    except ValueError:  # not whole, or with something odd in it that Pillow passes over
        return np.asarray(to_rgb(open_image(data)))


def _decode(data: bytes) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # too large, for one
        return None


def composite(image: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Lays uint8 RGBA [H, W, 4] on a colour; RGB passes through."""
    if image.shape[2] == 3:
        return image
    alpha = cv2.cvtColor(image[..., 3], cv2.COLOR_GRAY2RGB)
    colour = cv2.multiply(cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), alpha, scale=1 / 255)
    behind = np.outer(np.arange(255, -1, -1), background) / 255  # by alpha
    return cv2.add(colour, cv2.LUT(alpha, np.rint(behind).astype(np.uint8)[None]))


def check_size(data: bytes, max_pixels: int) -> None:
    """Raises BadRecord where an image's header says that it is larger, before it takes memory."""
    if is_jpeg(data):
        height, width = jpeg_size(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
    else:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                width, height = Image.open(io.BytesIO(data)).size
        except UnidentifiedImageError as error:
            raise BadRecord("cannot be decoded (it is no image)") from error
        except Exception as error:  # each of Pillow's readers has its own kinds
            raise BadRecord(f"cannot be decoded ({error})") from error
    if width * height > max_pixels:
        raise BadRecord(f"has {width} × {height} pixels, more than {max_pixels:,}")


def is_jpeg(data: bytes) -> bool:
    return data[:3] == b"\xff\xd8\xff"


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width of a JPEG, from its frame header (ITU-T T.81, B.2.2); Pillow takes 80 µs."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            if height and width:
                return height, width
            break
        fill = marker == 0xFF
        at += 1 if fill else 2 + int.from_bytes(data[at + 2 : at + 4])
    try:  # Pillow passes over stray bytes between the segments, as the decoders do
        width, height = Image.open(io.BytesIO(data)).size
    except Exception as error:  # its reader has its own kinds
        raise BadRecord("cannot be decoded (it is no whole JPEG)") from error
    return height, width
