"""Self-distillation over prototypes: the head of DINO, how a teacher's logits become targets, and
the cross-entropy with them, without ever holding the logits of a whole batch.

DINO is Caron et al., 2021, arXiv:2104.14294.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from mmjax.models.tokens import DEVICE_LOGITS, NEVER
from mmjax.parallel.mesh import batch_shards

Centring = Literal["centre", "sinkhorn"]
SMOKE = {"prototypes": 64, "hidden": 32, "bottleneck": 16}  # a head as small as such towers
SINKHORN_STEPS = 3  # as in SwAV (Caron et al., 2020) and DINOv2 (Oquab et al., 2023)
LEAST = 1e-12  # a length that vectors are divided by, as PyTorch's F.normalize has it
KOLEO_LEAST = 1e-8  # added to distances, as DINOv2 has it


class Against(NamedTuple):
    """float32 [B, R] each: the cross-entropy of the student's distribution with the teacher's, and
    the entropy of the teacher's."""

    cross_entropy: jax.Array
    entropy: jax.Array


class Targets(NamedTuple):
    """How the teacher's logits t become a distribution, softmax(t / temperature − shift)."""

    temperature: float
    shift: jax.Array  # float32 [K]


def init_head(key: jax.Array, width: int, hidden: int, bottleneck: int, prototypes: int) -> Any:
    """The parameters of `embed` and `logits_of`: three layers W → H → H → D, and the prototypes'
    kernel [D, K]. Kernels are normal with deviation 0.02, cut at two of these, as DINO's."""
    sizes = {"fc1": (width, hidden), "fc2": (hidden, hidden), "fc3": (hidden, bottleneck)}
    keys = jax.random.split(key, len(sizes) + 1)
    init = jax.nn.initializers.truncated_normal(0.02)
    layers = {
        name: {"kernel": init(k, size, jnp.float32), "bias": jnp.zeros(size[1], jnp.float32)}
        for k, (name, size) in zip(keys[1:], sizes.items(), strict=True)
    }
    return layers | {"prototypes": {"kernel": init(keys[0], (bottleneck, prototypes), jnp.float32)}}


def embed(head: Any, x: jax.Array) -> jax.Array:
    """[..., W] -> [..., D] of unit length, in the dtype of `x`: the MLP of the head, with GELU."""
    for name in ("fc1", "fc2", "fc3"):
        kernel, bias = (head[name][leaf].astype(x.dtype) for leaf in ("kernel", "bias"))
        x = x @ kernel + bias
        x = x if name == "fc3" else jax.nn.gelu(x, approximate=False)
    return unit(x, axis=-1).astype(x.dtype)


def logits_of(head: Any, z: jax.Array) -> jax.Array:
    """[..., D] -> float32 [..., K]: products with the prototypes, each of length 1 (the weight
    normalisation of DINO's last layer, whose scale stays 1)."""
    kernel = unit(head["prototypes"]["kernel"], axis=0).astype(z.dtype)
    return jnp.matmul(
        z, kernel, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )


def unit(x: jax.Array, axis: int) -> jax.Array:
    """float32, of length 1 along an axis; 0 stays 0, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(axis, keepdims=True), LEAST**2))


def centred(centre: jax.Array, temperature: float) -> Targets:
    """DINO's centring: softmax((t − c) / temperature)."""
    return Targets(temperature, centre / temperature)


def moved(
    centre: jax.Array, head: Any, z: jax.Array, mask: jax.Array | None, momentum: float
) -> jax.Array:
    """The centre of the next step: m c + (1 − m) · the mean of the teacher's logits over the global
    batch. float32 [K]; z and mask are as of `sinkhorn`."""
    # The mean of the logits is the logits of the mean.
    z = z.astype(jnp.float32)
    if mask is None:
        mean = z.mean(axis=(0, 1))
    else:
        mean = jnp.where(mask[..., None], z, 0).sum(axis=(0, 1)) / jnp.maximum(mask.sum(), 1)
    return jax.lax.stop_gradient(momentum * centre + (1 - momentum) * logits_of(head, mean))


