"""Contrastive losses over the global batch: CLIP, InfoNCE, SigLIP, similarity distillation.

The functions take L2-normalised embeddings [B, D] and the multiplicative scale s (e to the
logit_scale parameter). Arrays are global: under a mesh every example meets the negatives of the
whole batch, and values and gradients are those of one device. `there`, bool [B], is False on pairs
of which a record lacks a side: they are neither anchors nor candidates, and the mean is over the
others; of none it is 0.

Each has two implementations of the same value and gradients: "dense", one matmul [B, B] that jit
splits by rows over the devices, and "ring" (`parallel/ring.py`), which never holds that matrix.
"auto" takes the ring where the rows of a device have more than DENSE_ENTRIES logits.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from mmjax.errors import UserError
from mmjax.models.towers import PAIR
from mmjax.objectives.registry import PLAIN, Objective, register, there_of
from mmjax.parallel import ring

Implementation = Literal["auto", "dense", "ring"]
DENSE_ENTRIES = 2**24  # 64 MiB of float32 logits, about three times that with their gradient


def clip_loss(
    image_embed: jax.Array,
    text_embed: jax.Array,
    scale: jax.Array | float,
    *,
    there: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """Symmetric InfoNCE (Radford et al., 2021), a float32 scalar.

    L = 1/2B Σ_i [ lse_j(s·x_i·y_j) − s·x_i·y_i + lse_j(s·x_j·y_i) − s·x_i·y_i ]

    >>> import jax.numpy as jnp
    >>> from mmjax.objectives.contrastive import clip_loss
    >>> x = jnp.eye(4)
    >>> print(clip_loss(x, x, 0.0).round(4), clip_loss(x, x, 100.0))  # ln 4, and all told apart
    1.3863 0.0
    """
    check_pairs(image_embed, text_embed)
    if take_ring(implementation, image_embed, text_embed):
        (rows, hits), (columns,) = ring.pair_statistics(
            *sides_of(image_embed, text_embed, there=there), scalars_of(scale),
            ("lse", "positive"), ("lse",),
        )  # fmt: skip
        return mean_of(0.5 * (rows + columns) - hits, there)
    logits = only(similarity(image_embed, text_embed, scale), there, there)
    rows = jax.nn.logsumexp(logits, axis=1)
    columns = jax.nn.logsumexp(logits, axis=0)
    return mean_of(0.5 * (rows + columns) - _diagonal(logits), there)


def infonce_loss(
    anchor_embed: jax.Array,
    candidate_embed: jax.Array,
    scale: jax.Array | float,
    positives: jax.Array | None = None,
    *,
    group: jax.Array | None = None,
    there: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """InfoNCE in one direction (van den Oord et al., 2018), a float32 scalar.

    L = 1/B Σ_i [ lse_j∈all − lse_j∈pos(i) ], over logits s·x_i·y_j with s = 1 / temperature.
    `mil_nce` counts both directions in one denominator.

    Args:
      anchor_embed: [B, D] of unit length.
      candidate_embed: [M, D] of unit length.
      scale: scalar, 1 / temperature.
      positives: bool [B, M], True where candidate j is a positive of anchor i, at least one a row;
        None means the diagonal (M = B), or `group`.
      group: int32 [B], equal ids are positives of each other (M = B); instead of `positives`, and
        without its B × M entries.
      there: bool [B], M = B.
      implementation: "auto", "dense" or "ring".
    """
    if positives is None:
        check_pairs(anchor_embed, candidate_embed)
    elif group is not None:
        raise UserError("infonce_loss takes `positives` or `group`, not both.")
    if take_ring(implementation, anchor_embed, candidate_embed):
        several = "positive" if positives is None and group is None else "positive_lse"
        sides = sides_of(anchor_embed, candidate_embed, ids=group, mask=positives, there=there)
        (rows, hits), () = ring.pair_statistics(*sides, scalars_of(scale), ("lse", several), ())
        return mean_of(rows - hits, there)
    if group is not None:
        positives = group[:, None] == group[None, :]
    logits = only(similarity(anchor_embed, candidate_embed, scale), there, there)
    if positives is None:
        hit = _diagonal(logits)
    else:
        hit = jax.nn.logsumexp(logits, axis=1, where=positives)
    return mean_of(jax.nn.logsumexp(logits, axis=1) - hit, there)


def siglip_loss(
    image_embed: jax.Array,
    text_embed: jax.Array,
    scale: jax.Array | float,
    bias: jax.Array | float,
    *,
    there: jax.Array | None = None,
    implementation: str = "auto",
) -> jax.Array:
    """Sigmoid loss of every pair (Zhai et al., 2023), a float32 scalar.

    L = −1/B Σ_ij log σ( z_ij (s·x_i·y_j + b) ), z = +1 on the diagonal and −1 elsewhere.
    """
    check_pairs(image_embed, text_embed)
    if take_ring(implementation, image_embed, text_embed):
        sides = sides_of(image_embed, text_embed, there=there)
        # −log σ(−l) = softplus(l), and −log σ(l) = softplus(l) − l.
        (every, hits), () = ring.pair_statistics(
            *sides, scalars_of(scale, bias), ("softplus", "positive"), ()
        )
        return mean_of(every - hits, there)
    logits = only(similarity(image_embed, text_embed, scale) + bias, there, there)
    z = 2 * jnp.eye(logits.shape[0], dtype=logits.dtype) - 1
    losses = -jax.nn.log_sigmoid(z * logits)
    if there is None:
        return losses.sum() / logits.shape[0]
    return mean_of(losses.sum(axis=1), there)


def similarity_distill_loss(
    image_embed: jax.Array,
    text_embed: jax.Array,
    scale: jax.Array | float,
    teacher_image_embed: jax.Array,
    teacher_text_embed: jax.Array,
    teacher_scale: jax.Array | float,
    *,
    implementation: str = "auto",
) -> jax.Array:
    """Cross-entropy of the student's similarities to the teacher's, a float32 scalar.

    L = −1/2B Σ_ij [ p_ij log q_ij + p'_ij log q'_ij ]; p, q are the teacher's and the student's
    softmax over texts, p', q' over images (TinyCLIP, Wu et al., 2023). The teacher takes no
    gradient; its embeddings [B, D'] are of unit length, too.
    """
    check_pairs(image_embed, text_embed)
    check_pairs(image_embed, teacher_image_embed, "student", "teacher")
    check_pairs(teacher_image_embed, teacher_text_embed)
    if take_ring(implementation, image_embed, text_embed):
        teachers = teacher_image_embed, teacher_text_embed
        sides = sides_of(image_embed, text_embed, teachers=teachers)
        names = ("lse", "teacher_mean")
        (rows, row_means), (columns, column_means) = ring.pair_statistics(
            *sides, scalars_of(scale, teacher_scale=teacher_scale), names, names
        )
        return 0.5 * (rows - row_means + columns - column_means).mean()
    logits = similarity(image_embed, text_embed, scale)
    teacher = jax.lax.stop_gradient(
        similarity(teacher_image_embed, teacher_text_embed, teacher_scale)
    )
    losses = [
        -(jax.nn.softmax(teacher, axis) * jax.nn.log_softmax(logits, axis)).sum(axis).mean()
        for axis in (1, 0)
    ]
    return 0.5 * (losses[0] + losses[1])


def similarity(x: jax.Array, y: jax.Array, scale: jax.Array | float) -> jax.Array:
    """Logits s·x·yᵀ [B, M] in true float32: TPUs would multiply in bfloat16, GPUs in TF32."""
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return scale * jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def only(logits: jax.Array, rows: jax.Array | None, columns: jax.Array | None = None) -> jax.Array:
    """Logits [B, M] whose exponential is 0 where the row or the column is not there: bool [B] and
    bool [M], both or neither. Finite, so that a row without any has a finite log-sum-exp."""
    if rows is None or columns is None:
        return logits
    return jnp.where(rows[:, None] & columns[None, :], logits, ring.NOTHING)


def mean_of(losses: jax.Array, there: jax.Array | None) -> jax.Array:
    """The mean of losses [B] over the global batch, or over those that are there; 0 of none."""
    if there is None:
        return losses.mean()
    return jnp.where(there, losses, 0.0).sum() / jnp.maximum(there.sum(), 1)


def _diagonal(logits: jax.Array) -> jax.Array:
    """[B, B] -> [B]. By a mask: the gather of jnp.diagonal, and the scatter of its gradient, would
    be collected from all devices."""
    return jnp.where(jnp.eye(logits.shape[0], dtype=bool), logits, 0.0).sum(axis=1)


def take_ring(implementation: str, x: jax.Array, y: jax.Array) -> bool:
    """Whether to go round the ring; UserError if that is wanted and cannot be."""
    if implementation not in get_args(Implementation):
        choices = ", ".join(get_args(Implementation))
        raise UserError(f"implementation={implementation!r}: choose one of {choices}.")
    devices, sizes = ring.devices(), (x.shape[0], y.shape[0])
    divides = all(size % devices == 0 for size in sizes)
    if implementation == "ring" and not divides:
        raise UserError(
            f"The ring of {devices} devices does not divide {sizes[0]} × {sizes[1]} embeddings: "
            "take a batch that it divides, or implementation='dense'."
        )
    large = sizes[0] // devices * sizes[1] > DENSE_ENTRIES
    return divides and (implementation == "ring" or (implementation == "auto" and large))


def check_pairs(x: jax.Array, y: jax.Array, first: str = "image", second: str = "text") -> None:
    if x.shape[0] != y.shape[0]:
        raise UserError(
            f"There are {x.shape[0]} {first} embeddings and {y.shape[0]} {second} embeddings: a "
            "pair is one of each, so give as many of both."
        )


def sides_of(
    x: jax.Array,
    y: jax.Array,
    *,
    ids: jax.Array | None = None,
    mask: jax.Array | None = None,
    teachers: tuple[jax.Array | None, jax.Array | None] = (None, None),
    there: jax.Array | None = None,
) -> tuple[ring.Side, ring.Side]:
    """Both sides for the ring. Without ids or a mask, i and i are the positive pairs."""
    x, y = in_one_dtype(x, y)
    if ids is None and mask is None:
        ids = jnp.arange(x.shape[0], dtype=jnp.int32)
    return (
        ring.Side(x, ids, mask, teachers[0], there),
        ring.Side(y, ids, None, teachers[1], there),
    )


def in_one_dtype(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as the ring takes them: bfloat16 if both are, else float32."""
    half = x.dtype == y.dtype == jnp.bfloat16
    dtype = jnp.bfloat16 if half else jnp.float32
    return x.astype(dtype), y.astype(dtype)


def scalars_of(
    scale: jax.Array | float, bias: jax.Array | float = 0.0, teacher_scale: jax.Array | float = 0.0
) -> ring.Scalars:
    return ring.Scalars(*(jnp.asarray(x, jnp.float32) for x in (scale, bias, teacher_scale)))


@register("clip")
def clip(
    of: tuple[str, str] = PAIR,
    scale: str = "logit",
    implementation: Implementation = "auto",
) -> Objective:
    """Every example of one part against every one of the other, and back.

    Args:
      of: The two parts whose embeddings meet.
      scale: The part that scales their similarities.
      implementation: Dense, the ring, or by the size of the batch (auto).
    """
    names = pair_outputs(of, scale)

    def loss(outputs, batch, own):
        del own
        x, y, factor = (outputs[PLAIN][name] for name in names)
        there = there_of(batch, of)
        return clip_loss(x, y, factor, there=there, implementation=implementation), {}

    return Objective({PLAIN: names}, loss, absent=of)


@register("siglip")
def siglip(
    of: tuple[str, str] = PAIR,
    scale: str = "logit",
    implementation: Implementation = "auto",
) -> Objective:
    """Every pair on its own: match or not.

    Args:
      of: The two parts whose embeddings meet.
      scale: The part that scales their similarities and has a bias for them.
      implementation: Dense, the ring, or by the size of the batch (auto).
    """
    names = (*pair_outputs(of, scale), f"{scale}/bias")

    def loss(outputs, batch, own):
        del own
        x, y, factor, bias = (outputs[PLAIN][name] for name in names)
        there = there_of(batch, of)
        return siglip_loss(x, y, factor, bias, there=there, implementation=implementation), {}

    return Objective({PLAIN: names}, loss, absent=of, pair_loss=names)


def pair_outputs(of: tuple[str, str], scale: str = "", output: str = "embed") -> tuple[str, ...]:
    """The embeddings of two parts, and the scale of their similarities where one is named."""
    if len(of) != 2 or of[0] == of[1]:
        raise ValueError(f"of={of!r} should name two parts of the model")
    return (f"{of[0]}/{output}", f"{of[1]}/{output}", *((f"{scale}/scale",) if scale else ()))
