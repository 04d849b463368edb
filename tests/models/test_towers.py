"""What the towers promise apart from their numbers: execution, dropout, pools, padding, outputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from pytorch import torch

from mmjax import models
from mmjax.interop.resize import resize_positions
from mmjax.models.positions import on_grid
from mmjax.models.towers import vision
from mmjax.params import path_string


def build(**changes):
    """The tiny model with `image_KEY=` and `text_KEY=` changed: (model, random parameters)."""
    config = tiny.config().model
    for name, value in changes.items():
        tower, _, key = name.partition("_")
        config[tower][key] = value
    model = models.from_config(config)
    return model, tiny.params(model)


def embed(model, params, batch, output, **kwargs):
    apply = functools.partial(model.apply, outputs=(output,), **kwargs)
    return np.asarray(jax.jit(apply)({"params": params}, batch)[output])


@pytest.fixture(scope="module")
def batch():
    return tiny.batch(tiny.config().model, size=4)


EXECUTIONS = [(False, "none"), (True, "none"), (False, "full"), (True, "full"), (False, "dots")]


def test_loops_and_recomputation_change_neither_values_nor_gradients(batch):
    weights = np.random.default_rng(0).normal(size=(4, 16))

    def value_and_gradient(unroll, remat):
        model, params = build(image_unroll=unroll, image_remat=remat)

        def loss(params):
            out = model.apply({"params": params}, batch, ("image/embed",))
            return (out["image/embed"] * weights).sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    truth, expected = value_and_gradient(*EXECUTIONS[0])
    assert jax.tree.leaves(expected["image"]["blocks"])[0].shape[0] == tiny.DEPTH
    for execution in EXECUTIONS[1:]:
        value, gradient = value_and_gradient(*execution)
        assert float(value) == pytest.approx(float(truth), rel=1e-5), execution
        norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(expected)))
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(gradient), jax.tree.leaves(expected), strict=True
        ):
            assert np.linalg.norm(a - b) <= 1e-5 * norm, (execution, path_string(path))


def test_remat_recomputes_the_blocks():
    """Recomputing everything runs each block's matmuls a second time; "dots" keeps them."""

    def products(remat):
        model, params = build(image_remat=remat)
        batch = tiny.batch(tiny.config().model, size=4)

        def loss(params):
            return model.apply({"params": params}, batch, ("image/embed",))["image/embed"].sum()

        return str(jax.make_jaxpr(jax.grad(loss))(params)).count("dot_general[")

    assert products("none") == products("dots") - 2  # attention's two products have batch axes
    assert products("full") > products("dots")


def test_random_parameters_start_as_designed():
    model, _ = build()
    params = jax.jit(lambda key: models.init(model, key))(jax.random.key(0))
    blocks, width = params["image"]["blocks"], model.module("image").width
    residual = (2 * tiny.DEPTH * width) ** -0.5
    for kernel, std in [
        (blocks["attention"]["query"]["kernel"], width**-0.5),
        (blocks["attention"]["out"]["kernel"], residual),
        (blocks["mlp"]["fc1"]["kernel"], (2 * width) ** -0.5),
        (blocks["mlp"]["fc2"]["kernel"], residual),
    ]:
        np.testing.assert_allclose(np.std(kernel, axis=(1, 2)), std, rtol=0.1)
        assert (kernel[0] != kernel[1]).any()  # each layer draws its own
    assert not np.any(blocks["mlp"]["fc1"]["bias"])
    assert float(jnp.exp(params["logit_scale"])) == pytest.approx(1 / 0.07, rel=1e-5)


# Patch dropout


def kept(model, key, patches=4, images=6):
    """Which tokens stay, [images, kept]: every token carries its own number."""
    x = jnp.broadcast_to(jnp.arange(patches + 1.0)[None, :, None], (images, patches + 1, 1))
    drop = functools.partial(model.module("image").apply, {}, x, None, method="drop_patches")
    return np.asarray(drop(rngs={"dropout": key})[0])[:, :, 0].astype(int)


def test_patch_dropout_keeps_the_class_token_and_a_share_of_the_patches():
    model, _ = build(image_patch_dropout=0.25)
    stays = kept(model, jax.random.key(0), patches=16)
    assert stays.shape == (6, 1 + 12)
    assert (stays[:, 0] == 0).all()
    assert (np.diff(stays, axis=1) > 0).all()  # in order, each once
    assert len({tuple(row) for row in stays}) > 1  # every image loses its own
    np.testing.assert_array_equal(stays, kept(model, jax.random.key(0), patches=16))
    assert (stays != kept(model, jax.random.key(1), patches=16)).any()


