"""Objectives: pure losses over model outputs, and the registry that the config names them by."""

from mmjax.objectives import (
    classification,
    contrastive,
    distill,
    distill_tokens,
    infonce,
    masked_image,
    matching,
    tokens,
)
from mmjax.objectives.registry import (
    LOCAL,
    PLAIN,
    REGISTRY,
    Objective,
    Own,
    View,
    build,
    kind_of,
    options,
    register,
)

__all__ = [
    "LOCAL",
    "PLAIN",
    "REGISTRY",
    "Objective",
    "Own",
    "View",
    "build",
    "classification",
    "contrastive",
    "distill",
    "distill_tokens",
    "infonce",
    "kind_of",
    "masked_image",
    "matching",
    "options",
    "register",
    "tokens",
]
