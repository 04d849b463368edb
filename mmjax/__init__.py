"""mmjax pretrains multimodal models in JAX/Flax, from two CPU cores to a pod.

What each command does is a function here, of the same name and arguments. A name is imported when
it is first used: `import mmjax` and `mmjax --help` are quick.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

# Name → where it is: a module, or MODULE:ATTRIBUTE. Below, the same for type checkers and editors.
_HOMES = {
    "Pretrained": "mmjax.pretrained:Pretrained",
    "config": "mmjax.config",
    "convert": "mmjax.loading:convert",
    "data": "mmjax.data",
    "datatools": "mmjax.datatools",
    "doctor": "mmjax.checkup:doctor",
    "embed": "mmjax.embedding:embed",
    "errors": "mmjax.errors",
    "evaluate": "mmjax.evaluation:evaluate",
    "evaluation": "mmjax.evaluation",
    "export": "mmjax.loading:export",
    "interop": "mmjax.interop",
    "list_models": "mmjax.models.zoo:list_models",
    "list_objectives": "mmjax.objectives:list_objectives",
    "list_recipes": "mmjax.recipes:list_recipes",
    "load": "mmjax.loading:load",
    "models": "mmjax.models",
    "objectives": "mmjax.objectives",
    "plan": "mmjax.planning.command:plan",
    "recipe": "mmjax.recipes:recipe",
    "report": "mmjax.reporting.command:report",
    "train": "mmjax.training:train",
    "training": "mmjax.training",
    "video": "mmjax.video",
}
if TYPE_CHECKING:
    from mmjax import config as config
    from mmjax import data as data
    from mmjax import datatools as datatools
    from mmjax import errors as errors
    from mmjax import evaluation as evaluation
    from mmjax import interop as interop
    from mmjax import models as models
    from mmjax import objectives as objectives
    from mmjax import training as training
    from mmjax import video as video
    from mmjax.checkup import doctor as doctor
    from mmjax.embedding import embed as embed
    from mmjax.evaluation import evaluate as evaluate
    from mmjax.loading import convert as convert
    from mmjax.loading import export as export
    from mmjax.loading import load as load
    from mmjax.models.zoo import list_models as list_models
    from mmjax.objectives import list_objectives as list_objectives
    from mmjax.planning.command import plan as plan
    from mmjax.pretrained import Pretrained as Pretrained
    from mmjax.recipes import list_recipes as list_recipes
    from mmjax.recipes import recipe as recipe
    from mmjax.reporting.command import report as report
    from mmjax.training import train as train


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmjax' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    found = importlib.import_module(module)
    value = globals()[name] = getattr(found, attribute) if attribute else found
    return value


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
