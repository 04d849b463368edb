"""Distillation of a masked-language model (DistilBERT, Sanh et al., 2019).

Student and teacher read the same masked texts, those of the objective `mlm`, which is one of the
paper's three terms. Scores of a whole vocabulary are compared a few places at a time.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mmjax.errors import UserError
from mmjax.models.tokens import SoftScores, soft_token_scores
from mmjax.objectives.registry import Objective, register

VIEW = "mlm"


@register("distill_tokens")
def distill_tokens(teachers: tuple[str, ...] = ("teacher",), temperature: float = 2.0) -> Objective:
    """The student tells hidden tokens as the teachers do, not only as they are.

    L = −T² · mean of Σ_v p log q over the hidden tokens of the global batch, with p, q the softmax
    of the teacher's and the student's scores / T. The factor T² keeps the size of the gradients
    (Hinton et al., 2015). DistilBERT's code has the KL divergence in its place, which is less by
    the teacher's entropy and has the same gradient. Metric: agreement, how often both find the same
    token likeliest.

    Args:
      teachers: names in config.teachers, of the student's vocabulary. The cross-entropy to the mean
        of their distributions is the mean of the cross-entropies.
      temperature: T.
    """
    _check(teachers)
    if temperature <= 0:
        raise ValueError(f"temperature is above 0, not {temperature}")

    def loss(outputs, batch):
        del batch
        student, each = outputs[VIEW], []
        for name in teachers:
            teacher = outputs[f"teacher/{name}/{VIEW}"]
            sizes = len(student["words"].bias), len(teacher["words"].bias)
            if sizes[0] != sizes[1]:
                raise UserError(
                    f"config.objectives.distill_tokens: the student has {sizes[0]} tokens and "
                    f"teacher {name!r} {sizes[1]}: set config.model.text.vocab_size, and "
                    "config.data.tokenizer, to the teacher's."
                )
            each.append(
                soft_token_scores(
                    student["text_hidden"], teacher["text_hidden"], student["targets"],
                    student["words"], teacher["words"], temperature,
                )
            )  # fmt: skip
        return soft_loss(each, temperature)

    return Objective(_requires(("text_hidden", "words"), teachers), loss)


@register("distill_hidden")
def distill_hidden(teachers: tuple[str, ...] = ("teacher",)) -> Objective:
    """The student's last hidden states point where the teachers' do: the mean of 1 − cos over the
    real tokens of the global batch, and over the teachers. Metric: that cosine.

    Args:
      teachers: names in config.teachers, as wide as the student.
    """
    _check(teachers)

    def loss(outputs, batch):
        del batch
        student, cosines = outputs[VIEW], []
        for name in teachers:
            x, t = student["text_tokens"], outputs[f"teacher/{name}/{VIEW}"]["text_tokens"]
            if x.shape[-1] != t.shape[-1]:
                raise UserError(
                    f"config.objectives.distill_hidden: the student's tokens have width "
                    f"{x.shape[-1]} and those of teacher {name!r} {t.shape[-1]}: set "
                    "config.model.text.width to the teacher's."
                )
            cosines.append(mean_cosine(x, t, student["text_mask"]))
        cosine = sum(cosines[1:], start=cosines[0]) / len(cosines)
        return 1 - cosine, {"cosine": cosine}

    return Objective(_requires(("text_tokens",), teachers), loss)


def soft_loss(
    each: Sequence[SoftScores], temperature: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """T² · the mean over all targets of the batch and all teachers, and the agreement."""
    soft, same, targets = (
        jnp.stack(sums).sum() for sums in zip(*each, strict=True)
    )  # each [teachers, B]
    count = jnp.maximum(targets, 1.0)
    return temperature**2 * soft / count, {"agreement": same / count}


def mean_cosine(x: jax.Array, t: jax.Array, mask: jax.Array) -> jax.Array:
    """The cosine of tokens [B, L, W] to others, float32, the mean where `mask` bool [B, L]."""
    x, t = x.astype(jnp.float32), t.astype(jnp.float32)
    lengths = jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(t, axis=-1)
    return jnp.where(mask, (x * t).sum(axis=-1) / lengths, 0.0).sum() / mask.sum()


def _check(teachers: tuple[str, ...]) -> None:
    if not teachers or len(set(teachers)) < len(teachers):
        raise ValueError(f"teachers are one or more different names, not {teachers!r}")


def _requires(names: tuple[str, ...], teachers: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return {VIEW: names} | {f"teacher/{teacher}/{VIEW}": names for teacher in teachers}
