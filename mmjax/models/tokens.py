"""How well hidden states tell tokens of a vocabulary, without ever holding all scores at once.

Masked-language and captioning losses are sums of these.
"""

from typing import NamedTuple

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
    rows = -(-x.shape[0] // batch_shards())
    places = max(1, DEVICE_LOGITS // (rows * embedding.shape[0]))
    if places >= x.shape[1]:
        return _scores(x, targets, embedding, bias)
    added = -x.shape[1] % places
    x = jnp.pad(x, ((0, 0), (0, added), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, added)), constant_values=NO_TARGET)

    def cut(y):  # [B, K, …] -> [K / places, B, places, …]: the examples stay where they are
        return y.reshape(y.shape[0], -1, places, *y.shape[2:]).swapaxes(0, 1)

    some = jax.checkpoint(lambda x, targets: _scores(x, targets, embedding, bias))
    scores = jax.lax.map(lambda part: some(*part), (cut(x), cut(targets)))
    return jax.tree.map(lambda y: y.sum(axis=0), scores)


def _scores(x, targets, embedding, bias) -> TokenScores:
    logits = jnp.einsum(
        "bkw,vw->bkv", x, embedding.astype(x.dtype),
        precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32,
    ) + bias.astype(jnp.float32)  # fmt: skip
    counts = targets != NO_TARGET
    index = jnp.where(counts, targets, 0)
    hit = jnp.take_along_axis(logits, index[:, :, None], axis=2)[:, :, 0]
    nll = jax.nn.logsumexp(logits, axis=2) - hit
    correct = logits.argmax(axis=2) == index
    return TokenScores(*(
        jnp.where(counts, y, 0.0).sum(axis=1) for y in (nll, correct, jnp.ones_like(nll))
    ))  # fmt: skip
