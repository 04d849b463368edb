"""Images that `mmjax.load(…)` is given in memory: the same pixels as from files, or a sentence."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from mmjax.errors import UserError
from mmjax.models.parts import complete
from mmjax.pretrained import Pretrained

GRAY = np.tile(np.arange(0, 256, 8, np.uint8), (32, 1))  # [32, 32]


def pretrained():
    data = {"resize": "shortest", "interpolation": "bicubic"}
    image = {"kind": "vit", "size": 32, "patch_size": 8}
    model = complete({"name": "", "embed_dim": 8, "image": image})
    config = ConfigDict({"model": model, "data": data})
    return Pretrained("it", config, None, {"scale": np.zeros((2, 3))}, None)


def preprocess(image):
    return pretrained().preprocess([image])[0]


@pytest.mark.parametrize(
    "image",
    [
        GRAY,
        np.stack([GRAY] * 3, axis=2),
        GRAY.astype(np.uint16) * 257,
        Image.fromarray(GRAY),
        Image.fromarray(GRAY.astype(np.uint16) * 257),
        Image.fromarray(GRAY.astype(np.int32)),
        Image.fromarray(GRAY.astype(np.float32)),
        Image.fromarray(GRAY).convert("P"),
    ],
    ids=["gray", "rgb", "uint16", "L", "I;16", "I", "F", "P"],
)
def test_every_kind_of_gray_is_the_same_gray(image):
    np.testing.assert_array_equal(preprocess(image), np.stack([GRAY] * 3, axis=2))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"images\[0\] is float32 \[4, 4, 3\]: give uint8"),
        (np.full((4, 4), 0.5, np.float32), r"images\[0\] has pixels that are floats from 0.5"),
        (np.full((4, 4), 70000, np.int32), r"images\[0\] has pixels that are 32-bit numbers"),
    ],
)
def test_arrays_without_a_scale_are_refused(image, message):
    with pytest.raises(UserError, match=message):
        preprocess(image)


def test_one_image_alone_and_files(tmp_path):
    file = tmp_path / "gray.png"
    rgb = np.stack([GRAY] * 3, axis=2)
    Image.fromarray(rgb).save(file)
    for images in (rgb, Image.fromarray(rgb), file, str(file), [file], [str(file)], rgb[None]):
        np.testing.assert_array_equal(pretrained().preprocess(images), rgb[None])
    assert pretrained().preprocess([file, rgb, Image.fromarray(rgb)]).shape == (3, 32, 32, 3)
    (tmp_path / "text.jpg").write_text("no image")
    for images, message in (
        ([], "images is empty"),
        (np.zeros((0, 8, 8, 3), np.uint8), "images is empty"),
        ([None], r"images\[0\] is of type NoneType: give uint8"),
        ([rgb, {"image": rgb}], r"images\[1\] is of type dict"),
        (tmp_path / "absent.png", r"images\[0\]: .*absent\.png cannot be read: No such file"),
        ([tmp_path / "text.jpg"], r"images\[0\] cannot be decoded|images\[0\] is"),
    ):
        with pytest.raises(UserError, match=message):
            pretrained().preprocess(images)


def test_texts_that_are_none():
    for texts, message in (
        ([], "texts is empty"),
        ([7], r"texts\[0\] is of type int: give a string or a list of strings"),
        ([["a", "b"]], r"texts\[0\] is of type list"),
    ):
        with pytest.raises(UserError, match=message):
            pretrained().tokenize(texts)


def test_what_a_notebook_shows_is_a_line():
    assert repr(pretrained()) == "Pretrained(unnamed: 6 parameters, images of 32 pixels; from it)"