def sinkhorn(head: Any, z: jax.Array, mask: jax.Array | None, temperature: float) -> Targets:
    """Sinkhorn–Knopp instead of centring (SwAV, DINOv2): over the global batch, each prototype gets
    the same mass and each row the mass 1, by SINKHORN_STEPS rounds of both.

    In logarithms: round i takes log mass_k = logsumexp_r(t_rk / temperature − v_r) with v_r =
    logsumexp_k(t_rk / temperature − log mass_k of the round before), and 0 in the first. The row
    normalisation of the last round is the softmax of `Targets`, whose shift is log mass.

    Args:
      head: the teacher's.
      z: [B, R, D], what `embed` gave for R rows of each example.
      mask: bool [B, R], the rows that count; None: all.
      temperature: of the teacher.
    """
    head, z = jax.lax.stop_gradient((head, z))
    size = _prototypes(head)
    shift = jnp.zeros(size, jnp.float32)
    for step in range(SINKHORN_STEPS):

        def mass(z, *mask, first=step == 0, shift=shift):
            logits = logits_of(head, z) / temperature
            if not first:
                logits -= jax.nn.logsumexp(logits - shift, axis=2, keepdims=True)
            if mask:
                logits = jnp.where(mask[0][..., None], logits, NEVER)
            return jax.nn.logsumexp(logits, axis=(0, 1))[None]

        rows = (z,) if mask is None else (z, mask)
        parts = _in_chunks(mass, z.shape[1] * size, *rows)
        shift = jax.nn.logsumexp(parts, axis=0)
    return Targets(temperature, shift)


def against(
    head: Any, z: jax.Array, teacher_head: Any, teacher_z: jax.Array, targets: Targets,
    temperature: float,
) -> Against:  # fmt: skip
    """−Σ_k p_k log q_k of each row, with q = softmax(s / temperature) of the student's logits s and
    p the teacher's distribution, which takes no gradient; float32.

    A few examples at a time, and again in the backward pass, wherever the logits would be more than
    DEVICE_LOGITS a device.

    Args:
      head, z: the student's, [B, R, D].
      teacher_head, teacher_z: the teacher's, [B, R, D], or [B, 1, D] for all rows of an example.
      targets: of `centred` or `sinkhorn`.
      temperature: the student's.
    """
    teacher_head, teacher_z, targets = jax.lax.stop_gradient((teacher_head, teacher_z, targets))

    def rows(z, teacher_z):
        theirs = logits_of(teacher_head, teacher_z) / targets.temperature - targets.shift
        log_p, log_q = (jax.nn.log_softmax(x) for x in (theirs, logits_of(head, z) / temperature))
        p = jnp.exp(log_p)
        entropy = -(p * log_p).sum(axis=2)
        return Against(-(p * log_q).sum(axis=2), jnp.broadcast_to(entropy, z.shape[:2]))

    return _in_chunks(rows, 2 * z.shape[1] * _prototypes(head), z, teacher_z)


def koleo(x: jax.Array) -> jax.Array:
    """−mean of log ‖x_i − its nearest neighbour in the batch‖ of [B, W] at unit length, a float32
    scalar: spreads the batch out (Sablayrolles et al., 2019, arXiv:1806.03198; DINOv2)."""
    x = unit(x, axis=-1)
    cosines = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    others = jnp.where(jnp.eye(len(x), dtype=bool), -2.0, jax.lax.stop_gradient(cosines))
    apart = x - x[others.argmax(axis=1)] + KOLEO_LEAST
    return -jnp.log(jnp.sqrt(jnp.square(apart).sum(axis=1)) + KOLEO_LEAST).mean()


def _prototypes(head: Any) -> int:
    return int(head["prototypes"]["kernel"].shape[1])


def _in_chunks(of_rows: Callable[..., Any], logits: int, *arrays: jax.Array) -> Any:
    """`of_rows(*arrays)`, each [B, …], some examples at a time where `logits` of each example would
    be more than DEVICE_LOGITS a device; what it gives for these is put together along B."""
    batch, shards = len(arrays[0]), batch_shards()
    own = batch // shards if batch % shards == 0 else batch  # examples of a device
    fits = (n for n in range(1, own) if own % n == 0 and own // n * logits <= DEVICE_LOGITS)
    count = next(fits, own)
    if count == 1:
        return of_rows(*arrays)

    def cut(x):  # every part lies on all devices, as in `core/views.py`
        return x.reshape(batch // count, count, *x.shape[1:]).swapaxes(0, 1)

    some = jax.checkpoint(of_rows)
    parts = jax.lax.map(lambda part: some(*part), tuple(map(cut, arrays)))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), parts)
