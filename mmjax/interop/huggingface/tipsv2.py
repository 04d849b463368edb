"""Tipsv2Model of transformers: TIPSv2 (after TIPS, Maninis et al., 2024), DINOv2's image tower with
one register, which is trained as a second class token, and a text tower with fixed positions.

The rows are the names in files, as published; transformers 5 calls most otherwise once loaded.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.data.tokenize import load_tokenizer
from mmjax.interop.files import Tensors, read_json
from mmjax.interop.formats import CLIP, Family
from mmjax.interop.huggingface import preprocessor
from mmjax.interop.huggingface.architecture import (
    ACTIVATIONS,
    FROM_ACTIVATIONS,
    Architecture,
    linear,
    norm,
    read_back,
    read_tower,
    write_tower,
)
from mmjax.interop.huggingface.dino import swiglu_width, without_tokens
from mmjax.interop.table import CONV, LINEAR, Row
from mmjax.models import zoo

_IMAGE, _TEXT = "vision_encoder", "text_encoder"
_QKV = ("query", "key", "value")


def rows(model: ConfigDict) -> list[Row]:
    image, width = model.image, model.image.width
    positions = (image.size // image.patch_size) ** 2 + 1
    ours, theirs = "image/blocks", f"{_IMAGE}.blocks.{{}}"
    text, block = "text/blocks", f"{_TEXT}.transformer.resblocks.{{}}"
    return [
        Row("image/class_embed", f"{_IMAGE}.cls_token", shape=(1, 1, width)),
        Row("image/register_embed", f"{_IMAGE}.register_tokens", shape=(1, image.registers, width)),
        Row("image/mask_embed", f"{_IMAGE}.mask_token", shape=(1, width)),
        Row("image/position_embed", f"{_IMAGE}.pos_embed", shape=(1, positions, width)),
        Row("image/patch_embed/kernel", f"{_IMAGE}.patch_embed.proj.weight", CONV),
        Row("image/patch_embed/bias", f"{_IMAGE}.patch_embed.proj.bias"),
        *norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *_fused(f"{ours}/attention", _QKV, f"{theirs}.attn.qkv.", image.qkv_bias == "qkv"),
        *linear(f"{ours}/attention/out", f"{theirs}.attn.proj"),
        *(Row(f"{ours}/layer_scale{i}", f"{theirs}.ls{i}.gamma") for i in (1, 2)),
        *norm(f"{ours}/norm2", f"{theirs}.norm2"),
        *_mlp(ours, theirs, image.gated),
        *norm("image/norm_post", f"{_IMAGE}.norm"),
        Row("text/token_embed/embedding", f"{_TEXT}.token_embedding.weight"),
        *norm(f"{text}/norm1", f"{block}.ln_1"),
        *_fused(f"{text}/attention", _QKV, f"{block}.attn.in_proj_"),
        *linear(f"{text}/attention/out", f"{block}.attn.out_proj"),
        *norm(f"{text}/norm2", f"{block}.ln_2"),
        *_mlp(text, block, False),
        *norm("text/norm_post", f"{_TEXT}.ln_final"),
        Row("logit_temperature", "temperature"),
    ]


def _fused(ours: str, names: tuple[str, ...], theirs: str, bias: bool = True) -> list[Row]:
    """Linear layers that are one there, whose names begin with `theirs`."""
    kernels = Row(tuple(f"{ours}/{name}/kernel" for name in names), f"{theirs}weight", LINEAR)
    biases = Row(tuple(f"{ours}/{name}/bias" for name in names), f"{theirs}bias")
    return [kernels, biases] if bias else [kernels]


def _mlp(ours: str, theirs: str, gated: bool) -> list[Row]:
    if gated:
        first = _fused(f"{ours}/mlp", ("gate", "fc1"), f"{theirs}.mlp.w12.")
        return [*first, *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.w3")]
    return [
        *linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.c_fc"),
        *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.c_proj"),
    ]


def read_config(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
    from transformers import Tipsv2Config

    theirs: Any = Tipsv2Config.from_dict(dict(settings))
    image, text = theirs.vision_config, theirs.text_config
    if not isinstance(image.image_size, int) or not isinstance(image.patch_size, int):
        raise ValueError("its images or patches are not square")
    if not text.scale_sqrt_depth:
        raise ValueError("its token embeddings are not scaled")
    width, gated = image.hidden_size, image.use_swiglu_ffn
    if not gated and image.hidden_act not in FROM_ACTIVATIONS:
        raise ValueError(f"its activation {image.hidden_act!r} is unknown here")
    model = zoo.default("image", "text", "logit")
    model.embed_dim = width
    model.logit.update(
        temperature=True, max=1000.0, initial=-math.log(theirs.temperature_init_value)
    )
    model.image.update(
        width=width, depth=image.num_hidden_layers, heads=image.num_attention_heads, gated=gated,
        mlp_dim=(swiglu_width if gated else _mlp_width)(width, image.mlp_ratio),
        activation="silu" if gated else FROM_ACTIVATIONS[image.hidden_act],
        norm_eps=float(image.layer_norm_eps), size=image.image_size, patch_size=image.patch_size,
        qkv_bias="qkv" if image.qkv_bias else "none", norm_pre=False, patch_bias=True, head="none",
        registers=image.num_register_tokens, mask_token=True, position_resize="linear",
        layer_scale=float(image.layerscale_value), drop_path=float(image.drop_path_rate),
        mean=(0.0,) * 3, std=(1.0,) * 3,
    )  # fmt: skip
    model.text.update(
        **read_tower(text), vocab_size=text.vocab_size, position="sincos_t2t", causal=False,
        context_length=text.max_position_embeddings, mask_padding=True, pool="mean", head="none",
    )  # fmt: skip
    return model


def _mlp_width(width: int, ratio: float) -> int:
    return int(width * ratio)


def _ratio(image: ConfigDict) -> float:
    """The `mlp_ratio` of which the class makes the hidden width of the MLP, or near it."""
    if image.gated:  # of which there are two thirds
        return image.mlp_dim * 1.5 / image.width
    ratio = image.mlp_dim / image.width
    return ratio if _mlp_width(image.width, ratio) == image.mlp_dim else math.nextafter(ratio, 9e9)


def write_config(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    """Both towers have the width of images, as the class refuses others: reading back shows it."""
    from transformers import Tipsv2Config

    image, text, tokens = model.image, model.text, dict[str, Any]()
    if tokenizer is not None:
        tokens = {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.start_id}
        tokens["eos_token_id"] = tokenizer.eot_id if tokenizer.ends else None
    return Tipsv2Config(
        architectures=["Tipsv2Model"],
        dtype="float32",
        temperature_init_value=math.exp(-model.logit.initial),
        vision_config={
            "hidden_size": image.width, "num_hidden_layers": image.depth,
            "num_attention_heads": image.heads, "mlp_ratio": _ratio(image),
            "use_swiglu_ffn": image.gated, "hidden_act": ACTIVATIONS[image.activation],
            "layer_norm_eps": float(image.norm_eps), "image_size": image.size,
            "patch_size": image.patch_size, "qkv_bias": image.qkv_bias != "none",
            "layerscale_value": float(image.layer_scale or 1), "drop_path_rate": image.drop_path,
            "num_register_tokens": image.registers,
        },
        text_config={
            **write_tower(text), **tokens, "hidden_size": image.width,
            "num_attention_heads": text.heads if image.width % text.heads == 0 else 1,
            "vocab_size": text.vocab_size, "max_position_embeddings": text.context_length,
        },
    )  # fmt: skip


def lacking(settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Published files have no temperature: it is that of the config."""
    from transformers import Tipsv2Config

    theirs: Any = Tipsv2Config.from_dict(dict(settings))
    return {"temperature": np.asarray(theirs.temperature_init_value, np.float32)}


