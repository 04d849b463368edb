"""MIL-NCE with bags of captions: values and gradients against float64 NumPy, on every number of
devices, and a run from records with captions to the loss."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import config_check, models, objectives
from mmjax.errors import UserError
from mmjax.objectives import Own
from mmjax.objectives.mil_nce import mil_nce_loss
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import ring
from mmjax.training.assemble import assemble

B, K, D = 16, 3, 12
HOW = ("dense", "ring")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(ring, "TILE_ENTRIES", 8)


@functools.cache
def bags(fewer, spread=1.0):
    """Clips, captions, and which captions there are; `fewer`: some bags have less than K, of which
    one is empty."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(B, D)) * spread
    y = x[:, None] / 2 + rng.normal(size=(B, K, D))
    there = np.arange(K) < rng.integers(1, K + 1, (B, 1)) if fewer else np.ones((B, K), bool)
    if fewer:
        there[5] = False
        assert 0.3 < there.mean() < 0.9
    return x.astype(np.float32), y.astype(np.float32), there


def truth(x, y, scale, there):
    """(value, (dx, dy, dscale)) in float64: each clip's denominator is the union of its row and of
    its captions' columns, so that a pair is in it once."""
    x, y = x.astype(np.float64), y.astype(np.float64).reshape(-1, y.shape[2])
    logits, clips = scale * x @ y.T, np.flatnonzero(there.any(axis=1))
    valid = there.reshape(-1) & there.any(axis=1)[:, None]
    owner = np.repeat(np.arange(len(x)), there.shape[1])
    value, g = 0.0, np.zeros(logits.shape)
    for i in clips:
        seen, own = np.zeros(logits.shape, bool), np.zeros(logits.shape, bool)
        seen[i], seen[:, owner == i], own[i, owner == i] = True, True, True
        seen, own = seen & valid, own & valid
        value += oracle.lse(logits[seen], 0) - oracle.lse(logits[own], 0)
        g[seen] += oracle.softmax(logits[seen], 0)
        g[own] -= oracle.softmax(logits[own], 0)
    value, g = value / max(len(clips), 1), g / max(len(clips), 1)
    return value, (scale * g @ y, (scale * g.T @ x).reshape(len(x), -1, x.shape[1]),
                   (g * (x @ y.T)).sum())  # fmt: skip


@functools.cache
def jitted(how):
    loss = functools.partial(mil_nce_loss, implementation=how)
    return jax.jit(jax.value_and_grad(lambda x, y, s, t: loss(x, y, s, there=t), (0, 1, 2)))


def check(x, y, scale, there, how, devices):
    expected, exact = truth(x, y, scale, np.ones(y.shape[:2], bool) if there is None else there)
    with jax.set_mesh(mesh_lib.make_mesh(devices=jax.devices()[:devices])):
        names = {"x": x, "y": y} | ({} if there is None else {"there": there})
        put = mesh_lib.put_batch(names, len(x))
        value, gradients = jitted(how)(put["x"], put["y"], scale, put.get("there"))
    top = scale * np.abs(x @ y.reshape(-1, D).T).max()  # logits have top · 2^-24 of rounding
    assert abs(value - expected) <= 3e-7 * max(top, expected, 1)
    for ours, true in zip(gradients, exact, strict=True):
        assert np.abs(ours - true).max() <= max(1e-5, 5e-7 * top) * np.abs(true).max()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_value_and_gradients_equal_float64(devices, how):
    for scale, spread in ((0.1, 1.0), (1.0, 1.0), (1.0, 4.0)):
        check(*bags(False, spread)[:2], scale, None, how, devices)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_captions_that_are_not_there_are_in_no_sum(devices, how):
    x, y, there = bags(True)
    check(x, y, 1.0, there, how, devices)
    changed = np.where(there[:, :, None], y, 1e3)
    check(x, changed, 1.0, there, how, devices)


@pytest.mark.parametrize("how", HOW)
def test_without_any_caption_the_loss_and_its_gradients_are_0(how):
    x, y, there = bags(False)
    with jax.set_mesh(mesh_lib.make_mesh(devices=jax.devices()[:4])):
        value, gradients = jitted(how)(x, y, 1.0, np.zeros_like(there))
    assert value == 0
    assert all((g == 0).all() for g in gradients)


@pytest.mark.parametrize("how", HOW)
def test_a_batch_of_one_is_0(how):
    """The authors' code has the positives twice in the denominator, and gives log 2."""
    x, y, _ = bags(False, 3.0)
    value, gradients = jitted(how)(x[:1], y[:1], 1.0, None)
    assert value == pytest.approx(0, abs=1e-6)
    assert all(np.abs(g).max() < 1e-6 for g in gradients)


