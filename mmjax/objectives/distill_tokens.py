"""Distillation of a masked-language model (DistilBERT, Sanh et al., 2019).

Student and teacher read the same masked texts, those of the objective `mlm`, which is one of the
paper's three terms. Logits of a whole vocabulary are compared a few positions at a time.
"""

from collections.abc import Sequence
from typing import Annotated

import jax
import jax.numpy as jnp

from mmjax.errors import UserError
from mmjax.models.tokens import SoftNll, soft_token_nll
from mmjax.objectives.distill import check_teachers, of_teachers, requires_of
from mmjax.objectives.registry import LOCAL, Objective, register
from mmjax.objectives.tokens import hidden_at
from mmjax.values import POSITIVE


@register("distill_tokens")
def distill_tokens(
    name: str,
    teachers: tuple[str, ...] = ("teacher",),
    text: str = "text",
    view: str = "mlm",
    temperature: Annotated[float, POSITIVE] = 2.0,
) -> Objective:
    """The student predicts hidden tokens as the teachers do, not only as they are.

    L = −T² · mean of Σ_v p log q over the hidden tokens of the global batch, with p, q the softmax
    of the teacher's and the student's logits / T. The factor T² keeps the size of the gradients
    (Hinton et al., 2015). DistilBERT's code has the KL divergence instead, which is less by
    the teacher's entropy and has the same gradient. Metric: agreement, how often both find the same
    token likeliest.

    Args:
      teachers: Names in config.teachers, of the student's vocabulary. The cross-entropy to the mean
        of their distributions is the mean of the cross-entropies.
      text: The text tower whose head predicts, by the same name in all models.
      view: The objective that masks the texts.
      temperature: T.
    """
    check_teachers(teachers)
    tokens, head = f"{text}/tokens", f"{text}/lm_head"

    def local(outputs, batch, own):
        del batch, own
        student, each = outputs[view], []
        positions = student.get("positions")
        hidden = hidden_at(student[tokens], positions, student[head])
        unembedding = student[head].unembedding()
        for teacher, theirs in zip(teachers, of_teachers(outputs, teachers, view), strict=True):
            sizes = len(unembedding.bias), len(theirs[head].unembedding().bias)
            if sizes[0] != sizes[1]:
                raise UserError(
                    f"config.objectives.{name}: the student has {sizes[0]} tokens and "
                    f"teacher {teacher!r} {sizes[1]}: set config.model.{text}.vocab_size, and "
                    "config.data.tokenizer, to the teacher's."
                )
            each.append(
                soft_token_nll(
                    hidden, hidden_at(theirs[tokens], positions, theirs[head]),
                    student["targets"], unembedding, theirs[head].unembedding(), temperature,
                )
            )  # fmt: skip
        return each

    def loss(outputs, batch, own):
        del batch, own
        return soft_loss(outputs[LOCAL], temperature)

    return Objective(requires_of(view, (tokens, head), teachers, (tokens, head)), loss, local)


@register("distill_hidden")
def distill_hidden(
    name: str,
    teachers: tuple[str, ...] = ("teacher",),
    text: str = "text",
    view: str = "mlm",
) -> Objective:
    """The student's last hidden states point where the teachers' do: the mean of 1 − cos over the
    real tokens of the global batch, and over the teachers. Metric: that cosine.

    Args:
      teachers: Names in config.teachers, as wide as the student.
      text: The text tower whose tokens are compared, by the same name in all models.
      view: The objective that masks the texts.
    """
    check_teachers(teachers)
    tokens = f"{text}/tokens"

    def loss(outputs, batch, own):
        del batch, own
        student, cosines = outputs[view], []
        for teacher, theirs in zip(teachers, of_teachers(outputs, teachers, view), strict=True):
            x, t = student[tokens], theirs[tokens]
            if x.shape[-1] != t.shape[-1]:
                raise UserError(
                    f"config.objectives.{name}: the student's tokens have width "
                    f"{x.shape[-1]} and those of teacher {teacher!r} {t.shape[-1]}: set "
                    f"config.model.{text}.width to the teacher's."
                )
            cosines.append(mean_cosine(x, t, student[f"{text}_mask"]))
        cosine = sum(cosines[1:], start=cosines[0]) / len(cosines)
        return 1 - cosine, {"cosine": cosine}

    return Objective(requires_of(view, (tokens,), teachers, (tokens,)), loss)


def soft_loss(
    each: Sequence[SoftNll], temperature: float
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