def test_patch_dropout_keeps_at_least_one_patch():
    assert kept(build(image_patch_dropout=0.99)[0], jax.random.key(0)).shape == (6, 2)


def test_patch_dropout_is_off_in_evaluation(batch):
    model, params = build(image_patch_dropout=0.5)
    plain, _ = build()
    rngs = {"dropout": jax.random.key(0)}
    tokens = embed(model, params, batch, "image/tokens")
    np.testing.assert_array_equal(tokens, embed(plain, params, batch, "image/tokens"))
    assert tokens.shape == (4, 5, 32)
    trained = embed(model, params, batch, "image/tokens", train=True, rngs=rngs)
    assert trained.shape == (4, 3, 32)


# Pixels and positions


def test_patches_are_a_convolution_that_leaves_the_margin_out():
    """20 pixels hold two patches of 8, as 384 hold 27 of 14."""
    model, params = build(image_size=20, image_patch_bias=True)
    image = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
    _, inside = jax.jit(
        lambda image: model.apply(
            {"params": params}, {"image": image}, ("image/tokens",),
            capture_intermediates=lambda _, method: method == "embed_patches",
        )
    )(image)  # fmt: skip
    (ours,) = inside["intermediates"]["image"]["embed_patches"]
    tower = model.module("image")
    pixels = (image / 255 - np.array(tower.mean)) / np.array(tower.std)
    kernel = params["image"]["patch_embed"]["kernel"].astype(np.float64)
    conv = torch.nn.functional.conv2d(
        torch.tensor(pixels).permute(0, 3, 1, 2), torch.tensor(kernel).permute(3, 2, 0, 1),
        torch.tensor(params["image"]["patch_embed"]["bias"]).double(), stride=8,
    )  # fmt: skip
    np.testing.assert_allclose(ours, conv.flatten(2).permute(0, 2, 1), atol=1e-5)


def test_fixed_positions_are_waves_of_the_column_and_the_row():
    table = vision.sincos_2d(3, 3, 16)
    assert table.shape == (9, 16)
    column, row, slowest = 2, 1, 1e-4
    at = table[row * 3 + column]
    np.testing.assert_allclose(at[[0, 4, 8, 12]], [np.sin(2), np.cos(2), np.sin(1), np.cos(1)])
    np.testing.assert_allclose(at[[3, 11]], [np.sin(2 * slowest), np.sin(1 * slowest)])


def test_fixed_positions_are_no_parameter_and_skip_the_class_token(batch):
    model, params = build(image_position="sincos")
    assert "position_embed" not in params["image"]
    positions = model.module("image").apply({"params": params["image"]}, (2, 2), method="positions")
    np.testing.assert_array_equal(positions[0], 0)
    np.testing.assert_allclose(positions[1:], vision.sincos_2d(2, 2, 32), atol=1e-6)
    assert embed(model, params, batch, "image/embed").shape == (4, 16)


# Pools and padding


@pytest.mark.parametrize(("pool", "position"), [("cls", 0), ("last", 7), ("eot", None)])
def test_text_is_pooled_at_its_token(pool, position, batch):
    model, params = build(text_pool=pool)
    mask = batch["text_mask"]
    if position is None:  # the first end token, which a text may have inside
        end = batch["text"][np.arange(4), mask.sum(axis=1) - 1]
        positions = (batch["text"] == end[:, None]).argmax(axis=1)
        assert (positions < mask.sum(axis=1) - 1).any()
    else:
        positions = np.full(4, position)
    tokens = embed(model, params, batch, "text/tokens")
    picked = tokens[np.arange(4), positions] @ params["text"]["head"]["kernel"]
    expected = picked / np.linalg.norm(picked, axis=1, keepdims=True)
    np.testing.assert_allclose(embed(model, params, batch, "text/embed"), expected, atol=1e-5)


def test_mean_pools_take_every_patch_and_real_tokens_alone(batch):
    model, params = build(
        text_pool="mean", text_causal=False, text_mask_padding=True, image_pool="mean"
    )
    mask = batch["text_mask"][:, :, None]
    tokens = embed(model, params, batch, "text/tokens")
    for name, mean in {
        "text": (tokens * mask).sum(1) / mask.sum(1),
        "image": embed(model, params, batch, "image/tokens").mean(1),
    }.items():
        pooled = mean @ params[name]["head"]["kernel"]
        expected = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        np.testing.assert_allclose(
            embed(model, params, batch, f"{name}/embed"), expected, atol=1e-5
        )


