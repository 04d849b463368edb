"""mmjax pretrains multimodal models in JAX/Flax, from two CPU cores to a pod."""

from mmjax import models, objectives

__all__ = ["models", "objectives"]
