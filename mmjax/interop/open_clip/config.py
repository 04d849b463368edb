"""open_clip_config.json ↔ `config.model`: `model_cfg` is the architecture, `preprocess_cfg` how
pictures come to their size. What is set there and not known here is an error, never overlooked."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.data.keys import PREPROCESS
from mmjax.errors import UserError
from mmjax.interop.open_clip import encoders, towers
from mmjax.interop.open_clip.tables import has_own_text
from mmjax.interop.texts import is_openais
from mmjax.models import zoo
from mmjax.models.parts import part
from mmjax.schema import entry

STRIPPED = 0  # its `strip_sep_token` makes the end token this (CLIPA)
CLEANED = "whitespace"  # the least that open_clip does to texts, and its default
_GELU, _TANH = "gelu", "gelu_tanh"
# What the two towers' settings may hold beside what is read below, and what each must then be.
_FIXED: dict[str, dict[str, Any]] = {
    "vision_cfg": {
        "pos_embed_type": "learnable", "block_type": None, "qk_norm": False,
        "scaled_cosine_attn": False, "scale_heads": False, "scale_attn_inner": False,
        "scale_attn": False, "scale_fc": False, "timm_proj_bias": False,
    },
    "text_cfg": {
        "block_type": None, "qk_norm": False, "scaled_cosine_attn": False, "scale_heads": False,
        "scale_attn_inner": False, "scale_attn": False, "scale_fc": False, "tokenizer_mode": None,
    },
}  # fmt: skip
# Read below, or without a meaning once the weights are there.
_READ: dict[str, set[str]] = {
    "model_cfg": {
        "embed_dim", "quick_gelu", "init_logit_scale", "init_logit_bias", "custom_text",
        "nonscalar_logit_scale", "vision_cfg", "text_cfg", "output_dict", "multimodal_cfg",
    },
    "vision_cfg": {
        "layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "no_ln_pre",
        "final_ln_after_pool", "act_kwargs", "norm_kwargs", "timm_model_name", "timm_pool",
        "timm_proj", "patch_dropout", "pool_type", "ls_init_value", "attentional_pool",
        "attn_pooler_queries", "attn_pooler_heads", "output_tokens", "timm_model_pretrained",
        "timm_drop", "timm_drop_path",
    },
    "text_cfg": {
        "context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "act_kwargs",
        "norm_kwargs", "no_causal_mask", "pool_type", "proj_bias", "proj_type", "pad_id", "eos_id",
        "embed_cls", "hf_tokenizer_name", "tokenizer_kwargs", "final_ln_after_pool",
        "output_tokens", "hf_model_name", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type",
        "ls_init_value",
    },
}  # fmt: skip
_HEADS: dict[str, dict[str, Any]] = {
    "linear": {},
    "linear_bias": {"proj_bias": True},
    "none": {"proj_type": "none"},
}
_POOL = {"argmax": "eot", "eos": "eot", "first": "cls", "last": "last"}


def read_model(settings: Mapping[str, Any]) -> ConfigDict:
    """`model_cfg` as `config.model`. UserError: it holds what no model here can be."""
    _check_known("model_cfg", settings)
    image, text = settings["vision_cfg"], settings["text_cfg"]
    _check_known("vision_cfg", image)
    _check_known("text_cfg", text)
    quick = settings.get("quick_gelu", False)
    model = zoo.default("image", "text", "logit")
    model.embed_dim = settings["embed_dim"]
    model.logit.initial = float(settings.get("init_logit_scale", model.logit.initial))
    if settings.get("init_logit_bias") is not None:
        model.logit.update(bias=float(settings["init_logit_bias"]), max=0.0)
    if image.get("timm_model_name"):
        model.image = towers.read(image, _side(image.get("image_size", 224)))
    elif isinstance(image.get("layers", 12), list):
        _read_resnet(image, model)
    else:
        _read_vit(image, quick, model)
    if text.get("hf_model_name"):
        encoders.read(text, model.text)
    else:
        _read_text(text, quick, model)
    return model


def _read_vit(image: Mapping[str, Any], quick: bool, model: ConfigDict) -> None:
    width = image.get("width", 768)
    model.image.update(
        size=_side(image.get("image_size", 224)),
        patch_size=image.get("patch_size", 16),
        width=width,
        depth=image.get("layers", 12),
        heads=width // image.get("head_width", 64),
        mlp_dim=int(width * image.get("mlp_ratio", 4.0)),
        activation=_activation(image, quick),
        norm_eps=_eps(image),
        norm_pre=not image.get("no_ln_pre", False),
        layer_scale=image.get("ls_init_value"),
    )
    pool, kind = image.get("attentional_pool", False), image.get("pool_type", "tok")
    if kind == "avg" and not pool:
        after = image.get("final_ln_after_pool", False)
        model.image.update(pool="mean_patches", norm_pooled=after)
    elif kind != "tok":
        raise UserError(
            f"open_clip_config.json: vision_cfg.pool_type={kind!r} makes a model that mmjax has "
            "not."
        )
    elif pool is True:
        queries, heads = image.get("attn_pooler_queries", 256), image.get("attn_pooler_heads", 8)
        model.image.update(pool="queries", queries=queries, pool_heads=heads)
    elif pool:
        raise UserError(
            f"open_clip_config.json: vision_cfg.attentional_pool={pool!r} makes a model that mmjax "
            "has not."
        )


def _read_resnet(image: Mapping[str, Any], model: ConfigDict) -> None:
    width = image.get("width", 64)
    model.image = part(
        "resnet",
        size=_side(image.get("image_size", 224)),
        width=width,
        stages=tuple(image["layers"]),
        heads=width * 32 // image.get("head_width", 64),
        head="linear_bias",
    )


def _read_text(text: Mapping[str, Any], quick: bool, model: ConfigDict) -> None:
    width = text.get("width", 512)
    pool = text.get("pool_type", "argmax")
    if pool not in _POOL:
        raise UserError(f"open_clip_config.json: text_cfg.pool_type={pool!r} is unknown here.")
    head = "linear_bias" if text.get("proj_bias") else "linear"
    causal, appended = not text.get("no_causal_mask", False), text.get("embed_cls", False)
    if appended and (not causal or text.get("pad_id", 0) != 0):
        raise UserError(
            "open_clip_config.json: text_cfg.embed_cls without a causal mask or with a pad_id other"
            " than 0 makes a model that mmjax has not."
        )
    model.text.update(
        vocab_size=text.get("vocab_size", 49_408),
        context_length=text.get("context_length", 77),
        width=width,
        depth=text.get("layers", 12),
        heads=text.get("heads", 8),
        mlp_dim=int(width * text.get("mlp_ratio", 4.0)),
        activation=_activation(text, quick),
        norm_eps=_eps(text),
        causal=causal,
        layer_scale=text.get("ls_init_value"),
        pool="appended" if appended else _POOL[pool],
        head="none" if text.get("proj_type", "linear") == "none" else head,
    )


def read_preprocess(settings: Mapping[str, Any], model: ConfigDict) -> dict[str, str]:
    """Puts the mean and deviation of `preprocess_cfg` into `model`; returns the keys of
    `config.data` that say how an image is resized."""
    for key in ("mean", "std"):
        if settings.get(key) is not None:
            model.image[key] = tuple(float(x) for x in settings[key])
    resize = settings.get("resize_mode") or (
        "squash" if model.image.get("pool") == "map" else "shortest"
    )
    interpolation = settings.get("interpolation") or "bicubic"
    interpolation = "bicubic" if interpolation == "random" else interpolation  # as evaluation does
    if resize not in ("shortest", "squash") or interpolation not in ("bicubic", "bilinear"):
        raise UserError(
            f"open_clip_config.json: preprocess_cfg.resize_mode={resize!r} with interpolation="
            f"{interpolation!r} is unknown here: shortest and squash, bicubic and bilinear are."
        )
    return {"resize": resize, "interpolation": interpolation}


def obstacles(model: ConfigDict) -> list[str]:
    """What of `config.model` open_clip's config has no word for."""
    text = model.text
    present = {
        f"text is pooled by {text.pool!r}": text.pool not in (*_POOL.values(), "appended"),
        f"the text head is {text.head!r}": text.head not in _HEADS,
    }
    found = [reason for reason, there in present.items() if there]
    if encoders.is_transformers(text):
        found = encoders.obstacles(text)
    return found + (towers.obstacles(model.image) if towers.is_timms(model.image) else [])


