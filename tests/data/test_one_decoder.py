"""Training and evaluation decode the same pixels: every mode in every format that can hold it.

The oracle is Pillow's own conversion to RGB of what it opens, or numbers written out here where
Pillow clips.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from pictures import AS_IT_IS, picture, train_transform
from PIL import Image, ImageCms, features

from mmjax.data import BadRecord, modalities
from mmjax.data.images import WHITE, composite, decode, eval_transform, open_image, to_rgb
from mmjax.data.records import Record

SIDE = 32
MODES = ("1", "L", "LA", "P", "P+alpha", "PA", "RGB", "RGB+key", "RGBA", "CMYK", "YCbCr", "LAB",
         "I;16", "I", "F")  # fmt: skip
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM",
           *(["AVIF"] if features.check("avif") else []))  # fmt: skip
SMOOTH = np.asarray(Image.fromarray(picture(3)).resize((SIDE, SIDE)))  # [SIDE, SIDE, 3]
GRAY = np.asarray(Image.fromarray(SMOOTH).convert("L"))
ALPHA = np.tile(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, 1))


def image_of(mode: str) -> tuple[Image.Image, dict]:
    """A picture in a mode of Pillow, and options of `save`."""
    image = Image.fromarray(SMOOTH)
    if mode == "I;16":
        return Image.fromarray(GRAY.astype(np.uint16) * 257), {}
    if mode in ("LA", "RGBA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray(ALPHA))
        return image, {}
    if mode == "P+alpha":
        return image.quantize(16), {"transparency": bytes(range(0, 256, 16))}
    if mode == "PA":
        return image.convert("LA").convert("PA"), {}
    if mode == "RGB+key":
        return image, {"transparency": tuple(SMOOTH[0, 0].tolist())}
    return image.convert(mode), {}


def encoded(mode: str, kind: str) -> bytes | None:
    """A file, or None where the format has no such mode."""
    image, options = image_of(mode)
    if mode == "I" and kind == "PPM":  # 16 bits of it
        image = Image.fromarray(GRAY.astype(np.int32) * 257)
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **options)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return buffer.getvalue()


FILES = {(mode, kind): data for mode in MODES for kind in FORMATS if (data := encoded(mode, kind))}
every_file = pytest.mark.parametrize(("mode", "kind"), FILES)


def pillow(data: bytes) -> np.ndarray:
    """What Pillow itself makes of a file of 8 bits, on white."""
    opened = Image.open(io.BytesIO(data))
    if not opened.has_transparency_data:
        return np.asarray(opened.convert("RGB"))
    rgba = np.asarray(opened.convert("RGBA")).astype(float)
    share = rgba[..., 3:] / 255
    return rgba[..., :3] * share + 255 * (1 - share)


def training(data: bytes) -> np.ndarray:
    return composite(decode(data), WHITE)


def test_every_mode_and_every_format_is_there():
    assert {mode for mode, _ in FILES} == set(MODES)
    assert {kind for _, kind in FILES} == set(FORMATS)
    assert len([mode for mode, kind in FILES if kind == "TIFF"]) == len(MODES)


@every_file
def test_training_and_evaluation_decode_what_pillow_decodes(mode, kind):
    data = FILES[mode, kind]
    exact = np.asarray(to_rgb(open_image(data)))
    np.testing.assert_array_equal(training(data), exact)
    wide = Image.open(io.BytesIO(data)).mode
    if wide.startswith("I;16") or (wide == "I" and kind == "PPM"):
        expected = np.repeat(GRAY[..., None], 3, axis=2)  # 257 · gray, back by 257
        assert exact.std() > 5
    else:
        expected = pillow(data)
    assert np.abs(exact - expected).max() <= (1 if kind != "JPEG2000" else 2)  # it blends in bytes


@every_file
def test_the_modality_shows_the_same_in_both(mode, kind):
    """At the size of the image, whole: no resize, only what each path does to the pixels."""
    data = FILES[mode, kind]
    reader = modalities.Image("image", SIDE)
    shown = train_transform(data, np.random.default_rng(0), SIDE, AS_IT_IS)
    found = reader.read(Record("a", {"image": data}), None)
    np.testing.assert_array_equal(shown, found)


@pytest.mark.parametrize("options", [{}, {"keep_rgb": True}, {"progressive": True}], ids=str)
@pytest.mark.parametrize("transform", [None, 0, 2], ids=["none", "CMYK", "YCCK"])
def test_jpegs_of_every_colour_space(transform, options):
    """Adobe's marker says what four components are; Pillow inverts them, as Adobe writes them."""
    image = Image.fromarray(SMOOTH)
    buffer = io.BytesIO()
    if transform is None:
        image.save(buffer, "JPEG", quality=90, **options)
        data = buffer.getvalue()
    else:
        image.convert("CMYK").save(buffer, "JPEG", quality=90, progressive="progressive" in options)
        data = bytearray(buffer.getvalue())
        data[data.index(b"Adobe") + 11] = transform
        data = bytes(data)
    np.testing.assert_array_equal(training(data), pillow(data))
    np.testing.assert_array_equal(np.asarray(to_rgb(open_image(data))), pillow(data))


