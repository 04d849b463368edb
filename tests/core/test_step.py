"""The train step: its update written out in float64, bad losses, microbatches, views."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import models, objectives
from mmjax.core import step as step_lib
from mmjax.core.views import run_views
from mmjax.objectives import Objective, View
from mmjax.parallel import mesh as mesh_lib
from mmjax.params import path_string, role


@pytest.fixture(scope="session")
def strained():
    """A run with everything on, and an objective that the batch's `label` breaks: 1 is well, 0
    makes a NaN gradient of a finite loss, -1 a NaN loss. States and metrics of five steps."""

    @objectives.register("breakable")
    def breakable():
        def loss(outputs, batch, own):
            x = batch["label"].astype(jnp.float32).mean() * outputs["plain"]["logit/scale"]
            return -jnp.sqrt(x), {"x": x}

        return Objective({"plain": ("logit/scale",)}, loss)

    config = tiny.config(
        schedule="rsqrt",
        ema=0.9,
        freeze=("image/blocks/0/", "text/token_embed", "text/norm_post"),
        lr_scale=(("image/", 0.5), ("image/blocks/1/mlp", 0.25), ("logit_scale", 1000.0)),
    )
    config.objectives.breakable = config_lib.entry("objectives", weight=5.0)
    config.model.logit.max = 20.0
    run = tiny.run(config)
    del objectives.REGISTRY["breakable"]
    states, metrics = [run.state], []
    for step, label in enumerate([1, 1, -1, 0, 1]):
        batch = tiny.batch(config.model, seed=step)
        run.state, (measured,) = run.steps(batch | {"label": np.full(tiny.BATCH, label)})
        states.append(run.state)
        metrics.append(measured)
    return config, states, metrics


def flat(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_string(path): np.asarray(leaf, np.float64) for path, leaf in leaves}


def test_the_first_update_is_adamw_with_the_rates_of_the_config(strained):
    """Decay on matrices only, frozen layers and leaves untouched, factors multiplied."""
    config, states, _ = strained
    before, after = flat(states[0].params), flat(states[1].params)
    gradient = flat(tiny.first_gradient(states[1]))
    for path, p in before.items():
        rate = np.ones(tiny.DEPTH if role(path).stacked else 1)
        if path.startswith("image/"):
            rate *= 0.5
        if path.startswith("image/blocks/"):
            rate[0] = 0
        if path.startswith("image/blocks/mlp"):
            rate[1] *= 0.25
        if path.startswith(("text/token_embed", "text/norm_post")):
            rate *= 0
        rate = rate.reshape(-1, *(1,) * (p.ndim - 1)) if role(path).stacked else rate[0]
        if path == "logit_scale":
            rate = 1000.0
        g = gradient.get(path, 0.0)  # wholly frozen parameters have no moments
        decay = config.optim.weight_decay if path.endswith("kernel") else 0.0
        direction = g / (np.abs(g) + config.optim.eps) + decay * p
        expected = p - config.optim.lr * rate * direction
        if path == "logit_scale":
            expected = np.clip(expected, 0, np.log(20.0))
        if path.endswith("key/bias"):  # its gradient is rounding, to be divided by its own size
            continue
        np.testing.assert_allclose(after[path], expected, atol=2e-6, err_msg=path)


def test_what_is_frozen_stays_bit_for_bit_and_all_else_moves(strained):
    _, states, _ = strained
    before, after = flat(states[0].params), flat(states[-1].params)
    for path, p in before.items():
        if path.startswith(("text/token_embed", "text/norm_post")):
            np.testing.assert_array_equal(after[path], p)
        elif path.startswith("image/blocks/"):
            np.testing.assert_array_equal(after[path][0], p[0])
            assert (after[path][1] != p[1]).any(), path
        else:
            assert (after[path] != p).any(), path


def test_wholly_frozen_parameters_have_no_moments(strained):
    _, states, _ = strained
    moments = {p.split("/mu/")[1] for p in flat(states[0].opt_state) if "/mu/" in p}
    frozen = set(flat(states[0].params)) - moments
    assert frozen == {
        "text/token_embed/embedding", "text/norm_post/scale", "text/norm_post/bias"
    }  # fmt: skip


def test_frozen_layers_count_in_no_gradient_norm(strained):
    """And so in no clipping, which is by the same gradients."""
    _, states, metrics = strained
    gradient = flat(tiny.first_gradient(states[1]))
    blocks = [path for path in gradient if path.startswith("image/blocks/")]
    assert all((gradient[path][0] == 0).all() for path in blocks)
    assert any((gradient[path][1] != 0).all() for path in blocks)
    norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
    assert metrics[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)


def test_a_bad_loss_or_gradient_changes_nothing_but_the_step(strained):
    _, states, metrics = strained
    good, nan_loss, nan_gradient = states[2], states[3], states[4]
    assert np.isnan(metrics[2]["loss"])
    assert np.isfinite(metrics[3]["loss"])
    assert np.isnan(metrics[3]["grad_norm"])
    for bad in (nan_loss, nan_gradient):
        for name in ("params", "opt_state", "ema"):
            same = jax.tree.map(np.array_equal, getattr(bad, name), getattr(good, name))
            assert jax.tree.all(same), name
    assert [int(state.step) for state in states] == [0, 1, 2, 3, 4, 5]
    assert [int(state.nonfinite) for state in states] == [0, 0, 0, 1, 2, 0]
    assert [m["nonfinite"] for m in metrics] == [0, 0, 1, 2, 0]
    assert [m["skipped"] for m in metrics] == [0, 0, 1, 2, 2]


def test_a_loss_that_jumps_is_skipped_where_asked_for():
    config = tiny.config(max_spike=1.5)
    run = tiny.run(config, options=tiny.QUICK)
    calm, wild = tiny.batch(config.model), tiny.batch(config.model, seed=2)
    # The state of a run whose losses were about 1 so far: those of random parameters are above 2.
    state = run.state.replace(loss_mean=jnp.float32(1.0))
    with jax.set_mesh(run.mesh):
        after, metrics = run.jitted(state, mesh_lib.put_batch(wild, len(wild["image"])))
        assert float(metrics["loss"]) > 1.5
        assert int(metrics["skipped"]) == int(after.nonfinite) == 1
        assert jax.tree.all(jax.tree.map(np.array_equal, after.params, state.params))
        assert float(after.loss_mean) == 1.0
        used = state.replace(loss_mean=jnp.float32(metrics["loss"]))
        after, metrics = run.jitted(used, mesh_lib.put_batch(calm, len(calm["image"])))
    assert int(metrics["skipped"]) == 0
    assert 0 < abs(float(after.loss_mean) - float(used.loss_mean)) < 0.2


def test_the_schedule_counts_the_skipped_steps(strained):
    config, _, metrics = strained
    expected = config.optim.lr / np.sqrt(1 + np.arange(5))
    np.testing.assert_allclose([m["lr"] for m in metrics], expected, rtol=1e-6)


def test_the_average_warms_up_and_then_decays(strained):
    _, states, _ = strained
    for step, (old, new) in enumerate(itertools.pairwise(states)):
        if int(new.nonfinite):
            continue
        decay = min(0.9, (1 + step) / (10 + step))
        before, params = flat(old.ema), flat(new.params)
        for path, average in flat(new.ema).items():
            expected = decay * before[path] + (1 - decay) * params[path]
            np.testing.assert_allclose(average, expected, atol=1e-6, err_msg=path)


def test_the_scale_is_clamped_after_the_update(strained):
    _, states, metrics = strained
    assert metrics[0]["logit_scale"] == pytest.approx(20.0, rel=1e-6)
    assert float(states[1].params["logit_scale"]) == pytest.approx(np.log(20.0), rel=1e-6)


def test_metrics_hold_every_part_of_the_loss(strained):
    _, _, metrics = strained
    first = metrics[0]
    parts = first["loss/clip"] + 5 * first["loss/breakable"]
    assert first["loss"] == pytest.approx(parts, rel=1e-6)
    assert first["breakable/x"] == pytest.approx(10.0, rel=1e-6)


@functools.cache
def loss_and_gradient(microbatches: int, devices: int = 1):
    """(loss, gradients) of the clip objective over one batch, on `devices` as `data`."""
    config = tiny.config()
    model = models.from_config(config.model)
    built = objectives.build(config.objectives)

    def loss(params, batch):
        views = run_views(model, built, params, batch, jax.random.key(0), microbatches=microbatches)
        return step_lib.total_loss(built, views, batch)[0]

    with jax.set_mesh(mesh_lib.make_mesh(devices, 1, 1, jax.devices()[:devices])):
        batch = mesh_lib.put_batch(tiny.batch(config.model), tiny.BATCH)
        return jax.jit(jax.value_and_grad(loss))(tiny.params(model), batch)


@pytest.mark.parametrize(("microbatches", "devices"), [(4, 1), (2, 8)])
def test_microbatches_give_the_loss_and_gradients_of_the_full_batch(microbatches, devices):
    ours, gradient = loss_and_gradient(microbatches, devices)
    truth, expected = loss_and_gradient(1)
    assert float(ours) == pytest.approx(float(truth), rel=1e-6)
    for path, g in flat(expected).items():
        if not path.endswith("key/bias"):  # zero in exact arithmetic
            difference = np.linalg.norm(flat(gradient)[path] - g)
            assert difference <= 1e-5 * np.linalg.norm(g), path


def test_microbatches_drop_the_same_patches_in_both_passes():
    """Written out: part i is every k-th example from i, with a key folded from i."""
    config = tiny.config()
    config.model.image.patch_dropout = 0.5
    model, k = models.from_config(config.model), 4
    built = {"sum": (Objective({"plain": ("image/embed",)}, None), 1.0)}
    params, batch, key = tiny.params(model), tiny.batch(config.model), jax.random.key(3)
    weights = np.random.default_rng(5).normal(size=(tiny.BATCH, config.model.embed_dim))

    @jax.jit
    @jax.value_and_grad
    def ours(params):
        views = run_views(model, built, params, batch, key, microbatches=k)
        return (views["plain"]["image/embed"] * weights).sum()

    @jax.jit
    @jax.value_and_grad
    def written_out(params):
        view_key, total = jax.random.fold_in(key, 0), 0.0
        for i in range(k):
            part = {name: x[i::k] for name, x in batch.items()}
            rngs = {"dropout": jax.random.fold_in(view_key, i)}
            out = model.apply({"params": params}, part, ("image/embed",), train=True, rngs=rngs)
            total += (out["image/embed"] * weights[i::k]).sum()
        return total

    (value, gradient), (truth, expected) = ours(params), written_out(params)
    assert float(value) == pytest.approx(float(truth), rel=1e-5)
    expected = flat(expected)
    scale = np.sqrt(sum((g**2).sum() for g in expected.values()))
    for path, g in flat(gradient).items():
        assert np.linalg.norm(g - expected[path]) <= 1e-5 * scale, path


def test_a_view_runs_once_however_many_objectives_read_it():
    """Two objectives on the plain view and one on a view of its own: two passes of the towers."""
    config = tiny.config()
    model = models.from_config(config.model)

    def flipped(batch, key, frozen):
        del key, frozen
        return {**batch, "image": batch["image"][:, :, ::-1]}

    built = {
        "a": (Objective({"plain": ("image/embed",)}, None), 1.0),
        "b": (Objective({"plain": ("image/embed", "logit/scale")}, None), 1.0),
        "c": (
            Objective({"flipped": ("image/embed",)}, None, views={"flipped": View(flipped)}),
            1.0,
        ),
    }
    params, batch = tiny.params(model), tiny.batch(config.model)

    @jax.jit
    def run(batch):
        return run_views(model, built, params, batch, jax.random.key(0))

    scans = str(run.trace(batch).jaxpr).count(" scan[")
    views = run(batch)
    assert scans == 2
    assert set(views["plain"]) == {"image/embed", "logit/scale"}
    mirrored = batch | {"image": batch["image"][:, :, ::-1]}
    expected = run(mirrored)["plain"]["image/embed"]
    np.testing.assert_allclose(views["flipped"]["image/embed"], expected, atol=1e-6)


def test_gradient_norms_are_those_of_each_objective_alone():
    config = tiny.config()
    config.objectives.clip.weight = 2.0
    config.objectives.infonce = config_lib.entry("objectives", weight=0.5)
    config.log.gradient_norms = True
    batch = tiny.batch(config.model)
    _, (together,) = tiny.run(config, options=tiny.QUICK).steps(batch)
    for name in ("clip", "infonce"):
        alone = tiny.config()
        alone.objectives = {name: config.objectives[name]}
        _, (metrics,) = tiny.run(alone, options=tiny.QUICK).steps(batch)
        assert together[f"grad_norm/{name}"] == pytest.approx(metrics["grad_norm"], rel=1e-5)