def read_back(model: ConfigDict) -> ConfigDict:
    """What `read_model` and `read_preprocess` make of what is written of `config.model`."""
    back = read_model(write_model(model, None))
    read_preprocess(write_preprocess(ConfigDict({"model": model, "data": entry(PREPROCESS)})), back)
    return back


def write_model(model: ConfigDict, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """`config.model` as `model_cfg`; the model has passed `obstacles`."""
    image, text = model.image, model.text
    settings: dict[str, Any] = {"embed_dim": model.embed_dim}
    if "quick_gelu" in (image.get("activation"), text.activation):
        settings["quick_gelu"] = True
    settings["init_logit_scale"] = model.logit.initial
    if model.logit.bias is not None:
        settings["init_logit_bias"] = model.logit.bias
    vision: dict[str, Any] = {"image_size": image.size}
    if has_own_text(model):
        settings["custom_text"] = True
    if towers.is_timms(image):
        vision |= towers.write(image)
    elif image.kind == "resnet":
        vision |= {"layers": list(image.stages), "width": image.width, "patch_size": None,
                   "head_width": image.width * 32 // image.heads}  # fmt: skip
    else:
        vision |= {"layers": image.depth, "patch_size": image.patch_size,
                   "head_width": image.width // image.heads, **_write_tower(image)}  # fmt: skip
        if not image.norm_pre:
            vision["no_ln_pre"] = True
        if image.pool == "queries":
            vision |= {"attentional_pool": True, "attn_pooler_queries": image.queries,
                       "attn_pooler_heads": image.pool_heads}  # fmt: skip
        if image.pool == "mean_patches":
            vision |= {"pool_type": "avg", "final_ln_after_pool": image.norm_pooled}
    settings["vision_cfg"] = vision
    if encoders.is_transformers(text):
        settings["text_cfg"] = encoders.write(text)
        return settings
    settings["text_cfg"] = {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "heads": text.heads,
        "layers": text.depth,
        **_write_tower(text),
        **({} if text.causal else {"no_causal_mask": True}),
        **_HEADS[text.head],
        **_write_pool(text.pool, tokenizer),
        **_write_tokenizer(model.name, tokenizer),
    }  # fmt: skip
    return settings


def write_preprocess(config: ConfigDict) -> dict[str, Any]:
    image = config.model.image
    return {
        "size": image.size,
        "mode": "RGB",
        "mean": list(image.mean),
        "std": list(image.std),
        "interpolation": config.data.interpolation,
        "resize_mode": config.data.resize,
        "fill_color": 0,
    }


def _write_tower(tower: ConfigDict) -> dict[str, Any]:
    ratio = tower.mlp_dim / tower.width
    if int(tower.width * ratio) != tower.mlp_dim:  # it multiplies and cuts
        ratio = (tower.mlp_dim + 0.5) / tower.width
    found: dict[str, Any] = {"width": tower.width, "mlp_ratio": ratio}
    if tower.norm_eps != 1e-5:
        found["norm_kwargs"] = {"eps": tower.norm_eps}
    if tower.layer_scale:
        found["ls_init_value"] = tower.layer_scale
    if tower.activation == _TANH:
        found["act_kwargs"] = {"approximate": "tanh"}
    return found


def _write_pool(pool: str, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """ "argmax" is open_clip's default and right where the end token has the largest id."""
    if pool == "appended":
        return {"embed_cls": True}
    if pool != "eot":
        return {"pool_type": {"cls": "first", "last": "last"}[pool]}
    if tokenizer is None or tokenizer.eot_id == tokenizer.vocab_size - 1:
        return {}
    return {"pool_type": "eos", "eos_id": tokenizer.eot_id}


def _write_tokenizer(name: str, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Any name makes open_clip load the tokenizer from the folder, and clean texts at least so."""
    if tokenizer is None or is_openais(tokenizer):
        return {}
    kwargs: dict[str, Any] = {"clean": tokenizer.clean or CLEANED}
    if strips_end(tokenizer):
        kwargs["strip_sep_token"] = True
    return {"hf_tokenizer_name": name, "tokenizer_kwargs": kwargs}


def strips_end(tokenizer: Tokenizer) -> bool:
    """Whether padding's id stands for the end of a text, as CLIPA was trained."""
    sep = tokenizer.wrapped.sep_token_id
    return sep is not None and tokenizer.eot_id == STRIPPED != sep


def _activation(tower: Mapping[str, Any], quick: bool) -> str:
    kwargs = tower.get("act_kwargs") or {}
    if kwargs not in ({}, {"approximate": "tanh"}, {"approximate": "none"}):
        raise UserError(f"open_clip_config.json: act_kwargs={kwargs!r} is unknown here.")
    if quick:
        return "quick_gelu"
    return _TANH if kwargs.get("approximate") == "tanh" else _GELU


def _eps(tower: Mapping[str, Any]) -> float:
    kwargs = tower.get("norm_kwargs") or {}
    if not kwargs.keys() <= {"eps"}:
        raise UserError(f"open_clip_config.json: norm_kwargs={kwargs!r} is unknown here.")
    return float(kwargs.get("eps", 1e-5))


def _side(size: Any) -> int:
    if isinstance(size, int):
        return size
    if len(set(size)) != 1:
        raise UserError(f"open_clip_config.json: image_size={size} is not square, as here all are.")
    return int(size[0])


def _check_known(part: str, settings: Mapping[str, Any]) -> None:
    fixed = _FIXED.get(part, {})
    for key, value in settings.items():
        if key not in _READ[part] and (key not in fixed or value != fixed[key]):
            shown = "" if isinstance(value, dict) else f"={value!r}"
            raise UserError(
                f"open_clip_config.json: {part}.{key}{shown} makes a model that mmjax has not."
            )
