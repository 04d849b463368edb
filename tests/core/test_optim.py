"""Optimizers against updates written out by hand (and torch's AdamW); rates; schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from pytorch import torch

from mmjax import config as config_lib
from mmjax import models
from mmjax.core import optim
from mmjax.errors import UserError
from mmjax.params import path_string

LR, DECAY, STEPS = 0.01, 0.2, 3


def optim_config(**keys):
    config = config_lib.default().optim
    config.update({"lr": LR, "weight_decay": DECAY, **keys})
    return config


def random_params(seed=0):
    """Every kind of leaf, with two stacked layers."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return {
        "image": {
            "blocks": {
                "mlp": {"fc1": {"kernel": normal(2, 6, 10), "bias": normal(2, 10)}},
                "norm1": {"scale": normal(2, 6), "bias": normal(2, 6)},
            },
            "class_embed": normal(6),
            "position_embed": normal(5, 6),
            "patch_embed": {"kernel": normal(2, 2, 3, 6)},
        },
        "text": {"token_embed": {"embedding": normal(9, 6)}, "head": {"kernel": normal(6, 4)}},
        "logit_scale": normal(),
    }


GRADIENTS = [random_params(seed) for seed in range(1, STEPS + 1)]
MATRICES = {
    "image/blocks/mlp/fc1/kernel", "image/patch_embed/kernel", "text/head/kernel"
}  # fmt: skip


