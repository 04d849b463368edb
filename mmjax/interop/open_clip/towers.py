"""Image towers that open_clip takes from timm. A name says all of a tower."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.parts import part
from mmjax.schema import nearest

_HALF = (0.5, 0.5, 0.5)
CLIP = {"norm_eps": 1e-5, "norm_pre": True, "patch_bias": False}
GAP = {"pool": "mean", "head": "linear", "qkv_bias": "none", "layer_scale": 1e-6}


def vit(patch: int, size: int, width: int, depth: int, heads: int, mlp_dim: int) -> dict[str, Any]:
    """timm's VisionTransformer."""
    return {
        "kind": "vit", "patch_size": patch, "size": size, "width": width, "depth": depth,
        "heads": heads, "mlp_dim": mlp_dim, "activation": "gelu", "norm_eps": 1e-6,
        "norm_pre": False, "patch_bias": True, "pool": "cls", "head": "linear_bias",
        "position": "learned", "qkv_bias": "qkv", "block_norm": "pre", "layer_scale": None,
    }  # fmt: skip


def siglip(*shape: int, activation: str = "gelu") -> dict[str, Any]:
    """SigLIP's (Zhai et al., 2023)."""
    return vit(*shape) | {"pool": "map", "head": "none", "activation": activation}


def pe(*shape: int, class_token: bool = True) -> dict[str, Any]:
    """Perception Encoder's (Bolya et al., 2025)."""
    patch, size, width = shape[:3]
    return vit(*shape) | CLIP | {
        "pool": "map_cls" if class_token else "map", "map_heads": 8, "map_mlp_dim": 4 * width,
        "rope": "index", "rope_grid": size // patch, "rope_theta": 10_000.0,
    }  # fmt: skip


def eva(*shape: int) -> dict[str, Any]:
    """EVA's (Fang et al., 2022)."""
    return vit(*shape) | {"qkv_bias": "qv"}


def eva02(*shape: int) -> dict[str, Any]:
    """EVA02-CLIP's, B and L (Sun et al., 2023)."""
    return eva(*shape) | {
        "activation": "silu", "gated": True, "inner_norms": True, "rope": "scaled",
        "rope_grid": 16, "rope_theta": 10_000.0,
    }  # fmt: skip


_TANH = "gelu_tanh"
_B, _L = (768, 12, 12, 3072), (1024, 24, 16, 4096)
_SO, _GIANT = (1152, 27, 16, 4304), (1536, 40, 16, 6144)
_SIGLIP = {
    "vit_base_patch32_siglip_256": siglip(32, 256, *_B, activation=_TANH),
    **{f"vit_base_patch16_siglip_{n}": siglip(16, n, *_B) for n in (224, 256, 384, 512)},
    **{f"vit_large_patch16_siglip_{n}": siglip(16, n, *_L) for n in (256, 384)},
    "vit_large_patch16_siglip_512": siglip(16, 512, *_L, activation=_TANH),
    **{f"vit_so400m_patch14_siglip_{n}": siglip(14, n, *_SO) for n in (224, 378, 384)},
    **{f"vit_so400m_patch16_siglip_{n}": siglip(16, n, *_SO, activation=_TANH)
       for n in (256, 384, 512)},
    **{f"vit_giantopt_patch16_siglip_{n}": siglip(16, n, *_GIANT, activation=_TANH)
       for n in (256, 384)},
}  # fmt: skip
TOWERS: dict[str, dict[str, Any]] = {  # name → keys of `config.model.image`
    **_SIGLIP,
    "vit_pe_core_tiny_patch16_384": pe(16, 384, 192, 12, 3, 768),
    "vit_pe_core_small_patch16_384": pe(16, 384, 384, 12, 6, 1536),
    "vit_pe_core_base_patch16_224": pe(16, 224, *_B),
    "vit_pe_core_large_patch14_336": pe(14, 336, *_L),
    "vit_pe_core_gigantic_patch14_448": pe(14, 448, 1536, 50, 16, 8960, class_token=False),
    "eva_giant_patch14_224": eva(14, 224, 1408, 40, 16, 6144),
    "eva02_base_patch16_clip_224": eva02(16, 224, 768, 12, 12, 2048),
    "eva02_large_patch14_clip_224": eva02(14, 224, 1024, 24, 16, 2730),
    "eva02_large_patch14_clip_336": eva02(14, 336, 1024, 24, 16, 2730),
    "eva02_enormous_patch14_clip_224": eva(14, 224, 1792, 64, 16, 15360)
    | {"block_norm": "branch"},
    "vit_large_patch14_clip_224": vit(14, 224, *_L) | CLIP,
    "vit_medium_patch16_gap_256": vit(16, 256, 512, 12, 8, 2048) | GAP,
}  # fmt: skip
_POOLS = {"map": "map", "map_cls": "map", "cls": "token", "mean": ""}
_PROJECTIONS = {"none": "none", "linear_bias": None, "linear": "linear"}


