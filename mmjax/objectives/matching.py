"""Image–text matching: does this text belong to this image? Negatives are the hardest of the batch.

As in ALBEF (Li et al., 2021), but from the global batch: each image also meets a text, and each
text an image, drawn in proportion to how alike the towers find them. Or, as in Oscar (Li et al.,
2020), whose texts end with the tags of their pictures: are these the picture's own tags?
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.objectives.contrastive import similarity
from mmjax.objectives.registry import Batch, Objective, Outputs, register

NEGATIVES = ("hard", "uniform", "tags")


@register("matching")
def matching(negatives: str = "hard", model: ConfigDict | None = None) -> Objective:
    """Binary cross-entropy over the B pairs and 2B false ones. Metric: accuracy of all.

    Args:
      negatives: "hard", drawn from the softmax of the towers' similarities (no gradient), or
        "uniform"; or "tags": over the B pairs, half of which have the tags of another (Oscar's
        contrastive loss). Examples of one `group` are no negatives of each other.
    """
    tags = model.text.tags if model else 0
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives is one of {', '.join(NEGATIVES)}, not {negatives!r}")
    if bool(tags) != (negatives == "tags"):
        raise ValueError(
            f"negatives={negatives!r} and config.model.text.tags={tags}: a picture is known by its "
            "tags, so set negatives='tags' where there are any, and another where not"
        )
    if tags:
        return tag_matching(tags)
    embeds = ("image_embed", "text_embed", "logit_scale") if negatives == "hard" else ()

    def pairs(outputs: Outputs, batch: Batch, key: jax.Array):
        """Example i at rows 3i (its pair), 3i + 1 (with another text), 3i + 2 (another image)."""
        others = different(batch)
        logits = jnp.zeros(others.shape)
        if embeds:
            plain = jax.lax.stop_gradient(outputs["plain"])
            logits = similarity(*(plain[name] for name in embeds))
        text_key, image_key = jax.random.split(key)
        text = jax.random.categorical(text_key, jnp.where(others, logits, -jnp.inf), axis=1)
        image = jax.random.categorical(image_key, jnp.where(others, logits.T, -jnp.inf), axis=1)
        own = jnp.arange(len(others))
        images, texts = jnp.stack([own, own, image], axis=1), jnp.stack([own, text, own], axis=1)
        return images.reshape(-1), texts.reshape(-1)

    def loss(outputs, batch):
        logits = outputs["pairs"]["match_logits"].reshape(-1, 3)
        match = jnp.arange(3) == 0
        # An example without any other in the batch has no negatives.
        counts = match | different(batch).any(axis=1)[:, None]
        # −log σ(z), and −log(1 − σ(z)) of what does not match
        losses = jax.nn.softplus(jnp.where(match, -logits, logits))
        right = (logits > 0) == match
        total = counts.sum()
        return (losses * counts).sum() / total, {"accuracy": (right & counts).sum() / total}

    requires = {"plain": ("image_tokens", "text_tokens", *embeds), "pairs": ("match_logits",)}
    return Objective(requires, loss, pairs={"pairs": pairs})


def tag_matching(tags: int) -> Objective:
    """`matching` by the tags, the last `tags` places of a text."""

    def view(batch: Batch, key: jax.Array) -> Batch:
        whether_key, other_key = jax.random.split(key)
        others, text = different(batch), batch["text"]
        other = jax.random.categorical(other_key, jnp.where(others, 0.0, -jnp.inf), axis=1)
        swapped = jax.random.bernoulli(whether_key, 0.5, others.shape[:1]) & others.any(axis=1)
        take = swapped[:, None] & (jnp.arange(text.shape[1]) >= text.shape[1] - tags)
        texts = {name: jnp.asarray(batch[name]) for name in ("text", "text_mask")}
        new = {name: jnp.where(take, x[other], x) for name, x in texts.items()}
        return {**batch, **new, "match": ~swapped}

    def loss(outputs, batch):
        del batch
        logits, match = (outputs["tags"][name] for name in ("match_logits", "match"))
        losses = jax.nn.softplus(jnp.where(match, -logits, logits))
        return losses.mean(), {"accuracy": ((logits > 0) == match).mean()}

    return Objective({"tags": ("match_logits",)}, loss, {"tags": view})


def different(batch: Batch) -> jax.Array:
    """bool [B, B], True where two examples are of different groups."""
    return batch["group"][:, None] != batch["group"][None, :]
