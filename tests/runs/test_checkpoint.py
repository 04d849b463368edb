"""Which checkpoints stay, and bits that are not those that were saved."""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax import config as config_lib
from mmjax.core.state import TrainState
from mmjax.errors import UserError
from mmjax.runs import checkpoint, readback
from mmjax.runs.checkpoint import Checkpoints, checkpoint_steps, checksum, restore_params


def state(step: int, value: float = 1.0) -> TrainState:
    params = {"w": jnp.arange(12, dtype=jnp.float32).reshape(3, 4) * value, "b": jnp.ones(4)}
    zero = jnp.zeros((), jnp.int32)
    moments = jax.tree.map(jnp.zeros_like, params)
    return TrainState(jnp.int32(step), params, moments, None, zero, zero, jnp.float32(0))


def shapes(tree):
    def shape(x):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    return jax.tree.map(shape, tree)


def checkpoints(folder, **changes) -> Checkpoints:
    config = config_lib.default().checkpoint
    config.update({"keep": 2, **changes})
    return Checkpoints(epath.Path(folder), config)


def save_all(folder, scores, first=1, **changes):
    kept = checkpoints(folder, **changes)
    for step, score in enumerate(scores, first):
        results = {} if score is None else {changes.get("best", ""): score}
        kept.save(step, state(step, step), results)
    kept.close()
    return checkpoint_steps(epath.Path(folder))


def test_newest_periodic_and_best_stay_also_after_a_restart(tmp_path):
    rules = {"best": "coco/R@1", "keep_every": 4}
    assert save_all(tmp_path, [0.1, 0.9, None, 0.3], **rules) == [2, 3, 4]
    assert save_all(tmp_path, [0.2, 0.3, 0.3], first=5, **rules) == [2, 4, 6, 7]


def test_best_of_what_is_not_measured(tmp_path):
    kept = checkpoints(tmp_path, best="coco/R@2")
    with pytest.raises(UserError, match="best='coco/R@2': choose one of coco/R@1, coco/R@5"):
        kept.save(1, state(1), {"coco/R@1": 0.5, "coco/R@5": 0.6, "other/x": 1.0})
    kept.close()
    assert checkpoint_steps(epath.Path(tmp_path)) == [1]  # what was trained is not lost


def test_smallest_may_be_the_best(tmp_path):
    rules = {"best": "val/loss", "best_is": "smallest"}
    assert save_all(tmp_path, [3.0, 1.0, 2.0, 2.0, 2.0], **rules) == [2, 4, 5]


def test_array_that_is_not_what_was_saved(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(checkpoint.log, "warning", lambda text, *values: said.append(text % values))
    save_all(tmp_path, [None] * 2)
    other = state(2, 2)
    bits = np.array(other.params["w"])
    bits.view(np.uint32)[2, 1] ^= 1 << 7  # as a bad memory cell or disk would
    params = other.params | {"w": jnp.asarray(bits)}
    with ocp.StandardCheckpointer() as writer:  # sound for Orbax, whose files are whole
        writer.save(tmp_path / "checkpoints" / "2" / "params", params, force=True)
    with pytest.raises(UserError, match="params/w is not what was saved"):
        restore_params(epath.Path(tmp_path), shapes(other.params), ema=False)
    found = checkpoints(tmp_path).restore_newest(lambda step: shapes(other))
    assert int(found.step) == 1
    assert "checkpoint 2 is damaged: params/w is not what was saved" in said
    assert (tmp_path / "checkpoints" / "unreadable" / "2").is_dir()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool"])
def test_checksum_sees_every_bit_and_no_layout(dtype):
    rng = np.random.default_rng(0)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jnp.asarray(rng.integers(0, 2, (16, 3))).astype(dtype)
    whole = jax.jit(checksum)(x)
    split = jax.jit(checksum)(jax.device_put(x, NamedSharding(mesh, P("x"))))
    assert int(whole) == int(split)
    raw = np.asarray(x)
    for place in (0, 17, raw.size - 1):
        for bit in range(1 if dtype == "bool" else 8 * raw.itemsize):
            flipped = raw.copy()
            bits = flipped.reshape(-1).view(f"u{raw.itemsize}")
            bits[place] ^= np.array(1 << bit, bits.dtype)
            assert int(jax.jit(checksum)(flipped)) != int(whole)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int32", "bool"])
def test_checksum_is_the_same_on_the_host(dtype, monkeypatch):
    monkeypatch.setattr(readback, "CHUNK", 64)
    rng = np.random.default_rng(0)
    for shape in ((), (0, 3), (5, 7, 11)):
        x = np.asarray(rng.standard_normal(shape) * 9, jnp.dtype(dtype))
        with jax.enable_x64(dtype == "float64"):
            expected = int(checksum(jnp.asarray(x)))
        assert int(readback.checksum(x)) == expected
        assert int(readback.checksum(np.asfortranarray(x))) == expected


def break_second(monkeypatch, what):
    """Lets `what(folder)` happen to checkpoint 2 between its write and its reading back."""
    problem = readback.problem

    def broken(folder, items, sums):
        if folder.name.startswith("2"):
            what(folder)
        return problem(folder, items, sums)

    monkeypatch.setattr(readback, "problem", broken)


def wait_for_error(kept):
    until = time.monotonic() + 30
    while time.monotonic() < until:
        kept.check()


def other_bits(folder):
    params = state(2, 2).params
    params = params | {"w": params["w"].at[2, 1].add(1)}
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder / "params", params, force=True)


def no_manifest(folder):  # what orbax leaves that finds no file of its own
    (folder / "params" / "manifest.ocdbt").unlink()


def no_sums(folder):
    (folder / "sums").rmtree()


def cut_off(folder):  # as a disk that is full, where nobody says so
    for file in (folder / "rest" / "d").iterdir():
        os.truncate(file, file.stat().length // 2)


@pytest.mark.parametrize("what", [other_bits, no_manifest, no_sums, cut_off])
def test_what_cannot_be_read_back_is_an_error_and_the_one_before_stays(tmp_path, monkeypatch, what):
    kept = checkpoints(tmp_path, keep=1)
    kept.save(1, state(1), {})
    break_second(monkeypatch, what)
    kept.save(2, state(2, 2), {})
    with pytest.raises(UserError, match=r"step 2 .* cannot be read back \(.*step 1 is intact"):
        wait_for_error(kept)
    assert checkpoint_steps(epath.Path(tmp_path)) == [1]
    found = checkpoints(tmp_path).restore_newest(lambda step: shapes(state(1)))
    assert int(found.step) == 1


def test_arrays_are_read_back_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(readback, "TOGETHER", 50)
    assert save_all(tmp_path, [None]) == [1]


@pytest.mark.parametrize("rules", [{"keep": 0}, {"keep": 1, "best": "a/b"}, {"keep": -3}])
def test_the_newest_stays_whatever_is_to_go(tmp_path, rules):
    scores = [9.0, 1.0, 2.0] if "best" in rules else [None] * 3
    assert save_all(tmp_path, scores, **rules)[-1] == 3
