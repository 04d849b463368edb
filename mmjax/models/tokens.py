"""Negative log-likelihoods of tokens, without ever holding the logits of a whole batch.

Masked-language and captioning losses are sums of these, and so is what a student learns from a
teacher's distribution.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmjax.parallel.mesh import batch_shards

NO_TARGET = -1
DEVICE_LOGITS = 2**26  # logits that a device holds at a time: 256 MiB of float32


class TokenNll(NamedTuple):
    """float32 [B] each, sums over the targets of an example: −log p, how often the target was the
    likeliest token, and the number of targets."""

    nll: jax.Array
    correct: jax.Array
    targets: jax.Array


class Unembedding(NamedTuple):
    """Hidden states to logits: x · embeddingᵀ + bias, of [V, W] and [V]."""

    embedding: jax.Array
    bias: jax.Array


class SoftNll(NamedTuple):
    """float32 [B] each, sums over the targets of an example: the cross-entropy of the student's
    distribution to the teacher's, how often both find the same token likeliest, and the number of
    targets."""

    cross_entropy: jax.Array
    same: jax.Array
    targets: jax.Array


def token_nll(x: jax.Array, targets: jax.Array, unembedding: Unembedding) -> TokenNll:
    """−log p of the targets under softmax(x · embeddingᵀ + bias), in float32.

    Computed a few positions of each example at a time, and again in the backward pass, wherever the
    logits [B, K, V] would be more than DEVICE_LOGITS a device.

    Args:
      x: [B, K, W].
      targets: int32 [B, K] below V; NO_TARGET counts nothing.
      unembedding: [V, W] and [V].
    """
    rows = len(unembedding.bias)
    return _in_chunks(lambda x, targets: _nll(x, targets, unembedding), rows, x, targets)


def soft_token_nll(
    x: jax.Array,
    teacher_x: jax.Array,
    targets: jax.Array,
    unembedding: Unembedding,
    teacher_unembedding: Unembedding,
    temperature: float,
) -> SoftNll:
    """−Σ p log q over the vocabulary, with p, q the softmax of the teacher's and the student's
    logits / T, in float32 and in chunks as `token_nll`.

    Args:
      x: [B, K, W] of the student.
      teacher_x: [B, K, W'] of the teacher.
      targets: int32 [B, K]; NO_TARGET counts nothing; the other values are ignored.
      unembedding: of the student, [V, W] and [V].
      teacher_unembedding: of the teacher, [V, W'] and [V].
      temperature: T.
    """

    def soft(x, teacher_x, targets):
        logits, theirs = _logits(x, unembedding), _logits(teacher_x, teacher_unembedding)
        log_q = jax.nn.log_softmax(logits / temperature)
        p = jax.nn.softmax(theirs / temperature)
        same = logits.argmax(axis=2) == theirs.argmax(axis=2)
        return SoftNll(*_sums(targets, -(p * log_q).sum(axis=2), same))

    return _in_chunks(soft, 2 * len(unembedding.bias), x, teacher_x, targets)


def _in_chunks(sums: Callable[..., Any], logits: int, *arrays: jax.Array) -> Any:
    """`sums(*arrays)`, each [B], a few positions at a time where `logits` of them for each position
    would be more than DEVICE_LOGITS a device. The last array is the targets, [B, K]."""
    *hidden, targets = arrays
    rows = -(-targets.shape[0] // batch_shards())
    positions = max(1, DEVICE_LOGITS // (rows * logits))
    if positions >= targets.shape[1]:
        return sums(*arrays)
    added = (0, 0), (0, -targets.shape[1] % positions)
    hidden = [jnp.pad(x, (*added, (0, 0))) for x in hidden]
    targets = jnp.pad(targets, added, constant_values=NO_TARGET)

    def cut(y):  # [B, K, …] -> [K / positions, B, positions, …]: the examples stay where they are
        return y.reshape(y.shape[0], -1, positions, *y.shape[2:]).swapaxes(0, 1)

    some = jax.checkpoint(sums)
    parts = jax.lax.map(lambda part: some(*part), tuple(map(cut, (*hidden, targets))))
    return jax.tree.map(lambda y: y.sum(axis=0), parts)


def _nll(x: jax.Array, targets: jax.Array, unembedding: Unembedding) -> TokenNll:
    logits = _logits(x, unembedding)
    index = jnp.where(targets != NO_TARGET, targets, 0)
    hit = jnp.take_along_axis(logits, index[:, :, None], axis=2)[:, :, 0]
    nll = jax.nn.logsumexp(logits, axis=2) - hit
    return TokenNll(*_sums(targets, nll, logits.argmax(axis=2) == index))


def _logits(x: jax.Array, unembedding: Unembedding) -> jax.Array:
    return jnp.einsum(
        "bkw,vw->bkv", x, unembedding.embedding.astype(x.dtype),
        precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32,
    ) + unembedding.bias.astype(jnp.float32)  # fmt: skip


def _sums(targets: jax.Array, *values: jax.Array) -> list[jax.Array]:
    """Sums over the positions that have a target, and their number."""
    counts = targets != NO_TARGET
    return [
        jnp.where(counts, y, 0.0).sum(axis=1)
        for y in (*values, jnp.ones(targets.shape, jnp.float32))
    ]
