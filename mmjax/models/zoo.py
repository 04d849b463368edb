"""Named architectures: the `model` part of a config, as published.

Sources: OpenAI CLIP (Radford et al., 2021; its ResNets to read weights), open_clip's H/14 and g/14
(LAION) and the two towers of its CoCa (after Yu et al., 2022), SigLIP (Zhai et al., 2023; So400m
from Alabdulmohsin et al., 2023), SigLIP 2 (Tschannen et al., 2025), VideoPrism (Zhao et al., 2024),
CLAP (Wu et al., 2023), BERT (Devlin et al., 2019), RoBERTa (Liu et al., 2019), ViT (Dosovitskiy et
al., 2021), DINOv2 (Oquab et al., 2023; with registers: Darcet et al., 2024), DINOv3 (Siméoni et
al., 2025), TIPSv2 (after TIPS, Maninis et al., 2024), AIMv2 (Fini et al., 2024).
The weights of OpenAI use QuickGELU, LAION's and DataComp's GELU: "ViT-B/32" is the GELU form,
"ViT-B/32-quickgelu" the other.
"""

import math
from typing import Any

from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.models import parts
from mmjax.schema import nearest


def _clip(size, patch, vision, text, embed_dim) -> dict[str, Any]:
    """CLIP: `vision` and `text` are (width, depth, heads[, mlp_dim]); the MLP is 4 × as wide."""
    return {
        "embed_dim": embed_dim,
        "image": {"kind": "vit", "size": size, "patch_size": patch, **_tower(*vision)},
        "text": {"kind": "transformer", **_tower(*text)},
        "logit": {"kind": "scale"},
    }


def _resnet(size, width, stages, text, embed_dim) -> dict[str, Any]:
    """OpenAI's CLIP ResNets: `width` is of the first stage's middle, `text` as for `_clip`."""
    return {
        "embed_dim": embed_dim,
        "image": {
            "kind": "resnet", "size": size, "width": width, "stages": stages,
            "heads": width // 2, "head": "linear_bias",
        },
        "text": {"kind": "transformer", **_tower(*text)},
        "logit": {"kind": "scale"},
    }  # fmt: skip


def _coca(size, patch, vision, text, embed_dim) -> dict[str, Any]:
    """open_clip's CoCa without its decoder: attention pooling, a class token behind the text."""
    model = _clip(size, patch, vision, text, embed_dim)
    model["image"] |= {"pool": "queries"}
    model["text"] |= {"pool": "appended", "context_length": 76}
    return model


def _siglip(size, patch, tower, context, vocab_size=32_000) -> dict[str, Any]:
    """SigLIP: both towers alike, attention pooling, padding attended to, tanh GELU, a bias."""
    both = {**_tower(*tower), "activation": "gelu_tanh", "norm_eps": 1e-6}
    half = (0.5, 0.5, 0.5)
    return {
        "embed_dim": tower[0],
        "logit": {"kind": "scale", "initial": math.log(10.0), "max": 0.0, "bias": -10.0},
        "image": {
            "kind": "vit", **both, "size": size, "patch_size": patch, "pool": "map", "head": "none",
            "norm_pre": False, "patch_bias": True, "mean": half, "std": half,
        },
        "text": {
            "kind": "transformer", **both, "vocab_size": vocab_size, "context_length": context,
            "causal": False, "pool": "last", "head": "linear_bias",
        },
    }  # fmt: skip


def _siglip2(size, patch, tower) -> dict[str, Any]:
    """SigLIP 2 of a fixed resolution: SigLIP with Gemma's vocabulary."""
    return _siglip(size, patch, tower, 64, vocab_size=256_000)


def _naflex(tower) -> dict[str, Any]:
    """SigLIP 2 NaFlex: images of any shape, learned positions of 16 × 16 patches."""
    model = _siglip2(256, 16, tower)
    model["image"] |= {"kind": "naflex"}
    return model


def _videoprism(frames, tower) -> dict[str, Any]:
    """VideoPrism-LvT; its text tower has 12 blocks of the same width."""
    width, _, heads = tower
    return {
        "embed_dim": width,
        "video": {"kind": "videoprism", **_tower(*tower), "frames": frames},
        "text": {
            "kind": "transformer", **_tower(width, 12, heads), "vocab_size": 64_000,
            "context_length": 64, "activation": "relu", "norm_eps": 1e-6, "position": "sincos",
            "pool": "class", "head": "none", "softcap": 50.0, "centred_norms": True,
        },
        "logit": {"kind": "scale"},
    }  # fmt: skip


def _bert(tower, vocab_size, context, *, eps, **text) -> dict[str, Any]:
    """BERT and RoBERTa: post-norm, padding masked, with the masked-language head."""
    return {
        "embed_dim": tower[0],
        "text": {
            "kind": "transformer",
            **_tower(*tower), "vocab_size": vocab_size, "context_length": context, "norm": "post",
            "embed_norm": True, "token_types": 2, "causal": False, "mask_padding": True,
            "pool": "cls", "head": "none", "mlm_head": True, "norm_eps": eps, **text,
        },
    }  # fmt: skip