def flat(tree):
    return {path_string(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def trained(config, gradients=GRADIENTS):
    """The flat parameters after each step, as the train step applies updates (rates all 1)."""
    params, result = random_params(), []
    tx = optim.optimizer(config, optim.lr_multipliers(config, params))
    state = tx.init(params)
    for g in gradients:
        updates, state = tx.update(g, state, params)
        params = jax.tree.map(lambda p, u: p + LR * u, params, updates)
        result.append(flat(params))
    return result


def test_adamw_is_torchs_with_decay_on_matrices_only():
    config = optim_config(name="adamw")
    tensors = {p: torch.tensor(x, requires_grad=True) for p, x in flat(random_params()).items()}
    groups = [
        {"params": [t for p, t in tensors.items() if p in MATRICES], "weight_decay": DECAY},
        {"params": [t for p, t in tensors.items() if p not in MATRICES], "weight_decay": 0.0},
    ]
    peer = torch.optim.AdamW(groups, LR, betas=(0.9, 0.98), eps=1e-6)
    for g, ours in zip(GRADIENTS, trained(config), strict=True):
        for path, x in flat(g).items():
            tensors[path].grad = torch.tensor(x)
        peer.step()
        for path, tensor in tensors.items():
            np.testing.assert_allclose(ours[path], tensor.detach(), atol=2e-6, err_msg=path)


def test_lion_takes_the_sign_of_an_interpolated_momentum():
    config = optim_config(name="lion", b1=0.9, b2=0.98)
    history = trained(config)
    for path, start in flat(random_params()).items():
        p, m = start.astype(np.float64), 0.0
        for g, ours in zip(map(flat, GRADIENTS), history, strict=True):
            direction = np.sign(0.9 * m + 0.1 * g[path])
            m = 0.98 * m + 0.02 * g[path].astype(np.float64)
            p = p - LR * (direction + (DECAY * p if path in MATRICES else 0))
            np.testing.assert_allclose(ours[path], p, atol=1e-6, err_msg=path)


def test_adafactor_factors_large_matrices_and_scales_by_the_parameter():
    """Shazeer and Stern, 2018, algorithm 4 (first step, where the decay of the moments is 0)."""
    rng = np.random.default_rng(0)
    p, g = rng.normal(size=(2, 3, 130, 140)).astype(np.float32)  # three stacked layers
    params = {"image": {"blocks": {"mlp": {"fc1": {"kernel": p}}}}}
    tx = optim.optimizer(optim_config(name="adafactor"), jax.tree.map(lambda x: 1.0, params))
    state = tx.init(params)
    grads = {"image": {"blocks": {"mlp": {"fc1": {"kernel": g}}}}}
    update = tx.update(grads, state, params)[0]["image"]["blocks"]["mlp"]["fc1"]["kernel"]

    p, square = p.astype(np.float64), g.astype(np.float64) ** 2
    rows, columns = square.mean(2, keepdims=True), square.mean(1, keepdims=True)
    u = g * np.sqrt(rows.mean(1, keepdims=True) / (rows * columns))
    u = u / max(1.0, np.sqrt((u**2).mean()))
    expected = -(u * np.sqrt((p**2).mean()) + DECAY * p)
    np.testing.assert_allclose(update, expected, rtol=2e-4, atol=1e-5)
    sizes = [x.size for x in jax.tree.leaves(state)]
    assert max(sizes) == 3 * 140  # no moment is as large as the parameter


def test_muon_orthogonalises_each_layer_and_leaves_the_rest_to_adam():
    gradients = GRADIENTS[:1]
    (ours,) = trained(optim_config(name="muon"), gradients)
    for path, p in flat(random_params()).items():
        if path not in MATRICES:  # Adam with Nesterov's momentum (Dozat, 2016), as optax's Muon has
            g = flat(gradients[0])[path]
            nesterov = 0.9 * 0.1 * g / (1 - 0.9**2) + g
            expected = p - LR * nesterov / (np.abs(g) + 1e-6)
            np.testing.assert_allclose(ours[path], expected, atol=2e-6, err_msg=path)
            continue
        update = (p - ours[path]) / LR - DECAY * p
        stacked = path.startswith("image/blocks")
        layers = update if stacked else update.reshape(1, -1, update.shape[-1])
        g = flat(gradients[0])[path].reshape(layers.shape)
        for layer, gradient in zip(layers, g, strict=True):
            # 0.2·sqrt(max side) × the nearest orthogonal matrix, to Newton–Schulz's accuracy.
            orthogonal = layer / (0.2 * np.sqrt(max(layer.shape)))
            u, _, v = np.linalg.svd(gradient, full_matrices=False)
            values = np.linalg.svd(orthogonal, compute_uv=False)
            assert values.min() > 0.6, (path, values)
            assert values.max() < 1.3, (path, values)
            assert (orthogonal * (u @ v)).sum() / min(layer.shape) > 0.8, path


def test_gradients_are_clipped_by_their_global_norm():
    small = jax.tree.map(lambda x: x * 1e-3, GRADIENTS[0])
    (one,) = trained(optim_config(name="adamw", eps=1.0, grad_clip=0.5), GRADIENTS[:1])
    norm = np.sqrt(sum((x**2).sum() for x in jax.tree.leaves(GRADIENTS[0])))
    clipped = jax.tree.map(lambda x: x * (0.5 / norm), GRADIENTS[0])
    (two,) = trained(optim_config(name="adamw", eps=1.0), [clipped])
    for path, x in one.items():
        np.testing.assert_allclose(x, two[path], atol=1e-6)
    (below,) = trained(optim_config(name="adamw", eps=1.0, grad_clip=1e3), [small])
    (free,) = trained(optim_config(name="adamw", eps=1.0), [small])
    for path, x in below.items():
        np.testing.assert_allclose(x, free[path], atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "muon"])
def test_frozen_parameters_have_no_moments_and_no_update(name):
    config = optim_config(name=name, freeze=("image/",), grad_clip=1.0)
    params = random_params()
    tx = optim.optimizer(config, optim.lr_multipliers(config, params))
    state = tx.init(params)
    assert not [p for p in flat(state) if "image" in p.split("/")]
    huge = jax.tree.map(lambda x: x * 1e6, GRADIENTS[0]["image"])
    updates, _ = tx.update({**GRADIENTS[0], "image": huge}, state, params)
    assert all((u == 0).all() for u in jax.tree.leaves(updates["image"]))
    # What is frozen does not count in the norm that clips the rest.
    alone, _ = tx.update(GRADIENTS[0], state, params)
    jax.tree.map(np.testing.assert_array_equal, updates["text"], alone["text"])


def test_rates_multiply_by_pattern_and_layer():
    params = random_params()
    config = optim_config(
        freeze=("image/blocks/0/norm",), lr_scale=(("image/", 0.5), ("image/blocks/1/mlp", 0.1))
    )
    rates = flat(optim.lr_multipliers(config, params))
    np.testing.assert_allclose(rates["image/blocks/mlp/fc1/kernel"].ravel(), [0.5, 0.05])
    assert rates["image/blocks/mlp/fc1/kernel"].shape == (2, 1, 1)
    np.testing.assert_allclose(rates["image/blocks/norm1/scale"].ravel(), [0, 0.5])
    assert rates["image/blocks/norm1/scale"].shape == (2, 1)
    assert rates["image/class_embed"] == 0.5
    assert rates["text/head/kernel"] == 1


def test_only_wholly_frozen_leaves_count_as_frozen():
    params = random_params()
    config = optim_config(freeze=("image/blocks/0/", "text/token_embed"))
    found = flat(optim.frozen(optim.lr_multipliers(config, params)))
    frozen = [path for path, is_frozen in found.items() if is_frozen]
    assert frozen == ["text/token_embed/embedding"]
    everything = optim_config(freeze=("image/blocks/[01]/",))
    assert flat(optim.frozen(optim.lr_multipliers(everything, params)))[
        "image/blocks/mlp/fc1/kernel"
    ]


def test_layer_decay_falls_from_the_output_to_the_embeddings():
    rates = flat(optim.lr_multipliers(optim_config(layer_decay=0.5), random_params()))
    assert rates["text/head/kernel"] == 1
    np.testing.assert_allclose(rates["image/blocks/norm1/bias"].ravel(), [0.25, 0.5])
    assert rates["image/patch_embed/kernel"] == 0.125
    assert rates["image/position_embed"] == rates["image/class_embed"] == 0.125
    assert rates["logit_scale"] == 1


def test_a_pattern_that_matches_nothing_is_named():
    with pytest.raises(UserError, match=r"'txt/' matches no parameter"):
        optim.lr_multipliers(optim_config(freeze=("txt/",)), random_params())
    with pytest.raises(UserError, match=r"image/blocks/2/"):  # there are two layers, 0 and 1
        optim.lr_multipliers(optim_config(lr_scale=(("image/blocks/2/", 0.5),)), random_params())


def test_decay_and_muon_see_the_roles_of_every_architecture():
    for name in models.zoo.list_models():
        shapes = tiny.shapes(models.create(name))
        decayed = {p for p, yes in flat(optim._is_matrix(shapes)).items() if yes}
        assert decayed == {p for p in flat(shapes) if p.endswith("kernel")}
        dims = optim._muon_dimensions(shapes)
        leaves = jax.tree_util.tree_leaves_with_path(
            dims, is_leaf=lambda x: hasattr(x, "reduction_axis")
        )
        assert {path_string(path) for path, _ in leaves} == decayed


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("cosine", {0: 0, 5: 0.5, 10: 1, 60: 0.5, 110: 0, 200: 0}),
        ("linear", {0: 0, 5: 0.5, 10: 1, 35: 0.75, 110: 0, 200: 0}),
        ("constant", {0: 0, 5: 0.5, 10: 1, 110: 1}),
        ("rsqrt", {0: 0, 5: 0.5, 10: 1, 20: 2**-0.5, 40: 0.5}),
    ],
)
def test_schedules_at_their_key_points(name, points):
    fn = optim.schedule(optim_config(schedule=name, warmup_steps=10), 110)
    for step, share in points.items():
        assert float(fn(jnp.asarray(step))) == pytest.approx(share * LR, abs=1e-8), step


