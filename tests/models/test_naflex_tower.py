"""The NaFlex tower: positions of other grids, and padding that changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from pytorch import F, torch

from mmjax import models
from mmjax.errors import UserError
from mmjax.models.parts import check_model, part
from mmjax.models.positions import resized_positions

SHAPES = np.array([[4, 4], [1, 16], [16, 1], [2, 7], [3, 5], [70, 1], [9, 8]], np.int32)


def model(pool="map"):
    config = tiny.config().model
    with config.unlocked():
        config.image = part(
            "naflex", size=16, patch_size=4, patches=16, width=32, depth=2, heads=4, mlp_dim=64,
            unroll=False, pool=pool, norm_pre=pool == "mean",
        )  # fmt: skip
    return config


def columns(shapes, length, seed=0):
    """Patches of these grids, the padding noise too."""
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (len(shapes), 100, 48), dtype=np.uint8)
    image = np.zeros((len(shapes), length, 48), np.uint8)
    for row, (rows, across) in enumerate(shapes):
        image[row, : rows * across] = patches[row, : rows * across]
        image[row, rows * across :] = rng.integers(0, 256, (length - rows * across, 48))
    mask = np.arange(length) < shapes.prod(axis=1)[:, None]
    return {"image": image, "image_mask": mask, "image_shape": shapes}


def embeds(graph, params, batch):
    run = jax.jit(
        lambda p, b: graph.apply({"params": p}, b, ("image/embed",)), compiler_options=tiny.QUICK
    )
    return run(params, batch)["image/embed"]


@pytest.mark.parametrize("side", [4, 16])
def test_positions_are_those_of_f_interpolate(side):
    table = np.random.default_rng(0).normal(size=(side**2, 5)).astype(np.float32)
    found, back = jax.vjp(lambda table: resized_positions(table, SHAPES, 80), table)
    leaf = torch.tensor(table, requires_grad=True)
    grid = leaf.reshape(1, side, side, 5).permute(0, 3, 1, 2)
    weights = np.random.default_rng(1).normal(size=found.shape).astype(np.float32)
    total = torch.zeros(())
    for row, shape in enumerate(SHAPES.tolist()):
        expected = F.interpolate(grid, shape, mode="bilinear", antialias=True)
        expected = expected[0].flatten(1).T  # [N, 5]
        count = len(expected)
        np.testing.assert_allclose(found[row, :count], expected.detach(), atol=1e-6, rtol=0)
        assert np.isfinite(np.asarray(found[row])).all()
        total = total + (expected * torch.tensor(weights[row, :count])).sum()
        weights[row, count:] = 0
    total.backward()
    np.testing.assert_allclose(back(weights)[0], leaf.grad, atol=3e-5, rtol=0)


@pytest.mark.parametrize("pool", ["map", "mean"])
def test_more_padding_changes_nothing(pool):
    graph, shapes = models.from_config(model(pool)), SHAPES[:5]
    params = tiny.params(graph)

    def loss(params, batch):
        embed = graph.apply({"params": params}, batch, ("image/embed",))["image/embed"]
        return (embed * jnp.arange(embed.shape[1])).sum(), embed

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=tiny.QUICK)
    (_, tight), gradient = run(params, columns(shapes, 16))
    (_, loose), other = run(params, columns(shapes, 29, seed=0))
    np.testing.assert_allclose(loose, tight, atol=1e-6, rtol=0)
    tiny.assert_same(
        ({}, jax.tree.map(np.asarray, other)), ({}, jax.tree.map(np.asarray, gradient))
    )
    assert np.abs(np.asarray(tight[0] - tight[1])).max() > 0.01


def test_a_blank_row_is_finite_and_the_dummy_batch_too():
    graph = models.from_config(model("mean"))
    batch = models.dummy_batch(graph)
    assert batch["image_shape"].sum() == 0
    found = embeds(graph, tiny.params(graph), batch)
    assert np.isfinite(np.asarray(found)).all()


def test_a_square_of_no_whole_patches_is_refused():
    config = model()
    config.image.size = 18
    with pytest.raises(UserError, match="size=18 is no multiple of patch_size=4"):
        check_model(config)
