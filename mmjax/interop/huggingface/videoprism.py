"""VideoPrismClipModel of transformers: VideoPrism-LvT.

Its `logits_per_video` are no logits (they are divided by their sum over the videos): compare
embeddings. Give it `attention_mask`: without one its text tower is not causal.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.data.tokenize import load_tokenizer
from mmjax.errors import UserError
from mmjax.interop.files import Tensors, read_json
from mmjax.interop.formats import Family
from mmjax.interop.huggingface.architecture import (
    Architecture,
    linear,
    norm,
    read_back,
    read_tower,
    write_tower,
)
from mmjax.interop.table import CONV, Row
from mmjax.models.parts import complete

_VIDEO, _VISION = "video_model", "video_model.vision_model"
_POSITION_IDS = "text_model.embeddings.position_ids"
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL's numbers
# What VideoPrismProcessor takes where the file says nothing.
_VIDEOS: dict[str, Any] = {
    "size": {"height": 288, "width": 288}, "resample": 3, "do_normalize": False,
    "do_center_crop": False, "rescale_factor": 1 / 255,
}  # fmt: skip


def _blocks(ours: str, theirs: str) -> list[Row]:
    ours, theirs = f"{ours}/blocks", f"{theirs}.{{}}"
    return [
        *norm(f"{ours}/norm1", f"{theirs}.layernorm_before"),
        *linear(f"{ours}/attention/query", f"{theirs}.attention.q_proj"),
        *linear(f"{ours}/attention/key", f"{theirs}.attention.k_proj"),
        *linear(f"{ours}/attention/value", f"{theirs}.attention.v_proj"),
        *linear(f"{ours}/attention/out", f"{theirs}.attention.o_proj"),
        *norm(f"{ours}/norm2", f"{theirs}.layernorm_after"),
        *linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
    ]


def rows(model: ConfigDict) -> list[Row]:
    """The learned scale of a model that was trained here lies beside, where transformers leaves
    it."""
    video, text = model.video, "text_model.embeddings"
    width, patch = video.width, video.patch_size
    space, time = f"{_VISION}.spatial_embeddings", f"{_VISION}.temporal_embeddings"
    kernel = f"{space}.patch_embeddings.projection"
    return [
        Row("video/patch_embed/kernel", f"{kernel}.weight", CONV, (width, 3, 1, patch, patch)),
        Row("video/patch_embed/bias", f"{kernel}.bias"),
        Row(
            "video/position_embed",
            f"{space}.position_embeddings",
            shape=(1, (video.size // patch) ** 2, width),
        ),
        *_blocks("video", f"{_VISION}.spatial_layers"),
        *norm("video/norm_space", f"{_VISION}.layernorm1"),
        Row("video/time_embed", f"{time}.position_embeddings", shape=(1, video.frames, width)),
        *(_blocks("video/time", f"{_VISION}.temporal_layers") if video.time_depth else []),
        *norm("video/norm_time", f"{_VISION}.layernorm2"),
        *(_blocks("video/joint", f"{_VIDEO}.auxiliary_layers") if video.joint_depth else []),
        Row(
            "video/pool/query_embed",
            f"{_VIDEO}.head.pooling_attention_query",
            shape=(1, 1, width),
        ),
        Row("video/pool/per_dim_scale", f"{_VIDEO}.head.per_dim_scale"),
        *linear("video/pool/query", f"{_VIDEO}.head.q_proj"),
        *linear("video/pool/key", f"{_VIDEO}.head.k_proj"),
        *linear("video/pool/value", f"{_VIDEO}.head.v_proj"),
        *linear("video/pool/out", f"{_VIDEO}.head.o_proj"),
        *norm("video/norm_pool", f"{_VIDEO}.head_layernorm"),
        Row("text/token_embed/embedding", f"{text}.token_embedding.weight"),
        Row("text/position_table", f"{text}.position_embedding"),
        Row("text/class_embed", f"{text}.cls_emb", shape=(1, 1, model.text.width)),
        *_blocks("text", "text_model.layers"),
        *norm("text/norm_post", "text_model.layernorm"),
        *([Row("logit_scale", "logit_scale")] if "logit" in model else []),
    ]


def read_config(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
    from transformers import VideoPrismConfig

    theirs: Any = VideoPrismConfig.from_dict(dict(settings))
    video, text = theirs.vision_config, theirs.text_config
    frames, *patch = video.tubelet_size
    sides = [video.image_size] * 2 if isinstance(video.image_size, int) else video.image_size
    if frames != 1 or len({*patch}) != 1 or len({*sides}) != 1 or video.num_channels != 3:
        raise ValueError("its patches are no squares of one frame of three colours")
    if not (video.qkv_bias and text.qkv_bias and video.apply_l2norm and text.apply_l2norm):
        raise ValueError("it lacks biases of attention, or its embeddings have no unit length")
    video.num_hidden_layers = video.num_spatial_layers
    parts: dict[str, Any] = {
        "embed_dim": video.hidden_size,
        "video": {
            "kind": "videoprism", **read_tower(video), "size": sides[0], "patch_size": patch[0],
            "frames": video.num_frames, "time_depth": video.num_temporal_layers,
            "joint_depth": video.num_auxiliary_layers, "softcap": video.attn_logit_softcapping,
        },
        "text": {
            "kind": "transformer", **read_tower(text), "vocab_size": text.vocab_size,
            "context_length": text.max_position_embeddings, "position": "sincos", "pool": "class",
            "head": "none", "softcap": text.attn_logit_softcapping, "centred_norms": True,
        },
    }  # fmt: skip
    if "logit_scale" in tensors:
        parts["logit"] = {"kind": "scale"}
    return complete(parts)


def write_config(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    from transformers import VideoPrismConfig

    tower, text = model.video, model.text
    video = write_tower(tower)
    video["num_spatial_layers"] = video.pop("num_hidden_layers")
    if tower.activation == "gelu":
        video["hidden_act"] = "gelu_python"  # its own: the same function, rounded otherwise
    pad = {} if tokenizer is None else {"pad_token_id": tokenizer.pad_id}
    return VideoPrismConfig(
        architectures=["VideoPrismClipModel"],
        dtype="float32",
        vision_config={
            **video,
            "image_size": tower.size,
            "num_frames": tower.frames,
            "tubelet_size": [1, tower.patch_size, tower.patch_size],
            "num_temporal_layers": tower.time_depth,
            "num_auxiliary_layers": tower.joint_depth,
            "attn_logit_softcapping": tower.softcap,
        },
        text_config={
            **write_tower(text),
            **pad,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "attn_logit_softcapping": text.softcap,
        },
    )


def obstacles(model: ConfigDict) -> list[str]:
    none = [part for part in ("video", "text") if not model[part].softcap]
    return [f"config.model.{part}.softcap=0, which transformers divides by" for part in none]


def read_preprocessor(folder: Path, model: ConfigDict) -> dict[str, str]:
    """How a video processor's file prepares frames; UserError: as nothing is prepared here."""
    found: dict[str, Any] = {}
    for name, inside in (("processor_config.json", "video_processor"),
                         ("video_preprocessor_config.json", None)):  # fmt: skip
        if not found and (folder / name).is_file():
            whole = read_json(folder / name)
            found = whole.get(inside) or {} if inside else whole
    settings = _VIDEOS | {key: value for key, value in found.items() if value is not None}
    side, names = model.video.size, {number: name for name, number in _RESAMPLE.items()}
    unlike = {
        "size": settings["size"] != {"height": side, "width": side},
        "resample": settings["resample"] not in names,
        "do_center_crop": settings["do_center_crop"],
        "rescale_factor": abs(settings["rescale_factor"] * 255 - 1) > 1e-6,
    }
    if "size" not in found:
        unlike.pop("size")
    refused = [f"{key}={settings[key]!r}" for key, differs in unlike.items() if differs]
    if refused:
        raise UserError(
            f"{folder}: mmjax does not prepare frames so ({', '.join(refused)}): it squashes them "
            f"to the model's {side} pixels, bicubically or bilinearly, and divides by 255."
        )
    if settings["do_normalize"]:
        model.video.update(mean=tuple(settings["image_mean"]), std=tuple(settings["image_std"]))
    return {"resize": "squash", "interpolation": names[settings["resample"]]}


