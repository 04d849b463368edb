"""preprocessor_config.json, or "image_processor" in processor_config.json (transformers 5): how an
image is resized, and its mean and deviation.

Each field of transformers' processors is honoured, says nothing of pixels, or is refused by name:
overlooked, it would give other numbers and no error.
"""

import logging
import math
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.interop.files import read_json
from mmjax.models.parts import sections

log = logging.getLogger("mmjax.interop")

_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL's numbers
INTERPOLATION = {number: name for name, number in _RESAMPLE.items()}
_HALF = [0.5, 0.5, 0.5]
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation
_224 = {"height": 224, "width": 224}
# What transformers' processors take where the file says nothing.
_CLIP = {
    "size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": _224, "resample": 3,
    "default_to_square": False, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
_SQUARE = {
    "size": _224, "do_center_crop": False, "crop_size": None, "default_to_square": True,
    "image_mean": _HALF, "image_std": _HALF,
}  # fmt: skip
PROCESSORS: dict[str, dict[str, Any]] = {
    "CLIP": _CLIP,
    "ChineseCLIP": _CLIP,
    "ViT": _SQUARE | {"resample": 2},
    "Siglip": _SQUARE | {"resample": 3, "default_to_square": False},
    "Bit": _CLIP,  # DINOv2's
    "Tipsv2": _SQUARE | {
        "size": {"height": 448, "width": 448}, "resample": 2, "do_normalize": False,
        "image_mean": None, "image_std": None,
    },
    "VideoMAE": _CLIP | {"resample": 2, "image_mean": _HALF, "image_std": _HALF},
}  # fmt: skip
# It does not round pixels after resizing: they differ from mmjax's by up to half a level of 255.
UNROUNDED: dict[str, dict[str, Any]] = {
    "DINOv3ViT": _SQUARE | {
        "resample": 2, "image_mean": list(IMAGENET[0]), "image_std": list(IMAGENET[1]),
    },
}  # fmt: skip
# Of the model types that are not CLIP's.
_KINDS = {"vit": "ViT", "siglip": "Siglip", "dinov3_vit": "DINOv3ViT", "tipsv2": "Tipsv2"}
SPELLINGS = ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
NAFLEX = {  # Siglip2ImageProcessor: images in their own shape
    "patch_size": 16, "max_num_patches": 256, "resample": 2, "image_mean": _HALF,
    "image_std": _HALF,
}  # fmt: skip
READ = {
    "size", "crop_size", "default_to_square", "do_center_crop", "resample", "image_mean",
    "image_std", "rescale_factor", "image_processor_type", "feature_extractor_type", "do_normalize",
}  # fmt: skip
# Values of what mmjax does; null means off.
FIXED: dict[str, tuple[Any, ...]] = {
    "do_resize": (True,), "do_rescale": (True,), "do_pad": (False, None), "pad_size": (None,),
    "crop_pct": (None,), "rescale_offset": (None,),
    # mmjax always makes images RGB; transformers' models can read no others.
    "do_convert_rgb": (True, False, None),
}  # fmt: skip
# How arrays are handed over, not which numbers are in them; and names of classes.
SILENT = {
    "processor_class", "auto_map", "data_format", "input_data_format", "device", "return_tensors",
    "disable_grouping", "image_seq_length", "_valid_processor_keys", "_processor_class",
}  # fmt: skip


def part_of(model: ConfigDict) -> ConfigDict | None:
    """The part that sees pictures, or frames of videos; None if there is none."""
    return next((part for part in sections(model).values() if "mean" in part), None)


def read(
    folder: Path, model: ConfigDict, model_type: str, *, any_size: bool = False
) -> dict[str, str]:
    """Puts mean and deviation into `config.model`; returns the keys of `config.data` that say how
    an image is resized.

    What the file leaves open is as in the processor that it names, else in that of the
    `model_type`: CLIP's cuts the middle, ViT's resizes bilinearly, and a lone number is the
    shortest side for CLIP's. With `any_size` the file's size may be another than the model's, as
    DINOv2's is, which computes positions of any: a warning says so.

    Raises:
      UserError: it is prepared as nothing is here; all fields that are in the way are named.
    """
    file, found = find(folder, "image_processor")
    image = part_of(model)
    if image is None or found is None:
        return {}
    settings = _defaults(found, model_type, file) | found
    if any_size and settings.get("do_resize") is False:
        settings |= {"do_resize": True, "do_center_crop": False, "default_to_square": True,
                     "size": image.size}  # fmt: skip
        log.warning(
            "%s leaves pictures in their own size, and here all have one: they are squashed to %s "
            "pixels, or to those of load(..., image_size=...).", file, image.size,
        )  # fmt: skip
    square, side = _side(settings["size"], settings["default_to_square"])
    cut_square, cut = _side(settings["crop_size"], True)
    cuts, wanted = bool(settings["do_center_crop"]), image.size
    unlike = {
        "do_center_crop": not cuts and not square,
        "size": side != wanted and not any_size,
        "crop_size": cuts and (not cut_square or cut != wanted) and not any_size,
    }
    take(
        image, settings, unlike, KNOWN, file,
        f"it resizes them to the model's {wanted} pixels, bicubically or bilinearly, squashed or "
        "with the middle cut out, and normalises",
    )  # fmt: skip
    final = cut if cuts else side
    if any_size and final != wanted:
        log.warning(
            "%s makes pictures of %s pixels, and the weights are of %s: load(..., image_size=%s) "
            "resizes their positions as transformers does.", file, final, wanted, final,
        )  # fmt: skip
    return {
        "resize": "squash" if square else "shortest",
        "interpolation": INTERPOLATION[settings["resample"]],
    }


KNOWN = READ | FIXED.keys() | SILENT
NAFLEX_KNOWN = (KNOWN - {"crop_size", "do_center_crop"}) | NAFLEX.keys()


def take(
    image: ConfigDict,
    settings: Mapping[str, Any],
    unlike: Mapping[str, bool],
    known: Set[str],
    file: Path,
    instead: str,
) -> None:
    """Puts mean and deviation into the part that sees pictures.

    Args:
      image: the part.
      settings: of the file, over what its processor takes where it says nothing.
      unlike: field → whether it asks for what is not done here.
      known: fields that are understood, or say nothing of pixels.
      file: for messages.
      instead: what is done here, a clause.

    Raises:
      UserError: names all the fields that are in the way.
    """
    colours = {key: _colours(settings[key]) for key in ("image_mean", "image_std")}
    if settings.get("do_normalize") is False:  # TIPS sees pixels in 0..1
        colours = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
    unlike = {
        **unlike,
        "resample": settings["resample"] not in INTERPOLATION,
        "rescale_factor": not _is_255th(settings.get("rescale_factor", 1 / 255)),
        "do_normalize": settings.get("do_normalize", True) is None,
        **{key: value is None for key, value in colours.items()},
        **{key: settings.get(key, fixed[0]) not in fixed for key, fixed in FIXED.items()},
        **{key: True for key in settings.keys() - known if settings[key] is not None},
    }
    refused = [f"{key}={settings.get(key)!r}" for key, differs in unlike.items() if differs]
    if refused:
        raise UserError(
            f"{file}: mmjax does not prepare pictures so ({', '.join(refused)}): {instead}."
        )
    image.update(mean=colours["image_mean"], std=colours["image_std"])


def find(folder: Path, section: str) -> tuple[Path, dict[str, Any] | None]:
    """The file that transformers would take, and its fields; None if there is none. `section` is
    their place in a processor_config.json."""
    for name, inside in (("processor_config.json", section), ("preprocessor_config.json", None)):
        file = folder / name
        whole = read_json(file) if file.is_file() else {}
        found = whole.get(inside) if inside else whole
        if isinstance(found, dict) and found:
            return file, found
    return folder, None


def _defaults(found: Mapping[str, Any], model_type: str, file: Path) -> dict[str, Any]:
    """Of the processor that the file names; UserError: it is none that is known."""
    every = PROCESSORS | UNROUNDED
    name = found.get("image_processor_type") or found.get("feature_extractor_type")
    if name is None:
        return every[_KINDS.get(model_type, "CLIP")]
    for kind, defaults in every.items():
        if name in [kind + spelling for spelling in SPELLINGS]:
            return defaults
    known = ", ".join(f"{kind}ImageProcessor" for kind in every)
    raise UserError(f"{file} is of a {name}: mmjax prepares pictures as {known} do.")


def _side(size: Any, lone_is_square: bool) -> tuple[bool, Any]:
    """(whether it is a square, its side) of a number, {"height": …, "width": …} or
    {"shortest_edge": …}; anything else is a side that fits no model."""
    if not isinstance(size, Mapping):
        return lone_is_square, size
    given = {key: side for key, side in size.items() if side is not None}
    if given.keys() == {"shortest_edge"}:
        return False, given["shortest_edge"]
    if given.keys() == {"height", "width"} and given["height"] == given["width"]:
        return True, given["height"]
    return True, str(size)


def _is_255th(factor: Any) -> bool:
    return isinstance(factor, float) and math.isclose(factor, 1 / 255, rel_tol=1e-6)


def _colours(values: Any) -> tuple[float, ...] | None:
    """Three numbers, of which one may be given for all; None: they are none."""
    values = values if isinstance(values, list) else [values] * 3
    numbers = len(values) == 3 and all(isinstance(x, int | float) for x in values)
    return tuple(map(float, values)) if numbers else None


def write(processor: str, config: ConfigDict) -> dict[str, Any]:
    """preprocessor_config.json as the part that sees pictures and `config.data` say."""
    image = part_of(config.model)
    assert image is not None
    size = image.size
    square = {"height": size, "width": size}
    fit = (
        {"size": square, "do_center_crop": False}
        if config.data.resize == "squash"
        else {"size": {"shortest_edge": size}, "do_center_crop": True, "crop_size": square}
    )
    return written(processor, config, fit)


def written(processor: str, config: ConfigDict, fit: Mapping[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json of a processor; `fit`: its own fields, that say how it resizes."""
    image = part_of(config.model)
    assert image is not None
    return {
        "image_processor_type": processor,
        "do_convert_rgb": True,
        "do_resize": True,
        **fit,
        "resample": _RESAMPLE[config.data.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": (tuple(image.mean), tuple(image.std)) != ((0.0,) * 3, (1.0,) * 3),
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }
