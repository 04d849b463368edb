"""Images that `mmjax.load(…)` is given in memory: the same pixels as from files, or a sentence."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from mmjax.errors import UserError
from mmjax.pretrained import Pretrained

GRAY = np.tile(np.arange(0, 256, 8, np.uint8), (32, 1))  # [32, 32]


def preprocess(image):
    data = {"resize": "shortest", "interpolation": "bicubic"}
    config = ConfigDict({"model": {"image": {"size": 32}}, "data": data})
    return Pretrained("it", config, None, None, None).preprocess([image])[0]


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
