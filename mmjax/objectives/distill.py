"""Distillation: a student learns from the outputs of frozen teachers.

Similarity (TinyCLIP, MobileCLIP), logits (Hinton et al., 2015), features and interactive contrast
(CLIP-KD). Of several teachers, distributions are averaged after their softmax, other losses as they
are. Arrays are global: similarities are those of the whole batch, by the ring where it is large.
The teachers' outputs come without a gradient, computed in the step or read with the batch.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from mmjax.errors import UserError
from mmjax.models.towers import PAIR
from mmjax.objectives import contrastive
from mmjax.objectives.contrastive import Implementation, pair_outputs
from mmjax.objectives.registry import PLAIN, TEACHER, Objective, Outputs, Own, register
from mmjax.values import NATURAL, POSITIVE, POSITIVE_OR_0

Direction = Literal["forward", "reverse"]
COMPARED = 256  # examples that the agreement of student and teacher is measured on


def kl_loss(
    logits: jax.Array,
    teacher_logits: Sequence[jax.Array],
    *,
    temperature: float = 1.0,
    direction: str = "forward",
) -> jax.Array:
    """T² · KL of softmax distributions, mean over rows, a float32 scalar (Hinton et al., 2015).

    "forward" is KL(teacher ‖ student) = Σ p (log p − log q), "reverse" KL(student ‖ teacher), with
    p, q the softmax of the teacher's and the student's logits / T. The factor T² keeps the size of
    the gradients.

    Args:
      logits: [..., C] of the student.
      teacher_logits: of each teacher, [..., C]; p is the mean of their softmaxes.
      temperature: T.
      direction: "forward" or "reverse".
    """
    log_q = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    each = [jax.nn.log_softmax(t.astype(jnp.float32) / temperature) for t in teacher_logits]
    log_p = jax.nn.logsumexp(jnp.stack(each), axis=0) - jnp.log(len(each))
    if direction == "reverse":
        log_p, log_q = log_q, log_p
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()


def kd_loss(
    logits: jax.Array,
    teacher_logits: Sequence[jax.Array],
    labels: jax.Array,
    *,
    alpha: float,
    temperature: float = 1.0,
    direction: str = "forward",
) -> jax.Array:
    """L = CE(y, p) + α · KL: cross-entropy with the labels int [...] and `kl_loss`."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    hits = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    hard = -jnp.where(hits, log_p, 0.0).sum(axis=-1).mean()
    soft = kl_loss(logits, teacher_logits, temperature=temperature, direction=direction)
    return hard + alpha * soft


def feature_loss(embed: jax.Array, teacher_embed: jax.Array, distance: str = "mse") -> jax.Array:
    """Distance of embeddings [B, D] to the teacher's, a float32 scalar.

    "mse": mean of squared differences over all B · D entries, as CLIP-KD weighs by 2000;
    "cosine": mean of 1 − cos, as DistilBERT.
    """
    x, t = embed.astype(jnp.float32), teacher_embed.astype(jnp.float32)
    if distance == "mse":
        return jnp.square(x - t).mean()
    return (1 - _cosine(x, t)).mean()


def interactive_loss(
    image_embed: jax.Array,
    text_embed: jax.Array,
    scale: jax.Array | float,
    teacher_image_embed: jax.Array,
    teacher_text_embed: jax.Array,
    *,
    implementation: str = "auto",
) -> jax.Array:
    """Contrast of the student's images with the teacher's texts, and of its texts with the
    teacher's images: the mean of both InfoNCE losses (CLIP-KD, Yang et al., 2024).

    All are [B, D] of unit length; `scale` is the student's, e to its parameter.
    """
    return 0.5 * (
        contrastive.infonce_loss(
            image_embed, teacher_text_embed, scale, implementation=implementation
        )
        + contrastive.infonce_loss(
            text_embed, teacher_image_embed, scale, implementation=implementation
        )
    )


def agreement(
    image_embed: jax.Array,
    text_embed: jax.Array,
    teacher_image_embed: jax.Array,
    teacher_text_embed: jax.Array,
) -> jax.Array:
    """The share of images for which student and teacher find the same nearest text, among the
    first COMPARED pairs of the batch: a float32 scalar."""
    sides = (image_embed, text_embed), (teacher_image_embed, teacher_text_embed)
    nearest = [
        contrastive.similarity(x[:COMPARED], y[:COMPARED], 1.0).argmax(axis=1) for x, y in sides
    ]
    return (nearest[0] == nearest[1]).astype(jnp.float32).mean()


