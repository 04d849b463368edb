"""mmjax pretrains multimodal models in JAX/Flax, from two CPU cores to a pod."""

import importlib
from typing import Any

_PARTS = ("data", "evaluation", "interop", "models", "objectives", "training")


def __getattr__(name: str) -> Any:
    """`mmjax.load`, `mmjax.models` and the other parts, imported when first used: `mmjax --help`
    stays quick."""
    if name == "load":
        return importlib.import_module("mmjax.pretrained").load
    if name in _PARTS:
        return importlib.import_module(f"mmjax.{name}")
    raise AttributeError(f"module 'mmjax' has no attribute {name!r}")
