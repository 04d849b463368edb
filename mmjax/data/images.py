"""Images: decoding, and the exact resize of CLIP for evaluation.

Pillow decodes, in training as in evaluation, and `eight_bits` says what becomes of each of its
modes. JPEGs without CMYK alone are decoded by simplejpeg (libjpeg-turbo) in training, where speed
counts: at full size, pixel for pixel as Pillow decodes them. Of an animation, the first frame
counts. EXIF orientation and ICC profiles are ignored in both, as open_clip does; a TIFF is turned
by its own tag, as Pillow does.
"""

import io
import struct
import warnings
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from mmjax.data.contents import what_it_is
from mmjax.data.records import BadRecord

Resize = Literal["shortest", "squash"]
Interpolation = Literal["bicubic", "bilinear"]
WHITE = (255, 255, 255)
MAX_PIXELS = 89_478_485  # above it Pillow speaks of a decompression bomb
PILLOW_LIMIT = 2 * MAX_PIXELS  # above it Pillow refuses to decode
BITS_PER_SAMPLE = 258  # the tag of TIFF 6.0


def eval_transform(
    image: Image.Image,
    size: int,
    *,
    resize: Resize = "shortest",
    interpolation: Interpolation = "bicubic",
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
    if resize == "squash":
        method = Image.Resampling[interpolation.upper()]
        return np.asarray(to_rgb(image).resize((size, size), method))
    return eval_crops(image, size, (0.5,), interpolation)[0]


def eval_crops(
    image: Image.Image,
    size: int,
    positions: Sequence[float],
    interpolation: Interpolation = "bicubic",
) -> np.ndarray:
    """Squares of an image whose shortest side is brought to `size`: uint8 [n, size, size, 3].

    Args:
      image, size, interpolation: of `eval_transform`.
      positions: of the n squares along the longer side, 0 (left or top) … 1 (right or bottom).
    """
    image = to_rgb(image)
    width, height = image.size
    short = min(width, height)
    if short != size:
        width, height = (int(size * side / short) for side in (width, height))
        image = image.resize((width, height), Image.Resampling[interpolation.upper()])
    corners = [(round((width - size) * at), round((height - size) * at)) for at in positions]
    boxes = [(left, top, left + size, top + size) for left, top in corners]
    return np.stack([np.asarray(image.crop(box)) for box in boxes])


def eval_view(height: int, width: int, resize: Resize) -> np.ndarray:
    """What `eval_transform` shows of an image, as a matrix 3 × 3 from the result, [-0.5, 0.5]², to
    pixels of the image; without the rounding of the resized sides to whole pixels."""
    short = min(height, width)
    across, down = (width, height) if resize == "squash" else (short, short)
    return np.array([[across, 0, width / 2], [0, down, height / 2], [0, 0, 1.0]])


def image_shape(image: bytes | np.ndarray) -> tuple[int, int]:
    """Height and width of a stored image. BadRecord."""
    if isinstance(image, np.ndarray):
        return image.shape[:2]
    return jpeg_size(image) if is_jpeg(image) else decode(image).shape[:2]


def open_image(image: bytes | np.ndarray) -> Image.Image:
    """An image, fully decoded, as Pillow's "RGB" or, where it is transparent, "RGBA". BadRecord."""
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    try:
        opened = Image.open(io.BytesIO(image))
        opened.load()
        return eight_bits(opened)
    except BadRecord:
        raise
    except UnidentifiedImageError as error:
        raise BadRecord(_no_image(image)) from error
    except Exception as error:  # each of Pillow's readers has its own kinds
        raise BadRecord(f"cannot be decoded ({error})") from error


def _no_image(data: bytes) -> str:
    return f"cannot be decoded (it is {what_it_is(data) or 'no image'})"


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode without transparency: transparent parts are laid on white. BadRecord."""
    image = eight_bits(image)
    return image if image.mode == "RGB" else Image.fromarray(composite(np.asarray(image), WHITE))


def eight_bits(image: Image.Image) -> Image.Image:
    """An image of any mode as "RGB", or "RGBA" where something of it may be transparent.

    Gray of 16 bits is divided by 257, so that white stays white (Pillow alone would clip at 255).
    Numbers of 32 bits and floats count from 0, black, to 255, white, as Pillow takes them.

    Raises:
      BadRecord: 32-bit numbers or floats outside of 0 … 255, or floats up to 1, whose scale nothing
        says.
    """
    if image.mode in ("RGB", "RGBA") and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _sixteen_bits(image)
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        low, high = values.min(), values.max()
        up_to_one = high <= 1 and bool(np.any(values % 1))
        if not (low >= 0 and high <= 255) or up_to_one:
            kind = "floats" if image.mode == "F" else "32-bit numbers"
            raise BadRecord(
                f"has pixels that are {kind} from {low:g} to {high:g}, whose black and white "
                "nothing says; store it with 8 or 16 bits"
            )
        image = image.convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _sixteen_bits(image: Image.Image) -> Image.Image:
    """Gray of up to 16 bits, white at 65535 (or 2^bits - 1 of a TIFF of fewer)."""
    tags = getattr(image, "tag_v2", {})
    white = (1 << tags.get(BITS_PER_SAMPLE, (16,))[0]) - 1
    values = np.asarray(image).astype(np.int64)
    gray = Image.fromarray(((2 * values * 255 + white) // (2 * white)).astype(np.uint8))
    if "transparency" not in image.info:  # of a PNG: one value is transparent
        return gray.convert("RGB")
    gray.putalpha(
        Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
    )
    return gray.convert("RGBA")


def decode(data: bytes, reduce: int = 1, fast: bool = False) -> np.ndarray:
    """An encoded image as uint8 [H, W, 3] RGB, or [H, W, 4] where it is transparent.

    A JPEG is decoded at 1/`reduce` (1, 2, 4 or 8) of its size, which its format makes cheap and
    antialiased; and `fast` with the less exact cosine transform and its colours (which most JPEGs
    store at half the size) not interpolated: where pixels are averaged afterwards, that costs some
    1.5 dB of PSNR and still is nearer to Pillow's bicubic than its bilinear, mostly
    (benchmarks/data_loader.py).
    Raises BadRecord.
    """
    if is_jpeg(data):
        return _decode_jpeg(data, reduce, fast)
    return np.asarray(open_image(data))


def _decode_jpeg(data: bytes, reduce: int, fast: bool) -> np.ndarray:
    height, width = (-(-side // reduce) for side in jpeg_size(data))
    try:
        if simplejpeg.decode_jpeg_header(data)[2] not in (
            "CMYK",
            "YCCK",
        ):  # inks: Pillow's are exact
            return simplejpeg.decode_jpeg(
                data, "RGB", fastdct=fast, fastupsample=fast, min_height=height, min_width=width
            )
    except ValueError:  # not whole, or with something odd in it that Pillow passes over
        pass
    return np.asarray(open_image(data))


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
            raise BadRecord(_no_image(data)) from error
        except Exception as error:  # each of Pillow's readers has its own kinds
            raise BadRecord(f"cannot be decoded ({error})") from error
    limit = min(max_pixels, PILLOW_LIMIT)  # simplejpeg has none, but training is as evaluation
    if width * height > limit:
        raise BadRecord(f"has {width} × {height} pixels, more than {limit:,}")


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
