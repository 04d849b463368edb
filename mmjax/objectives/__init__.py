"""Objectives: pure losses over model outputs, and the registry that the config names them by."""

from mmjax.objectives import (
    contrastive,
    distill,
    distill_tokens,
    infonce,
    masked_image,
    matching,
    tokens,
)
from mmjax.objectives.registry import REGISTRY, Objective, Own, build, options, register

__all__ = [
    "REGISTRY",
    "Objective",
    "Own",
    "build",
    "contrastive",
    "distill",
    "distill_tokens",
    "infonce",
    "masked_image",
    "matching",
    "options",
    "register",
    "tokens",
]