@register("distill_similarity")
def distill_similarity(
    teachers: tuple[str, ...] = ("teacher",),
    of: tuple[str, str] = PAIR,
    scale: str = "logit",
    temperature: Annotated[float, POSITIVE_OR_0] = 0.0,
    implementation: Implementation = "auto",
) -> Objective:
    """Cross-entropy of the batch's similarities to the teachers', both ways (TinyCLIP, Wu et al.,
    2023; MobileCLIP, Vasu et al., 2024).

    Args:
      teachers: Names in config.teachers. The cross-entropy to the mean of their softmaxes is the
        mean of the cross-entropies.
      of: The two parts whose similarities they are, by the same names in all models.
      scale: The part that scales them.
      temperature: Of the teachers' similarities; 0: each one's own scale.
      implementation: Dense, the ring, or by the size of the batch (auto).
    """
    check_teachers(teachers)
    names = pair_outputs(of, scale)
    theirs = names[:2] if temperature else names

    def loss(outputs, batch, own):
        del batch, own
        x, y, factor = (outputs[PLAIN][output] for output in names)
        losses, agreements = [], []
        for teacher in of_teachers(outputs, teachers):
            t_x, t_y = teacher[names[0]], teacher[names[1]]
            t_factor = 1 / temperature if temperature else teacher[names[2]]
            losses.append(
                contrastive.similarity_distill_loss(
                    x, y, factor, t_x, t_y, t_factor, implementation=implementation
                )
            )
            agreements.append(agreement(x, y, t_x, t_y))
        return _mean(losses), {"agreement": _mean(agreements)}

    return Objective(requires_of(PLAIN, names, teachers, theirs), loss)


@register("distill_logits")
def distill_logits(
    teachers: tuple[str, ...] = ("teacher",),
    of: tuple[str, str] = PAIR,
    scale: str = "logit",
    alpha: Annotated[float, NATURAL] = 1.0,
    temperature: Annotated[float, POSITIVE] = 1.0,
    direction: Direction = "forward",
) -> Objective:
    """L = CE(y, p) + α · KL on the batch's logits, the mean of both directions: the classes of an
    image are the texts of the batch, its label is its own text, and the other way round.

    Args:
      teachers: Names in config.teachers; their distributions are averaged.
      of: The two parts whose similarities they are, by the same names in all models.
      scale: The part that scales them.
      alpha: Weight of the divergence.
      temperature: T of both distributions, with the factor T².
      direction: forward, KL(teacher ‖ student), or reverse.
    """
    check_teachers(teachers)
    names = pair_outputs(of, scale)

    def loss(outputs, batch, own):
        del batch, own
        models = [outputs[PLAIN], *of_teachers(outputs, teachers)]
        logits = [contrastive.similarity(*(m[output] for output in names)) for m in models]
        labels = jnp.arange(logits[0].shape[0])
        options: dict[str, Any] = {"alpha": alpha, "temperature": temperature}
        losses = [
            kd_loss(student, others, labels, direction=direction, **options)
            for student, *others in (logits, [x.T for x in logits])
        ]
        same = [logits[0].argmax(axis=1) == x.argmax(axis=1) for x in logits[1:]]
        return _mean(losses), {"agreement": _mean(same).mean()}

    return Objective(requires_of(PLAIN, names, teachers, names), loss)


@register("distill_feature")
def distill_feature(
    name: str,
    teachers: tuple[str, ...] = ("teacher",),
    of: tuple[str, ...] = PAIR,
    distance: Literal["mse", "cosine"] = "mse",
    project: bool = False,
) -> Objective:
    """Distance of the student's embeddings to the teachers' (CLIP-KD's feature distillation): the
    sum over the parts, the mean over teachers.

    Args:
      teachers: Names in config.teachers.
      of: The parts whose embeddings are compared, by the same names in all models.
      distance: mse or cosine.
      project: Through a learned matrix [D, D'] for each, then to unit length; needed where the
        student's embeddings have another size than the teacher's.
    """
    check_teachers(teachers)

    def loss(outputs, batch, own):
        del batch
        pairs = _matched(name, outputs, teachers, of, own, project)
        losses = [feature_loss(x, t, distance) for sides in pairs for x, t in sides]
        cosines = [_cosine(x, t).mean() for sides in pairs for x, t in sides]
        return sum(losses) / len(teachers), {"cosine": _mean(cosines)}

    params, embeds = _projections(teachers, of) if project else None, _embeds(of)
    return Objective(requires_of(PLAIN, embeds, teachers, embeds), loss, params=params)


