"""`mmjax.recipe`: the config of a recipe by its name, or of any config file."""

from typing import Any

from ml_collections import ConfigDict

from mmjax import shipped
from mmjax.config import set_key
from mmjax.config_file import load_config


def list_recipes() -> list[str]:
    """The names of all recipes that come with mmjax, for `recipe` and `--config=NAME`."""
    return list(shipped.recipes())


def recipe(name: str, /, **overrides: Any) -> ConfigDict:
    """The config of a recipe, complete: each of its keys may be set, and no other.

    >>> import mmjax
    >>> config = mmjax.recipe("clip_vit_b16", batch_size=4096, **{"optim.lr": 5e-4})
    >>> config.batch_size, config.optim.lr
    (4096, 0.0005)

    Args:
      name: NAME[:ARG] of `list_recipes`, e.g. "clip_vit_b16:smoke", or a config file FILE[:ARG].
      **overrides: config keys, as --config.KEY=VALUE sets them.

    Raises:
      UserError: there is no such recipe or key, or a value is outside of its range.
    """
    config = load_config(name)
    for key, value in overrides.items():
        set_key(config, key, value)
    return config
