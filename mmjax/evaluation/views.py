"""Several views of each video in zero-shot classification, and what becomes of their logits."""

from typing import Any

import numpy as np
from scipy.special import softmax

from mmjax.data.modalities import Frames, Modality, Views
from mmjax.errors import UserError
from mmjax.evaluation.accuracy import Labels, accuracy, score_accuracy
from mmjax.evaluation.embed import SCALE
from mmjax.models import Graph


def views_of(spec: Any, read: Modality | None, model: Graph, name: str) -> Views | None:
    """The views that the keys `views` and `crops` ask for; None: what the part reads, alone.

    Args:
      spec: the keys of `Classification`.
      read: the modality of the part that embeds the records.
      model: has "logit/scale" where `aggregate` needs it.
      name: of the evaluator, for messages.

    Raises:
      UserError: the part reads no videos, or the keys do not fit the model or its data.
    """
    if spec.views == spec.crops == 1:
        return None
    if not isinstance(read, Frames):
        raise UserError(
            f"evals.{name}: views={spec.views} and crops={spec.crops} are of videos, which this "
            "model does not read: set both to 1."
        )
    if spec.aggregate == "softmax" and SCALE not in model.outputs():
        raise UserError(
            f"evals.{name}.aggregate='softmax' needs {SCALE}, which this model does not give: set "
            "aggregate='logits'."
        )
    try:
        return Views(read, spec.views, spec.crops)
    except UserError as error:
        raise UserError(f"evals.{name}: {error}") from error


def view_accuracy(
    embed: np.ndarray, weights: np.ndarray, labels: Labels, scale: float | None
) -> dict[str, float]:
    """`accuracy` of the views of videos together.

    Args:
      embed: float [N, views, D] of unit length.
      weights: float [classes, D].
      labels: as of `accuracy`.
      scale: None: a video's logits are the mean of its views'. Else the mean of softmax(scale ·
        cosine) over the classes is compared, which orders them as the sum does (X-CLIP, Ni et al.,
        2022).

    Returns:
      As `accuracy`, with "top1_top5_mean".
    """
    if scale is None:  # the logits of the mean are the mean of the logits
        return accuracy(embed.mean(axis=1, dtype=np.float64), weights, labels, average=True)
    scores = np.empty((len(embed), len(weights)))
    columns = weights.astype(np.float64).T
    for row, views in enumerate(embed.astype(np.float64)):
        # Rounded, so that equal classes tie exactly (see ranks.py).
        cosine = (views @ columns).astype(np.float32).astype(np.float64)
        scores[row] = softmax(scale * cosine, axis=1).mean(axis=0)
    return score_accuracy(scores, labels, average=True)
