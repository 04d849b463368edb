"""Model FLOPs of a step are those of formulas on paper, whatever it has to run."""

import jax
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import models
from mmjax.models.flops import forward_flops
from mmjax.models.zoo import config as architecture
from mmjax.parallel import mesh as mesh_lib
from mmjax.training.assemble import assemble

B, W, MLP, DEPTH, D, V = tiny.BATCH, 32, 64, tiny.DEPTH, 16, 64
PATCHES, LENGTH = 4, 8


def config(*names, **fusion):
    result = tiny.config()
    result.model.image.patch_size = 8
    result.model.text.update(causal=False, mask_padding=True, pool="cls", mlm_head=True)
    if fusion:
        result.model.fusion = config_lib.entry("model", **fusion)
    result.objectives = {name: config_lib.entry("objectives") for name in names}
    return result


def counted(run, devices=1, length=LENGTH):
    mesh = mesh_lib.make_mesh(data=devices, devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        parts = assemble(run, mesh)
        texts = {
            name: jax.ShapeDtypeStruct((B, length), parts.batch[name].dtype)
            for name in ("text", "text_mask")
        }
        return parts.flops({**parts.batch, **texts})


def layers(queries, keys, depth=DEPTH):
    """Query, key, value and output; two products of attention; the MLP."""
    linear = 2 * (2 * queries + 2 * keys) * W**2
    return depth * (linear + 4 * queries * keys * W + 4 * queries * W * MLP)


def image(tokens=PATCHES + 1):
    return 2 * PATCHES * (3 * 8**2) * W + layers(tokens, tokens)


HEAD = 2 * W * D
CLIP = image() + layers(LENGTH, LENGTH) + 2 * HEAD


@pytest.mark.parametrize("devices", [1, 8])
def test_contrast_embeds_each_pair_once(devices):
    assert counted(config("clip"), devices) == 3 * B * CLIP


def test_shorter_texts_and_dropped_patches_cost_less():
    assert counted(config("clip"), length=4) == 3 * B * (image() + layers(4, 4) + 2 * HEAD)
    dropped = config("clip")
    dropped.model.image.patch_dropout = 0.5
    assert counted(dropped) == 3 * B * (image(2 + 1) + layers(LENGTH, LENGTH) + 2 * HEAD)


def test_how_the_program_is_cut_and_written_does_not_count():
    other = config("clip")
    other.optim.microbatches = 4
    for tower in (other.model.image, other.model.text):
        tower.update(unroll=True, remat="full")
    assert counted(other) == counted(config("clip"))


def test_early_fusion_runs_the_whole_stack_for_every_pair():
    run = config("matching", kind="concat", depth=3)
    run.objectives.matching.negatives = "uniform"
    run.model.image.depth = run.model.text.depth = 0
    del run.model.logit
    both = PATCHES + 1 + LENGTH
    pair = layers(both, both, depth=3) + 2 * (2 * W) ** 2 + 2 * 2 * W
    assert counted(run) == 3 * B * (image() - layers(PATCHES + 1, PATCHES + 1) + 3 * pair)


def test_masked_language_costs_a_pass_and_the_head_at_its_positions():
    run = config("mlm", kind="cross", depth=1)
    cross = layers(LENGTH, LENGTH, 1) + layers(LENGTH, PATCHES + 1, 1) - 4 * LENGTH * W * MLP
    positions = 2  # 15 % of 8, rounded up
    head = positions * (2 * W**2 + 2 * W * V)
    assert counted(run) == 3 * B * (image() + layers(LENGTH, LENGTH) + cross + head)


def test_teachers_and_averages_have_no_backward_pass():
    run = config("clip", "distill_similarity")
    run.teachers.big = config_lib.entry("teachers", source="random:tiny-siglip")
    run.objectives.distill_similarity.teachers = ("big",)
    theirs = architecture("tiny-siglip")
    shapes = tiny.shapes(models.from_config(theirs))
    assert counted(run) == 3 * B * CLIP + B * forward_flops(theirs, shapes)
    run = config("infonce")
    run.optim.ema = 0.9
    run.objectives.infonce.queue = 2
    assert counted(run) == (3 + 1) * B * CLIP
