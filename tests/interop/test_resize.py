"""Resized position embeddings are those of PyTorch's interpolation, which open_clip calls."""

import numpy as np
import pytest
from pytorch import F, torch

from mmjax.errors import UserError
from mmjax.interop.resize import resize_positions, resize_sequence


def positions(count, width=24):
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def assert_close(found, expected):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((7, 7), (12, 12)),
        ((14, 14), (7, 7)),
        ((16, 16), (5, 9)),
        ((3, 8), (8, 3)),
        ((2, 2), (1, 7)),
    ],
)
def test_images_are_torchs_antialiased_bicubic(old, new, class_token):
    table = positions(old[0] * old[1] + class_token)
    found = resize_positions(table, old, new, class_token=class_token)
    patches = torch.tensor(table[int(class_token) :]).reshape(1, *old, -1).permute(0, 3, 1, 2)
    expected = F.interpolate(patches, new, mode="bicubic", antialias=True, align_corners=False)
    expected = expected.permute(0, 2, 3, 1).reshape(new[0] * new[1], -1).numpy()
    assert_close(found[int(class_token) :], expected)
    np.testing.assert_array_equal(found[: int(class_token)], table[: int(class_token)])


@pytest.mark.parametrize(("old", "new"), [(77, 64), (16, 77), (64, 3)])
def test_texts_are_torchs_linear_without_antialias(old, new):
    table = positions(old)
    expected = F.interpolate(torch.tensor(table).T[None], new, mode="linear", antialias=False)[0].T
    assert_close(resize_sequence(table, new), expected.numpy())


def test_the_same_grid_changes_no_bit():
    table = positions(50)
    assert resize_positions(table, (7, 7), (7, 7), class_token=True) is table
    assert resize_sequence(table, 50) is table


def test_half_precision_is_rounded_once():
    table = positions(49).astype(np.float16)
    found = resize_positions(table, (7, 7), (12, 12), class_token=False)
    exact = resize_positions(table.astype(np.float32), (7, 7), (12, 12), class_token=False)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, exact.astype(np.float16))


def test_a_grid_that_does_not_fit_is_said():
    with pytest.raises(UserError, match="50 position embeddings do not fill a grid of 7 x 7"):
        resize_positions(positions(50), (7, 7), (12, 12), class_token=False)