def test_without_warm_up_the_first_step_has_the_full_rate():
    for name in ("cosine", "linear", "constant", "rsqrt"):
        assert float(optim.schedule(optim_config(schedule=name), 10)(0)) == pytest.approx(LR)


@pytest.mark.parametrize(
    ("depths", "exponents"),
    [
        # early fusion: the embeddings are below all of its layers
        ((0, 0, 4), {"image/patch_embed/kernel": 5, "text/token_embed/embedding": 5,
                     "fusion/blocks/norm1/bias": (4, 3, 2, 1), "fusion/type_embed": 5}),
        # hybrid: the towers' layers are below those of the fusion
        ((2, 2, 3), {"text/blocks/norm1/bias": (5, 4), "image/blocks/norm1/bias": (5, 4),
                     "image/patch_embed/kernel": 6, "text/norm_post/scale": 3,
                     "fusion/blocks/norm1/bias": (3, 2, 1), "fusion/norm_post/scale": 0,
                     "image/head/kernel": 0, "fusion/match/dense/kernel": 0}),
    ],
)  # fmt: skip
def test_layer_decay_counts_the_layers_of_the_fusion(depths, exponents):
    config = tiny.config()
    config.model.image.depth, config.model.text.depth, fusion = depths
    config.model.fusion = config_lib.entry("model", kind="concat", depth=fusion)
    model = models.from_config(config.model)
    found = optim.lr_multipliers(
        optim_config(layer_decay=0.5), tiny.shapes(model), model.layers_above()
    )
    for path, wanted in exponents.items():
        np.testing.assert_allclose(
            np.ravel(flat(found)[path]), 0.5 ** np.array(wanted), err_msg=path
        )


