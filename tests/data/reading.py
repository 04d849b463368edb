"""Configs and modalities for the loader's tests."""

from ml_collections import ConfigDict

from mmjax import config as config_lib
from mmjax import models
from mmjax.data import modalities


def settings(batch_size, size, length, seed=0, **data):
    """A whole config; `data` replaces keys of `config.data`."""
    config = config_lib.default()
    config.update(seed=seed, batch_size=batch_size)
    config.model = models.zoo.config("ViT-B/32")
    config.model.image.size, config.model.text.context_length = size, length
    values = {"train": {"pairs": {"weight": 1.0}}, "augment": {}, "workers": 0, **data}
    for key, value in values.items():
        config.data[key] = ConfigDict(value) if isinstance(value, dict) else value
    return config


def reads(config, tokenizer=None):
    """What the model of a config reads, its columns named after its parts."""
    inputs, load = models.inputs(config.model), tokenizer and (lambda: tokenizer)
    return modalities.build(inputs, data=config.data, tokenizer=load).values()
