"""All objectives in one step: the same on any mesh and in parts; no tower twice for one input."""

import functools

import jax
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import config_check, models, objectives
from mmjax.core.step import total_loss
from mmjax.core.views import run_views
from mmjax.errors import UserError
from mmjax.parallel import mesh as mesh_lib
from mmjax.params import path_string

long = pytest.mark.long

FOUR = ("clip", "mlm", "matching", "caption")
ALL = (*FOUR, "masked_image")
MESHES = {1: (1, 1, 1), 2: (2, 1, 1), 4: (2, 2, 1), 8: (2, 2, 2)}


def config(*names, style="cross", **text):
    result = tiny.config()
    result.model.text.update(causal=False, mask_padding=True, pool="cls", mlm_head=True, **text)
    result.model.image.pixel_head = True
    result.model.fusion.update(style=style, depth=1)
    result.objectives = {name: config_lib.entry("objectives") for name in names}
    return result


@functools.cache
def first_step(devices, style="cross", microbatches=1, names=ALL):
    """(losses by objective, gradients) of the first step, all objectives together."""
    names = [name for name in names if style == "cross" or name != "caption"]
    run_config = config(*names, style=style)
    model = models.from_config(run_config.model)
    goals = objectives.build(run_config.objectives, run_config.model)

    def loss(params, batch):
        key = jax.random.key(7)
        outputs = run_views(model, goals, params, batch, key, microbatches=microbatches)
        return total_loss(goals, outputs, batch)

    sizes = MESHES[devices]
    with jax.set_mesh(mesh_lib.make_mesh(*sizes, jax.devices()[:devices])):
        batch = mesh_lib.put_batch(tiny.batch(run_config.model), tiny.BATCH)
        run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=tiny.QUICK)
        (_, metrics), gradient = run(tiny.params(model), batch)
    losses = {name: float(x) for name, x in metrics.items() if name.startswith("loss/")}
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return losses, {path_string(path): np.asarray(g, np.float64) for path, g in leaves}


def assert_same(ours, truth):
    assert ours[0] == pytest.approx(truth[0], rel=1e-5)
    scale = np.sqrt(sum((g**2).sum() for g in truth[1].values()))
    for path, g in truth[1].items():
        if not path.endswith("key/bias"):  # zero in exact arithmetic
            allowed = 1e-5 * max(np.linalg.norm(g), 1e-2 * scale)
            assert np.linalg.norm(ours[1][path] - g) <= allowed, path


def test_four_objectives_on_eight_devices_are_those_on_one():
    one, eight = (first_step(devices, names=FOUR) for devices in (1, 8))
    assert set(one[0]) == {f"loss/{name}" for name in FOUR}
    assert_same(eight, one)


@long
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_losses_and_gradients_together_are_those_of_one_device(devices):
    assert set(first_step(1)[0]) == {f"loss/{name}" for name in ALL}
    assert_same(first_step(devices), first_step(1))


@long
def test_bottlenecks_split_over_devices():
    assert_same(first_step(8, "bottleneck"), first_step(1, "bottleneck"))


@long
def test_every_part_of_the_model_is_trained():
    for path, g in first_step(1)[1].items():
        assert np.linalg.norm(g) > 0 or path.endswith("key/bias"), path


@long
def test_masks_in_parts_are_those_of_the_whole_batch():
    """Views are made of the whole batch, then cut; nothing here drops patches."""
    assert_same(first_step(1, microbatches=4), first_step(1))


def test_no_tower_runs_twice_for_one_input():
    """FLOPs of all together are at most those of each part once: one image tower for four
    objectives (two, masked, for five), a text tower for each distinct text, a fusion for each view.
    """
    run_config = config(*ALL)
    for tower in (run_config.model.image, run_config.model.text):
        tower.unroll = True  # a loop's body would count once
    model = models.from_config(run_config.model)
    goals = objectives.build(run_config.objectives, run_config.model)
    params, batch = tiny.params(model), tiny.batch(run_config.model)

    def flops(fn, *args):
        return jax.jit(fn).lower(*args).cost_analysis()["flops"]

    def views(params, batch):
        outputs = run_views(model, goals, params, batch, jax.random.key(0))
        return {view: {n: outputs[view][n] for n in names}
                for o, _ in goals.values() for view, names in o.requires.items()}  # fmt: skip

    def part(*names, given=(), rows=1, **columns):
        many = jax.tree.map(lambda x: np.repeat(x, rows, axis=0), {**batch, **columns})
        known = {name: np.repeat(tokens[name], rows, axis=0) for name in given}

        def run(params, batch, known):
            return model.apply({"params": params}, batch, names, given=known)

        return flops(run, params, many, known)

    tokens = model.apply({"params": params}, batch, ("image/tokens", "text/tokens"))
    both = ("image/tokens", "text/tokens")
    masked = np.zeros((tiny.BATCH, 4), bool)
    texts = {"targets": batch["text"]}
    few = {"targets": batch["text"][:, :2], "target_places": batch["text"][:, :2] * 0}
    parts = {
        "images": part("image/tokens", "image/embed"),
        "masked images": part("image/pixels", patch_mask=masked),
        "texts": part("text/tokens", "text/embed"),
        "masked texts": part("text/tokens"),
        "captions": part("text/tokens", text_ar=np.ones_like(batch["text"])),
        "masked language": part("fused_scores", given=both, **few),
        "captioning": part("caption_scores", given=both, **texts),
        "pairs": part("fusion/match", given=both, rows=3),
    }
    together = flops(views, params, batch)
    assert together <= 1.02 * sum(parts.values()), parts
    assert together >= 0.9 * sum(parts.values()), parts
    # Any tower once more would be seen.
    assert min(parts["images"], parts["texts"]) > 0.05 * sum(parts.values())


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("matching", {"style": "none"}, r"matching needs .*'match_logits': set .*fusion\.style"),
        ("mlm", {"style": "none"}, r"mlm needs .*'fused_scores': set .*fusion\.style"),
        ("mlm", {"mlm_head": False}, r"mlm needs .*'fused_scores'.*mlm_head=True"),
        ("caption", {"style": "bottleneck"}, r"caption needs .*bottleneck is not causal"),
    ],
)
def test_what_the_model_cannot_give_is_said_before_the_first_step(name, change, said):
    change = dict(change)
    wrong = config(name, style=change.pop("style", "cross"))
    wrong.model.text.update(**change)
    model = models.from_config(wrong.model)
    goals = objectives.build(wrong.objectives, wrong.model)
    with pytest.raises(UserError, match=said):
        config_check.validate_outputs(goals, model.outputs())


def test_contrast_of_an_early_fusion_is_refused():
    wrong = config("clip", style="concat")
    wrong.model.image.depth = wrong.model.text.depth = 0
    model = models.from_config(wrong.model)
    with pytest.raises(UserError, match=r"clip needs .*'image_embed': .*depth 0 embeds nothing"):
        config_check.validate_outputs(objectives.build(wrong.objectives), model.outputs())