STAGED = {
    "convnext": ("image", {"size": 64, "width": 16, "stages": (1, 2, 3, 1)}, {
        "stage4/blocks/conv/bias": 1, "stage4/conv/kernel": 1, "stage4/norm/scale": 1,
        "stage3/blocks/layer_scale": (4, 3, 2), "stage3/conv/bias": 4,
        "stage2/blocks/mlp/fc1/kernel": (6, 5), "stage2/conv/kernel": 6,
        "stage1/blocks/conv/kernel": 7, "patch_embed/kernel": 8, "norm_patch/scale": 8,
        "norm_post/scale": 0, "head/kernel": 0}),
    "htsat": ("audio", {"stages": (2, 1, 3)}, {
        "stage3_block2/mlp/fc1/kernel": 1, "stage3_block1/norm1/bias": 2,
        "stage3_block0/attention/position_bias": 3, "stage3_merge/reduction/kernel": 3,
        "stage2_block0/mlp/fc2/bias": 4, "stage2_merge/norm/scale": 4,
        "stage1_block1/norm2/scale": 5, "stage1_block0/attention/out/bias": 6,
        "patch_embed/kernel": 7, "norm_post/scale": 0, "head_fc1/kernel": 0}),
    "resnet": ("image", {"size": 32, "width": 8, "heads": 4, "stages": (1, 1, 2, 1)}, {
        "stage4_block0/conv1/kernel": 1, "stage3_block1/conv3/kernel": 2,
        "stage1_block0/norm_shortcut/bias": 5, "stem/conv1/kernel": 6, "head/kernel": 0}),
}  # fmt: skip


@pytest.mark.parametrize("kind", STAGED)
def test_layer_decay_counts_the_layers_of_all_stages(kind):
    part, keys, exponents = STAGED[kind]
    model = models.zoo.config("tiny-clap" if part == "audio" else "tiny")
    if part == "audio":
        model.audio.update(keys, stage_heads=(2, 4, 8))
    else:
        model.image = config_lib.entry("model", kind=kind, **keys)
    shapes = tiny.shapes(models.from_config(model))
    found = flat(optim.lr_multipliers(optim_config(layer_decay=0.5), shapes))
    for path, wanted in exponents.items():
        np.testing.assert_allclose(
            np.ravel(found[f"{part}/{path}"]), 0.5 ** np.array(wanted), err_msg=path
        )


def test_layer_decay_counts_each_stack_of_a_part():
    """A transformer over frames has layers of its own, above those of a frame."""
    config = tiny.config()
    frame = {key: value for key, value in config.model.image.items() if key != "kind"}
    config.model.image = config_lib.entry("model", kind="video_vit", **(frame | {"depth": 2}))
    config.model.image.update(over_time="transformer", time_depth=3, time_heads=1)
    model = models.from_config(config.model)
    found = flat(optim.lr_multipliers(optim_config(layer_decay=0.5), tiny.shapes(model)))
    for path, wanted in {
        "image/time/blocks/norm1/bias": (3, 2, 1),
        "image/blocks/norm1/bias": (5, 4),
        "image/patch_embed/kernel": 6,
        "image/norm_post/scale": 0,
    }.items():
        np.testing.assert_allclose(np.ravel(found[path]), 0.5 ** np.array(wanted), err_msg=path)