def test_a_fast_decode_of_a_jpeg_is_near():
    """The tolerance of training's JPEGs where pixels are averaged afterwards: 3 gray levels in the
    mean (at full size they are equal, above)."""
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).resize((256, 256)).save(buffer, "JPEG", quality=90)
    fast, exact = (decode(buffer.getvalue(), fast=fast).astype(int) for fast in (True, False))
    assert 0 < np.abs(fast - exact).mean() < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation_and_colour_profile_are_ignored(kind):
    """Pillow turns a TIFF by its own tag, which is no EXIF: so do both."""
    exif, buffers = Image.Exif(), [io.BytesIO(), io.BytesIO()]
    exif[0x0112] = 6  # 90 degrees
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = Image.fromarray(SMOOTH[:20])
    image.save(buffers[0], kind)
    image.save(buffers[1], kind, icc_profile=profile, exif=exif)
    plain, tagged = (buffer.getvalue() for buffer in buffers)
    assert Image.open(io.BytesIO(tagged)).info["icc_profile"] == profile
    for read in (training, lambda data: np.asarray(to_rgb(open_image(data)))):
        expected = read(plain) if kind != "TIFF" else np.rot90(read(plain), -1)
        np.testing.assert_array_equal(read(tagged), expected)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_several_counts(kind):
    buffer, frames = io.BytesIO(), [Image.new("RGB", (9, 9), c) for c in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(buffer).n_frames == 3
    for pixels in (training(buffer.getvalue()), np.asarray(to_rgb(open_image(buffer.getvalue())))):
        assert (pixels == (255, 0, 0)).all()


def test_a_gray_png_of_16_bits_is_no_white_sheet():
    """The public case: gray levels 3000 … 60570 came out as 255 everywhere in evaluation."""
    values = (np.arange(48 * 40, dtype=np.uint32).reshape(40, 48) * 30 + 3000).astype(np.uint16)
    for kind in ("PNG", "TIFF", "PPM", "JPEG2000"):
        buffer = io.BytesIO()
        options = {"irreversible": False} if kind == "JPEG2000" else {}
        Image.fromarray(values).save(buffer, kind, **options)
        found = training(buffer.getvalue())
        assert np.abs(found[..., 0] - values / 257).max() <= 0.5 + (kind == "JPEG2000")
        np.testing.assert_array_equal(found, np.asarray(to_rgb(open_image(buffer.getvalue()))))
        assert eval_transform(open_image(buffer.getvalue()), 32).std() > 5


def png(bits: int, colours: int, rows: np.ndarray, key: np.ndarray | None = None) -> bytes:
    """A PNG written by hand, as Pillow writes none: 16 bits a channel (RFC 2083)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], bits, colours, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in rows)
    transparent = b"" if key is None else chunk(b"tRNS", key.astype(">u2").tobytes())
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", head),
            transparent,
            chunk(b"IDAT", zlib.compress(lines)),
            chunk(b"IEND", b""),
        ]
    )


@pytest.mark.parametrize(("colours", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_pngs_of_16_bits_a_channel(colours, channels):
    values = np.random.default_rng(0).integers(0, 65536, (7, 9, channels)).astype(np.uint16)
    data = png(16, colours, values)
    level, share = values[..., : channels - (channels + 1) % 2] / 257, 1.0
    if channels in (2, 4):
        share = values[..., -1:] / 65535
    expected = np.broadcast_to(level * share + 255 * (1 - share), (7, 9, 3))
    exact = np.asarray(to_rgb(open_image(data)))
    assert np.abs(exact - expected).max() <= 2.0  # Pillow takes the high byte of each
    np.testing.assert_array_equal(training(data), exact)


def test_the_transparent_gray_of_16_bits_is_white():
    values = np.random.default_rng(0).integers(0, 60000, (7, 9, 1)).astype(np.uint16)
    data = png(16, 0, values, values[2, 3])
    exact = np.asarray(to_rgb(open_image(data)))
    assert (exact[2, 3] == 255).all()
    assert np.abs(exact[..., :1] - values / 257)[values != values[2, 3]].max() <= 0.5
    np.testing.assert_array_equal(training(data), exact)


def test_a_tiff_of_12_bits_is_as_bright_as_one_of_8():
    """Written by hand: two pixels lie in three bytes (TIFF 6.0)."""
    packed = bytes([0xFF, 0xF8, 0x00] * 2)  # white, half, white, half
    tags = {256: 2, 257: 2, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 2, 279: len(packed)}
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    data = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory
    assert training(data)[..., 0].tolist() == [[255, 128], [255, 128]]
    np.testing.assert_array_equal(training(data), np.asarray(to_rgb(open_image(data))))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[0, 65535]], np.int32), "32-bit numbers from 0 to 65535"),
        (np.array([[-1024, 200]], np.int32), "32-bit numbers from -1024 to 200"),
        (np.array([[0.25, 1.0]], np.float32), "floats from 0.25 to 1"),
        (np.array([[0.0, 3071.5]], np.float32), "floats from 0 to 3071.5"),
        (np.array([[0.0, np.nan, 9.0]], np.float32), "floats from"),
    ],
)
def test_pixels_without_a_known_scale_are_refused_by_both(values, said):
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    for read in (training, open_image):
        with pytest.raises(BadRecord, match=f"{said}.*; store it with 8 or 16 bits"):
            read(buffer.getvalue())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_both_leave_out_what_is_larger_than_max_pixels(kind):
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, kind)
    reader = modalities.Image("image", 8, max_pixels=SIDE * SIDE - 1)
    record = Record("a", {"image": buffer.getvalue()})
    with pytest.raises(BadRecord, match=r"a has 32 × 32 pixels, more than 1,023"):
        reader.read(record, None)
    with pytest.raises(BadRecord, match=r"has 32 × 32 pixels, more than 1,023"):
        train_transform(buffer.getvalue(), np.random.default_rng(0), 8, AS_IT_IS, SIDE * SIDE - 1)


def test_neither_decodes_what_pillow_alone_would_refuse():
    """Whatever the config allows: a JPEG, which needs no Pillow in training, is no exception."""
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\xc0") + 5  # height and width in the header of the frame
    data[at : at + 4] = struct.pack(">HH", 14_000, 14_000)
    message = r"has 14000 × 14000 pixels, more than 178,956,970"
    reader = modalities.Image("image", 8, max_pixels=1 << 40)
    with pytest.raises(BadRecord, match=message):
        reader.read(Record("a", {"image": bytes(data)}), None)
    with pytest.raises(BadRecord, match=message):
        train_transform(bytes(data), np.random.default_rng(0), 8, AS_IT_IS, 1 << 40)
