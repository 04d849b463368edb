"""Contrastive losses against float64 NumPy: values and gradients, on every number of devices.

The gradients are written out by hand. A loss can be right while its gradient is 1/N of the truth.
"""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.objectives import contrastive
from mmjax.parallel import mesh as mesh_lib

B, D = 16, 12
DEVICES = (1, 2, 4, 8)
SCALES = (1.0, 14.3, 100.0)


@functools.cache
def embeddings():
    """Unit vectors; partners are alike, as in training."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(B, D))
    y = x + rng.normal(size=(B, D))
    return tuple((z / np.linalg.norm(z, axis=1, keepdims=True)).astype("f4") for z in (x, y))


@functools.cache
def positives():
    """Several positives for some anchors: groups of 1, 2 and 3."""
    group = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 8, 9])
    return group[:, None] == group[None, :]


def softmax(logits, axis):
    e = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def lse(logits, axis):
    top = logits.max(axis=axis)
    return top + np.log(np.exp(logits - np.expand_dims(top, axis)).sum(axis=axis))


def clip(logits):
    value = (0.5 * (lse(logits, 1) + lse(logits, 0)) - np.diag(logits)).mean()
    return value, (0.5 * (softmax(logits, 1) + softmax(logits, 0)) - np.eye(B)) / B


def infonce(logits):
    return (lse(logits, 1) - np.diag(logits)).mean(), (softmax(logits, 1) - np.eye(B)) / B


def several(logits):
    hits = np.where(positives(), logits, -np.inf)
    return (lse(logits, 1) - lse(hits, 1)).mean(), (softmax(logits, 1) - softmax(hits, 1)) / B


def siglip(logits):
    z = 2 * np.eye(B) - 1
    return np.logaddexp(0, -z * logits).sum() / B, -z / (1 + np.exp(z * logits)) / B


def ours_several(x, y, scale):
    return contrastive.infonce_loss(x, y, scale, positives())


LOSSES = {
    "clip": (contrastive.clip_loss, clip, ()),
    "infonce": (contrastive.infonce_loss, infonce, ()),
    "several positives": (ours_several, several, ()),
    "siglip": (contrastive.siglip_loss, siglip, (-10.0,)),
}


def truth(oracle, x, y, scale, bias=0.0):
    """(value, (d x, d y, d scale, d bias)) in float64, by the chain rule through the logits."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    value, g = oracle(scale * x @ y.T + bias)
    return value, (scale * g @ y, scale * g.T @ x, (g * (x @ y.T)).sum(), g.sum())


@functools.cache
def jitted(name, devices):
    loss, _, extra = LOSSES[name]
    mesh = mesh_lib.make_mesh(devices, 1, 1, jax.devices()[:devices])
    return mesh, jax.jit(jax.value_and_grad(loss, argnums=range(3 + len(extra))))


def measured(name, devices, scale):
    mesh, fn = jitted(name, devices)
    x, y = embeddings()
    with jax.set_mesh(mesh):
        put = mesh_lib.put_batch({"x": x, "y": y}, B)
        value, gradients = fn(put["x"], put["y"], scale, *LOSSES[name][2])
    assert value.dtype == np.float32
    assert value.shape == ()
    return float(value), [np.asarray(g, np.float64) for g in gradients]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_equal_float64(name, devices, scale):
    value, gradients = measured(name, devices, scale)
    expected, gradients64 = truth(LOSSES[name][1], *embeddings(), scale, *LOSSES[name][2])
    # float32 logits of size s carry errors of s·2^-24, and a softmax passes them on.
    tolerance = 1e-6 * max(1.0, scale)
    assert value == pytest.approx(expected, rel=tolerance, abs=tolerance)
    for ours, true in zip(gradients, gradients64, strict=False):
        assert np.linalg.norm(ours - true) <= tolerance * max(np.linalg.norm(true), 1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_do_not_shrink_with_the_number_of_devices(name):
    """The classic fault: the right loss on N devices with gradients that are 1/N of the truth."""
    alone = measured(name, 1, 14.3)[1]
    for devices in DEVICES[1:]:
        ratios = [
            np.linalg.norm(ours) / np.linalg.norm(one)
            for ours, one in zip(measured(name, devices, 14.3)[1], alone, strict=True)
        ]
        np.testing.assert_allclose(ratios, 1, rtol=1e-3)


def test_pairs_that_match_perfectly_at_a_great_scale_stay_finite():
    x = embeddings()[0]
    for name in LOSSES:
        loss, _, extra = LOSSES[name]
        value, gradients = jax.value_and_grad(loss, argnums=(0, 1, 2))(x, x, 1e4, *extra)
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in gradients)


def test_half_precision_embeddings_are_compared_in_float32():
    x, y = (z.astype("bfloat16") for z in map(jax.numpy.asarray, embeddings()))
    exact = truth(clip, np.asarray(x, "f4"), np.asarray(y, "f4"), 100.0)[0]
    assert float(contrastive.clip_loss(x, y, 100.0)) == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_lowers_for_hardware_that_is_only_described(name):
    """256 devices that are not there, in the shape of a mesh: nothing is computed or placed."""
    loss, _, extra = LOSSES[name]
    mesh = AbstractMesh((16, 8, 2), mesh_lib.AXES, axis_types=(AxisType.Auto,) * 3)
    sharding = NamedSharding(mesh, P(mesh_lib.BATCH))
    rows = B if name == "several positives" else 1024
    embed = jax.ShapeDtypeStruct((rows, D), "float32", sharding=sharding if rows > B else None)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).trace(embed, embed, 10.0, *extra)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert f"tensor<{rows}x{rows}xf32>" in text
