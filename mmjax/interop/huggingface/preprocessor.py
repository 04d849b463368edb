"""preprocessor_config.json: how an image is resized, and its mean and deviation.

What is set there and not known here is an error: overlooked, it would give other numbers and none.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.interop.huggingface.architecture import read_json

_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL's numbers
_INTERPOLATION = {number: name for name, number in _RESAMPLE.items()}


def read(folder: Path, model: ConfigDict, model_type: str) -> dict[str, str]:
    """Puts mean and deviation into `config.model`; returns the keys of `config.data` that say how
    an image is resized.

    What the file leaves open is as in the processor of the `model_type`: CLIP's cuts the middle,
    ViT's resizes bilinearly, and a lone number is the shortest side only where the middle is cut.

    Raises:
      UserError: it is prepared as nothing is here.
    """
    file = folder / "preprocessor_config.json"
    if "image" not in model or not file.is_file():
        return {}
    settings = read_json(file)
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if theirs in settings:
            model.image[ours] = tuple(float(x) for x in settings[theirs])
    cuts = bool(settings.get("do_center_crop", model_type.startswith("clip")))
    resample = settings.get("resample", _RESAMPLE["bilinear" if model_type == "vit" else "bicubic"])
    size, crop = _sides(settings.get("size")), _sides(settings.get("crop_size"))
    squash = "height" in settings["size"] if isinstance(settings.get("size"), Mapping) else not cuts
    unlike = {
        "the middle is not cut": not cuts and not squash,
        f"resample={resample!r}": resample not in _INTERPOLATION,
        f"size={settings.get('size')!r}": not size <= {model.image.size},
        f"crop_size={settings.get('crop_size')!r}": cuts and not crop <= {model.image.size},
        **{
            f"{key}={settings.get(key)!r}": settings.get(key, True) is False
            for key in ("do_resize", "do_rescale", "do_normalize")
        },
    }
    found = [name for name, differs in unlike.items() if differs]
    if found:
        raise UserError(
            f"{file}: mmjax does not prepare pictures so ({', '.join(found)}): it resizes them to "
            f"the model's {model.image.size} pixels, bicubically or bilinearly, and normalises."
        )
    return {
        "resize": "squash" if squash else "shortest",
        "interpolation": _INTERPOLATION[resample],
    }


def _sides(size: Any) -> set[int]:
    """A side, or {"height": …, "width": …}, {"shortest_edge": …}; empty where none is given."""
    return set(size.values()) if isinstance(size, Mapping) else {size} - {None}


def write(processor: str, config: ConfigDict) -> dict[str, Any]:
    """preprocessor_config.json as `config.model.image` and `config.data` say."""
    image, size = config.model.image, config.model.image.size
    square = {"height": size, "width": size}
    fit = (
        {"size": square, "do_center_crop": False}
        if config.data.resize == "squash"
        else {"size": {"shortest_edge": size}, "do_center_crop": True, "crop_size": square}
    )
    return {
        "image_processor_type": processor,
        "do_convert_rgb": True,
        "do_resize": True,
        **fit,
        "resample": _RESAMPLE[config.data.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
    }
