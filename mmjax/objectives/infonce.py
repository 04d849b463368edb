"""The objective `infonce`, and its queue of past embeddings: more negatives than a batch has (MoCo,
He et al., 2020; ALBEF, Li et al., 2021).

With a queue, candidates come from the averaged parameters, so that old ones still fit new ones. The
queue holds whole batches, [n, B, D], the oldest overwritten by the newest; until it is full, the
places that nobody wrote to yet are no candidates.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.objectives.contrastive import (
    PAIR_OUTPUTS,
    check_implementation,
    infonce_loss,
    similarity,
)
from mmjax.objectives.registry import Objective, register


@register("infonce")
def infonce(
    direction: str = "image_to_text",
    temperature: float = 0.0,
    positives: str = "pair",
    queue: int = 0,
    implementation: str = "auto",
) -> Objective:
    """One direction of contrast, or the mean of both.

    Args:
      direction: "image_to_text", "text_to_image" or "both".
      temperature: fixed; 0 takes the model's learned scale.
      positives: "pair" (its own text alone) or "group" (all with the same `group` id in the batch).
      queue: so many past batches are candidates, too; then all candidates come from the averaged
        parameters (`config.optim.ema`), and the implementation is dense.
      implementation: "auto", "dense" or "ring".
    """
    check_implementation(implementation)
    directions = {"image_to_text": (0,), "text_to_image": (1,), "both": (0, 1)}
    if direction not in directions:
        raise ValueError(f"direction is one of {', '.join(directions)}, not {direction!r}")
    if positives not in ("pair", "group"):
        raise ValueError(f"positives is pair or group, not {positives!r}")
    if queue < 0 or (queue and implementation == "ring"):
        raise ValueError(f"queue={queue} is a number of batches, without the ring")
    plain_outputs = PAIR_OUTPUTS[:2] if temperature else PAIR_OUTPUTS

    def mean(outputs, of_direction):
        plain = outputs["plain"]
        scale = 1 / temperature if temperature else plain["logit_scale"]
        losses = [of_direction(PAIR_OUTPUTS[i], PAIR_OUTPUTS[1 - i], scale)
                  for i in directions[direction]]  # fmt: skip
        return sum(losses) / len(losses), {}

    def loss(outputs, batch):
        plain = outputs["plain"]
        group = batch["group"] if positives == "group" else None
        return mean(
            outputs,
            lambda anchor, other, scale: infonce_loss(
                plain[anchor], plain[other], scale, group=group, implementation=implementation
            ),
        )

    if not queue:
        return Objective({"plain": plain_outputs}, loss)

    def loss_with_queue(outputs, batch, own):
        past = own.state
        groups = (batch["group"], past["group"]) if positives == "group" else (None, None)
        return mean(
            outputs,
            lambda anchor, other, scale: queue_loss(
                outputs["plain"][anchor], outputs["ema"][other], past[other], past["written"],
                scale, group=groups[0], past_group=groups[1],
            ),
        )  # fmt: skip

    def kept(outputs, group):
        return {name: outputs["ema"][name] for name in PAIR_OUTPUTS[:2]} | {"group": group}

    def state(shapes):
        rows = shapes["ema"]["image_embed"].shape[:1]
        return empty(queue, kept(shapes, jax.ShapeDtypeStruct(rows, jnp.int32)))

    def update(past, outputs, batch):
        return push(past, kept(outputs, batch["group"]))

    requires = {"plain": plain_outputs, "ema": PAIR_OUTPUTS[:2]}
    return Objective(requires, loss_with_queue, state=state, update=update)


def empty(batches: int, embeds: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Queues for the arrays `embeds` (or their shapes), each [B, …], and "written", how many
    batches went in so far."""
    queues = {
        name: jnp.zeros((batches, *embed.shape), embed.dtype) for name, embed in embeds.items()
    }
    return queues | {"written": jnp.zeros((), jnp.int32)}


def push(queue: Mapping[str, jax.Array], embeds: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The queue with one batch more, in place of the oldest."""
    written = queue["written"]
    new = {
        name: jax.lax.dynamic_update_index_in_dim(
            queue[name], jax.lax.stop_gradient(embed), written % queue[name].shape[0], 0
        )
        for name, embed in embeds.items()
    }
    return new | {"written": written + 1}


def queue_loss(
    anchor_embed: jax.Array,
    candidate_embed: jax.Array,
    past_embed: jax.Array,
    written: jax.Array,
    scale: jax.Array | float,
    *,
    group: jax.Array | None = None,
    past_group: jax.Array | None = None,
) -> jax.Array:
    """InfoNCE over the batch's candidates and those of the queue, a float32 scalar.

    L = 1/B Σ_i [ lse_j∈all − lse_j∈pos(i) ], logits s·x_i·y_j.

    Args:
      anchor_embed: [B, D] of unit length.
      candidate_embed: [B, D], number i a positive of anchor i.
      past_embed: [n, B, D], the queue, of which the first `written` are there.
      written: int32 scalar.
      scale: scalar, 1 / temperature.
      group: int32 [B]: candidates with an equal id are positives, too.
      past_group: int32 [n, B], with `group`: the ids of the queue.
    """
    n, size = past_embed.shape[:2]
    candidates = jnp.concatenate([candidate_embed, past_embed.reshape(n * size, -1)])
    there = jnp.arange(size + n * size) < size * (1 + written)
    same = jnp.eye(size, size + n * size, dtype=bool)
    if group is not None and past_group is not None:
        groups = jnp.concatenate([group, past_group.reshape(-1)])
        same = (group[:, None] == groups[None, :]) & there
    logits = similarity(anchor_embed, candidates, scale)
    every = jax.nn.logsumexp(logits, axis=1, where=there)
    return (every - jax.nn.logsumexp(logits, axis=1, where=same)).mean()
