"""What a train step computes, as MFU counts it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from mmjax.core.state import model_params
from mmjax.core.step import run_all, split_views
from mmjax.core.views import run_views
from mmjax.models.flops import plain_model, product_flops
from mmjax.objectives.registry import Batch
from mmjax.training.assemble import Parts


def step_flops(parts: Parts, batch: Mapping[str, Any]) -> int:
    """Model FLOPs of a train step on `batch` (or its shapes), over all devices.

    The matrix products of every view that the objectives ask for and of the heads that the model
    has for them: three times those that take a gradient, once those of teachers and of averaged
    parameters (Chowdhery et al., 2022, appendix B). What remat computes again does not count, nor
    do the losses' own products; parameters that are frozen count as if they were trained.
    """
    model = plain_model(parts.config.model)
    teachers = [
        dataclasses.replace(teacher, model=plain_model(teacher.weights.config.model))
        if teacher.model and teacher.weights  # not: only its embeddings
        else teacher
        for teacher in parts.teachers
    ]
    trained, _ = split_views(parts.objectives)

    # The devices may only be described: even the key is made in the trace.
    def own(params: Any, batch: Batch) -> Any:
        return run_views(model, trained, model_params(params), batch, jax.random.key(0))

    def everything(params: Any, frozen: Any, ema: Any, batch: Batch) -> Any:
        return run_all(
            model, parts.objectives, params, batch, jax.random.key(0), teachers=teachers,
            frozen=frozen, ema=ema,
        )  # fmt: skip

    state = parts.state
    once = product_flops(everything, state.params, state.teachers, state.ema, batch)
    return once + 2 * product_flops(own, state.params, batch)
