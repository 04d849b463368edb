"""Decoding, and the resize of evaluation against two independent implementations."""

import io
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from pictures import encode, picture
from PIL import Image

from mmjax.data import BadRecord, eval_transform
from mmjax.data.images import WHITE, check_size, composite, decode, jpeg_size, open_image

SIZES = [(281, 500), (500, 333), (224, 224), (64, 64), (97, 64), (40, 200), (1, 5)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("size", [32, 65])
def test_eval_transform_is_pillows_bicubic_and_the_centre(height, width, size):
    """Against torchvision's formula written out: Resize(size, BICUBIC), CenterCrop(size)."""
    image = Image.fromarray(picture(1, height, width))
    if width <= height:
        resized = image.resize((size, int(size * height / width)), Image.Resampling.BICUBIC)
    else:
        resized = image.resize((int(size * width / height), size), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized)
    top = round((pixels.shape[0] - size) / 2.0)
    left = round((pixels.shape[1] - size) / 2.0)
    expected = pixels[top : top + size, left : left + size]
    found = eval_transform(image, size)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("height", "width"), [(281, 500), (500, 400), (224, 224), (64, 97)])
def test_eval_transform_is_that_of_transformers(height, width):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    # Where the crop's offset is (odd number + 0.5), transformers rounds down and torchvision to
    # even; these sizes have the same offset in both.
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        do_rescale=False,
        do_normalize=False,
    )
    image = Image.fromarray(picture(2, height, width))
    expected = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(eval_transform(image, 64), expected)


def rgba(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (24, 31, 4), np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_pictures_keep_their_alpha(kind):
    image = decode(
        encode(rgba(), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    )
    np.testing.assert_array_equal(image, rgba())


def test_composite_blends_each_pixel():
    background = (10, 200, 90)
    alpha = rgba()[..., 3:] / 255.0
    expected = rgba()[..., :3] * alpha + np.array(background) * (1 - alpha)
    found = composite(rgba(), background).astype(float)
    assert np.abs(found - expected).max() <= 1.0
    solid = rgba()
    solid[..., 3] = 255
    np.testing.assert_array_equal(composite(solid, background), solid[..., :3])
    solid[..., 3] = 0
    assert (composite(solid, background) == background).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "1", "I;16"])
def test_other_modes_become_rgb(mode):
    image = Image.fromarray(picture(4))
    if mode == "I;16":
        gray = np.asarray(image.convert("L"))
        stored, expected = Image.fromarray(gray.astype(np.uint16) * 257), image.convert("L")
    else:
        stored = expected = image.convert(mode)
    found = composite(decode(encode_pil(stored)), WHITE)
    np.testing.assert_array_equal(found, np.asarray(expected.convert("RGB")))


def encode_pil(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
def test_jpegs_decode_smaller(reduce):
    full = picture(5, 160, 240)
    small = decode(encode(full, "JPEG", quality=95), reduce)
    assert small.shape == (160 // reduce, 240 // reduce, 3)
    expected = np.asarray(Image.fromarray(full).reduce(reduce)).astype(float)
    assert np.abs(small - expected).mean() < 3


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}], ids=str)
def test_jpegs_decode_as_pillow_decodes_them(mode, options):
    full = cv2.resize(picture(5, 20, 30), (179, 121), interpolation=cv2.INTER_CUBIC)
    data = encode_pil(Image.fromarray(full).convert(mode), "JPEG", quality=90, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    exact, fast = (decode(data, fast=fast).astype(int) for fast in (False, True))
    np.testing.assert_array_equal(exact, expected)
    if mode != "CMYK":  # of which there is one decode
        assert 0 < np.abs(fast - expected).mean() < 3


def test_a_jpeg_with_damage_in_its_middle_is_what_pillow_makes_of_it():
    data = bytearray(encode(picture(5, 160, 240), "JPEG", quality=95))
    data[len(data) // 2 : len(data) // 2 + 8] = b"\xff\xd0" * 4  # restart markers: none belong here
    with pytest.raises(ValueError, match="JPEG"):
        simplejpeg.decode_jpeg(bytes(data))
    np.testing.assert_array_equal(decode(bytes(data)), np.asarray(open_image(bytes(data))))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"x" * 300}])
def test_the_size_of_a_jpeg_is_read_from_its_header(options):
    data = encode(picture(5, 33, 470), "JPEG", **options)
    assert jpeg_size(data) == (33, 470)
    assert jpeg_size(data[:2] + b"\xff\xff" + data[2:]) == (33, 470)  # fill bytes are legal
    end = 4 + int.from_bytes(data[4:6])  # of the first segment
    stray = data[:end] + b"stray" + data[end:]  # which decoders pass over
    assert jpeg_size(stray) == (33, 470)
    np.testing.assert_array_equal(decode(stray), decode(data))
    for cut in (b"\xff\xd8\xff", data[:50], b"\xff\xd8\xff" + b"\0" * 99):
        with pytest.raises(BadRecord, match="no whole JPEG"):
            jpeg_size(cut)


def test_exif_orientation_is_ignored_by_both_decoders():
    image = Image.fromarray(picture(6))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert decode(buffer.getvalue()).shape == (40, 48, 3)
    assert open_image(buffer.getvalue()).size == (48, 40)


JPEG, PNG = encode(picture(7), "JPEG"), encode(picture(7), "PNG")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        b"<html>404</html>" * 50,
        JPEG[: len(JPEG) // 2],
        JPEG[:20],
        PNG[: len(PNG) // 2],
        b"\xff\xd8\xff" + b"\0" * 100 + b"\xff\xd9",
    ],
)
def test_bytes_that_are_no_picture_are_a_bad_record(data):
    for read in (decode, open_image):
        with pytest.raises(BadRecord, match="cannot be decoded"):
            read(data)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "a git-lfs pointer: git lfs pull"),
        (b"\n<!doctype HTML><html>" + b" " * 2000, "a server's page: the download failed"),
        (b'<?xml version="1.0"?><svg width="9">', "an SVG drawing: render it"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\0\0\0\x18ftypheic\0\0", "HEIC: convert it to JPEG"),
        (b"neither", "no image"),
    ],
)
def test_what_is_no_image_is_named(data, what):
    for read in (open_image, decode, lambda data: check_size(data, 10)):
        with pytest.raises(BadRecord, match=rf"cannot be decoded \(it is {what}"):
            read(data)
