"""The kernels against float64: lengths that must be padded, masks, causality, and gradients."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from mmjax.models import attention
from mmjax.parallel import mesh as mesh_lib

B, H, D = 2, 2, 64


def inputs(length, keys):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(B, length, H, D)).astype(np.float32)
    k, v = rng.normal(size=(2, B, keys, H, D)).astype(np.float32)
    return q, k, v


def truth(q, k, v, mask, causal):
    """Value, and the gradients of its sum of squares, in float64 by hand."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    logits = np.einsum("blhd,bmhd->bhlm", q, k) / np.sqrt(D)
    if mask is not None:
        logits = np.where(mask, logits, -np.inf)
    if causal:
        logits = np.where(np.tril(np.ones(logits.shape[-2:], bool)), logits, -np.inf)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    y = np.einsum("bhlm,bmhd->blhd", p, v)
    dy = 2 * y
    dp = np.einsum("blhd,bmhd->bhlm", dy, v)
    dl = p * (dp - (dp * p).sum(-1, keepdims=True)) / np.sqrt(D)
    return y, (
        np.einsum("bhlm,bmhd->blhd", dl, k),
        np.einsum("bhlm,blhd->bmhd", dl, q),
        np.einsum("bhlm,blhd->bmhd", p, dy),
    )


def cudnn(q, k, v, mask, causal):
    """What we ask of cuDNN, answered by XLA."""

    def dot_product_attention(*args, implementation, **kwargs):
        assert implementation == "cudnn"
        return real(*args, **kwargs)

    real = jax.nn.dot_product_attention
    with mock.patch.object(jax.nn, "dot_product_attention", dot_product_attention):
        return attention._cudnn(q, k, v, mask, causal)


KERNELS = {
    "xla": functools.partial(attention.attend, implementation="xla"),
    # Run by Pallas' interpreter: the arithmetic of the kernel, without a TPU.
    "splash": lambda q, k, v, mask, causal: attention._splash(q, k, v, mask, causal, True),
    "cudnn": cudnn,
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", ["", "lengths", "prefix", "holes"])
@pytest.mark.parametrize("length", [128, 77])
@pytest.mark.parametrize("kernel", KERNELS)
def test_padding_and_masks_are_exact(kernel, length, masked, causal):
    q, k, v = inputs(length, length)
    lengths = np.array([length, length - 30], np.int32)
    seen = (np.arange(length) < lengths[:, None])[:, None, None]
    if masked == "holes":
        seen[:, :, :, 3:9] = False
    mask = {"": None, "lengths": lengths}.get(masked, seen)

    def squares(q, k, v):
        y = KERNELS[kernel](q, k, v, mask=mask, causal=causal)
        return (y**2).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(squares, (0, 1, 2), has_aux=True))(q, k, v)
    expected, exact = truth(q, k, v, seen if masked else None, causal)
    np.testing.assert_allclose(y, expected, atol=2e-6)
    for ours, true in zip(gradients, exact, strict=True):
        np.testing.assert_allclose(ours, true, atol=1e-6 * np.abs(true).max() + 1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kernel", ["xla", "cudnn", "splash"])
def test_capped_logits_are_those_of_float64(kernel, causal):
    q, k, v = inputs(77, 77)
    q *= 8  # so that the cap matters
    lengths, cap = np.array([77, 47], np.int32), 5.0

    def squares(q, k, v):
        if kernel == "splash":
            y = attention._splash(q, k, v, lengths, causal, True, cap)
        else:  # cuDNN has none: XLA's
            y = attention.attend(q, k, v, mask=lengths, causal=causal, softcap=cap,
                                 implementation=kernel)  # fmt: skip
        return (y**2).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(squares, (0, 1, 2), has_aux=True))(q, k, v)
    seen = (np.arange(77) < lengths[:, None])[:, None, None]
    seen = seen & (np.tri(77, dtype=bool) if causal else True)
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    tanh = np.tanh(np.einsum("blhd,bmhd->bhlm", q, k) / np.sqrt(D) / cap)
    p = np.where(seen, np.exp(cap * tanh), 0)
    p /= p.sum(-1, keepdims=True)
    expected = np.einsum("bhlm,bmhd->blhd", p, v)
    dp = np.einsum("blhd,bmhd->bhlm", 2 * expected, v)
    dl = p * (dp - (dp * p).sum(-1, keepdims=True)) * (1 - tanh**2) / np.sqrt(D)
    exact = (np.einsum("bhlm,bmhd->blhd", dl, k), np.einsum("bhlm,blhd->bmhd", dl, q),
             np.einsum("bhlm,blhd->bmhd", p, 2 * expected))  # fmt: skip
    np.testing.assert_allclose(y, expected, atol=3e-6)
    for ours, true in zip(gradients, exact, strict=True):
        np.testing.assert_allclose(ours, true, atol=2e-6 * np.abs(true).max() + 1e-5)


def test_splash_is_split_by_examples_and_heads():
    q, k, v = inputs(128, 128)
    whole = attention.attend(q, k, v, implementation="xla")
    with jax.set_mesh(mesh_lib.make_mesh(2, 1, 2, jax.devices()[:4])):
        y = jax.jit(lambda *x: attention._splash(*x, None, False, True))(q, k, v)
    assert len(y.sharding.device_set) == 4
    np.testing.assert_allclose(y, whole, atol=2e-6)


def lowered(platform, implementation, length, monkeypatch):
    """The program for a platform that is not here, as text."""
    monkeypatch.setattr(attention, "platform", lambda: platform)
    x = jax.ShapeDtypeStruct((8, length, H, D), jnp.bfloat16)
    mesh = AbstractMesh((2, 2, 2), mesh_lib.AXES, axis_types=(AxisType.Auto,) * 3)
    attend = functools.partial(attention.attend, implementation=implementation)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(jax.grad(lambda *x: attend(*x).sum(), (0, 1, 2))).trace(x, x, x)
        return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("platform", "implementation", "length", "kernel"),
    [
        ("tpu", "auto", 197, False),
        ("tpu", "auto", 1025, True),
        ("tpu", "splash", 197, True),
        ("tpu", "xla", 1025, False),
        ("cpu", "auto", 1025, False),
    ],
)
def test_auto_goes_by_the_platform_and_the_length(
    platform, implementation, length, kernel, monkeypatch
):
    text = lowered(platform, implementation, length, monkeypatch)
    assert ("tpu_custom_call" in text) is kernel
