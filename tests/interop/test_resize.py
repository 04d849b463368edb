"""Resized position embeddings are those of PyTorch's interpolation, which open_clip calls; patch
kernels those of timm's formula."""

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from pytorch import F, torch

import mmjax
from mmjax import convert, models
from mmjax.data.keys import PREPROCESS
from mmjax.errors import UserError
from mmjax.interop import registry, start
from mmjax.interop.formats import Weights
from mmjax.interop.resize import resize_patches, resize_positions, resize_sequence
from mmjax.schema import entry


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
    exact = resize_positions(table.astype(np.float64), (7, 7), (12, 12), class_token=False)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, exact.astype(np.float16))


def test_a_grid_that_does_not_fit_is_said():
    with pytest.raises(UserError, match="50 position embeddings do not fill a grid of 7 x 7"):
        resize_positions(positions(50), (7, 7), (12, 12), class_token=False)


@pytest.mark.parametrize(("old", "new"), [(16, 14), (16, 32), (8, 12), (14, 16), (16, 5)])
def test_patch_kernels_are_those_of_timms_formula(old, new):
    """pinv(Rᵀ) · kernel with R written out, each column a resized basis vector, in float64."""
    basis = torch.eye(old * old, dtype=torch.float64).reshape(-1, 1, old, old)
    columns = F.interpolate(basis, (new, new), mode="bicubic", antialias=True)
    matrix = columns.reshape(old * old, -1).T.numpy()  # R [new², old²]
    kernel = np.random.default_rng(0).normal(size=(old, old, 3, 2))
    expected = np.linalg.pinv(matrix.T) @ kernel.reshape(old * old, 6)
    found = resize_patches(kernel, (new, new))
    np.testing.assert_allclose(found.reshape(new * new, 6), expected, rtol=0, atol=1e-10)
    patch = np.random.default_rng(1).normal(size=old * old)
    before, after = patch @ kernel.reshape(-1, 6), matrix @ patch @ found.reshape(-1, 6)
    if new > old:
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-9)
    else:
        assert np.abs(after - before).max() > 0.1


def test_weights_for_another_patch_size(tmp_path):
    """Of larger patches a tower gives what it gave, of images that are enlarged as patches are."""
    config = tiny.config().model
    graph = models.from_config(config)
    registry.export(tmp_path / "old", "huggingface", config=full(config), params=tiny.params(graph))
    convert(tmp_path / "old", tmp_path / "new", "huggingface", patch_size=12, image_size=24)
    old, new = mmjax.load(tmp_path / "old"), mmjax.load(tmp_path / "new")
    assert new.config.model.image.patch_size == 12
    side = config.image.patch_size
    image = np.random.default_rng(0).normal(100, 40, (2, 16, 16, 3)).astype(np.float32)
    patches = image.reshape(2, 16 // side, side, 16 // side, side, 3).transpose(0, 1, 3, 5, 2, 4)
    flat = torch.tensor(patches.reshape(-1, 1, side, side))
    large = F.interpolate(flat, (12, 12), mode="bicubic", antialias=True).numpy()
    large = large.reshape(2, 16 // side, 16 // side, 3, 12, 12).transpose(0, 1, 4, 2, 5, 3)
    large = np.ascontiguousarray(large).reshape(2, 24, 24, 3)
    outputs = ("image/embed",)
    before = old.model.apply({"params": old.params}, {"image": image}, outputs)["image/embed"]
    after = new.model.apply({"params": new.params}, {"image": large}, outputs)["image/embed"]
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"patch_size=32 is larger than the image \(size=16\)"):
        mmjax.load(tmp_path / "old", patch_size=32)


def test_a_tower_without_patches_is_refused(tmp_path):
    weights = Weights("it", full(models.zoo.config("RN50")), lambda like: like)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "find", lambda source: weights)
        with pytest.raises(UserError, match=r"patch_size=8 is of no image tower of it.*'resnet'"):
            mmjax.load("it", patch_size=8)


def test_tubelets_take_patches_of_another_size():
    """A video tower's patches are resized frame by frame, and lie in the tubelet's middle."""
    kernel = np.random.default_rng(0).normal(size=(8, 8, 3, 2)).astype(np.float32)
    found = start.resized("video/patch_embed/kernel", kernel, (2, 4, 4, 3, 2), None, None)
    np.testing.assert_array_equal(found[1], resize_patches(kernel, (4, 4)))
    assert not found[0].any()


def full(model):
    return ConfigDict({"model": model, "data": entry(PREPROCESS)})
