"""Siglip2Model of transformers: SigLIP 2 NaFlex, images of any shape. (The fixed resolutions of
SigLIP 2 are of `SiglipModel`.)"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.interop.files import Tensors
from mmjax.interop.formats import Family
from mmjax.interop.huggingface import preprocessor, siglip
from mmjax.interop.huggingface.architecture import (
    Architecture,
    read_back,
    read_tower,
    write_tower,
)
from mmjax.interop.table import Row
from mmjax.models.parts import part

_PATCHES = (3, 0, 1, 2)  # ours [P, P, 3, W] ↔ theirs [W, P · P · 3], a linear layer of patches


def rows(model: ConfigDict) -> list[Row]:
    kernel, *others = siglip.rows(model)
    side, width = model.image.patch_size, model.image.width
    return [Row(kernel.ours, kernel.theirs, _PATCHES, (width, 3 * side**2)), *others]


def read_config(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
    from transformers import Siglip2Config

    theirs: Any = Siglip2Config.from_dict(dict(settings))
    vision = theirs.vision_config
    grid = round(vision.num_patches**0.5)
    if grid**2 != vision.num_patches:
        raise ValueError(f"its num_patches={vision.num_patches} is no square")
    if not vision.vision_use_head:
        raise ValueError("its vision_use_head is false: such a tower pools nothing")
    model = siglip.read_towers(theirs.text_config, vision)
    model.image = part(
        "naflex", **read_tower(vision), size=grid * vision.patch_size, patch_size=vision.patch_size,
        norm_pre=False, patch_bias=True, head="none", mean=(0.5,) * 3, std=(0.5,) * 3,
    )  # fmt: skip
    return model


def write_config(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    from transformers import Siglip2Config

    return Siglip2Config(
        architectures=["Siglip2Model"],
        dtype="float32",
        vision_config={
            **write_tower(model.image),
            "num_patches": (model.image.size // model.image.patch_size) ** 2,
            "patch_size": model.image.patch_size,
        },
        text_config=siglip.write_text(model, tokenizer),
    )


def read_preprocessor(folder: Path, model: ConfigDict) -> dict[str, str]:
    """Puts mean, deviation and number of patches into `config.model`; returns the interpolation.

    UserError: it is prepared as nothing is here.
    """
    file, found = preprocessor.find(folder, "image_processor")
    settings: dict[str, Any] = preprocessor.NAFLEX | (found or {})
    unlike = {
        "patch_size": settings["patch_size"] != model.image.patch_size,
        "max_num_patches": not isinstance(settings["max_num_patches"], int),
        "image_processor_type": "Siglip2" not in settings.get("image_processor_type", "Siglip2"),
    }
    preprocessor.take(
        model.image, settings, unlike, preprocessor.NAFLEX_KNOWN, file,
        f"it resizes them in their own shape to patches of {model.image.patch_size} pixels, "
        "bicubically or bilinearly, and normalises",
    )  # fmt: skip
    model.image.patches = settings["max_num_patches"]
    return {"interpolation": preprocessor.INTERPOLATION[settings["resample"]]}


def write_preprocessor(config: ConfigDict) -> dict[str, Any]:
    image = config.model.image
    fit = {"patch_size": image.patch_size, "max_num_patches": image.patches}
    return preprocessor.written("Siglip2ImageProcessor", config, fit)


CARD = (
    "library_name: transformers\npipeline_tag: zero-shot-image-classification",
    siglip.CARD[1].replace("SiglipModel", "Siglip2Model"),
)

MODEL = Architecture(
    family=Family(
        "Hugging Face's Siglip2Model",
        rows=rows,
        read_back=read_back(rows, read_config, write_config),
        parts=({"image": ("naflex",), "text": ("transformer",), "logit": ("scale",)},),
        ignored=(r"(vision|text)_model\.embeddings\.position_ids",),
    ),
    model_type="siglip2",
    classes=("Siglip2Model",),
    read_config=read_config,
    write_config=write_config,
    preprocessor=write_preprocessor,
    read_preprocessor=read_preprocessor,
    card=CARD,
)
