"""Random views: what each augmentation does, against Pillow or arithmetic."""

import dataclasses

import numpy as np
import pytest
from pictures import AS_IT_IS, encode, picture, train_transform
from PIL import Image

from mmjax.data import Augment, BadRecord
from mmjax.data.augment import GRAY, hue, random_crop, warp
from mmjax.data.images import WHITE


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def augment(**changes) -> Augment:
    """These strengths and no others."""
    return dataclasses.replace(AS_IT_IS, **changes)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def detailed(height: int, width: int) -> np.ndarray:
    """A picture with energy up to the finest scale, falling as in photographs."""
    spectrum = np.fft.rfft2(rng(9).normal(size=(3, height, width)))
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    pixels = np.fft.irfft2(spectrum / (np.hypot(fy, fx) + 1 / width) ** 1.2, (height, width))
    pixels = (pixels - pixels.mean()) / pixels.std() * 50 + 128
    return np.clip(pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def test_strengths_of_zero_change_nothing_but_the_size():
    image = picture(1, 64, 64)
    np.testing.assert_array_equal(train_transform(image, rng(), 64, AS_IT_IS), image)
    np.testing.assert_array_equal(train_transform(encode(image), rng(), 64, AS_IT_IS), image)


@pytest.mark.parametrize("side", [70, 96, 128, 150, 200, 300, 600])
def test_shrinking_is_antialiased(side):
    """As near to Pillow's bicubic as an antialiased resize is; without, it would be below 25 dB."""
    image = detailed(side, side)
    expected = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC))
    whole = np.array([[side, 0, side / 2], [0, side, side / 2], [0, 0, 1.0]])
    turned = whole.copy()
    turned[0, 1] = 1e-9  # not upright: takes the path of rotations
    for box, least in ((whole, 34), (turned, 30)):
        assert psnr(warp(image, box, (side, side), (64, 64), WHITE), expected) > least
    jpeg = encode(image, "JPEG", quality=100, subsampling=0)
    assert psnr(train_transform(jpeg, rng(), 64, AS_IT_IS), expected) > 28


def test_flip_mirrors_half_of_the_views():
    image = picture(2, 64, 64)
    views = [train_transform(image, rng(s), 64, augment(flip=0.5)) for s in range(200)]
    mirrored = [np.array_equal(view, image[:, ::-1]) for view in views]
    assert all(m or np.array_equal(v, image) for m, v in zip(mirrored, views, strict=True))
    assert 70 < sum(mirrored) < 130


def test_rotation_turns_about_the_centre():
    image = picture(3, 65, 65)
    view = train_transform(image, rng(4), 65, augment(rotate=40.0))
    angle = rng_angle(4)
    expected = Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR, fillcolor=WHITE)
    assert psnr(view[12:53, 12:53], np.asarray(expected)[12:53, 12:53]) > 35
    assert (view[0, 0] == 255).all(), "the corner is not background"


def rng_angle(seed: int) -> float:
    """The angle that a transform with rotate=40 draws: third, after area, aspect, x and y."""
    generator = rng(seed)
    generator.uniform(1, 1), generator.uniform(0, 0), generator.random(), generator.random()
    return generator.uniform(-40, 40)


def test_rotation_of_a_jpeg_is_that_of_its_pixels():
    image = picture(3, 256, 300)
    a = Augment(crop_scale=(0.3, 1.2), crop_ratio=(0.8, 1.2), flip=0.5, rotate=30, translate=0.1)
    for seed in range(10):
        direct = train_transform(image, rng(seed), 48, a)
        jpeg = train_transform(encode(image, "JPEG", quality=98), rng(seed), 48, a)
        assert psnr(direct, jpeg) > 28  # decoded at a half or a quarter


