"""The contrastive losses in float64 NumPy, values and gradients written out by hand."""

import functools

import jax
import numpy as np

from mmjax.objectives import contrastive, mil_nce
from mmjax.parallel import mesh as mesh_lib

B, D = 32, 12
BIAS = -3.0
TEACHER_SCALE = 20.0
GROUP = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 8, 9] * 2, np.int32)
GROUP[16:] += np.arange(16, dtype=np.int32)  # some groups lie on several devices


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@functools.cache
def embeddings(kind: str):
    """Unit vectors [B, D] of both sides, and of a teacher of another width."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, B, D))
    if kind == "alike":  # as in training
        y = x + y
    elif kind == "aligned":
        y = x
    elif kind == "duplicates":  # the same pair four times
        x, y = (np.tile(z[: B // 4], (4, 1)) for z in (x, x + y))
    teacher = unit(rng.normal(size=(2, B, D + 3)))
    return unit(x), unit(y), *teacher


def positives():
    return GROUP[:, None] == GROUP[None, :]


def softmax(logits, axis):
    e = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def lse(logits, axis):
    top = logits.max(axis=axis)
    return top + np.log(np.exp(logits - np.expand_dims(top, axis)).sum(axis=axis))


def clip(logits, teacher):
    n = len(logits)
    value = (0.5 * (lse(logits, 1) + lse(logits, 0)) - np.diag(logits)).mean()
    return value, (0.5 * (softmax(logits, 1) + softmax(logits, 0)) - np.eye(n)) / n


def infonce(logits, teacher):
    n = len(logits)
    return (lse(logits, 1) - np.diag(logits)).mean(), (softmax(logits, 1) - np.eye(n)) / n


def several(logits, teacher, same=None):
    n, hits = len(logits), np.where(positives() if same is None else same, logits, -np.inf)
    return (lse(logits, 1) - lse(hits, 1)).mean(), (softmax(logits, 1) - softmax(hits, 1)) / n


def siglip(logits, teacher):
    n = len(logits)
    z = 2 * np.eye(n) - 1
    return np.logaddexp(0, -z * logits).sum() / n, -z / (1 + np.exp(z * logits)) / n


def joint(logits, teacher):
    """InfoNCE over a row and a column together, the positive once."""
    n, value, g = len(logits), 0.0, np.zeros(logits.shape)
    for i in range(n):
        seen = np.zeros(logits.shape, bool)
        seen[i], seen[:, i] = True, True
        value += lse(logits[seen], 0) - logits[i, i]
        g[seen] += softmax(logits[seen], 0)
    return value / n, (g - np.eye(n)) / n


def distill(logits, teacher):
    p = [softmax(teacher, axis) for axis in (1, 0)]
    logs = [logits - np.expand_dims(lse(logits, axis), axis) for axis in (1, 0)]
    value = -0.5 * sum((p[i] * logs[i]).sum() for i in (0, 1)) / B
    return value, 0.5 * sum(softmax(logits, axis) - p[i] for i, axis in ((0, 1), (1, 0))) / B


# Name → (our loss of (x, y, scale, bias, teachers, implementation), the oracle).
LOSSES = {
    "clip": (lambda x, y, s, b, t, how: contrastive.clip_loss(x, y, s, implementation=how), clip),
    "infonce": (
        lambda x, y, s, b, t, how: contrastive.infonce_loss(x, y, s, implementation=how),
        infonce,
    ),
    "group": (
        lambda x, y, s, b, t, how: contrastive.infonce_loss(
            x, y, s, group=jax.numpy.asarray(GROUP), implementation=how
        ),
        several,
    ),
    "mask": (
        lambda x, y, s, b, t, how: contrastive.infonce_loss(
            x, y, s, positives(), implementation=how
        ),
        several,
    ),
    "mil_nce": (  # bags of one
        lambda x, y, s, b, t, how: mil_nce.mil_nce_loss(x, y[:, None], s, implementation=how),
        joint,
    ),
    "siglip": (
        lambda x, y, s, b, t, how: contrastive.siglip_loss(x, y, s, b, implementation=how),
        siglip,
    ),
    "distill": (
        lambda x, y, s, b, t, how: contrastive.similarity_distill_loss(
            x, y, s, *t, TEACHER_SCALE, implementation=how
        ),
        distill,
    ),
}


def truth(name, kind, scale):
    """(value, (d x, d y, d scale, d bias)) in float64, by the chain rule through the logits."""
    x, y, u, v = (z.astype(np.float64) for z in embeddings(kind))
    bias = BIAS if name == "siglip" else 0.0
    value, g = LOSSES[name][1](scale * x @ y.T + bias, TEACHER_SCALE * u @ v.T)
    return value, (scale * g @ y, scale * g.T @ x, (g * (x @ y.T)).sum(), g.sum())


@functools.cache
def jitted(name, how, mesh):
    def loss(x, y, scale, bias, teachers):
        return LOSSES[name][0](x, y, scale, bias, teachers, how)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))


def measured(name, kind, scale, how, mesh, dtype=np.float32):
    """(value, gradients) of ours on a mesh; the gradients are gathered on every host."""
    names = ("x", "y", "u", "v")
    with jax.set_mesh(mesh):
        rows = mesh_lib.local_rows(B)
        local = {n: z[rows].astype(dtype) for n, z in zip(names, embeddings(kind), strict=True)}
        put = mesh_lib.put_batch(local, B)
        value, gradients = jitted(name, how, mesh)(
            put["x"], put["y"], scale, BIAS, (put["u"], put["v"])
        )
    assert value.dtype == np.float32
    assert value.shape == ()
    return float(value), [gathered(g) for g in gradients]


def gathered(array):
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True), np.float64)


def errors(name, kind, scale, how, mesh, dtype=np.float32):
    """Of the value, relative to the largest of it, the scale and 1; of each gradient, relative to
    its largest entry."""
    value, gradients = measured(name, kind, scale, how, mesh, dtype)
    expected, exact = truth(name, kind, scale)
    used = 4 if name == "siglip" else 3  # the others know no bias
    return abs(value - expected) / max(1.0, scale, abs(expected)), [
        float(np.abs(ours - true).max() / max(np.abs(true).max(), 1e-3))
        for ours, true in zip(gradients[:used], exact[:used], strict=True)
    ]
