"""Classification: each example has one of C classes, and a part of the model gives their logits.

Softmax cross-entropy, or a sigmoid for each class (Beyer et al., 2020), with label smoothing
(Szegedy et al., 2016) and mixup (Zhang et al., 2018).
"""

from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp

from mmjax.errors import UserError
from mmjax.objectives.registry import (
    LOCAL,
    PLAIN,
    Batch,
    Objective,
    Outputs,
    View,
    register,
    there_of,
)
from mmjax.values import POSITIVE_OR_0, Range

NORMALIZERS = {
    "softmax": lambda logits: jax.nn.logsumexp(logits, axis=1),
    "sigmoid": lambda logits: jax.nn.softplus(logits).sum(axis=1),
}
NO_LABEL = -1


class ClassSums(NamedTuple):
    """float32 [B] each: the loss times its weight, and that weight; whether there is a label,
    whether it is the likeliest class, and whether it is among the likeliest five (None: there are
    no more)."""

    loss: jax.Array
    weight: jax.Array
    labels: jax.Array
    first: jax.Array
    first_five: jax.Array | None


def class_loss(
    logits: jax.Array, label: jax.Array, loss: str = "softmax", label_smoothing: float = 0.0
) -> jax.Array:
    """Cross-entropy of each example, float32 [B].

    The target is t = (1 − ε) · onehot(label) + ε / C. "softmax": −Σ t log softmax(z); "sigmoid":
    −Σ [t log σ(z) + (1 − t) log σ(−z)], the sum over the classes. Both are N(z) − Σ t z, with N the
    logsumexp of the logits or the sum of their softplus.

    Args:
      logits: [B, C].
      label: int32 [B] below C; what NO_LABEL gives does not count.
      loss: "softmax" or "sigmoid".
      label_smoothing: ε.
    """
    logits = logits.astype(jnp.float32)
    hit = (1 - label_smoothing) * own_logit(logits, label) + label_smoothing * logits.mean(axis=1)
    return NORMALIZERS[loss](logits) - hit


def class_rank(logits: jax.Array, label: jax.Array) -> jax.Array:
    """int32 [B]: how many classes are likelier than the label, the first of equal ones first."""
    logits = logits.astype(jnp.float32)
    own, classes = own_logit(logits, label)[:, None], jnp.arange(logits.shape[1])
    return ((logits > own) | ((logits == own) & (classes < label[:, None]))).sum(axis=1)


def own_logit(logits: jax.Array, label: jax.Array) -> jax.Array:
    """[B, C] -> [B], of the label. By a mask, which any sharding of the batch leaves in place."""
    own = jnp.arange(logits.shape[1]) == label[:, None]
    return jnp.where(own, logits, 0.0).sum(axis=1)


@register("classification")
def classification(
    name: str,
    of: str = "image",
    loss: Literal["softmax", "sigmoid"] = "softmax",
    label_smoothing: Annotated[float, Range(0, below=1)] = 0.0,
    mixup: Annotated[float, POSITIVE_OR_0] = 0.0,
) -> Objective:
    """Cross-entropy of `label`, the mean over the labelled examples of the global batch (a label of
    −1 is none). Metrics: accuracy, and top5 where there are more than five classes; with mixup of
    the label with the larger share.

    Args:
      of: The part whose features are the logits of the classes.
      loss: softmax, one class for each example, or sigmoid, each class on its own.
      label_smoothing: Share of the target that is spread evenly over all classes.
      mixup: α of Beta(α, α), from which the share of the other image is drawn each step; 0: none.
    """
    view, features = name if mixup else PLAIN, f"{of}/features"

    def local(outputs, batch, own):
        del own
        made, label, shown = outputs[view], labels_of(name, batch), there_of(batch, (of,))
        label = label if shown is None else jnp.where(shown, label, NO_LABEL)
        logits, there = made[features], label != NO_LABEL
        share = made["share"] if mixup else jnp.ones(label.shape, jnp.float32)
        targets = [(label, share), (made["other_label"], 1 - share)] if mixup else [(label, share)]
        weights = [jnp.where(label != NO_LABEL, share, 0.0) for label, share in targets]
        losses = [
            weight * class_loss(logits, label, loss, label_smoothing)
            for weight, (label, _) in zip(weights, targets, strict=True)
        ]
        rank = class_rank(logits, label)
        first, first_five = (((rank < k) & there).astype(jnp.float32) for k in (1, 5))
        return ClassSums(
            sum(losses[1:], start=losses[0]), sum(weights[1:], start=weights[0]),
            there.astype(jnp.float32), first,
            first_five if logits.shape[1] > 5 else None,
        )  # fmt: skip

    def mean(outputs, batch, own):
        del batch, own
        sums: ClassSums = jax.tree.map(jnp.sum, outputs[LOCAL])
        labels = jnp.maximum(sums.labels, 1.0)
        metrics = {"accuracy": sums.first / labels}
        if sums.first_five is not None:
            metrics["top5"] = sums.first_five / labels
        return sums.loss / jnp.where(sums.weight > 0, sums.weight, 1.0), metrics

    views = {name: View(mixup_view(name, of, mixup))} if mixup else {}
    absent = () if mixup else (of,)  # a blank image would be mixed into another
    return Objective({view: (features,)}, mean, local, views, logits=features, absent=absent)


def mixup_view(name: str, of: str, alpha: float) -> Callable[[Batch, jax.Array, Outputs], Batch]:
    """A maker of images share · x + (1 − share) · x of the example before, float32 in 0..255, with
    the columns "share" float32 [B] and "other_label" int32 [B].

    As in big_vision, one share is drawn each step, the larger of Beta(α, α) and 1 minus it, and the
    batch is rolled by one: a device then sends one example to its neighbour, where the batch
    reversed would travel as a whole.
    """

    def view(batch: Batch, key: jax.Array, frozen: Outputs) -> Batch:
        del frozen
        label = labels_of(name, batch)
        if of not in batch or batch[of].ndim != 4:
            raise UserError(
                f"config.objectives.{name}.mixup mixes images, and {of!r} reads none: set it to 0."
            )
        share = jax.random.beta(key, alpha, alpha)
        share = jnp.maximum(share, 1 - share)
        image = batch[of].astype(jnp.float32)
        return {
            **batch,
            of: share * image + (1 - share) * jnp.roll(image, 1, axis=0),
            "share": jnp.full(label.shape, share),
            "other_label": jnp.roll(label, 1),
        }

    return view


def labels_of(name: str, batch: Batch) -> jax.Array:
    """The column "label" int32 [B] of a batch; UserError if the data has none."""
    if "label" not in batch:
        raise UserError(
            f"config.objectives.{name} needs labels: name the column or the folders that hold them "
            "in config.data.train."
        )
    return jnp.asarray(batch["label"])
