"""Objectives: pure losses over model outputs, and the registry that the config names them by."""

from mmjax.objectives import contrastive, masked_image, matching, tokens
from mmjax.objectives.registry import REGISTRY, Objective, build, options, register

__all__ = [
    "REGISTRY",
    "Objective",
    "build",
    "contrastive",
    "masked_image",
    "matching",
    "options",
    "register",
    "tokens",
]
