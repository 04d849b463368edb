"""Contrastive losses over the global batch: CLIP, InfoNCE, SigLIP.

The functions take L2-normalised embeddings [B, D] and the multiplicative scale s (e to the
logit_scale parameter). Arrays are global: under a mesh every example meets the negatives of the
whole batch, and values and gradients are those of one device. This is the dense form, one matmul
[B, B] that jit splits by rows over the devices.
"""

import jax
import jax.numpy as jnp

from mmjax.objectives.registry import Objective, register

PAIR_OUTPUTS = ("image_embed", "text_embed", "logit_scale")


def clip_loss(image_embed: jax.Array, text_embed: jax.Array, scale: jax.Array) -> jax.Array:
    """Symmetric InfoNCE (Radford et al., 2021), a float32 scalar.

    L = 1/2B Σ_i [ lse_j(s·x_i·y_j) − s·x_i·y_i + lse_j(s·x_j·y_i) − s·x_i·y_i ]
    """
    logits = similarity(image_embed, text_embed, scale)
    rows = jax.nn.logsumexp(logits, axis=1)
    columns = jax.nn.logsumexp(logits, axis=0)
    return (0.5 * (rows + columns) - jnp.diagonal(logits)).mean()


def infonce_loss(
    anchor_embed: jax.Array,
    candidate_embed: jax.Array,
    scale: jax.Array | float,
    positives: jax.Array | None = None,
) -> jax.Array:
    """InfoNCE in one direction (van den Oord et al., 2018), a float32 scalar.

    L = 1/B Σ_i [ lse_j∈all − lse_j∈pos(i) ], over logits s·x_i·y_j with s = 1 / temperature. With
    several positives an anchor this is MIL-NCE (Miech et al., 2020).

    Args:
      anchor_embed: [B, D] of unit length.
      candidate_embed: [M, D] of unit length.
      scale: scalar, 1 / temperature.
      positives: bool [B, M], True where candidate j is a positive of anchor i, at least one a row;
        None means the diagonal (M = B).
    """
    logits = similarity(anchor_embed, candidate_embed, scale)
    if positives is None:
        hit = jnp.diagonal(logits)
    else:
        hit = jax.nn.logsumexp(logits, axis=1, where=positives)
    return (jax.nn.logsumexp(logits, axis=1) - hit).mean()


def siglip_loss(
    image_embed: jax.Array, text_embed: jax.Array, scale: jax.Array, bias: jax.Array
) -> jax.Array:
    """Sigmoid loss of every pair (Zhai et al., 2023), a float32 scalar.

    L = −1/B Σ_ij log σ( z_ij (s·x_i·y_j + b) ), z = +1 on the diagonal and −1 elsewhere.
    """
    logits = similarity(image_embed, text_embed, scale) + bias
    z = 2 * jnp.eye(logits.shape[0], dtype=logits.dtype) - 1
    return -jax.nn.log_sigmoid(z * logits).sum() / logits.shape[0]


def similarity(x: jax.Array, y: jax.Array, scale: jax.Array | float) -> jax.Array:
    """Logits s·x·yᵀ [B, M] in true float32: TPUs would multiply in bfloat16, GPUs in TF32."""
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return scale * jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


@register("clip")
def clip() -> Objective:
    """Every image against every text and back."""

    def loss(outputs, batch):
        del batch
        plain = outputs["plain"]
        return clip_loss(plain["image_embed"], plain["text_embed"], plain["logit_scale"]), {}

    return Objective({"plain": PAIR_OUTPUTS}, loss)


@register("siglip")
def siglip() -> Objective:
    """Every image–text pair on its own: match or not."""

    def loss(outputs, batch):
        del batch
        plain = outputs["plain"]
        scale, bias = plain["logit_scale"], plain["logit_bias"]
        return siglip_loss(plain["image_embed"], plain["text_embed"], scale, bias), {}

    return Objective({"plain": (*PAIR_OUTPUTS, "logit_bias")}, loss)


@register("infonce")
def infonce(
    direction: str = "image_to_text", temperature: float = 0.0, positives: str = "pair"
) -> Objective:
    """One direction of contrast, or the mean of both.

    Args:
      direction: "image_to_text", "text_to_image" or "both".
      temperature: fixed; 0 takes the model's learned scale.
      positives: "pair" (its own text alone) or "group" (all with the same `group` id in the batch).
    """
    directions = {"image_to_text": (0,), "text_to_image": (1,), "both": (0, 1)}
    if direction not in directions:
        raise ValueError(f"direction is one of {', '.join(directions)}, not {direction!r}")
    if positives not in ("pair", "group"):
        raise ValueError(f"positives is pair or group, not {positives!r}")

    def loss(outputs, batch):
        plain = outputs["plain"]
        sides = plain["image_embed"], plain["text_embed"]
        scale = 1 / temperature if temperature else plain["logit_scale"]
        same = None
        if positives == "group":
            same = batch["group"][:, None] == batch["group"][None, :]
        losses = [infonce_loss(sides[i], sides[1 - i], scale, same) for i in directions[direction]]
        return sum(losses) / len(losses), {}

    return Objective({"plain": PAIR_OUTPUTS[:2] if temperature else PAIR_OUTPUTS}, loss)
