"""Aimv2VisionModel and Aimv2Model of transformers: AIMv2 (Fini et al., 2024), an image tower alone,
and with the text tower that was trained to it (LiT)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.interop.files import Tensors
from mmjax.interop.formats import CLIP, Family
from mmjax.interop.huggingface import clip, dino, preprocessor
from mmjax.interop.huggingface.architecture import (
    ACTIVATIONS,
    FROM_ACTIVATIONS,
    Architecture,
    linear,
    read_back,
)
from mmjax.interop.table import CONV, LINEAR, Row
from mmjax.models import zoo

_MLP = {"gate": "gate_proj", "fc1": "up_proj", "fc2": "down_proj"}
_POOL = "image/pool/attention"


def rows_vision(model: ConfigDict) -> list[Row]:
    return _image(model.image, "")


def rows(model: ConfigDict) -> list[Row]:
    embeddings = "text_model.embeddings"
    return [
        *_image(model.image, "vision_model."),
        Row("image/head/kernel", "visual_projection.weight", LINEAR),
        Row("text/token_embed/embedding", f"{embeddings}.token_embedding.weight"),
        Row("text/position_embed", f"{embeddings}.position_embedding.weight"),
        *_blocks(model.text, "text", "text_model."),
        Row("text/head/kernel", "text_projection.weight", LINEAR),
        Row("logit_scale", "logit_scale"),
    ]


def _image(image: ConfigDict, base: str) -> list[Row]:
    embeddings, head = f"{base}embeddings", f"{base}head"
    table = [
        *_linear("image/patch_embed", f"{embeddings}.patch_embed", True, CONV),
        Row("image/norm_patch/scale", f"{embeddings}.rms_norm.weight"),
        *_blocks(image, "image", base),
    ]
    if image.position == "learned":
        table += [Row("image/position_embed", f"{embeddings}.position_embedding.weight")]
    if image.pool == "probe":
        bias = image.qkv_bias == "qkv"
        table += [
            Row("image/pool/probe", f"{head}.cls_token", shape=(1, 1, image.width)),
            *_linear(f"{_POOL}/key", f"{head}.k_proj", bias),
            *_linear(f"{_POOL}/value", f"{head}.v_proj", bias),
            *linear(f"{_POOL}/out", f"{head}.output_proj"),
        ]
    return table


def _blocks(tower: ConfigDict, ours: str, base: str) -> list[Row]:
    """Those of either tower, and the last norm."""
    blocks, theirs = f"{ours}/blocks", f"{base}encoder.layers.{{}}"
    attention = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
    attention = {name: f"{theirs}.attention.{other}" for name, other in attention.items()}
    return [
        Row(f"{blocks}/norm1/scale", f"{theirs}.rms_norm1.weight"),
        *dino.attention_rows(tower, f"{blocks}/attention", attention),
        Row(f"{blocks}/norm2/scale", f"{theirs}.rms_norm2.weight"),
        *(row for name, other in _MLP.items()
          for row in _linear(f"{blocks}/mlp/{name}", f"{theirs}.ffn.{other}", tower.bias)),
        Row(f"{ours}/norm_post/scale", f"{base}rms_norm.weight"),
    ]  # fmt: skip


def _linear(ours: str, theirs: str, bias: bool, axes: tuple[int, ...] = LINEAR) -> list[Row]:
    kernel = Row(f"{ours}/kernel", f"{theirs}.weight", axes)
    return [kernel, Row(f"{ours}/bias", f"{theirs}.bias")] if bias else [kernel]


def _read_tower(theirs: Any) -> dict[str, Any]:
    """What both towers have. ValueError: it is none that there is here."""
    if theirs.hidden_act not in FROM_ACTIVATIONS:
        raise ValueError(f"its activation {theirs.hidden_act!r} is unknown here")
    if theirs.qkv_bias != theirs.mlp_bias:
        raise ValueError("its linear layers have biases in a way that no model has")
    return {
        "width": theirs.hidden_size, "mlp_dim": theirs.intermediate_size,
        "depth": theirs.num_hidden_layers, "heads": theirs.num_attention_heads,
        "activation": FROM_ACTIVATIONS[theirs.hidden_act], "norm_eps": float(theirs.rms_norm_eps),
        "rms_norm": True, "gated": True, "bias": theirs.mlp_bias,
        "qkv_bias": "qkv" if theirs.qkv_bias else "none",
    }  # fmt: skip


def _read_image(theirs: Any) -> dict[str, Any]:
    if not isinstance(theirs.image_size, int) or not isinstance(theirs.patch_size, int):
        raise ValueError("its images or patches are not square")
    return {
        **_read_tower(theirs), "size": theirs.image_size, "patch_size": theirs.patch_size,
        "norm_pre": False, "norm_patch": True, "patch_bias": True,
        "position": "sincos_mae" if theirs.is_native else "learned",
        "pool": "probe" if theirs.use_head else "mean",
    }  # fmt: skip


def _write_tower(tower: ConfigDict) -> dict[str, Any]:
    return {
        "hidden_size": tower.width, "intermediate_size": tower.mlp_dim,
        "num_hidden_layers": tower.depth, "num_attention_heads": tower.heads,
        "hidden_act": ACTIVATIONS[tower.activation], "rms_norm_eps": float(tower.norm_eps),
        "qkv_bias": tower.bias, "mlp_bias": tower.bias,
    }  # fmt: skip


def _write_image(image: ConfigDict) -> dict[str, Any]:
    return {
        **_write_tower(image), "image_size": image.size, "patch_size": image.patch_size,
        "is_native": image.position == "sincos_mae", "use_head": image.pool == "probe",
    }  # fmt: skip


def read_vision(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
    """A tower without a head pools nothing there, and here takes the mean of its tokens."""
    from transformers import Aimv2VisionConfig

    theirs: Any = Aimv2VisionConfig.from_dict(dict(settings))
    model = zoo.default("image")
    model.embed_dim = theirs.hidden_size
    model.image.update(**_read_image(theirs), head="none")
    return model


def write_vision(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    from transformers import Aimv2VisionConfig

    return Aimv2VisionConfig(
        architectures=["Aimv2VisionModel"], dtype="float32", **_write_image(model.image)
    )


def read_config(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
    """`eos_token_id` is not read: see `clip.py`."""
    from transformers import Aimv2Config

    theirs: Any = Aimv2Config.from_dict(dict(settings))
    text = theirs.text_config
    model = zoo.default("image", "text", "logit")
    model.embed_dim = theirs.projection_dim
    model.logit.update(
        initial=float(theirs.logit_scale_init_value), max=float(theirs.max_logit_scale)
    )
    model.image.update(_read_image(theirs.vision_config) | {"pool": "probe"})
    model.text.update(
        **_read_tower(text), vocab_size=text.vocab_size, context_length=text.max_position_embeddings
    )
    return model


def write_config(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    from transformers import Aimv2Config

    text = model.text
    # Without a tokenizer the end token is taken to be the last of the vocabulary, as in CLIP's own.
    end = text.vocab_size - 1 if tokenizer is None else tokenizer.eot_id
    return Aimv2Config(
        architectures=["Aimv2Model"],
        dtype="float32",
        projection_dim=model.embed_dim,
        logit_scale_init_value=float(model.logit.initial),
        max_logit_scale=float(model.logit.max or 1e38),
        vision_config=_write_image(model.image) | {"use_head": True},
        text_config={
            **_write_tower(text), "vocab_size": text.vocab_size, "eos_token_id": end,
            "max_position_embeddings": text.context_length,
        },
    )  # fmt: skip


def pooled_at(settings: Mapping[str, Any]) -> int | str | None:
    from transformers import Aimv2Config

    theirs: Any = Aimv2Config.from_dict(dict(settings))
    end: int = theirs.text_config.eos_token_id
    return end


def _architecture(
    name: str,
    parts: tuple[str, ...],
    rows: Callable[[ConfigDict], list[Row]],
    read_config: Callable[[Mapping[str, Any], Tensors], ConfigDict],
    write_config: Callable[[ConfigDict, Tokenizer | None], Any],
    **fields: Any,
) -> Architecture:
    def read_preprocessor(path: Path, model: ConfigDict) -> dict[str, str]:
        native = model.image.position != "learned"
        return preprocessor.read(path, model, "aimv2", any_size=native)

    return Architecture(
        family=Family(
            f"Hugging Face's {name}",
            parts=({part: CLIP[part] for part in parts},),
            rows=rows,
            read_back=read_back(rows, read_config, write_config),
        ),
        classes=(name,),
        read_config=read_config,
        write_config=write_config,
        read_preprocessor=read_preprocessor,
        preprocessor=lambda config: preprocessor.write("CLIPImageProcessor", config),
        **fields,
    )


MODELS = (
    _architecture(
        "Aimv2VisionModel", ("image",), rows_vision, read_vision, write_vision,
        model_type="aimv2_vision_model",
        card=(dino.CARD[0], dino.CARD[1].replace("pooler_output", "last_hidden_state")),
    ),
    _architecture(
        "Aimv2Model", ("image", "text", "logit"), rows, read_config, write_config,
        model_type="aimv2",
        pooled_at=pooled_at,
        card=(clip.MODEL.card[0], clip.MODEL.card[1].replace("CLIPModel", "Aimv2Model")),
    ),
)  # fmt: skip
