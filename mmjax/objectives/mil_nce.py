"""MIL-NCE (Miech et al., 2020): a clip has a bag of K captions near it in time, of which some fit.

All K are positives, their exponentials added up; negatives are taken both ways. As in the paper,
the denominator holds each pair once (the authors' code has the positives twice, and gives log 2
where the formula gives 0, for a batch of one).
"""

from typing import Annotated

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.towers import PAIR
from mmjax.objectives.contrastive import (
    Implementation,
    in_one_dtype,
    mean_of,
    only,
    pair_outputs,
    scalars_of,
    similarity,
    take_ring,
)
from mmjax.objectives.registry import PLAIN, Objective, register, there_of
from mmjax.parallel import ring
from mmjax.values import POSITIVE_OR_0


def mil_nce_loss(
    clip_embed: jax.Array,
    caption_embed: jax.Array,
    scale: jax.Array | float = 1.0,
    *,
    there: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """MIL-NCE, a float32 scalar.

    L = −1/B Σ_i log( P_i / (P_i + N_i) ), P_i = Σ_k e^{s·x_i·y_ik},
    N_i = Σ_{j≠i} Σ_k ( e^{s·x_i·y_jk} + e^{s·x_j·y_ik} ).

    Args:
      clip_embed: [B, D], of any length.
      caption_embed: [B, K, D], the bags.
      scale: scalar s, 1 / temperature; the paper has 1.
      there: bool [B, K], False where a bag has fewer captions: they are in no sum, and a clip
        whose bag is empty is left out of the mean and of the others' negatives. None: all are.
      implementation: "auto", "dense" or "ring".

    >>> import jax.numpy as jnp
    >>> from mmjax.objectives.mil_nce import mil_nce_loss
    >>> print(mil_nce_loss(jnp.ones((1, 4)), jnp.ones((1, 3, 4))))  # no negatives
    0.0
    """
    if clip_embed.shape[0] != caption_embed.shape[0] or caption_embed.ndim != 3:
        raise UserError(
            f"mil_nce takes clips [B, D] and captions [B, K, D], and has {list(clip_embed.shape)} "
            f"and {list(caption_embed.shape)}: give each clip a bag of as many captions."
        )
    clips, captions = caption_embed.shape[:2]
    y = caption_embed.reshape(clips * captions, -1)
    some = None if there is None else there.any(axis=1)
    each = None if there is None else there.reshape(-1)
    ids = jnp.arange(clips, dtype=jnp.int32)
    owners = jnp.repeat(ids, captions)
    if take_ring(implementation, clip_embed, y):
        x, y = in_one_dtype(clip_embed, y)
        (rows, hits), (columns,) = ring.pair_statistics(
            ring.Side(x, ids, there=some), ring.Side(y, owners, there=each), scalars_of(scale),
            ("lse", "positive_lse"), ("negative_lse",),
        )  # fmt: skip
    else:
        logits = only(similarity(clip_embed, y, scale), some, each)
        own = ids[:, None] == owners[None, :]
        rows = jax.nn.logsumexp(logits, axis=1)
        hits = jax.nn.logsumexp(jnp.where(own, logits, ring.NOTHING), axis=1)
        columns = jax.nn.logsumexp(jnp.where(own, ring.NOTHING, logits), axis=0)
    others = jax.nn.logsumexp(columns.reshape(clips, captions), axis=1)
    return mean_of(jnp.logaddexp(rows, others) - hits, some)


@register("mil_nce")
def mil_nce(
    of: tuple[str, str] = PAIR,
    normalise: bool = False,
    temperature: Annotated[float, POSITIVE_OR_0] = 1.0,
    scale: str = "logit",
    implementation: Implementation = "auto",
    model: ConfigDict | None = None,
) -> Objective:
    """A clip and the captions near it in time, any of which may fit.

    Args:
      of: The part that embeds clips, and the part that embeds bags of captions (its key bag).
      normalise: Embeddings have unit length; the paper's have not.
      temperature: Fixed, the paper has 1; 0: the learned scale.
      scale: The part that scales their similarities, where temperature is 0.
      implementation: Dense, the ring, or by the size of the batch (auto).
    """
    output = "embed" if normalise else "features"
    names = pair_outputs(of, "" if temperature else scale, output)
    if model and of[1] in model and not model[of[1]].get("bag"):
        raise ValueError(
            f"the captions of a clip are a bag: set config.model.{of[1]}.bag, e.g. to 5"
        )

    def loss(outputs, batch, own):
        del own
        clips, captions, *learned = (outputs[PLAIN][name] for name in names)
        factor = 1 / temperature if temperature else learned[0]
        there, shown = batch.get(f"{of[1]}_there"), there_of(batch, of[:1])
        if there is not None and shown is not None:
            there = there & shown[:, None]
        found = mil_nce_loss(clips, captions, factor, there=there, implementation=implementation)
        return found, {}

    return Objective({PLAIN: names}, loss, absent=of, bags=of[1:])
