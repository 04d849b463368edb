"""Runs that choose their examples with a teacher: gone on with, and from a stage on."""

import json
import shutil

import jax
import numpy as np
import pytest
import tiny

from mmjax.config import entry
from mmjax.parallel import mesh as mesh_lib
from mmjax.runs.stages import phases
from mmjax.training import loop
from mmjax.training.assemble import assemble

STEPS = 3


@pytest.fixture
def quick():
    """Compiles in a part of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def config():
    """Steps of 16 examples out of 32."""
    result = tiny.config(lr=1e-3)
    result.model.logit.bias = -3.0
    result.model.image.depth = result.model.text.depth = 1
    result.model.text.vocab_size = 600
    del result.objectives.clip
    result.objectives.siglip = entry("objectives")
    result.teachers.big = entry("teachers", source="random:tiny-siglip", dtype="float32")
    result.data.train.made = entry("data.train", path="generated:96")
    result.data.update(tokenizer="captions:600", workers=0)
    result.data.curation.update(keep=0.5, teacher="big", chunks=4)
    result.total_steps = STEPS
    result.checkpoint.update(every=1, keep=STEPS)
    result.log.update(every=1, tensorboard=False)
    return result


def logged(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines if "loss" in line}


def test_a_run_that_chooses_goes_on_to_the_bit(tmp_path, quick):
    state = loop.train(config(), str(tmp_path / "whole"))
    whole = logged(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / str(STEPS))
    resumed = loop.train(config(), str(tmp_path / "resumed"))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    last = whole[STEPS]
    assert last["data/examples"] == 32 * STEPS  # that were loaded
    assert last["loaded_examples_per_second"] == pytest.approx(2 * last["examples_per_second"])
    assert all(line["curation/kept"] > line["curation/all"] for line in whole.values())


def test_a_stage_may_begin_to_choose():
    """The teacher is there from then on alone, and more examples are loaded."""
    run = config()
    run.data.curation.keep = 1.0
    run.total_steps = 4
    run.stages.chosen = entry("stages", start=0.5, changes=("data.curation.keep=0.25",))
    before, after = phases(run)
    assert (list(before.config.teachers), list(after.config.teachers)) == ([], ["big"])
    assert (before.seen, after.seen) == (0, 2 * 16)
    with jax.set_mesh(mesh := mesh_lib.make_mesh()):
        sizes = [assemble(p.config, mesh, p).batch["image"].shape[0] for p in (before, after)]
    assert sizes == [16, 64]
