"""Image towers that open_clip takes from timm. A name says all of a tower."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models.parts import part
from mmjax.schema import nearest

_HALF = (0.5, 0.5, 0.5)
CLIP: dict[str, Any] = {"norm_eps": 1e-5, "norm_pre": True, "patch_bias": False}
GAP: dict[str, Any] = {"pool": "mean", "qkv_bias": "none", "layer_scale": 1e-6}


def vit(patch: int, size: int, width: int, depth: int, heads: int, mlp_dim: int) -> dict[str, Any]:
    """timm's VisionTransformer."""
    return {
        "kind": "vit", "patch_size": patch, "size": size, "width": width, "depth": depth,
        "heads": heads, "mlp_dim": mlp_dim, "activation": "gelu", "norm_eps": 1e-6,
        "norm_pre": False, "patch_bias": True, "pool": "cls",
        "position": "learned", "qkv_bias": "qkv", "block_norm": "pre", "layer_scale": None,
        "gated": False, "norm_pooled": False, "stem": "patches",
    }  # fmt: skip


def siglip(*shape: int, activation: str = "gelu") -> dict[str, Any]:
    """SigLIP's (Zhai et al., 2023)."""
    return vit(*shape) | {"pool": "map", "activation": activation}


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


def vitamin(stem_width: int, *shape: int) -> dict[str, Any]:
    """ViTamin's (Chen et al., 2024)."""
    return vit(*shape) | {
        "stem": "mbconv", "stem_width": stem_width, "patch_bias": False, "pool": "mean",
        "norm_pooled": True, "gated": True, "mlp_norm": True,
    }  # fmt: skip


def mobileclip(*shape: int) -> dict[str, Any]:
    """MobileCLIP-B's (Vasu et al., 2024)."""
    return vit(*shape) | {
        "stem": "convolutions", "stem_width": shape[2] // 4, "patch_bias": False,
        "class_position": False,
    }  # fmt: skip


def convnext(width: int, *stages: int, norm_eps: float = 1e-6) -> dict[str, Any]:
    """ConvNeXt's (Liu et al., 2022), of images of any size."""
    return {"kind": "convnext", "width": width, "stages": stages, "norm_eps": norm_eps}


def _of_any_size(tower: dict[str, Any]) -> dict[str, Any]:
    """The tower without positions."""
    return {key: value for key, value in tower.items() if key != "size"} | {"position": "none"}


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
    "vit_base_mci_224": mobileclip(16, 224, *_B),
    "vitamin_small_224": vitamin(64, 16, 224, 384, 14, 6, 768),
    "vitamin_base_224": vitamin(128, 16, 224, 768, 14, 12, 1536),
    **{f"vitamin_{name}_{n}": vitamin(160, 16, n, 1024, 31, 16, 2048)
       for name in ("large", "large2") for n in (224, 256, 336, 384)},
    **{f"vitamin_xlarge_{n}": _of_any_size(vitamin(192, 16, n, 1152, 32, 16, 2304))
       for n in (256, 336, 384)},
    "convnext_tiny": convnext(96, 3, 3, 9, 3),
    "convnext_small": convnext(96, 3, 3, 27, 3),
    "convnext_base": convnext(128, 3, 3, 27, 3),
    "convnext_large": convnext(192, 3, 3, 27, 3),
    "convnext_xlarge": convnext(256, 3, 3, 27, 3),
    "convnext_xxlarge": convnext(384, 3, 4, 30, 3, norm_eps=1e-5),
}  # fmt: skip
_POOLS = {"map": "map", "map_cls": "map", "cls": "token"}
_HEADS = {"none": "none", None: "linear_bias", "linear": "linear", "mlp": "wide_mlp"}


def is_timms(image: ConfigDict) -> bool:
    """Whether `config.model.image` is in none of the forms that open_clip has itself."""
    if image.kind != "vit":
        return image.kind != "resnet"
    return image.head != "linear" or image.pool not in ("cls", "mean_patches", "queries")


def has_own_text(image: ConfigDict) -> bool:
    """Whether open_clip's configs with this tower keep the text apart."""
    usual = image.head in ("none", "linear_bias") or image.get("stem") == "mbconv"
    return is_timms(image) and usual


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
    tower, proj = TOWERS[name], settings.get("timm_proj")
    keys: dict[str, Any] = {"size": size, **tower, "head": _HEADS.get(proj, "other")}
    image = part(**keys)
    pools = {_pool(image), "avg" if _is_mean(image) else _pool(image)}
    sound = {
        "timm_proj": proj in _HEADS and is_timms(image),
        "timm_pool": settings.get("timm_pool") in pools,
        "image_size": image.size == size,
    }
    wrong = [key for key, there in sound.items() if not there]
    if wrong:
        raise UserError(
            f"open_clip_config.json: vision_cfg.{wrong[0]}={settings.get(wrong[0])!r} makes "
            f"another model of {name} than mmjax has."
        )
    if image.get("pool", "").startswith("map"):
        image.update(mean=_HALF, std=_HALF)
    return image


def obstacles(image: ConfigDict) -> list[str]:
    """Why timm has no tower like this `config.model.image`; none if it has."""
    name, unlike = _nearest(image)
    head = [] if image.head in _HEADS.values() else [f"the image head is {image.head!r}"]
    if not unlike:
        return head
    shown = ", ".join(
        f"{key}={TOWERS[name][key]!r}, not {image.get(key)!r}" for key in list(unlike)[:3]
    )
    return [*head, f"timm has no image tower like it: the nearest, {name}, has {shown}"]


def write(image: ConfigDict) -> dict[str, Any]:
    """The keys of `vision_cfg`; KeyError: timm has no such tower."""
    name, unlike = _nearest(image)
    if unlike:
        raise KeyError("visual.trunk")
    proj = next((theirs for theirs, ours in _HEADS.items() if ours == image.head), None)
    return {
        "timm_model_name": name, "timm_model_pretrained": False, "timm_pool": _pool(image),
        "timm_proj": proj,
    }  # fmt: skip


def _is_mean(image: ConfigDict) -> bool:
    return image.get("pool", "mean") == "mean"  # a ConvNeXt has no other


def _pool(image: ConfigDict) -> str:
    """As open_clip's configs have it: "" is timm's own, which is the mean."""
    if _is_mean(image):
        return "" if image.head in ("linear", "wide_mlp") else "avg"
    return _POOLS.get(image.pool, "")


def _nearest(image: ConfigDict) -> tuple[str, list[str]]:
    """The tower with the fewest keys that differ, and these."""
    differing = {
        name: [key for key, value in tower.items() if image.get(key) != value]
        for name, tower in TOWERS.items()
    }
    # Another size says the least of what a tower is.
    name = min(differing, key=lambda name: (len(differing[name]), "size" not in differing[name]))
    return name, differing[name]