def write_preprocessor(config: ConfigDict) -> dict[str, Any]:
    video = config.model.video
    return {
        "video_processor_type": "LlavaOnevisionVideoProcessor",  # VideoPrism's
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": video.size, "width": video.size},
        "resample": _RESAMPLE[config.data.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": (tuple(video.mean), tuple(video.std)) != ((0.0,) * 3, (1.0,) * 3),
        "image_mean": list(video.mean),
        "image_std": list(video.std),
        "do_sample_frames": True,
        "num_frames": video.frames,
    }


CARD = (
    "library_name: transformers\npipeline_tag: feature-extraction",
    """\
import torch
from transformers import VideoPrismClipModel, VideoPrismTokenizer

model, tokenizer = (c.from_pretrained(".") for c in (VideoPrismClipModel, VideoPrismTokenizer))
texts = tokenizer(["a cat jumps."], padding="max_length", return_tensors="pt")
size = model.config.vision_config
video = torch.rand(1, size.num_frames, 3, size.image_size, size.image_size)  # in 0..1
output = model(pixel_values_videos=video, **texts)
print(output.video_embeds @ output.text_embeds.T)""",
)

_PAIR = {"video": ("videoprism",), "text": ("transformer",)}
MODEL = Architecture(
    family=Family(
        "Hugging Face's VideoPrismClipModel",
        parts=(_PAIR, {**_PAIR, "logit": ("scale",)}),
        rows=rows,
        read_back=read_back(rows, read_config, write_config),
        ignored=(_POSITION_IDS.replace(".", r"\."),),
        obstacles=obstacles,
    ),
    model_type="videoprism",
    classes=("VideoPrismClipModel",),
    read_config=read_config,
    write_config=write_config,
    preprocessor=write_preprocessor,
    preprocessor_file="video_preprocessor_config.json",
    read_preprocessor=read_preprocessor,
    constants=lambda model: {_POSITION_IDS: np.arange(model.text.context_length)[None]},
    words=lambda name: load_tokenizer(name, clean="sentence", end=False),
    card=CARD,
)
