"""Named architectures: the `model` part of a config, as published.

Sources: OpenAI CLIP (Radford et al., 2021; its ResNets to read weights), open_clip's H/14 and g/14
(LAION), SigLIP (Zhai et al., 2023; So400m from Alabdulmohsin et al., 2023). The weights of OpenAI
use QuickGELU, LAION's and DataComp's GELU: "ViT-B/32" is the GELU form, "ViT-B/32-quickgelu" the
other.
"""

import difflib
import math
from typing import Any

from ml_collections import ConfigDict

from mmjax import config as config_lib
from mmjax.errors import UserError


def _clip(size, patch, vision, text, embed_dim) -> dict[str, Any]:
    """CLIP: `vision` and `text` are (width, depth, heads[, mlp_dim]); the MLP is 4 × as wide."""
    return {
        "embed_dim": embed_dim,
        "image": {"size": size, "patch_size": patch, **_tower(*vision)},
        "text": _tower(*text),
    }


def _resnet(size, width, stages, text, embed_dim) -> dict[str, Any]:
    """OpenAI's CLIP ResNets: `width` is of the first stage's middle, `text` as for `_clip`."""
    return {
        "embed_dim": embed_dim,
        "image": {
            "kind": "resnet", "size": size, "width": width, "stages": stages,
            "heads": width // 2, "head": "linear_bias",
        },
        "text": _tower(*text),
    }  # fmt: skip


def _siglip(size, patch, tower, context) -> dict[str, Any]:
    """SigLIP: both towers alike, attention pooling, padding attended to, tanh GELU, a bias."""
    both = {**_tower(*tower), "activation": "gelu_tanh", "norm_eps": 1e-6}
    half = (0.5, 0.5, 0.5)
    return {
        "embed_dim": tower[0],
        "logit_scale_init": math.log(10.0),
        "logit_scale_max": 0.0,
        "logit_bias_init": -10.0,
        "image": {
            **both, "size": size, "patch_size": patch, "pool": "map", "head": "none",
            "norm_pre": False, "patch_bias": True, "mean": half, "std": half,
        },
        "text": {
            **both, "vocab_size": 32_000, "context_length": context, "causal": False,
            "pool": "last", "head": "linear_bias",
        },
    }  # fmt: skip


def _tower(width, depth, heads, mlp_dim=None) -> dict[str, Any]:
    return {"width": width, "depth": depth, "heads": heads, "mlp_dim": mlp_dim or 4 * width}


_TINY = _clip(32, 8, (64, 2, 4), (64, 2, 4), 32)
_TINY["text"] |= {"vocab_size": 512, "context_length": 16}
_TINY_SIGLIP = _siglip(32, 8, (64, 2, 4), 16)
_TINY_SIGLIP["text"] |= {"vocab_size": 512}

_B, _L, _SO = (768, 12, 12), (1024, 24, 16), (1152, 27, 16, 4304)
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "ViT-B/32": _clip(224, 32, _B, (512, 12, 8), 512),
    "ViT-B/16": _clip(224, 16, _B, (512, 12, 8), 512),
    "ViT-L/14": _clip(224, 14, _L, (768, 12, 12), 768),
    "ViT-L/14-336": _clip(336, 14, _L, (768, 12, 12), 768),
    "ViT-H/14": _clip(224, 14, (1280, 32, 16), (1024, 24, 16), 1024),
    "ViT-g/14": _clip(224, 14, (1408, 40, 16, 6144), (1024, 24, 16), 1024),
    "RN50": _resnet(224, 64, (3, 4, 6, 3), (512, 12, 8), 1024),
    "RN101": _resnet(224, 64, (3, 4, 23, 3), (512, 12, 8), 512),
    "RN50x4": _resnet(288, 80, (4, 6, 10, 6), (640, 12, 10), 640),
    "SigLIP-B/16-224": _siglip(224, 16, _B, 64),
    "SigLIP-L/16-256": _siglip(256, 16, _L, 64),
    "SigLIP-So400m/14-224": _siglip(224, 14, _SO, 16),
    "SigLIP-So400m/14-384": _siglip(384, 14, _SO, 64),
    "tiny": _TINY,
    "tiny-siglip": _TINY_SIGLIP,
}
_QUICK = "-quickgelu"


def names() -> list[str]:
    """All architectures; each CLIP one also exists with the suffix "-quickgelu"."""
    return list(ARCHITECTURES)


def config(name: str) -> ConfigDict:
    """The `model` config of a named architecture; UserError names the nearest one."""
    base = name.removesuffix(_QUICK)
    if base not in ARCHITECTURES or (base != name and "logit_bias_init" in ARCHITECTURES[base]):
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1, cutoff=0.0)[0]
        raise UserError(f"There is no architecture {name!r}; the nearest is {near!r}.")
    model = config_lib.default().model
    model.update(ARCHITECTURES[base])
    model.name = name
    if name.endswith(_QUICK):
        model.image.activation = model.text.activation = "quick_gelu"
    return model