@register("distill_interactive")
def distill_interactive(
    name: str,
    teachers: tuple[str, ...] = ("teacher",),
    of: tuple[str, str] = PAIR,
    scale: str = "logit",
    project: bool = False,
    implementation: Implementation = "auto",
) -> Objective:
    """`interactive_loss` (CLIP-KD's interactive contrastive learning), the mean over teachers.

    Args:
      teachers: Names in config.teachers.
      of: The two parts whose embeddings meet, by the same names in all models.
      scale: The part that scales their similarities.
      project: As of distill_feature.
      implementation: Dense, the ring, or by the size of the batch (auto).
    """
    check_teachers(teachers)
    names = pair_outputs(of, scale)

    def loss(outputs, batch, own):
        del batch
        factor = outputs[PLAIN][names[2]]
        losses = [
            interactive_loss(x, y, factor, t_x, t_y, implementation=implementation)
            for (x, t_x), (y, t_y) in _matched(name, outputs, teachers, of, own, project)
        ]
        return _mean(losses), {}

    params = _projections(teachers, of) if project else None
    return Objective(requires_of(PLAIN, names, teachers, names[:2]), loss, params=params)


def check_teachers(teachers: tuple[str, ...]) -> None:
    """ValueError: they are not one or more different names."""
    if not teachers or len(set(teachers)) < len(teachers):
        raise ValueError(f"teachers are one or more different names, not {teachers!r}")


def teacher_view(teacher: str, view: str = PLAIN) -> str:
    """The name of what a teacher makes of a view."""
    return f"{TEACHER}/{teacher}" if view == PLAIN else f"{TEACHER}/{teacher}/{view}"


def requires_of(
    view: str, ours: tuple[str, ...], teachers: tuple[str, ...], theirs: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    """What an objective requires of the model and of teachers, in the same view."""
    return {view: ours} | {teacher_view(name, view): theirs for name in teachers}


def of_teachers(
    outputs: Outputs, teachers: tuple[str, ...], view: str = PLAIN
) -> list[Mapping[str, Any]]:
    """The outputs of each teacher for a view."""
    return [outputs[teacher_view(name, view)] for name in teachers]


def _embeds(of: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{part}/embed" for part in of)


def _projections(teachers: tuple[str, ...], of: tuple[str, ...]):
    """A maker of {teacher: {part: {"kernel": [D, D']}}}."""

    def params(key, shapes):
        def kernel(number, teacher, part):
            output = f"{part}/embed"
            size = shapes[PLAIN][output].shape[-1], shapes[teacher_view(teacher)][output].shape[-1]
            noise = jax.random.normal(jax.random.fold_in(key, number), size, jnp.float32)
            return {"kernel": noise * size[0] ** -0.5}

        return {
            teacher: {part: kernel(len(of) * i + j, teacher, part) for j, part in enumerate(of)}
            for i, teacher in enumerate(teachers)
        }

    return params


def _matched(objective, outputs, teachers, of: tuple[str, ...], own: Own, project: bool):
    """For each teacher and each part (the student's, the teacher's): embeddings of equal size."""
    result = []
    for name, teacher in zip(teachers, of_teachers(outputs, teachers), strict=True):
        sides = []
        for part in of:
            x, t = outputs[PLAIN][f"{part}/embed"], teacher[f"{part}/embed"]
            if project:
                x = contrastive.similarity(x, own.params[name][part]["kernel"].T, 1.0)
                x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
            elif x.shape[-1] != t.shape[-1]:
                raise UserError(
                    f"config.objectives.{objective}: the student's {part} embeddings have size "
                    f"{x.shape[-1]} and those of teacher {name!r} {t.shape[-1]}: set "
                    f"config.objectives.{objective}.project=True, or config.model.embed_dim to "
                    "the teacher's."
                )
            sides.append((x, t))
        result.append(sides)
    return result


def _cosine(x: jax.Array, t: jax.Array) -> jax.Array:
    lengths = jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(t, axis=-1)
    return (x * t).sum(axis=-1) / lengths


def _mean(values: Sequence[jax.Array]) -> jax.Array:
    return sum(values[1:], start=values[0]) / len(values)