def words(name: str | Path) -> Tokenizer:
    """TIPS's texts have no end; a tokenizer that was saved by mmjax keeps its own."""
    file = Path(name) / "tokenizer_config.json"
    saved = file.is_file() and "mmjax" in read_json(file)
    return load_tokenizer(name, end=None if saved else False)


CARD = (
    "library_name: transformers\npipeline_tag: zero-shot-image-classification",
    """\
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, Tipsv2Model

model, tokenizer = Tipsv2Model.from_pretrained("."), AutoTokenizer.from_pretrained(".")
images = AutoImageProcessor.from_pretrained(".")(Image.open("picture.jpg"), return_tensors="pt")
texts = tokenizer(["a cat", "a dog"], padding="max_length", truncation=True, return_tensors="pt")
texts.pop("token_type_ids", None)
print(model(**images, **texts).logits_per_image.softmax(dim=-1))""",
)

MODEL = Architecture(
    family=Family(
        "Hugging Face's Tipsv2Model",
        parts=(CLIP,),
        rows=rows,
        read_back=read_back(rows, read_config, write_config),
        obstacles=without_tokens,
    ),
    model_type="tipsv2",
    classes=("Tipsv2Model",),
    read_config=read_config,
    write_config=write_config,
    lacking=lacking,
    words=words,
    preprocessor=lambda config: preprocessor.write("Tipsv2ImageProcessor", config),
    card=CARD,
)
