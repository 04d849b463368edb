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
    COMMON,
    LOCAL,
    PLAIN,
    REGISTRY,
    Objective,
    Own,
    View,
    build,
    keys_at,
    kind_of,
    list_objectives,
    register,
)

__all__ = [
    "COMMON",
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
    "keys_at",
    "kind_of",
    "list_objectives",
    "masked_image",
    "matching",
    "register",
    "tokens",
]
