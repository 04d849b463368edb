"""The evaluators by task, and the one door that builds them from a config's entry."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax import config as config_lib
from mmjax.data import Tokenizer
from mmjax.errors import UserError
from mmjax.evaluation.knn import NearestNeighbours
from mmjax.evaluation.loss import HeldOutLoss
from mmjax.evaluation.probe import Probe
from mmjax.evaluation.retrieval import Retrieval
from mmjax.evaluation.zeroshot import ZeroShot, imagenet
from mmjax.models import Graph

Evaluator = Callable[[Any], dict[str, float]]
TASKS: dict[str, Callable[..., Evaluator]] = {
    "classification": ZeroShot,
    "imagenet": imagenet,
    "knn": NearestNeighbours,
    "loss": HeldOutLoss,
    "probe": Probe,
    "retrieval": Retrieval,
}


def build(
    name: str,
    spec: Mapping[str, Any] | ConfigDict,
    *,
    config: ConfigDict,
    model: Graph,
    tokenizer: Tokenizer | None,
) -> Evaluator:
    """The evaluator of one entry of `config.evals`: parameters -> metrics.

    It runs under the current mesh (`jax.set_mesh`), or without one on all devices of this host.

    Args:
      name: the entry's name, for messages.
      spec: keys `evals.*`; those left out are at their defaults.
      config: the run's config (model, data, objectives and seed are read).
      model: `models.from_config(config.model)`.
      tokenizer: the run's; None if its model reads no texts.

    Raises:
      UserError: unknown task, missing data, or a key that does not fit it.
    """
    spec = config_lib.entry("evals", **spec)
    task = spec.task
    if task not in TASKS:
        raise UserError(f"evals.{name}.task is one of {', '.join(TASKS)}, not {task!r}.")
    return TASKS[task](name, spec, config=config, model=model, tokenizer=tokenizer)
