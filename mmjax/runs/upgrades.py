"""config.json, and how those of earlier versions become today's: a chain of small functions."""

import json
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from mmjax.errors import UserError

Tree = dict[str, Any]


def _rename(section: Tree, **names: str) -> None:
    """Old name → new name; a key that is newer than the file is left to its default."""
    for old in names.keys() & section.keys():
        section[names[old]] = section.pop(old)


def _rename_keys(config: Tree) -> None:
    """0 → 1: copies, blocks and kinds have these names; an evaluator has the keys of its kind."""
    _rename(config["data"], views="copies")
    for source in config["data"]["train"].values():
        _rename(source, format="kind", run="block")
    own: dict[str, tuple[str, ...]] = {
        "classification": ("classes", "templates", "protocol", "subset"),
        "imagenet": ("classes", "templates", "protocol", "subset", "real"),
        "knn": ("train", "train_split", "k", "temperature"),
        "probe": ("train", "train_split", "shots"),
        "retrieval": ("candidates",),
    }
    some_kinds = {key for keys in own.values() for key in keys}
    for spec in config["evals"].values():
        spec["kind"] = spec.pop("task")
        for key in some_kinds & spec.keys():  # '' was the default of every kind
            if key not in own.get(spec["kind"], ()) or spec[key] == "":
                del spec[key]


def _name_parts(config: Tree) -> None:
    """1 → 2: the parts of the model are named entries with the keys of their kind, and those that
    it does not have are not written; what objectives are of has the names of parts."""
    model = config["model"]
    towers = model.pop("towers", ("image", "text"))
    fusion = model.pop("fusion", {"style": "none"})
    scale = {"kind": "scale"}
    for old, new in (("scale_init", "initial"), ("scale_max", "max"), ("bias_init", "bias")):
        if f"logit_{old}" in model:
            scale[new] = model.pop(f"logit_{old}")
    image, text = {"kind": "vit"} | model.pop("image"), model.pop("text")
    both = "image" in towers and "text" in towers
    if "image" in towers:
        common = ("kind", "width")
        tower = ("size", "heads", "head", "mean", "std", "attention")
        own: dict[str, tuple[str, ...]] = {
            "resnet": (*common, *tower, "stages"),
            "regions": (*common, "regions", "region_width", "norm_eps"),
            "vit": tuple(image.keys() - {"regions", "region_width", "stages"}),
        }
        model["image"] = {key: image[key] for key in own[image["kind"]] if key in image}
    if "text" in towers:
        model["text"] = {"kind": "transformer", **text}
    if fusion["style"] != "none":
        model["fusion"] = {"kind": fusion.pop("style"), **fusion}
    embeds = image["kind"] == "resnet" or (image["kind"] == "vit" and image["depth"] > 0)
    if both and embeds and text["depth"] > 0:
        model["logit"] = scale
    names = {"fused": "fusion", "image_to_text": "forward", "text_to_image": "backward"}
    for objective in config["objectives"].values():
        for key in {"of", "direction"} & objective.keys():
            objective[key] = names.get(objective[key], objective[key])


def _name_media(config: Tree) -> None:
    """2 → 3: what a record shows is one of several media."""
    for source in [*config["data"]["train"].values(), *config["evals"].values()]:
        if "regions" in source:
            source["media"] = "regions" if source.pop("regions") else "image"


def _add_stages(config: Tree) -> None:
    """3 → 4: a run may have stages, and objectives a start and a stop."""
    config.setdefault("stages", {})
    for objective in config["objectives"].values():
        objective.setdefault("start", 0.0)
        objective.setdefault("stop", 1.0)


UPGRADES: tuple[Callable[[Tree], None], ...] = (
    _rename_keys,
    _name_parts,
    _name_media,
    _add_stages,
)  # number n: of version n to n + 1
VERSION = len(UPGRADES)


def dump(config: ConfigDict) -> str:
    """The config as indented JSON with the version of its keys; `load` reads it back."""
    tree = {"version": VERSION, **config.to_dict()}
    return json.dumps(tree, indent=2, sort_keys=True) + "\n"


def load(text: str) -> ConfigDict:
    """A config that `dump` wrote in this or an earlier version, under today's keys.

    Raises:
      json.JSONDecodeError: it is no JSON.
      UserError: a later version of mmjax wrote it.
    """
    tree = json.loads(text)
    version = tree.pop("version", 0)
    if version > VERSION:
        raise UserError(
            f"config.json is of version {version}, and this mmjax reads up to {VERSION}: use the "
            "mmjax that wrote it, or a newer one."
        )
    for upgrade in UPGRADES[version:]:
        upgrade(tree)
    return ConfigDict(_tuples(tree))


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