def is_timms(image: ConfigDict) -> bool:
    """Whether `config.model.image` is in none of the forms that open_clip has itself."""
    if image.kind != "vit":
        return image.kind != "resnet"
    return image.head != "linear" or image.pool not in ("cls", "mean_patches", "queries")


def has_own_text(image: ConfigDict) -> bool:
    """Whether open_clip's configs with this tower keep the text apart."""
    return is_timms(image) and image.head in ("none", "linear_bias")


def read(settings: Mapping[str, Any], size: int) -> ConfigDict:
    """`vision_cfg` as `config.model.image`; `size` is that of its images.

    Raises:
      UserError: another tower, pool or projection.
    """
    name = settings["timm_model_name"]
    if name not in TOWERS:
        raise UserError(
            f"open_clip_config.json: vision_cfg.timm_model_name={name!r} is an image tower that "
            f"mmjax has not; the nearest in name that it has is {nearest(name, TOWERS)!r}."
        )
    tower = TOWERS[name]
    found = {"timm_pool": settings.get("timm_pool"), "timm_proj": settings.get("timm_proj")}
    for key, value in (_settings(tower) | {"image_size": tower.get("size", size)}).items():
        given = found.get(key, size)
        if given != value:
            raise UserError(
                f"open_clip_config.json: vision_cfg.{key}={given!r} makes another model of {name} "
                f"than mmjax has: it should be {value!r}."
            )
    image = part(**({"size": size} | tower))
    if tower.get("pool", "").startswith("map"):
        image.update(mean=_HALF, std=_HALF)
    return image


def obstacles(image: ConfigDict) -> list[str]:
    """Why timm has no tower like this `config.model.image`; none if it has."""
    name, unlike = _nearest(image)
    if not unlike:
        return []
    shown = ", ".join(
        f"{key}={TOWERS[name][key]!r}, not {image.get(key)!r}" for key in list(unlike)[:3]
    )
    return [f"timm has no image tower like it: the nearest, {name}, has {shown}"]


def write(image: ConfigDict) -> dict[str, Any]:
    """The keys of `vision_cfg`; KeyError: timm has no such tower."""
    name, unlike = _nearest(image)
    if unlike:
        raise KeyError("visual.trunk")
    return {"timm_model_name": name, "timm_model_pretrained": False, **_settings(TOWERS[name])}


def _settings(tower: Mapping[str, Any]) -> dict[str, Any]:
    pool = _POOLS[tower.get("pool", "mean")]
    return {"timm_pool": pool, "timm_proj": _PROJECTIONS[tower["head"]]}


def _nearest(image: ConfigDict) -> tuple[str, list[str]]:
    """The tower with the fewest keys that differ, and these."""
    differing = {
        name: [key for key, value in tower.items() if image.get(key) != value]
        for name, tower in TOWERS.items()
    }
    # Another size says the least of what a tower is.
    name = min(differing, key=lambda name: (len(differing[name]), "size" not in differing[name]))
    return name, differing[name]
