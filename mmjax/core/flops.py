"""What a train step computes, as MFU counts it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from mmjax.core import curation
from mmjax.core.state import TrainState, model_params
from mmjax.core.step import Teacher, frozen_models, owned
from mmjax.core.views import Objectives, run_views
from mmjax.models import Graph
from mmjax.models.flops import product_flops
from mmjax.objectives.registry import Batch, is_frozen


def step_flops(
    model: Graph,
    objectives: Objectives,
    teachers: Sequence[Teacher],
    state: TrainState,
    batch: Mapping[str, Any],
) -> int:
    """Model FLOPs of a train step on `batch`, over all devices; arrays may be shapes.

    `model` is `models.flops.plain_model` of the config.

    The matrix products of every view that the objectives ask for and of the heads that predict from
    it: three times those that take a gradient, once those of teachers and of averaged parameters
    (Chowdhery et al., 2022, appendix B). What remat computes again does not count, nor do the
    products of global losses; parameters that are frozen count as if they were trained.
    """
    teachers = [teacher.counted() for teacher in teachers]
    frozen_alone = {
        name: (
            dataclasses.replace(
                objective, local=None, pairs={},
                requires={v: n for v, n in objective.requires.items() if is_frozen(v)},
            ),
            weight,
        )
        for name, (objective, weight) in objectives.items()
    }  # fmt: skip

    def products(objectives: Objectives) -> int:
        # The devices may only be described: even the key is made in the trace.
        def run(params: Any, memory: Any, frozen: Any, ema: Any, batch: Batch) -> Any:
            return run_views(
                model, objectives, model_params(params), batch, jax.random.key(0),
                own=owned(objectives, params, memory, ema),
                frozen=frozen_models(model, teachers, frozen, ema, model_params(params)),
            )  # fmt: skip

        return product_flops(run, state.params, state.memory, state.teachers, state.ema, batch)

    return 3 * products(objectives) - 2 * products(frozen_alone)


def scoring_flops(
    config: ConfigDict,
    model: Graph,
    objectives: Objectives,
    teachers: Sequence[Teacher],
    state: TrainState,
    batch: Mapping[str, Any],
) -> int:
    """Model FLOPs of the forward passes by which the examples of a train step are chosen from a
    `batch` that is loaded; 0 if all are trained on. Arguments are as of `step_flops`."""
    if config.data.curation.keep == 1:
        return 0
    teachers = [teacher.counted() for teacher in teachers]

    def run(params: Any, frozen: Any, batch: Batch) -> Any:
        frozen = frozen_models(model, teachers, frozen, None)
        return curation.embed(config, model, objectives, model_params(params), frozen, batch)

    return product_flops(run, state.params, state.teachers, batch)