def _vit(size, patch, tower, classes) -> dict[str, Any]:
    """A ViT that scores classes ("image/features"), as google/vit-* on the hub."""
    half = (0.5, 0.5, 0.5)
    return {
        "embed_dim": classes,
        "image": {
            "kind": "vit",
            **_tower(*tower), "size": size, "patch_size": patch, "norm_pre": False,
            "patch_bias": True, "head": "linear_bias", "norm_eps": 1e-12, "mean": half, "std": half,
        },
    }  # fmt: skip


def _dino(size, patch, tower, **image) -> dict[str, Any]:
    """DINOv2 and DINOv3: an image tower alone, whose class token is the image."""
    return {
        "embed_dim": tower[0],
        "image": {
            "kind": "vit", **_tower(*tower), "size": size, "patch_size": patch, "norm_pre": False,
            "patch_bias": True, "head": "none", "layer_scale": 1.0, "mask_token": True,
            "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), **image,
        },
    }  # fmt: skip


def _dino3(size, patch, tower, **image) -> dict[str, Any]:
    """DINOv3: four registers, and rotary positions alone."""
    rope = {"position": "none", "rope": "centres", "rope_theta": 100.0, "rope_pairs": "halves"}
    return _dino(size, patch, tower, registers=4, qkv_bias="qv", **rope, **image)


def _tips(tower, text, *, gated=False) -> dict[str, Any]:
    """TIPSv2: DINOv2's tower with one register, the second class token, and a text tower of its
    width with fixed positions, of which the mean is taken."""
    image = _dino(
        448, 14, tower, norm_eps=1e-6, registers=1, position_resize="linear", gated=gated,
        activation="silu" if gated else "gelu", mean=(0.0,) * 3, std=(1.0,) * 3,
    )  # fmt: skip
    return {
        **image,
        "text": {
            "kind": "transformer", **_tower(*text), "vocab_size": 32_000, "context_length": 64,
            "activation": "relu", "position": "sincos_t2t", "causal": False, "mask_padding": True,
            "pool": "mean", "head": "none",
        },
        "logit": {
            "kind": "scale", "temperature": True, "initial": -math.log(0.005065968260169029),
            "max": 1000.0,
        },
    }  # fmt: skip


def _aim(size, patch, tower, **image) -> dict[str, Any]:
    """AIMv2: RMSNorm, SwiGLU and no biases; the tower alone pools nothing there."""
    return {
        "embed_dim": tower[0],
        "image": {
            "kind": "vit", **_tower(*tower), **_AIM, "size": size, "patch_size": patch,
            "norm_pre": False, "norm_patch": True, "patch_bias": True, "head": "none",
            "pool": "mean", **image,
        },
    }  # fmt: skip


def _aim_lit(size, patch, tower, text, embed_dim) -> dict[str, Any]:
    """AIMv2 with a text tower that was trained to it, and a head of attention."""
    image = _aim(size, patch, tower, head="linear", pool="probe")
    words = {"kind": "transformer", **_tower(*text), **_AIM}
    return {**image, "embed_dim": embed_dim, "text": words, "logit": {"kind": "scale"}}


def _clap(width, stages, embed_dim=512) -> dict[str, Any]:
    """CLAP: HTS-AT on ten seconds of sound and RoBERTa, with a scale for each direction."""
    text = _bert(_B, 50_265, 512, eps=1e-12, token_types=1, position_offset=2, mlm_head=False)
    return {
        "embed_dim": embed_dim,
        "audio": {"kind": "htsat", "width": width, "stages": stages},
        "text": {**text["text"], "head": "tanh_mlp"},
        "logit": {"kind": "scale"},
        "logit_text": {"kind": "scale"},
    }


def _tower(width, depth, heads, mlp_dim=None) -> dict[str, Any]:
    return {"width": width, "depth": depth, "heads": heads, "mlp_dim": mlp_dim or 4 * width}


_AIM: dict[str, Any] = {
    "rms_norm": True, "gated": True, "activation": "silu", "bias": False, "qkv_bias": "none",
}  # fmt: skip
_B, _L, _SO = (768, 12, 12), (1024, 24, 16), (1152, 27, 16, 4304)

