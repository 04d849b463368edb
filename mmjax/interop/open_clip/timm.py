"""SigLIP's image towers, which open_clip takes from timm; a name says all of a tower."""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.interop.open_clip import eva

TOWERS = {  # width, depth, heads, MLP
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giantopt": (1536, 40, 16, 6144),
}
_GELU, _TANH = "gelu", "gelu_tanh"
NAMES = {  # tower, patch, size → activation; open_clip cannot choose another
    ("base", 32, 256): _TANH,
    **{("base", 16, size): _GELU for size in (224, 256, 384, 512)},
    **{("large", 16, size): _GELU for size in (256, 384)},
    ("large", 16, 512): _TANH,
    **{("so400m", 14, size): _GELU for size in (224, 378, 384)},
    **{("so400m", 16, size): _TANH for size in (256, 384, 512)},
    **{("giantopt", 16, size): _TANH for size in (256, 384)},
}


def read(settings: Mapping[str, Any], image: ConfigDict) -> None:
    """Fills in `config.model.image` from `vision_cfg`. UserError: a tower that is none of these."""
    name = settings["timm_model_name"]
    keys = [key for key in NAMES if _name(*key) == name]
    if not keys or (settings.get("timm_pool"), settings.get("timm_proj")) != ("map", "none"):
        raise UserError(
            f"open_clip_config.json: vision_cfg.timm_model_name={name!r} is none of timm's towers "
            f"that mmjax has: {', '.join(_name(*key) for key in NAMES)}, each with timm_pool='map' "
            f"and timm_proj='none', {', '.join(eva.TOWERS)}."
        )
    (tower, patch, size), half = keys[0], (0.5, 0.5, 0.5)
    width, depth, heads, mlp_dim = TOWERS[tower]
    image.update(
        size=size, patch_size=patch, width=width, depth=depth, heads=heads, mlp_dim=mlp_dim,
        activation=NAMES[keys[0]], norm_eps=1e-6, pool="map", head="none", norm_pre=False,
        patch_bias=True, mean=half, std=half,
    )  # fmt: skip


def obstacles(image: ConfigDict) -> list[str]:
    """Why timm has no tower like this `config.model.image`; none if it has."""
    key = _find(image)
    if key is None:
        return ["timm has no SigLIP image tower of its size, width, depth, patch and norms"]
    if NAMES[key] != image.activation:
        return [
            f"{_name(*key)} of timm has the activation {NAMES[key]!r}, not {image.activation!r}"
        ]
    return []


def write(image: ConfigDict) -> dict[str, Any]:
    """The keys of `vision_cfg`; KeyError: timm has no such tower."""
    key = _find(image)
    if key is None:
        raise KeyError("visual.trunk")
    return {
        "timm_model_name": _name(*key),
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }


def _find(image: ConfigDict) -> tuple[str, int, int] | None:
    """The key in NAMES of the tower with these shapes, whatever its activation."""
    form = (image.position, image.norm_pre, image.patch_bias, image.head)
    if form != ("learned", False, True, "none") or not math.isclose(image.norm_eps, 1e-6):
        return None
    shape = (image.width, image.depth, image.heads, image.mlp_dim)
    keys = ((tower, image.patch_size, image.size) for tower in TOWERS if TOWERS[tower] == shape)
    return next((key for key in keys if key in NAMES), None)


def _name(tower: str, patch: int, size: int) -> str:
    return f"vit_{tower}_patch{patch}_siglip_{size}"
