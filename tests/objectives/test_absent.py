"""Rows that lack a side: each contrastive loss is that of the batch without them, in value and in
gradients, whichever devices they lie on; float64 NumPy has the rows dropped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from oracle import BIAS, GROUP, B

from mmjax.objectives import contrastive, mil_nce
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import ring

HOW = ("dense", "ring")
ROWS = {
    "half": np.random.default_rng(3).random(B) < 0.5,
    "none on half of the devices": np.arange(B) >= B // 2,
    "one": np.arange(B) == 13,
    "all": np.ones(B, bool),
    "none": np.zeros(B, bool),
}


def bags(function):
    return lambda x, y, s, b, there, how: function(
        x, y[:, None], s, there=there[:, None], implementation=how
    )


# Name → (our loss, the oracle of the logits and groups of the rows that are there).
LOSSES = {
    "clip": (
        lambda x, y, s, b, there, how: contrastive.clip_loss(
            x, y, s, there=there, implementation=how
        ),
        lambda logits, group: oracle.clip(logits, None),
    ),
    "infonce": (
        lambda x, y, s, b, there, how: contrastive.infonce_loss(
            x, y, s, there=there, implementation=how
        ),
        lambda logits, group: oracle.infonce(logits, None),
    ),
    "group": (
        lambda x, y, s, b, there, how: contrastive.infonce_loss(
            x, y, s, group=jnp.asarray(GROUP), there=there, implementation=how
        ),
        lambda logits, group: oracle.several(logits, None, group[:, None] == group[None, :]),
    ),
    "siglip": (
        lambda x, y, s, b, there, how: contrastive.siglip_loss(
            x, y, s, b, there=there, implementation=how
        ),
        lambda logits, group: oracle.siglip(logits, None),
    ),
    "mil_nce": (bags(mil_nce.mil_nce_loss), lambda logits, group: oracle.joint(logits, None)),
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(ring, "TILE_ENTRIES", 8)


@functools.cache
def jitted(name, how):
    def loss(x, y, scale, bias, there):
        return LOSSES[name][0](x, y, scale, bias, there, how)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))


def truth(name, there, scale):
    """(value, gradients) of the rows that are there alone, the gradients put back in their rows."""
    x, y = (z.astype(np.float64)[there] for z in oracle.embeddings("alike")[:2])
    dx, dy = np.zeros((2, B, x.shape[1]))
    if not there.any():
        return 0.0, (dx, dy, 0.0, 0.0)
    bias = BIAS if name == "siglip" else 0.0
    value, g = LOSSES[name][1](scale * x @ y.T + bias, GROUP[there])
    dx[there], dy[there] = scale * g @ y, scale * g.T @ x
    return value, (dx, dy, (g * (x @ y.T)).sum(), g.sum())


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("name", LOSSES)
def test_is_the_loss_of_the_batch_without_them(name, devices, how):
    x, y = oracle.embeddings("alike")[:2]
    for there in ROWS.values():
        value, exact = truth(name, there, 14.3)
        with jax.set_mesh(mesh_lib.make_mesh(devices=jax.devices()[:devices])):
            put = mesh_lib.put_batch({"x": x, "y": y, "there": there}, B)
            found, gradients = jitted(name, how)(put["x"], put["y"], 14.3, BIAS, put["there"])
        assert abs(found - value) <= 1e-5 * max(1, abs(value))
        used = 4 if name == "siglip" else 3  # the others know no bias
        for ours, true in zip(gradients[:used], exact[:used], strict=True):
            assert np.abs(ours - true).max() <= 3e-5 * max(np.abs(true).max(), 1e-2)
        for gradient in gradients[:2]:
            assert (np.asarray(gradient)[~there] == 0).all()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", LOSSES)
def test_what_stands_in_absent_rows_changes_nothing(name, how):
    x, y = oracle.embeddings("alike")[:2]
    there = ROWS["half"]
    changed = np.where(there[:, None], y, -50.0).astype(np.float32)
    one, other = (jitted(name, how)(x, z, 14.3, BIAS, there) for z in (y, changed))
    jax.tree.map(np.testing.assert_array_equal, one, other)
