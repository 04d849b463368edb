"""The objective `infonce`, and its queue of past embeddings: more negatives than a batch has (MoCo,
He et al., 2020; ALBEF, Li et al., 2021).

With a queue, candidates come from the averaged parameters, so that old ones still fit new ones. The
queue holds whole batches, [n, B, D], the oldest overwritten by the newest; until it is full, the
positions that nobody wrote to yet are no candidates.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from mmjax.models.towers import PAIR
from mmjax.objectives.contrastive import (
    Implementation,
    infonce_loss,
    pair_outputs,
    similarity,
)
from mmjax.objectives.registry import EMA, PLAIN, Objective, register, there_of
from mmjax.values import COUNT_OR_0, POSITIVE_OR_0


@register("infonce")
def infonce(
    of: tuple[str, str] = PAIR,
    scale: str = "logit",
    direction: Literal["forward", "backward", "both"] = "forward",
    temperature: Annotated[float, POSITIVE_OR_0] = 0.0,
    positives: Literal["pair", "group"] = "pair",
    queue: Annotated[int, COUNT_OR_0] = 0,
    implementation: Implementation = "auto",
) -> Objective:
    """One direction of contrast, or the mean of both.

    Args:
      of: The two parts whose embeddings meet.
      scale: The part that scales their similarities.
      direction: forward, the first part's examples look for those of the second; backward; or both.
      temperature: Fixed; 0: the learned scale.
      positives: pair (its own example alone) or group (all with the same `group` in the batch).
      queue: Negatives come from this many past batches, too, and then all candidates come from the
        averaged parameters (config.optim.ema), and the implementation is dense; 0: of this batch
        alone.
      implementation: Dense, the ring, or by the size of the batch (auto).
    """
    directions = {"forward": (0,), "backward": (1,), "both": (0, 1)}
    if queue and implementation == "ring":
        raise ValueError(f"queue={queue} has no ring: set implementation to dense or auto")
    names = pair_outputs(of, "" if temperature else scale)
    embeds = names[:2]

    def mean(outputs, of_direction):
        plain = outputs[PLAIN]
        factor = 1 / temperature if temperature else plain[f"{scale}/scale"]
        losses = [of_direction(embeds[i], embeds[1 - i], factor) for i in directions[direction]]
        return sum(losses) / len(losses), {}

    def loss(outputs, batch, own):
        del own
        plain = outputs[PLAIN]
        group = batch["group"] if positives == "group" else None
        there = there_of(batch, of)
        return mean(
            outputs,
            lambda anchor, other, factor: infonce_loss(
                plain[anchor], plain[other], factor, group=group, there=there,
                implementation=implementation,
            ),
        )  # fmt: skip

    if not queue:
        return Objective({PLAIN: names}, loss, absent=of)

    def loss_with_queue(outputs, batch, own):
        past = own.state
        groups = (batch["group"], past["group"]) if positives == "group" else (None, None)
        return mean(
            outputs,
            lambda anchor, other, factor: queue_loss(
                outputs[PLAIN][anchor], outputs[EMA][other], past[_key(other)], past["written"],
                factor, group=groups[0], past_group=groups[1],
            ),
        )  # fmt: skip

    def kept(outputs, group):
        return {_key(name): outputs[EMA][name] for name in embeds} | {"group": group}

    def state(shapes):
        rows = shapes[EMA][embeds[0]].shape[:1]
        return empty(queue, kept(shapes, jax.ShapeDtypeStruct(rows, jnp.int32)))

    def update(own, outputs, batch):
        return push(own.state, kept(outputs, batch["group"]))

    return Objective({PLAIN: names, EMA: embeds}, loss_with_queue, state=state, update=update)


def _key(output: str) -> str:
    """Of an output's queue in the state, whose paths have a slash of their own."""
    return output.replace("/", "_")


def empty(batches: int, embeds: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Queues for the arrays `embeds` (or their shapes), each [B, …], and "written", how many
    batches went in so far."""
    queues = {
        name: jnp.zeros((batches, *embed.shape), embed.dtype) for name, embed in embeds.items()
    }
    return queues | {"written": jnp.zeros((), jnp.int32)}


def push(queue: Mapping[str, jax.Array], embeds: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The queue with one batch more, which replace the oldest."""
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
