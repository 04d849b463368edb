"""Image–text matching: does this text belong to this image? Negatives are the hardest of the batch.

As in ALBEF (Li et al., 2021), but from the global batch: each image also meets a text, and each
text an image, drawn in proportion to how alike the towers find them. Or, as in Oscar (Li et al.,
2020), whose texts end with the tags of their pictures: are these the image's own tags?
"""

from typing import Literal

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.models.towers import PAIR
from mmjax.objectives.contrastive import pair_outputs, similarity
from mmjax.objectives.registry import PLAIN, Batch, Objective, Outputs, View, register


@register("matching")
def matching(
    name: str,
    negatives: Literal["hard", "uniform", "tags"] = "hard",
    of: tuple[str, str] = PAIR,
    fusion: str = "fusion",
    scale: str = "logit",
    model: ConfigDict | None = None,
) -> Objective:
    """Binary cross-entropy over the B pairs and 2B false ones. Metric: accuracy of all.

    Args:
      negatives: hard, drawn from the softmax of the towers' similarities (no gradient), or uniform;
        or tags: over the B pairs, half of which have the tags of another (Oscar's contrastive
        loss). Examples of one `group` are no negatives of each other.
      of: The two towers, the image's first.
      fusion: The part that tells whether they match.
      scale: hard: the part that scales the towers' similarities.
    """
    tags = model[of[1]].tags if model and of[1] in model else 0
    if bool(tags) != (negatives == "tags"):
        raise ValueError(
            f"negatives={negatives!r} and config.model.{of[1]}.tags={tags}: an image is known by "
            "its tags, so set negatives='tags' where there are any, and another where not"
        )
    output = f"{fusion}/match"
    if tags:
        return tag_matching(f"{name}/tags", tags, of[1], output)
    embeds = pair_outputs(of, scale) if negatives == "hard" else ()
    image, text = of

    def pairs(outputs: Outputs, batch: Batch, key: jax.Array):
        """Example i at rows 3i (its pair), 3i + 1 (with another text), 3i + 2 (another image)."""
        others = different(batch)
        logits = jnp.zeros(others.shape)
        if embeds:
            plain = jax.lax.stop_gradient(outputs[PLAIN])
            logits = similarity(*(plain[embed] for embed in embeds))
        text_key, image_key = jax.random.split(key)
        texts = jax.random.categorical(text_key, jnp.where(others, logits, -jnp.inf), axis=1)
        images = jax.random.categorical(image_key, jnp.where(others, logits.T, -jnp.inf), axis=1)
        own = jnp.arange(len(others))
        rows = {image: (own, own, images), text: (own, texts, own)}
        return {part: jnp.stack(each, axis=1).reshape(-1) for part, each in rows.items()}

    def loss(outputs, batch, own):
        del own
        logits = outputs[view][output].reshape(-1, 3)
        match = jnp.arange(3) == 0
        # An example without any other in the batch has no negatives.
        counts = match | different(batch).any(axis=1)[:, None]
        # −log σ(z), and −log(1 − σ(z)) of what does not match
        losses = jax.nn.softplus(jnp.where(match, -logits, logits))
        right = (logits > 0) == match
        total = counts.sum()
        return (losses * counts).sum() / total, {"accuracy": (right & counts).sum() / total}

    view = f"{name}/pairs"
    requires = {PLAIN: (f"{image}/tokens", f"{text}/tokens", *embeds), view: (output,)}
    return Objective(requires, loss, pairs={view: pairs})


def tag_matching(name: str, tags: int, text: str, output: str) -> Objective:
    """`matching` by the tags, the last `tags` positions of a text, in a view called `name`."""

    def view(batch: Batch, key: jax.Array, frozen: Outputs) -> Batch:
        del frozen
        whether_key, other_key = jax.random.split(key)
        others, ids = different(batch), batch[text]
        other = jax.random.categorical(other_key, jnp.where(others, 0.0, -jnp.inf), axis=1)
        swapped = jax.random.bernoulli(whether_key, 0.5, others.shape[:1]) & others.any(axis=1)
        take = swapped[:, None] & (jnp.arange(ids.shape[1]) >= ids.shape[1] - tags)
        texts = {column: jnp.asarray(batch[column]) for column in (text, f"{text}_mask")}
        new = {column: jnp.where(take, x[other], x) for column, x in texts.items()}
        return {**batch, **new, "match": ~swapped}

    def loss(outputs, batch, own):
        del batch, own
        logits, match = (outputs[name][column] for column in (output, "match"))
        losses = jax.nn.softplus(jnp.where(match, -logits, logits))
        return losses.mean(), {"accuracy": ((logits > 0) == match).mean()}

    return Objective({name: (output,)}, loss, views={name: View(view)})


def different(batch: Batch) -> jax.Array:
    """bool [B, B], True where two examples are of different groups."""
    return batch["group"][:, None] != batch["group"][None, :]
