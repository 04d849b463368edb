"""Runs whose keys change on the way and whose objectives begin late."""

import functools
import json
import shutil
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import mmjax
from mmjax import config_check
from mmjax.config import entry, set_key
from mmjax.core.optim import ema_decay, schedule
from mmjax.data.buckets import buckets_of
from mmjax.errors import UserError
from mmjax.interop.resize import resize_positions
from mmjax.parallel import mesh as mesh_lib
from mmjax.planning.command import by_phase
from mmjax.runs.stages import phase_of, phases
from mmjax.training import loop
from mmjax.training.assemble import assemble
from mmjax.training.carry import carried

STEPS, LARGER, BEGINS = 6, 2, 4


def config(**more):
    """Two steps of small pictures, two of larger ones, two with a second objective."""
    result = tiny.config(lr=1e-3, schedule="cosine", b2=0.999, **more)
    result.model.image.update(pixel_head=True, depth=1)
    result.model.text.update(depth=1, vocab_size=600)
    result.data.train.made = entry("data.train", path="generated:48")
    result.data.update(tokenizer="captions:600", workers=0)
    result.total_steps = STEPS
    result.checkpoint.update(every=1, keep=STEPS)
    result.log.update(every=1, tensorboard=False)
    changes = ("model.image.size=32", "optim.lr=5e-4", "batch_size=8")
    result.stages.larger = entry("stages", start=LARGER / STEPS, changes=changes)
    result.objectives.hidden = entry("objectives", kind="masked_image", start=BEGINS / STEPS)
    return result


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workdir of the run and its last state."""
    folder = tmp_path_factory.mktemp("stages") / "run"
    return folder, loop.train(config(), str(folder))


def same_bits(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def logged(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines if "loss" in line}


@pytest.mark.parametrize("step", [1, LARGER, BEGINS, 5])
def test_a_run_goes_on_in_a_stage_and_between_two(whole, tmp_path, step):
    folder, last = whole
    shutil.copytree(folder, tmp_path / "run")
    for later in (tmp_path / "run" / "checkpoints").iterdir():
        if later.name.isdigit() and int(later.name) > step:
            shutil.rmtree(later)
    same_bits(loop.train(config(), str(tmp_path / "run")), last)
    mine, theirs = logged(tmp_path / "run"), logged(folder)
    assert {s: mine[s]["loss"] for s in theirs} == {s: theirs[s]["loss"] for s in theirs}


def test_weights_of_every_stage_are_of_its_size(whole):
    folder, last = whole
    small = mmjax.load(str(folder / "checkpoints" / str(LARGER)))
    large = mmjax.load(str(folder / "checkpoints" / str(LARGER + 1)))
    assert (small.config.model.image.size, large.config.model.image.size) == (16, 32)
    newest = mmjax.load(str(folder))
    assert newest.config.model.image.size == 32
    same_bits(newest.params, {k: v for k, v in last.params.items() if k != "objectives"})


def test_the_first_step_of_an_objective_moves_its_parameters_as_a_first_step(whole):
    """Adam's counts are its own: with the run's, b2=0.999 would let them move 3.2 times as far."""
    folder, last = whole
    before, after = (mmjax.load(str(folder / "checkpoints" / str(s))).params["image"]
                     for s in (BEGINS, BEGINS + 1))  # fmt: skip
    rate = logged(folder)[BEGINS + 1]["lr"]
    moved = np.abs(after["mask_embed"] - np.asarray(before["mask_embed"])).max()
    assert 0.9 * rate < moved <= 1.001 * rate
    moved = np.abs(after["class_embed"] - np.asarray(before["class_embed"])).max()
    assert moved > 0
    counts = {
        jax.tree_util.keystr(path): int(x)
        for path, x in jax.tree_util.tree_leaves_with_path(last.opt_state)
        if jax.tree_util.keystr(path).endswith(".count")
    }
    assert {n for path, n in counts.items() if "objective hidden" in path} == {STEPS - BEGINS}
    assert {n for path, n in counts.items() if "'trained'" in path} == {STEPS}


def test_other_objectives_do_not_see_that_one_begins(whole, tmp_path):
    folder, _ = whole
    alone = config()
    del alone.objectives.hidden
    loop.train(alone, str(tmp_path / "alone"))
    mine, theirs = logged(tmp_path / "alone"), logged(folder)
    for step in range(1, BEGINS + 1):
        assert theirs[step]["loss/clip"] == mine[step]["loss/clip"]
    # A step that begins from the same parameters.
    assert theirs[BEGINS + 1]["loss/clip"] == pytest.approx(mine[BEGINS + 1]["loss/clip"], rel=1e-5)
    assert "loss/hidden" not in theirs[BEGINS]
    assert theirs[BEGINS + 1]["loss/hidden"] > 0


@functools.cache
def states(fresh):
    """(the end of one phase with moments, what the next begins with)."""
    run = config(ema=0.5)
    run.stages.larger.fresh = fresh
    first, second, _ = phases(run)
    return over(first, second)


def over(first, second):
    """The states of noise at the end of one phase and at the start of the next, and that phase."""
    mesh = mesh_lib.make_mesh(2, 2, 1, jax.devices()[:4])
    with jax.set_mesh(mesh):
        before, after = (assemble(phase.config, mesh, phase) for phase in (first, second))

        def noise(path, x):
            rng = np.random.default_rng(zlib.crc32(jax.tree_util.keystr(path).encode()))
            made = np.abs(rng.normal(size=x.shape)) if x.ndim else np.full((), LARGER)
            return jax.device_put(made.astype(x.dtype), x.sharding)

        state = jax.tree_util.tree_map_with_path(noise, before.state)
        return state, carried(state, before, after, second, mesh), second


def test_what_a_stage_takes_over_and_what_it_resizes():
    old, new, phase = states(False)
    same_bits(new.params["text"], old.params["text"])
    same_bits(new.params["image"]["blocks"], old.params["image"]["blocks"])
    assert (int(new.step), float(new.loss_mean)) == (LARGER, 0)
    for tree in ("params", "ema"):
        was, now = (np.asarray(getattr(s, tree)["image"]["position_embed"]) for s in (old, new))
        grid = phase.config.model.image.size // phase.config.model.image.patch_size
        expected = resize_positions(was, (grid // 2,) * 2, (grid,) * 2, class_token=True,
                                    method="cubic")  # fmt: skip
        np.testing.assert_allclose(now, expected, atol=1e-6)
    was, now = (dict(tiny_paths(s.opt_state)) for s in (old, new))
    for path, x in now.items():
        if x.shape == was[path].shape:
            np.testing.assert_array_equal(x, was[path])
        else:
            assert path.endswith("image/position_embed")
            assert was[path].min() <= x.min() < x.max() <= was[path].max()
    kernel = new.params["image"]["blocks"]["mlp"]["fc1"]["kernel"]
    assert (
        kernel.sharding.spec == old.params["image"]["blocks"]["mlp"]["fc1"]["kernel"].sharding.spec
    )


def test_teacher_and_student_begin_as_equals():
    run = config(ema=0.9)
    run.stages, run.objectives = {}, {"clip": run.objectives.clip}
    run.model.image.mask_token = True
    heads = {"prototypes": 8, "hidden": 8, "bottleneck": 4}
    run.objectives.hidden = entry("objectives", kind="masked_distill", start=0.5, **heads)
    old, new, phase = over(*phases(run))
    assert phase.begins == {"hidden"}
    same_bits(new.ema, new.params)
    for part in ("blocks", "class_embed"):
        same_bits(new.params["image"][part], old.params["image"][part])
    assert (np.asarray(old.ema["image"]["class_embed"])
            != np.asarray(old.params["image"]["class_embed"])).any()  # fmt: skip
    # What it alone trains is random, not what waited for it.
    assert (np.asarray(new.params["image"]["mask_embed"])
            != np.asarray(old.params["image"]["mask_embed"])).all()  # fmt: skip
    head = new.params["objectives"]["hidden"]
    assert 0.01 < np.asarray(head["fc1"]["kernel"]).std() < 0.03  # as it is initialised


def test_a_fresh_stage_has_no_moments():
    old, new, phase = states(True)
    assert all(not np.asarray(x).any() for x in jax.tree.leaves(new.opt_state))
    same_bits(new.params["text"], old.params["text"])
    same_bits(new.ema["text"], old.ema["text"])
    assert phase.schedule == (LARGER, STEPS)
    rate = schedule(phase.config.optim, phase.schedule[1], phase.schedule[0])
    assert [float(rate(n)) for n in (LARGER, STEPS)] == pytest.approx([5e-4, 0])


def tiny_paths(tree):
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(x)


def test_phases_follow_from_the_shares():
    run = config()
    run.total_steps, run.objectives.hidden.stop = 100, 0.9
    run.objectives.hidden.start = 0.29  # · 100 is 28.999…
    found = phases(run)
    assert [(p.start, p.stop) for p in found] == [(0, 29), (29, 33), (33, 90), (90, 100)]
    assert [sorted(p.config.objectives) for p in found] == [
        ["clip"], ["clip", "hidden"], ["clip", "hidden"], ["clip"]
    ]  # fmt: skip
    assert [p.config.batch_size for p in found] == [16, 16, 8, 8]
    assert [p.seen for p in found] == [0, 29 * 16, 33 * 16, 33 * 16 + 57 * 8]
    assert [p.begins for p in found] == [set(), {"hidden"}, set(), set()]
    assert [phase_of(run, n).start for n in (33, 34)] == [29, 33]
    assert all(phases(p.config)[0].config is p.config for p in found)
    assert list(by_phase(run)) == [f" from step {n}" for n in (0, 29, 33, 90)]
    assert buckets_of(found[2].config)(57)[0] == 57 * 8
    plain = tiny.config()
    assert phases(plain)[0].config is plain
    assert phase_of(plain, plain.total_steps + 1).config is plain  # a run that was made shorter
    run.total_steps, run.objectives.hidden.start = 2, 0.0
    (only,) = phases(run)[:1]
    assert (only.config.batch_size, only.config.stages.to_dict()) == (8, {})  # it begins at once


def test_cooldown_and_the_average_that_slows_down():
    optim = tiny.config(schedule="constant", lr=1.0, warmup_steps=2, cooldown_steps=4).optim
    rate = schedule(optim, 10)
    assert [float(rate(n)) for n in range(11)] == [0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    optim = tiny.config(ema=0.9, ema_end=1.0).optim
    steps = jnp.array([1000, 2000])
    found = ema_decay(optim, steps, 2000)
    np.testing.assert_allclose(found, [0.95, (1 + 2000) / (10 + 2000)], atol=1e-6)
    assert float(ema_decay(optim, jnp.array(0), 2000)) == pytest.approx(0.1)


BAD = {
    "no value": (("stages.larger.changes", ("optim.lr",)), "should be KEY=VALUE"),
    "no such key": (("stages.larger.changes", ("optim.lrr=1",)), r"the nearest is .*optim\.lr"),
    "no such part": (
        ("stages.larger.changes", ("data.train.other.weight=1.0",)),
        r"the config has no config\.data\.train\.other",
    ),
    "another type": (("stages.larger.changes", ("optim.lr=fast",)), r"optim\.lr='fast' must be"),
    "of the whole run": (("stages.larger.changes", ("seed=3",)), "seed is the same in the whole"),
    "another source": (
        ("stages.larger.changes", ("data.train.made.path=x",)), "is the same in the whole run",
    ),
    "keys that do not fit": (
        ("stages.larger.changes", ("data.text_lengths=(4,99)",)), r"From step 2 on: .*99 is above",
    ),
    "begins at its end": (("objectives.hidden.stop", 0.5), "is not before its stop"),
    "nothing is trained": (("objectives.clip.start", 0.5), "From step 0 on: .*has no objective"),
    "a cooldown beside a cosine": (("optim.cooldown_steps", 2), "falls to 0 by itself"),
    "an end of no average": (("optim.ema_end", 1.0), "an average that is not kept"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_stages_are_a_sentence(case):
    (path, value), said = BAD[case]
    run = config()
    run.objectives.hidden.start = 0.7
    set_key(run, path, value)
    with pytest.raises(UserError, match=said):
        config_check.validate(run)


def test_two_stages_begin_at_two_steps():
    run = config()
    run.stages.other = entry("stages", start=LARGER / STEPS)
    with pytest.raises(UserError, match="begin at the same share of the run"):
        config_check.validate(run)


def test_the_length_of_a_run_with_stages_stays(whole):
    longer = config()
    longer.total_steps = 12
    with pytest.raises(UserError, match="total_steps=6"):
        loop.train(longer, str(whole[0]), adjust=True)


def test_a_shape_that_cannot_be_carried_is_refused_before_the_first_step(tmp_path):
    run = config()
    run.stages.larger.changes = ("model.image.width=64",)
    with pytest.raises(UserError, match="the stage before"):
        loop.train(run, str(tmp_path / "run"))
