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
NEVER = -1e30  # a logit that no softmax notices
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
    logits [B, K, V] would be more than DEVICE_LOGITS a device; where those of one position still
    are, a part of the vocabulary at a time.

    Args:
      x: [B, K, W].
      targets: int32 [B, K] below V; NO_TARGET counts nothing.
      unembedding: [V, W] and [V].
    """
    rows = -(-targets.shape[0] // batch_shards())
    size = len(unembedding.bias)
    if rows * size <= DEVICE_LOGITS:
        return _in_chunks(lambda x, targets: _nll(x, targets, unembedding), size, x, targets)
    count = -(-size // max(1, DEVICE_LOGITS // rows))
    # Parts that leave nothing over need no copy of the embedding that is filled up.
    count = next((n for n in range(count, 2 * count) if size % n == 0), count)
    part = -(-size // count)
    parts = _cut_vocabulary(unembedding, part)
    return _in_chunks(lambda x, targets: _nll_by_parts(x, targets, parts), part, x, targets)


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


def _cut_vocabulary(unembedding: Unembedding, part: int) -> Unembedding:
    """[V, W] and [V] as [V / part, part, W] and [V / part, part]; what fills the last part up is
    never likely."""
    added = -len(unembedding.bias) % part
    embedding = jnp.pad(unembedding.embedding, ((0, added), (0, 0)))
    bias = jnp.pad(unembedding.bias.astype(jnp.float32), (0, added), constant_values=NEVER)
    return Unembedding(embedding.reshape(-1, part, embedding.shape[1]), bias.reshape(-1, part))


def _nll_by_parts(x: jax.Array, targets: jax.Array, parts: Unembedding) -> TokenNll:
    """As `_nll`, the vocabulary cut by `_cut_vocabulary`: the logits of a part are all that there
    is at a time. The sum of exponentials is kept beside its largest logit (Milakov and Gimelshein,
    2018)."""
    index = jnp.where(targets != NO_TARGET, targets, 0)
    size = parts.bias.shape[1]

    @jax.checkpoint
    def add(found: Any, part: Any) -> Any:
        most, total, hit, best = found
        number, unembedding = part
        logits = _logits(x, unembedding)
        here = index - number * size
        inside = (here >= 0) & (here < size)
        at = jnp.take_along_axis(logits, jnp.clip(here, 0, size - 1)[:, :, None], axis=2)[:, :, 0]
        # A constant of the sum, through which no gradient need flow.
        largest = jax.lax.stop_gradient(logits.max(axis=2))
        new = jnp.maximum(most, largest)
        exponentials = jnp.exp(logits - new[:, :, None]).sum(axis=2)
        likeliest = logits.argmax(axis=2).astype(jnp.int32) + number * size
        return (
            new, total * jnp.exp(most - new) + exponentials, jnp.where(inside, at, hit),
            jnp.where(largest > most, likeliest, best),
        ), None  # fmt: skip

    shape = targets.shape
    start = (
        jnp.full(shape, NEVER, jnp.float32), jnp.zeros(shape, jnp.float32),
        jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.int32),
    )  # fmt: skip
    numbers = jnp.arange(len(parts.bias), dtype=jnp.int32)
    (most, total, hit, best), _ = jax.lax.scan(add, start, (numbers, parts))
    return TokenNll(*_sums(targets, most + jnp.log(total) - hit, best == index))


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
