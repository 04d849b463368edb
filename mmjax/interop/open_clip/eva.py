"""Towers of timm's class Eva that open_clip has: PE-Core (Bolya et al., 2025) and EVA02-CLIP (Sun
et al., 2023). A name says all of a tower."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.interop.huggingface.architecture import linear, norm
from mmjax.interop.table import CONV, LINEAR, Row

_HALF = (0.5, 0.5, 0.5)


def _pe(patch: int, size: int, width: int, depth: int, heads: int) -> dict[str, Any]:
    return {
        "patch_size": patch, "size": size, "width": width, "depth": depth, "heads": heads,
        "mlp_dim": 4 * width, "activation": "gelu", "norm_eps": 1e-5, "pool": "map_cls",
        "map_heads": 8, "head": "linear_bias", "norm_pre": True, "patch_bias": False,
        "rope": "index", "rope_grid": size // patch, "rope_theta": 10_000.0,
    }  # fmt: skip


def _eva02(patch: int, size: int, width: int, depth: int, heads: int) -> dict[str, Any]:
    return {
        "patch_size": patch, "size": size, "width": width, "depth": depth, "heads": heads,
        "mlp_dim": int(width * 8 / 3), "activation": "silu", "norm_eps": 1e-6, "pool": "cls",
        "head": "linear_bias", "norm_pre": False, "patch_bias": True, "gated": True,
        "inner_norms": True, "qkv_bias": "qv", "rope": "scaled", "rope_grid": 16,
        "rope_theta": 10_000.0,
    }  # fmt: skip


TOWERS = {
    "vit_pe_core_tiny_patch16_384": _pe(16, 384, 192, 12, 3),
    "vit_pe_core_small_patch16_384": _pe(16, 384, 384, 12, 6),
    "vit_pe_core_base_patch16_224": _pe(16, 224, 768, 12, 12),
    "vit_pe_core_large_patch14_336": _pe(14, 336, 1024, 24, 16),
    "eva02_base_patch16_clip_224": _eva02(16, 224, 768, 12, 12),
    "eva02_large_patch14_clip_224": _eva02(14, 224, 1024, 24, 16),
    "eva02_large_patch14_clip_336": _eva02(14, 336, 1024, 24, 16),
}


def is_eva(image: ConfigDict) -> bool:
    """Whether `config.model.image` is in the form of one of these."""
    return image.get("pool") == "map_cls" or bool(image.get("inner_norms"))


def read(settings: Mapping[str, Any], image: ConfigDict) -> None:
    """Fills in `config.model.image` from `vision_cfg`. UserError: another pool or projection."""
    tower = TOWERS[settings["timm_model_name"]]
    found = {key: settings.get(key) for key in ("timm_pool", "timm_proj", "image_size")}
    for key, value in (_settings(tower) | {"image_size": tower["size"]}).items():
        if key in found and found[key] != value:
            raise UserError(
                f"open_clip_config.json: vision_cfg.{key}={found[key]!r} makes another model of "
                f"{settings['timm_model_name']} than mmjax has: it should be {value!r}."
            )
    image.update(tower)
    if tower["pool"] == "map_cls":
        image.update(mean=_HALF, std=_HALF)


def obstacles(image: ConfigDict) -> list[str]:
    """Why timm has no tower like this `config.model.image`; none if it has."""
    if _find(image) is None:
        return ["timm has no PE-Core or EVA02-CLIP tower of its size, width, depth and form"]
    return []


def write(image: ConfigDict) -> dict[str, Any]:
    """The keys of `vision_cfg`; KeyError: timm has no such tower."""
    name = _find(image)
    if name is None:
        raise KeyError("visual.trunk")
    return {"timm_model_name": name, "timm_model_pretrained": False, **_settings(TOWERS[name])}


def _settings(tower: Mapping[str, Any]) -> dict[str, Any]:
    return {"timm_pool": "map" if tower["pool"] == "map_cls" else "token", "timm_proj": None}


def _find(image: ConfigDict) -> str | None:
    for name, tower in TOWERS.items():
        if all(image[key] == value for key, value in tower.items()):
            return name
    return None


def rows(image: ConfigDict) -> list[Row]:
    """The table of `config.model.image`."""
    trunk, width = "visual.trunk", image.width
    positions = (image.size // image.patch_size) ** 2 + 1
    return [
        Row("image/class_embed", f"{trunk}.cls_token", shape=(1, 1, width)),
        Row("image/position_embed", f"{trunk}.pos_embed", shape=(1, positions, width)),
        Row("image/patch_embed/kernel", f"{trunk}.patch_embed.proj.weight", CONV),
        *([Row("image/patch_embed/bias", f"{trunk}.patch_embed.proj.bias")]
          if image.patch_bias else []),
        *(norm("image/norm_pre", f"{trunk}.norm_pre") if image.norm_pre else []),
        *(_eva02_blocks if image.inner_norms else _pe_blocks)("image/blocks", trunk + ".blocks.{}"),
        *norm("image/norm_post", f"{trunk}.norm"),
        *(map_pool(width, trunk) if image.pool == "map_cls" else []),
        *linear("image/head", f"{trunk}.head"),
    ]  # fmt: skip


def _pe_blocks(ours: str, theirs: str) -> list[Row]:
    return [
        *norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *packed(f"{ours}/attention", ("query", "key", "value"), f"{theirs}.attn.qkv."),
        *linear(f"{ours}/attention/out", f"{theirs}.attn.proj"),
        *norm(f"{ours}/norm2", f"{theirs}.norm2"),
        *linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
    ]


def _eva02_blocks(ours: str, theirs: str) -> list[Row]:
    attention, mlp = f"{ours}/attention", f"{ours}/mlp"
    return [
        *norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *linear(f"{attention}/query", f"{theirs}.attn.q_proj"),
        Row(f"{attention}/key/kernel", f"{theirs}.attn.k_proj.weight", LINEAR),
        *linear(f"{attention}/value", f"{theirs}.attn.v_proj"),
        *norm(f"{attention}/norm_out", f"{theirs}.attn.norm"),
        *linear(f"{attention}/out", f"{theirs}.attn.proj"),
        *norm(f"{ours}/norm2", f"{theirs}.norm2"),
        *linear(f"{mlp}/gate", f"{theirs}.mlp.fc1_g"),
        *linear(f"{mlp}/fc1", f"{theirs}.mlp.fc1_x"),
        *norm(f"{mlp}/norm", f"{theirs}.mlp.norm"),
        *linear(f"{mlp}/fc2", f"{theirs}.mlp.fc2"),
    ]


def map_pool(width: int, trunk: str) -> list[Row]:
    """timm's attention pooling, that of SigLIP, too."""
    pool, theirs = "image/pool", f"{trunk}.attn_pool"
    return [
        Row(f"{pool}/probe", f"{theirs}.latent", shape=(1, 1, width)),
        *linear(f"{pool}/attention/query", f"{theirs}.q"),
        *packed(f"{pool}/attention", ("key", "value"), f"{theirs}.kv."),
        *linear(f"{pool}/attention/out", f"{theirs}.proj"),
        *norm(f"{pool}/norm", f"{theirs}.norm"),
        *linear(f"{pool}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *linear(f"{pool}/mlp/fc2", f"{theirs}.mlp.fc2"),
    ]


def packed(ours: str, names: tuple[str, ...], theirs: str) -> list[Row]:
    """Several linear layers as one, their outputs side by side."""
    return [
        Row(tuple(f"{ours}/{name}/kernel" for name in names), f"{theirs}weight", LINEAR),
        Row(tuple(f"{ours}/{name}/bias" for name in names), f"{theirs}bias"),
    ]
