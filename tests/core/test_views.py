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
from mmjax.models.tokens import token_nll
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
    if style != "none":
        result.model.fusion = config_lib.entry("model", kind=style, depth=1)
    result.objectives = {name: config_lib.entry("objectives") for name in names}
    return result


@functools.cache
def first_step(devices, style="cross", microbatches=1, names=ALL):
    """(losses by objective, gradients) of the first step, all objectives together."""
    names = [name for name in names if style == "cross" or name != "caption"]
    run_config = config(*names, style=style)
    model = models.from_config(run_config.model)
    built = objectives.build(run_config.objectives, run_config.model)

    def loss(params, batch):
        key = jax.random.key(7)
        outputs = run_views(model, built, params, batch, key, microbatches=microbatches)
        return total_loss(built, outputs, batch)

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
    built = objectives.build(run_config.objectives, run_config.model)
    params, batch = tiny.params(model), tiny.batch(run_config.model)

    def flops(fn, *args):
        return jax.jit(fn).lower(*args).cost_analysis()["flops"]

    def views(params, batch):
        outputs = run_views(model, built, params, batch, jax.random.key(0))
        local = {name: outputs[f"local/{name}"] for name, (o, _) in built.items() if o.local}
        return local, {view: {n: outputs[view][n] for n in names}
                       for o, _ in built.values() if not o.local
                       for view, names in o.requires.items()}  # fmt: skip

    def many(rows, given, columns):
        known = {**batch, **{name: tokens[name] for name in given}, **columns}
        return jax.tree.map(lambda x: np.repeat(x, rows, axis=0), known)

    def part(*names, given=(), rows=1, **columns):
        def run(params, known):
            return model.apply({"params": params}, known, names)

        return flops(run, params, many(rows, given, columns))

    def predicted(positions, **columns):
        """A fusion and the head at so many positions of each text."""

        def run(params, known):
            outputs = model.apply({"params": params}, known, ("fusion/tokens", "text/lm_head"))
            head = outputs["text/lm_head"]
            hidden = head.hidden(outputs["fusion/tokens"][:, :positions])
            return token_nll(hidden, known["text"][:, :positions], head.unembedding())

        return flops(run, params, many(1, both, columns))

    both = ("image/tokens", "text/tokens")
    tokens = model.apply({"params": params}, batch, both)
    masked, ar = np.zeros((tiny.BATCH, 4), bool), np.ones_like(batch["text"])
    parts = {
        "images": part("image/tokens", "image/embed"),
        "masked images": part("image/pixels", image_patch_mask=masked),
        "texts": part("text/tokens", "text/embed"),
        "masked texts": part("text/tokens"),
        "captions": part("text/tokens", text_ar=ar),
        "masked language": predicted(2),
        "captioning": predicted(8, text_ar=ar),
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
        (
            "matching",
            {"style": "none"},
            r"matching needs .*'fusion/match': add config\.model\.fusion = ",
        ),
        ("mlm", {"style": "none"}, r"mlm needs .*'fusion/tokens': add config\.model\.fusion = "),
        ("mlm", {"mlm_head": False}, r"mlm needs .*'text/lm_head'.*mlm_head=True"),
        (
            "caption",
            {"style": "bottleneck"},
            r"objectives\.caption: a bottleneck is not causal: set .*fusion\.kind",
        ),
    ],
)
def test_what_the_model_cannot_give_is_said_before_the_first_step(name, change, said):
    change = dict(change)
    wrong = config(name, style=change.pop("style", "cross"))
    wrong.model.text.update(**change)
    model = models.from_config(wrong.model)

    def check():
        built = objectives.build(wrong.objectives, wrong.model)
        config_check.validate_outputs(built, model.outputs())

    with pytest.raises(UserError, match=said):
        check()


def test_a_part_that_is_not_there_is_named():
    model = models.from_config(config("clip").model)
    entry = config_lib.entry("objectives", kind="clip", of=("image", "sound"))
    with pytest.raises(UserError, match=r"'sound/embed': there is no part 'sound' .* has .*image"):
        config_check.validate_outputs(objectives.build({"clip": entry}), model.outputs())


def test_contrast_of_an_early_fusion_is_refused():
    wrong = config("clip", style="concat")
    wrong.model.image.depth = wrong.model.text.depth = 0
    del wrong.model.logit
    model = models.from_config(wrong.model)
    with pytest.raises(UserError, match=r"clip needs .*'image/embed': .*depth 0 embeds nothing"):
        config_check.validate_outputs(objectives.build(wrong.objectives), model.outputs())
