"""Runs on images of any shape: every length is compiled before the first step; the same on eight
devices, and after a restart in the middle of a cycle."""

import shutil

import jax
import numpy as np
import pytest
import tiny

from mmjax import data
from mmjax.config import entry
from mmjax.errors import UserError
from mmjax.models.parts import part
from mmjax.parallel import mesh as mesh_lib
from mmjax.training.assemble import Parts, assemble

COMPILED = "/jax/core/compile/backend_compile_duration"
SHAPES = ((24, 12), (12, 24), (8, 32), (16, 16), (32, 9))


@pytest.fixture
def quick():
    """Compiles in a part of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def config(**objective):
    result = tiny.config(lr=3e-3)
    result.model.image = part(
        "naflex", size=16, patch_size=4, patches=8, width=32, depth=1, heads=4, mlp_dim=64,
        unroll=False,
    )  # fmt: skip
    result.model.text.update(depth=1, vocab_size=600)
    rng = np.random.default_rng(0)
    records = [
        {"image": rng.integers(0, 256, (*SHAPES[n % 5], 3), dtype=np.uint8), "text": f"number {n}"}
        for n in range(48)
    ]
    path = data.from_records(records, "strips")
    result.data.train.strips = entry("data.train", path=path)
    result.data.update(image_lengths=(4, 12), token_budget=200, batch_multiple=16)
    result.data.update(tokenizer="captions:600")
    result.data.augment.crop_aspect = "image"
    result.batch_size, result.total_steps, result.optim.microbatches = 32, 5, 2
    result.checkpoint.every, result.log.every, result.log.tensorboard = 2, 1, False
    result.objectives.clip = entry("objectives", **objective)
    return result


def test_no_step_compiles_and_a_restart_in_mid_cycle_changes_no_bit(tmp_path, monkeypatch, quick):
    """On eight devices, in microbatches, with the ring, evaluated at the end."""
    run = config(implementation="ring")
    run.mesh.update(data=4, fsdp=2)
    run.checkpoint.every = 3  # in the second cycle of two steps
    run.evals.found = entry("evals", kind="retrieval", path=run.data.train.strips.path)
    compiled, during, shapes = list[str](), list[int](), list[tuple[int, ...]]()
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(name) if name == COMPILED else None
    )
    build = Parts.compiled_step

    def watched(parts, state):
        step = build(parts, state)

        def call(state, batch):
            before = len(compiled)
            result = step(state, batch)
            during.append(len(compiled) - before)
            shapes.append(batch["image"].shape[:2])
            return result

        return call

    monkeypatch.setattr(Parts, "compiled_step", watched)
    straight, found = tiny.trained(run, tmp_path / "a")
    assert len(compiled) > 2
    assert set(shapes) == {(32, 4), (16, 12)}
    assert np.isfinite(found["loss"])
    assert found["found/image_to_text/R@1"] >= 0
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "checkpoints" / "5")
    resumed, _ = tiny.trained(run, tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, resumed.params, straight.params)
    assert during == [0] * 7
    assert shapes[5:] == shapes[3:5]


def test_first_losses_and_gradients_are_the_same_on_one_device_and_on_eight(quick):
    run = config()
    run.data.update(image_lengths=(), token_budget=0)
    run.optim.microbatches = 1
    one = tiny.loaded_step(run, 1)
    assert np.linalg.norm(one[1]["image"]["position_embed"]) > 1e-4
    tiny.assert_same(tiny.loaded_step(run, 8), one)


def test_an_objective_that_keeps_whole_batches_wants_one_size():
    run = config(kind="infonce", queue=2)
    run.optim.ema = 0.9
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        with pytest.raises(UserError, match=r"objectives.clip keeps arrays.*token_budget=0"):
            assemble(run, mesh)
        run.data.token_budget = 0
        assert len(assemble(run, mesh).batches) == 2