_TINY = _clip(32, 8, (64, 2, 4), (64, 2, 4), 32)
_TINY["text"] |= {"vocab_size": 512, "context_length": 16}
_TINY_SIGLIP = _siglip(32, 8, (64, 2, 4), 16)
_TINY_SIGLIP["text"] |= {"vocab_size": 512}
# As wide as what `config.smoke` makes of a model, whose teacher it is.
_TINY_BERT = _bert((32, 4, 4, 64), 600, 16, eps=1e-12)
_TINY_CLAP = _clap(16, (2, 2), 24)
_TINY_CLAP["audio"] |= {
    "sample_rate": 8_000, "seconds": 1.0, "window": 256, "hop": 80, "high": 4_000.0, "bins": 16,
    "size": 64, "window_tokens": 4, "stage_heads": (2, 4),
}  # fmt: skip
_TINY_CLAP["text"] |= {**_tower(32, 2, 4, 64), "vocab_size": 600, "context_length": 16}

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
    "CoCa-B/32": _coca(224, 32, _B, (512, 12, 8), 512),
    "CoCa-L/14": _coca(224, 14, _L, (768, 12, 12), 768),
    "SigLIP-B/16-224": _siglip(224, 16, _B, 64),
    "SigLIP-L/16-256": _siglip(256, 16, _L, 64),
    "SigLIP-So400m/14-224": _siglip(224, 14, _SO, 16),
    "SigLIP-So400m/14-384": _siglip(384, 14, _SO, 64),
    "SigLIP2-B/16-224": _siglip2(224, 16, _B),
    "SigLIP2-L/16-256": _siglip2(256, 16, _L),
    "SigLIP2-So400m/14-224": _siglip2(224, 14, _SO),
    "SigLIP2-So400m/14-384": _siglip2(384, 14, _SO),
    "SigLIP2-B/16-naflex": _naflex(_B),
    "SigLIP2-So400m/16-naflex": _naflex(_SO),
    "VideoPrism-LvT-B": _videoprism(16, _B),
    "VideoPrism-LvT-L": _videoprism(8, _L),
    "bert-base-uncased": _bert(_B, 30_522, 512, eps=1e-12),
    "roberta-base": _bert(_B, 50_265, 512, eps=1e-5, token_types=1, position_offset=2),
    "vit-base-patch16-224": _vit(224, 16, _B, 1000),
    "dinov2-base": _dino(518, 14, _B, norm_eps=1e-6, position_resize="plain_cubic"),
    "dinov2-large": _dino(518, 14, _L, norm_eps=1e-6, position_resize="plain_cubic"),
    "dinov2-with-registers-base": _dino(518, 14, _B, norm_eps=1e-6, registers=4),
    "dinov2-with-registers-large": _dino(518, 14, _L, norm_eps=1e-6, registers=4),
    "dinov3-vitb16": _dino3(224, 16, _B),
    "dinov3-vitl16": _dino3(224, 16, _L),
    "tipsv2-b14": _tips(_B, _B),
    "tipsv2-l14": _tips(_L, (1024, 12, 16)),
    "tipsv2-so400m14": _tips(_SO, _SO),
    "tipsv2-g14": _tips((1536, 40, 24, 4096), (1536, 12, 24), gated=True),
    "aimv2-large-patch14-224": _aim(224, 14, (1024, 24, 8, 2816)),
    "aimv2-huge-patch14-224": _aim(224, 14, (1536, 24, 12, 4096)),
    "aimv2-large-patch14-native": _aim(224, 14, (1024, 24, 8, 2816), position="sincos_mae"),
    "aimv2-large-patch14-224-lit": _aim_lit(224, 14, (1024, 24, 8, 2816), (768, 12, 6, 2048), 768),
    "clap-htsat-unfused": _clap(96, (2, 2, 6, 2)),
    "tiny": _TINY,
    "tiny-siglip": _TINY_SIGLIP,
    "tiny-bert": _TINY_BERT,
    "tiny-clap": _TINY_CLAP,
}
_QUICK = "-quickgelu"


def default(*names: str) -> ConfigDict:
    """A `model` config of these parts of CLIP (image, text, logit), every key at its default."""
    kinds = {"image": "vit", "text": "transformer", "logit": "scale"}
    return parts.complete({name: {"kind": kinds[name]} for name in names})


def list_models() -> list[str]:
    """The names of all architectures; each CLIP one also exists with the suffix "-quickgelu"."""
    return list(ARCHITECTURES)


def config(name: str) -> ConfigDict:
    """The `model` config of a named architecture; UserError names the nearest one.

    >>> from mmjax.models import zoo
    >>> zoo.config("ViT-B/16").image.patch_size
    16
    """
    base = name.removesuffix(_QUICK)
    is_clip = base.startswith(("ViT-", "RN", "tiny")) and "siglip" not in base
    if base not in ARCHITECTURES or (base != name and not is_clip):
        near = nearest(name, ARCHITECTURES)
        raise UserError(f"There is no architecture {name!r}; the nearest is {near!r}.")
    model = parts.complete(ARCHITECTURES[base])
    model.name = name
    if name.endswith(_QUICK):
        for part in parts.sections(model).values():
            if "activation" in part:  # a resnet has none to choose
                part.activation = "quick_gelu"
    return model


def of_frames(model: ConfigDict, **keys: Any) -> ConfigDict:
    """The model with a part "video" in the place of its image tower, whose parameters fit it.

    Args:
      model: its part "image" is of the kind "vit".
      **keys: of the kind "video_vit", beside those that both kinds have.

    Raises:
      UserError: there is no such part.
    """
    kind = model.get("image", {}).get("kind")
    if kind != "vit":
        raise UserError(
            "frames are for models whose part 'image' is of the kind 'vit', and that of "
            f"{model.get('name', 'this model')} is {kind!r}: embed frames as images, and take "
            "their mean."
        )
    result = model.copy_and_resolve_references()
    with result.unlocked():
        shared = {name: value for name, value in result.image.items() if name != "kind"}
        del result.image
        result.video = parts.part("video_vit", **shared, **keys)
    return result
