"""Data curation by the learner: a step trains on the best share of the examples loaded for it.

JEST (Evans et al., 2024, arXiv:2406.17711) and ACID (Udandarao et al., 2024, arXiv:2411.18674). A
step loads a super-batch of B = batch_size / keep pairs, and trains on b = batch_size of them. The
learner, with the parameters that it has, and a teacher embed all B, without gradients. The score of
image i with text j is a difference of sigmoid losses (`siglip`), learner − teacher, z = ±1:

    s_ij = log σ(z_ij (t'·x'_i·y'_j + b')) − log σ(z_ij (t·x_i·y_j + b)),  ' the teacher's

Pairs are drawn in chunks, each given those drawn before it (blocked Gibbs sampling):

    q_j = s_jj
    chunks times:  draw b / chunks of the pairs that are left, without replacement, j with e^{q_j}
                   q_j += Σ_{i drawn} (s_ij + s_ji)

The draw is the largest of q_j plus Gumbel noise, a function of (seed, step). Scores are computed
for the pairs of a chunk alone: the largest array of a device is [B / devices, b / chunks].
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mmjax.core.views import Frozen, Objectives, run_plain
from mmjax.data import mixtures
from mmjax.data.buckets import trained
from mmjax.errors import UserError
from mmjax.models import Graph
from mmjax.objectives.contrastive import similarity
from mmjax.objectives.registry import TEACHER, Batch, teacher_of
from mmjax.parallel.exchange import take_rows
from mmjax.parallel.mesh import constrain
from mmjax.values import COUNT, Range

DRAWS = 0x4A455354  # tells the random numbers of the choice from those of views


@dataclasses.dataclass(frozen=True)
class Curation:
    """The keys of `config.data.curation`.

    Attributes:
      keep: Share of the examples loaded for a step that it trains on: batch_size / keep are loaded,
        and batch_size of them are chosen; 1: all.
      score: Why a pair is chosen: a high loss of the learner and a low one of the teacher
        (learnability), a low loss of the teacher (easy), or a high one of the learner (hard).
      teacher: Name in config.teachers; hard needs none.
      chunks: Parts in which the batch is chosen, each given those before it; 1: each pair alone.
    """

    keep: Annotated[float, Range(above=0, most=1)] = 1.0
    score: Literal["learnability", "easy", "hard"] = "learnability"
    teacher: str = ""
    chunks: Annotated[int, COUNT] = 16


class Pairs(NamedTuple):
    """What one model makes of the pairs, by which l_ij = scale · x_i·y_j + bias.

    x, y: float32 [B, D] of unit length. scale, bias: scalars. weight: of its loss in the scores.
    """

    x: jax.Array
    y: jax.Array
    scale: jax.Array
    bias: jax.Array
    weight: float


def asks(config: ConfigDict, objectives: Objectives) -> dict[str, tuple[str, ...]]:
    """The frozen views, with their outputs, that the choice reads beside those of objectives."""
    curation = config.data.curation
    if curation.keep == 1 or curation.score == "hard":
        return {}
    return {f"{TEACHER}/{curation.teacher}": _outputs(objectives)}


def check(config: ConfigDict, model: Graph, objectives: Objectives) -> None:
    """UserError: there is no score by which to choose, or there are records without one."""
    curation = config.data.curation
    if curation.keep == 1:
        return
    if not curation.teacher and curation.score != "hard":
        raise UserError(
            f"config.data.curation.score={curation.score!r} needs a teacher: set config.data."
            "curation.teacher to a name in config.teachers, or score to 'hard'."
        )
    scored = _outputs(objectives)
    for part, sources in mixtures.lacking(model.inputs(), config.data.train).items():
        if f"{part}/embed" in scored:
            raise UserError(
                f"config.data.train.{min(sources)} has nothing for config.model.{part}, so its "
                "records have no score to be chosen by: remove the source, or set config.data."
                "curation.keep=1."
            )


def kept(config: ConfigDict, objectives: Objectives, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """Shapes of the batch that is trained on, given the one that is loaded (arrays or shapes)."""
    if config.data.curation.keep == 1:
        return batch
    return {
        name: jax.ShapeDtypeStruct((trained(config, x.shape[0]), *x.shape[1:]), x.dtype)
        for name, x in _carried(config, objectives, batch).items()
    }


def curate(
    config: ConfigDict,
    model: Graph,
    objectives: Objectives,
    params: Any,
    frozen: Mapping[str, tuple[Frozen, Any]],
    batch: Batch,
    key: jax.Array,
) -> tuple[Batch, dict[str, jax.Array]]:
    """The chosen examples of a super-batch, in its order, and the metrics of the choice.

    Args:
      config: of the run.
      model: the learner.
      objectives: of the run; one of them has scores of pairs.
      params: of the learner.
      frozen: "teacher/NAME" → the teacher and its parameters.
      batch: the super-batch, columns [B, …].
      key: of the step.
    """
    curation = config.data.curation
    if curation.keep == 1:
        return batch, {}
    models = embed(config, model, objectives, params, frozen, batch, config.optim.microbatches)
    count = trained(config, models[0].x.shape[0])
    chosen, scores = choose(models, jax.random.fold_in(key, DRAWS), count, curation.chunks)
    metrics = {"curation/kept": scores[chosen].mean(), "curation/all": scores.mean()}
    return take_rows(_carried(config, objectives, batch), chosen), metrics


def embed(
    config: ConfigDict,
    model: Graph,
    objectives: Objectives,
    params: Any,
    frozen: Mapping[str, tuple[Frozen, Any]],
    batch: Batch,
    microbatches: int = 1,
) -> list[Pairs]:
    """The pairs of a super-batch as those models see them whose losses make the score."""
    curation, names = config.data.curation, _outputs(objectives)

    def run(model: Graph, params: Any, batch: Batch, names: tuple[str, ...]) -> Mapping[str, Any]:
        return run_plain(model, params, batch, names, microbatches)

    def pairs(found: Mapping[str, Any], weight: float) -> Pairs:
        x, y, scale, bias = (found[name] for name in names)
        return Pairs(x, y, scale, bias, weight)

    models = []
    if curation.score != "easy":
        models.append(pairs(run(model, params, batch, names), 1.0))
    if curation.score != "hard":
        teacher, their_params = frozen[f"{TEACHER}/{curation.teacher}"]
        models.append(pairs(teacher.outputs(their_params, batch, None, names, run), -1.0))
    return models


def choose(
    models: Sequence[Pairs], key: jax.Array, count: int, chunks: int
) -> tuple[jax.Array, jax.Array]:
    """Draws `count` of B pairs in `chunks` equal parts (the module's formula).

    Returns:
      int32 [count], ascending, and float32 [B]: the score of each pair given all that were drawn,
      s_jj + Σ_{i drawn, i ≠ j} (s_ij + s_ji).
    """
    models = [
        pairs._replace(x=constrain(pairs.x, "batch", None), y=constrain(pairs.y, "batch", None))
        for pairs in models
    ]
    size = models[0].x.shape[0]
    # −log σ(−l) = softplus(l) is the loss of two that do not match, and of two that do at −l.
    own = sum(pairs.weight * jax.nn.softplus(-_own_logits(pairs)) for pairs in models)

    def draw(carry: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple[Any, None]:
        scores, left = carry
        noisy = jnp.where(left, scores + jax.random.gumbel(key, (size,)), -jnp.inf)
        _, drawn = jax.lax.top_k(constrain(noisy, None), count // chunks)
        scores += sum(_with(pairs, drawn) for pairs in models)
        return (constrain(scores, None), left.at[drawn].set(False)), None

    start = constrain(jnp.asarray(own), None), jnp.ones(size, bool)
    (scores, left), _ = jax.lax.scan(draw, start, jax.random.split(key, chunks))
    return jnp.nonzero(~left, size=count)[0].astype(jnp.int32), scores


def _own_logits(pairs: Pairs) -> jax.Array:
    x, y = pairs.x.astype(jnp.float32), pairs.y.astype(jnp.float32)
    return pairs.scale * (x * y).sum(axis=1) + pairs.bias


def _with(pairs: Pairs, drawn: jax.Array) -> jax.Array:
    """weight · Σ_{i drawn, i ≠ j} (loss_ij + loss_ji) of each pair j, float32 [B]."""
    x, y = (constrain(side[drawn], None, None) for side in (pairs.x, pairs.y))
    images = similarity(pairs.x, y, pairs.scale) + pairs.bias  # [B, c]
    texts = similarity(pairs.y, x, pairs.scale) + pairs.bias
    itself = jnp.arange(pairs.x.shape[0])[:, None] == drawn[None, :]
    losses = jnp.where(itself, 0.0, jax.nn.softplus(images) + jax.nn.softplus(texts))
    return pairs.weight * losses.sum(axis=1)


def _outputs(objectives: Objectives) -> tuple[str, ...]:
    """Two embeddings, a scale and a bias: what the objective's loss of a pair is computed from."""
    found = {name: objective.pair_loss for name, (objective, _) in objectives.items()
             if objective.pair_loss}  # fmt: skip
    if len(found) != 1:
        there = f"these have: {', '.join(sorted(found))}" if found else "none here has"
        raise UserError(
            "config.data.curation chooses pairs by the loss of a pair, and wants one objective "
            f"that has it, of the kind siglip ({there}): give config.objectives one such entry, or "
            "set config.data.curation.keep=1."
        )
    return next(iter(found.values()))


def _carried(
    config: ConfigDict, objectives: Objectives, batch: Mapping[str, Any]
) -> dict[str, Any]:
    """The columns that the chosen examples keep: not those that the teacher alone read."""
    teacher = config.data.curation.teacher
    views = {view for objective, _ in objectives.values() for view, _ in objective.all_requires()}
    read = teacher in {teacher_of(view) for view in views}
    return {
        name: x
        for name, x in batch.items()
        if read or not teacher or not name.startswith(f"{TEACHER}/{teacher}/")
    }
