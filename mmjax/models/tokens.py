"""How well hidden states tell tokens of a vocabulary, without ever holding all scores at once.

Masked-language and captioning losses are sums of these, and what a student learns from a teacher's
scores.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmjax.parallel.mesh import batch_shards

NO_TARGET = -1
DEVICE_LOGITS = 2**26  # scores that a device holds at a time: 256 MiB of float32


class TokenScores(NamedTuple):
    """float32 [B] each, sums over the targets of an example: −log p, how often the target was the
    likeliest token, and the number of targets."""

    nll: jax.Array
    correct: jax.Array
    targets: jax.Array


class Words(NamedTuple):
    """What hidden states meet to become scores: x · embeddingᵀ + bias, of [V, W] and [V]."""

    embedding: jax.Array
    bias: jax.Array


class SoftScores(NamedTuple):
    """float32 [B] each, sums over the targets of an example: the cross-entropy of the student's
    distribution to the teacher's, how often both find the same token likeliest, and the number of
    targets."""

    cross_entropy: jax.Array
    same: jax.Array
    targets: jax.Array


def token_scores(
    x: jax.Array, targets: jax.Array, embedding: jax.Array, bias: jax.Array
) -> TokenScores:
    """Scores of softmax(x · embeddingᵀ + bias), in float32.

    Computed a few places of each example at a time, and again in the backward pass, wherever the
    scores [B, K, V] would be more than DEVICE_LOGITS a device.

    Args:
      x: [B, K, W].
      targets: int32 [B, K] below V; NO_TARGET counts nothing.
      embedding: [V, W].
      bias: [V].
    """
    words = Words(embedding, bias)
    return _in_chunks(lambda x, targets: _scores(x, targets, words), len(bias), x, targets)


def soft_token_scores(
    x: jax.Array,
    teacher_x: jax.Array,
    targets: jax.Array,
    words: Words,
    teacher_words: Words,
    temperature: float,
) -> SoftScores:
    """−Σ p log q over the vocabulary, with p, q the softmax of the teacher's and the student's
    scores / T, in float32 and in chunks as `token_scores`.

    Args:
      x: [B, K, W] of the student.
      teacher_x: [B, K, W'] of the teacher.
      targets: int32 [B, K]; NO_TARGET counts nothing, what the others are is of no account.
      words: of the student, [V, W] and [V].
      teacher_words: of the teacher, [V, W'] and [V].
      temperature: T.
    """

    def soft(x, teacher_x, targets):
        logits, theirs = _logits(x, words), _logits(teacher_x, teacher_words)
        log_q = jax.nn.log_softmax(logits / temperature)
        p = jax.nn.softmax(theirs / temperature)
        same = logits.argmax(axis=2) == theirs.argmax(axis=2)
        return SoftScores(*_sums(targets, -(p * log_q).sum(axis=2), same))

    return _in_chunks(soft, 2 * len(words.bias), x, teacher_x, targets)


def _in_chunks(score: Callable[..., Any], a_place: int, *arrays: jax.Array) -> Any:
    """The sums [B] of `score(*arrays)`, a few places at a time where `a_place` scores for each
    would be more than DEVICE_LOGITS a device. The last array is the targets, [B, K]."""
    *hidden, targets = arrays
    rows = -(-targets.shape[0] // batch_shards())
    places = max(1, DEVICE_LOGITS // (rows * a_place))
    if places >= targets.shape[1]:
        return score(*arrays)
    added = (0, 0), (0, -targets.shape[1] % places)
    hidden = [jnp.pad(x, (*added, (0, 0))) for x in hidden]
    targets = jnp.pad(targets, added, constant_values=NO_TARGET)

    def cut(y):  # [B, K, …] -> [K / places, B, places, …]: the examples stay where they are
        return y.reshape(y.shape[0], -1, places, *y.shape[2:]).swapaxes(0, 1)

    some = jax.checkpoint(score)
    scores = jax.lax.map(lambda part: some(*part), tuple(map(cut, (*hidden, targets))))
    return jax.tree.map(lambda y: y.sum(axis=0), scores)


def _scores(x: jax.Array, targets: jax.Array, words: Words) -> TokenScores:
    logits = _logits(x, words)
    index = jnp.where(targets != NO_TARGET, targets, 0)
    hit = jnp.take_along_axis(logits, index[:, :, None], axis=2)[:, :, 0]
    nll = jax.nn.logsumexp(logits, axis=2) - hit
    return TokenScores(*_sums(targets, nll, logits.argmax(axis=2) == index))


def _logits(x: jax.Array, words: Words) -> jax.Array:
    return jnp.einsum(
        "bkw,vw->bkv", x, words.embedding.astype(x.dtype),
        precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32,
    ) + words.bias.astype(jnp.float32)  # fmt: skip


def _sums(targets: jax.Array, *values: jax.Array) -> list[jax.Array]:
    """Sums over the places that have a target, and their number."""
    counts = targets != NO_TARGET
    return [
        jnp.where(counts, y, 0.0).sum(axis=1)
        for y in (*values, jnp.ones(targets.shape, jnp.float32))
    ]
