"""The keys of `config.model`: its own, and those that its parts declare."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict

from mmjax.models.fusion import OF_TEXT, Fusion
from mmjax.models.regions import RegionTower
from mmjax.models.resnet import ModifiedResNet
from mmjax.models.text import TextTower
from mmjax.models.vision import VisionTower
from mmjax.schema import RESUMABLE, TRAINING_ONLY, Key, Keys, entry, keys_of, union

KINDS = {"vit": VisionTower, "resnet": ModifiedResNet, "regions": RegionTower}


@dataclasses.dataclass(frozen=True)
class Model:
    """What is no part's own. `zoo.config(NAME)` fills all in for a named architecture.

    Attributes:
      name: Name of the architecture, for logs and exports.
      towers: Both, or the one that there is: ('text',) is a BERT.
      embed_dim: Width of the shared embedding space.
      logit_scale_init: Initial log of the logit scale; CLIP: ln(1/0.07).
      logit_scale_max: Largest logit scale, clamped after each update; 0: none.
      logit_bias_init: Initial logit bias (SigLIP: -10); None: no bias.
      dtype: Compute dtype of the towers; auto: float32 on CPU, else bfloat16.
    """

    name: Annotated[str, RESUMABLE] = "custom"
    towers: tuple[str, ...] = ("image", "text")
    embed_dim: int = 512
    logit_scale_init: Annotated[float, TRAINING_ONLY] = 2.6592600
    logit_scale_max: Annotated[float, TRAINING_ONLY] = 100.0
    logit_bias_init: Annotated[float | None, TRAINING_ONLY] = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


@dataclasses.dataclass(frozen=True)
class Image:
    """The kind of the image tower.

    Attributes:
      kind: A vision transformer, the ResNet of OpenAI's RN50, or what an object detector found
        (region features, for a fusion).
    """

    kind: Literal["vit", "resnet", "regions"] = "vit"


_SHARED = ("embed_dim", "dtype")  # of the model, given to every part
_OF_KIND = {kind: keys_of(tower, skip=_SHARED) for kind, tower in KINDS.items()}
SECTIONS: dict[str, Keys] = {
    "": keys_of(Model),
    "image": union(keys_of(Image), *_OF_KIND.values()),
    "text": keys_of(TextTower, skip=_SHARED),
    "fusion": keys_of(Fusion, skip=(*OF_TEXT, "class_token", "dtype", "of")),
}


def complete(values: Mapping[str, Any] | ConfigDict) -> ConfigDict:
    """A `config.model` of these values, all others at their defaults."""
    model = entry(SECTIONS[""])
    for part, keys in SECTIONS.items():
        if part:
            model[part] = entry(keys)
    model.update(values.to_dict() if isinstance(values, ConfigDict) else dict(values))
    return model


def of_model(model: ConfigDict) -> Iterator[tuple[str, Key, Any]]:
    """(path, key, value) of what says how this model computes: the keys of the parts it has."""
    parts = {"": SECTIONS[""]}
    if "image" in model.towers:
        parts["image"] = keys_of(Image) + _OF_KIND[model.image.kind]
    if "text" in model.towers:
        parts["text"] = SECTIONS["text"]
    if model.fusion.style != "none":
        parts["fusion"] = SECTIONS["fusion"]
    for part, keys in parts.items():
        for key in keys:
            path = f"{part}.{key.name}" if part else key.name
            yield path, key, model[part][key.name] if part else model[key.name]
