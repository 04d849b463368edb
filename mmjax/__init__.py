"""mmjax pretrains multimodal models in JAX/Flax, from two CPU cores to a pod."""

import importlib
from types import ModuleType

_PARTS = ("data", "evaluation", "interop", "models", "objectives", "training")


def __getattr__(name: str) -> ModuleType:
    """`mmjax.models` and the other parts, imported when first used: `mmjax --help` stays quick."""
    if name in _PARTS:
        return importlib.import_module(f"mmjax.{name}")
    raise AttributeError(f"module 'mmjax' has no attribute {name!r}")