@pytest.mark.parametrize(
    "text",
    [
        {"causal": True, "pool": "eot"},
        {"causal": False, "mask_padding": True, "pool": "eot"},
        {"causal": False, "mask_padding": True, "pool": "mean"},
    ],
)
def test_padding_does_not_reach_the_embedding(text):
    """A trimmed text equals the padded one, whatever ids the padding has."""
    model, params = build(**{f"text_{key}": value for key, value in text.items()})
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 64, (3, 8)).astype(np.int32)
    mask = np.arange(8) < np.array([[2], [5], [4]])
    full = embed(model, params, {"text": ids, "text_mask": mask}, "text/embed")
    trimmed = {"text": ids[:, :5], "text_mask": mask[:, :5]}
    np.testing.assert_allclose(embed(model, params, trimmed, "text/embed"), full, atol=1e-6)
    other = {"text": np.where(mask, ids, 0), "text_mask": mask}
    np.testing.assert_allclose(embed(model, params, other, "text/embed"), full, atol=1e-6)


def test_a_causal_tower_sees_only_what_comes_before():
    model, params = build()
    text, mask = np.full((1, 8), 3, np.int32), np.ones((1, 8), bool)
    changed = text.copy()
    changed[0, 5] = 9
    a = embed(model, params, {"text": text, "text_mask": mask}, "text/tokens")
    b = embed(model, params, {"text": changed, "text_mask": mask}, "text/tokens")
    np.testing.assert_array_equal(a[0, :5], b[0, :5])
    assert (np.abs(a[0, 5:] - b[0, 5:]).max(axis=1) > 1e-4).all()


# Outputs


def test_only_what_is_asked_for_is_computed(batch):
    """The other tower's parameters and inputs need not even exist."""
    model, params = build()
    text = {name: batch[name] for name in ("text", "text_mask")}
    assert embed(model, {"text": params["text"]}, text, "text/embed").shape == (4, 16)
    image = {"image": batch["image"]}
    assert embed(model, {"image": params["image"]}, image, "image/embed").shape == (4, 16)
    scale = embed(model, {"logit_scale": np.log(7.0)}, {}, "logit/scale")
    assert scale == pytest.approx(7.0)


def test_embeddings_are_float32_of_unit_length_also_in_bfloat16(batch):
    config = tiny.config().model
    config.dtype = "bfloat16"
    model = models.from_config(config)
    outputs = jax.jit(functools.partial(model.apply, outputs=model.outputs()))(
        {"params": tiny.params(model)}, batch
    )
    assert outputs["image/tokens"].dtype == outputs["text/tokens"].dtype == jnp.bfloat16
    for name in ("image/embed", "text/embed"):
        assert outputs[name].dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(outputs[name], axis=1), 1, rtol=1e-5)
    assert "logit/bias" not in outputs


# Images of another size


@pytest.mark.parametrize("method", ["cubic", "plain_cubic", "linear"])
def test_positions_for_another_grid_are_those_that_weights_get(method):
    table = np.random.default_rng(0).normal(size=(1 + 4 * 6, 8)).astype(np.float32)
    for new in ((4, 6), (3, 9), (7, 2)):
        found = on_grid(jnp.asarray(table), (4, 6), new, method)
        exact = resize_positions(table, (4, 6), new, class_token=True, method=method)
        np.testing.assert_allclose(found, exact, atol=2e-6)


def test_small_crops_are_what_a_tower_of_their_size_makes_of_each():
    """Three crops of each of two images, [2, 3, 16, 16, 3], through a tower of 32 pixels."""
    large, params = build(image_size=32, image_rope="centres")
    small, _ = build(image_rope="centres")
    crops = np.random.default_rng(1).integers(0, 256, (2, 3, 16, 16, 3), dtype=np.uint8)
    found = embed(large, params, {"image": crops}, "image/embed")
    table = params["image"]["position_embed"]
    own = resize_positions(table, (4, 4), (2, 2), class_token=True)
    resized = {**params, "image": {**params["image"], "position_embed": own}}
    each = embed(small, resized, {"image": crops.reshape(6, 16, 16, 3)}, "image/embed")
    np.testing.assert_allclose(found, each.reshape(2, 3, -1), atol=2e-6)