def test_crops_have_the_asked_area_and_shape():
    boxes = [random_crop(rng(s), 100, 100, (0.2, 0.6), (0.75, 4 / 3)) for s in range(500)]
    w, h, x, y = (np.array([b[i] for b in boxes]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    assert (w * h / 1e4).min() >= 0.2 - 1e-9
    assert (w * h / 1e4).max() <= 0.6 + 1e-9
    assert 0.75 <= (w / h).min() < 0.8 < 1.25 < (w / h).max() <= 4 / 3
    assert (x - w / 2).min() >= -1e-9
    assert (x + w / 2).max() <= 100 + 1e-9
    assert abs(np.mean((y - h / 2) / (100 - h)) - 0.5) < 0.06, "places are not uniform"


def test_crops_above_one_show_background():
    image = np.zeros((40, 40, 3), np.uint8)
    view = train_transform(image, rng(), 80, augment(crop_scale=(4.0, 4.0)))
    assert abs((view == 255).mean() - 0.75) < 0.02


def test_transparent_pictures_lie_on_the_background():
    image = np.zeros((32, 32, 4), np.uint8)
    assert (train_transform(image, rng(), 32, AS_IT_IS) == 255).all()
    colours = {
        tuple(train_transform(image, rng(s), 32, augment(background="random"))[0, 0].tolist())
        for s in range(20)
    }
    assert len(colours) == 20


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_changes_are_those_of_pillow(name):
    """PIL.ImageEnhance with the same factor; pictures in the middle range, so nothing clips."""
    from PIL import ImageEnhance

    image = (picture(5, 32, 32) // 3 + 60).astype(np.uint8)
    enhance = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color"}[name]
    for seed in range(5):
        found = train_transform(image, rng(seed), 32, augment(**{name: 0.4}))
        generator = rng(seed)
        train_geometry(generator)
        if name != "brightness":
            generator.uniform(1, 1)
        factor = generator.uniform(0.6, 1.4)
        expected = getattr(ImageEnhance, enhance)(Image.fromarray(image)).enhance(factor)
        assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1


def train_geometry(generator: np.random.Generator) -> None:
    """Draws what the geometry draws: area, aspect, x, y, angle, shifts, flip."""
    for size in (1, 1, 1, 1, 1, 2, 1):
        generator.random(size)


def test_hue_turns_the_circle_and_keeps_the_luma():
    colour = np.array([200.0, 60.0, 90.0, 1.0])
    np.testing.assert_allclose(hue(0.0), np.eye(4), atol=1e-12)
    np.testing.assert_allclose(hue(0.3) @ hue(0.7), np.eye(4), atol=1e-12)
    turned = hue(1 / 3) @ colour
    assert abs(GRAY @ turned[:3] - GRAY @ colour[:3]) < 1e-9
    assert np.argmax(colour[:3]) != np.argmax(turned[:3])


def test_grayscale_has_equal_channels():
    view = train_transform(picture(6, 32, 32), rng(), 32, augment(grayscale=1.0))
    assert np.ptp(view.astype(int), axis=2).max() <= 1
    expected = np.asarray(Image.fromarray(picture(6, 32, 32)).convert("L")).astype(int)
    assert np.abs(view[..., 0] - expected).max() <= 1


EVERYTHING = Augment(
    (0.4, 1.2), (0.75, 4 / 3), "square", 0.5, 15.0, 0.1, 0.4, 0.4, 0.4, 0.1, 0.1, "random"
)


def test_a_view_is_a_function_of_its_generator():
    data = encode(picture(8))
    views = [train_transform(data, rng(s), 32, EVERYTHING) for s in (0, 0, 1)]
    assert views[0].shape == (32, 32, 3)
    assert views[0].dtype == np.uint8
    np.testing.assert_array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Augment)])
def test_every_field_does_something(field):
    image = np.dstack([picture(8), np.full((40, 48), 128, np.uint8)])
    on = {
        "crop_scale": (0.3, 0.5), "crop_ratio": (0.5, 0.6), "crop_aspect": "image",
        "background": "random", "rotate": 30,
    }  # fmt: skip
    changed = augment(**{field: on.get(field, 0.4)})
    differ = [
        not np.array_equal(
            train_transform(image, rng(s), 32, AS_IT_IS),
            train_transform(image, rng(s), 32, changed),
        )
        for s in range(10)
    ]
    assert any(differ)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 400), (900, 3)])
def test_odd_pictures_do_no_harm(height, width):
    for seed in range(5):
        for kind in ("PNG", "JPEG"):
            data = encode(picture(1, height, width), kind)
            assert train_transform(data, rng(seed), 32, EVERYTHING).shape == (32, 32, 3)


def test_no_picture_is_a_bad_record():
    with pytest.raises(BadRecord):
        train_transform(b"nothing", rng(), 32, AS_IT_IS)
