"""Masked images: how many patches are hidden, what is predicted, and what the tower may see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mmjax import models
from mmjax.objectives import Own
from mmjax.objectives.masked_image import masked_image


@pytest.fixture(scope="module")
def model():
    config = tiny.config().model
    config.image.update(pixel_head=True, size=32)  # 16 patches of 8 × 8
    return config


def test_the_share_of_patches_is_hidden(model):
    batch = tiny.batch(model)
    view = masked_image("masked_image", model, rate=0.4).views["masked_image"]
    view = view.make(batch, jax.random.key(0), {})
    mask = np.asarray(view["image_patch_mask"])
    assert mask.shape == (tiny.BATCH, 16)
    assert (mask.sum(axis=1) == 6).all()
    assert len({tuple(row) for row in mask}) > tiny.BATCH // 2
    assert view["image"] is batch["image"]


def test_loss_and_gradient_are_those_of_numpy(model):
    batch = tiny.batch(model, size=3)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(3, 16, 192)).astype("f4")
    mask = rng.random((3, 16)) < 0.5
    objective = masked_image("masked_image", model)

    def loss(pixels):
        made = {"image/pixels": pixels, "image_patch_mask": jnp.asarray(mask)}
        return objective.loss({"masked_image": made}, batch, Own())[0]

    value, gradient = jax.value_and_grad(loss)(pixels)
    errors, exact = [], np.zeros(pixels.shape)
    for b, n in zip(*np.nonzero(mask), strict=True):
        y, x = 8 * (n // 4), 8 * (n % 4)
        patch = batch["image"][b, y : y + 8, x : x + 8].astype(np.float64).reshape(-1) / 255
        target = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
        errors.append(((pixels[b, n] - target) ** 2).mean())
        exact[b, n] = 2 * (pixels[b, n] - target) / 192 / mask.sum()
    assert float(value) == pytest.approx(np.mean(errors), rel=1e-5)
    np.testing.assert_allclose(gradient, exact, atol=1e-7)


def test_hidden_patches_are_not_seen(model):
    """Their pixels change nothing, those of the others do."""
    tower = models.from_config(model)
    params, batch = tiny.params(tower), tiny.batch(model, size=2)
    mask = np.zeros((2, 16), bool)
    mask[:, 5] = True

    @jax.jit
    def run(image):
        part = {"image": image, "image_patch_mask": mask}
        return tower.apply({"params": params}, part, ("image/pixels",))["image/pixels"]

    before = run(batch["image"])
    hidden, seen = batch["image"].copy(), batch["image"].copy()
    hidden[:, 8:16, 8:16] = 0
    seen[:, 8:16, 16:24] = 0
    np.testing.assert_array_equal(run(hidden), before)
    assert (np.abs(run(seen) - before).max(axis=(1, 2)) > 1e-3).all()