def test_is_the_authors_formula_but_for_the_positives_that_it_has_twice():
    """antoine77340/MIL-NCE_HowTo100M, loss.py, in float64."""
    x, y, _ = bags(False)
    logits = (x.astype(np.float64) @ y.reshape(-1, D).T.astype(np.float64)).reshape(B, B, K)
    both = np.concatenate([logits, logits.transpose(1, 0, 2)], axis=1).reshape(B, -1)
    twice = oracle.lse(both, 1)
    hits = oracle.lse(np.einsum("iik->ik", logits), 1)
    once = np.log(np.exp(twice - twice) - np.exp(hits - twice)) + twice
    assert float(mil_nce_loss(x, y)) == pytest.approx((once - hits).mean(), rel=1e-6)
    assert float(mil_nce_loss(x, y)) < (twice - hits).mean() - 1e-3


def test_shapes_that_do_not_fit_are_a_sentence():
    x, y, _ = bags(False)
    with pytest.raises(UserError, match=r"captions \[B, K, D\], and has \[16, 12\] and \[8, 3, 12"):
        mil_nce_loss(jnp.asarray(x), jnp.asarray(y[:8]))


def test_a_tower_sees_each_caption_of_a_bag_by_itself():
    model = models.from_config(run().model)
    params = {"params": tiny.params(model)}
    rng = np.random.default_rng(0)
    text, mask = rng.integers(0, 600, (4, K, 8)), np.arange(8) < rng.integers(2, 9, (4, K, 1))
    names, columns = ("text/features", "text/embed", "text/tokens"), ("text", "text_mask")
    run_it = jax.jit(lambda *x: model.apply(params, dict(zip(columns, x, strict=True)), names))
    found = run_it(text, mask)
    for k in range(K):
        alone = run_it(text[:, k], mask[:, k])
        for name in names:
            np.testing.assert_allclose(found[name][:, k], alone[name], atol=1e-5)


def run(**keys):
    config = tiny.config(lr=1e-3)
    config.model.text.update(vocab_size=600, bag=K)
    config.objectives = {}
    config.objectives.mil = config_lib.entry("objectives", kind="mil_nce", **keys)
    config.data.train.shapes = config_lib.entry("data.train", path="generated:96")
    config.data.tokenizer = "captions:600"
    config.total_steps = 60
    config.evals.shapes = config_lib.entry(
        "evals", kind="retrieval", path="generated:24", candidates="captions"
    )
    config.evals.held = config_lib.entry("evals", kind="loss", path="generated:24", batch_size=24)
    return config


def test_first_losses_and_gradients_are_the_same_on_one_device_and_on_eight():
    one = tiny.loaded_step(run(), 1)
    ring_ = run(implementation="ring")
    tiny.assert_same(tiny.loaded_step(ring_, 8), one)
    assert np.linalg.norm(one[1]["text"]["head"]["kernel"]) > 1e-3


def test_it_trains_in_microbatches_finds_texts_by_images_and_is_planned(tmp_path):
    """Records have two captions: the third of each bag is not there."""
    config = run()
    config.optim.microbatches = 2
    _, found = tiny.trained(config, tmp_path)
    assert found["shapes/image_to_text/R@5"] > 0.6  # of 48 texts, two of them right
    assert found["held/loss/mil"] < found["loss/mil"] + 1 < 4
    assert tiny.planned(config).fits


def test_embeddings_of_unit_length_and_the_learned_scale_are_keys():
    loss, _ = objectives.build(run(normalise=True, temperature=0.0).objectives)["mil"]
    assert loss.requires["plain"] == ("image/embed", "text/embed", "logit/scale")
    x, y, there = bags(True)
    outputs = {"image/embed": x, "text/embed": y, "logit/scale": 3.0}
    found, _ = loss.loss({"plain": outputs}, {"text_there": jnp.asarray(there)}, Own())
    assert float(found) == pytest.approx(truth(x, y, 3.0, there)[0], rel=1e-5)
    plain, _ = objectives.build(run(temperature=0.5).objectives)["mil"]
    assert plain.requires["plain"] == ("image/features", "text/features")
    outputs = {"image/features": x, "text/features": y}
    found, _ = plain.loss({"plain": outputs}, {}, Own())
    assert float(found) == pytest.approx(truth(x, y, 2.0, there | True)[0], rel=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.model.text.update(bag=0), "set config.model.text.bag"),
        (
            lambda c: c.objectives.update(clip=config_lib.entry("objectives")),
            "config.objectives.clip takes one caption an example, and config.model.text.bag=3",
        ),
        (
            lambda c: c.model.update(f=config_lib.entry("model", kind="cross")),
            "config.model.text.bag=3 is for a text tower by itself",
        ),
    ],
)
def test_what_does_not_go_with_bags_is_said(change, said):
    config = run()
    change(config)
    with pytest.raises(UserError, match=re.escape(said)):
        start(config)


def start(config):
    config_check.validate(config)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        assemble(config, mesh)
