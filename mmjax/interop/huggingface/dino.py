"""Dinov2Model, Dinov2WithRegistersModel and DINOv3ViTModel of transformers: an image tower alone.

The rows are the names in files; transformers 5 calls some otherwise once they are loaded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.interop.files import Tensors
from mmjax.interop.formats import Family
from mmjax.interop.huggingface import preprocessor
from mmjax.interop.huggingface.architecture import (
    ACTIVATIONS,
    FROM_ACTIVATIONS,
    Architecture,
    linear,
    norm,
    read_back,
)
from mmjax.interop.table import CONV, LINEAR, Row
from mmjax.models import zoo
from mmjax.models.form import BIASED

_MASK = "embeddings.mask_token"


def tokens(model: ConfigDict, mask: tuple[int, ...]) -> list[Row]:
    """The class token, the registers, and the mask token, of this shape there."""
    image, width = model.image, model.image.width
    shape = (1, image.registers, width)
    return [
        Row("image/class_embed", "embeddings.cls_token", shape=(1, 1, width)),
        *([Row("image/register_embed", "embeddings.register_tokens", shape=shape)]
          if image.registers else []),
        *([Row("image/mask_embed", _MASK, shape=mask)] if image.mask_token else []),
    ]  # fmt: skip


def attention_rows(image: ConfigDict, ours: str, theirs: Mapping[str, str]) -> list[Row]:
    """query, key, value and out, named by `theirs`, with the biases that they have."""
    biased = (*BIASED[image.qkv_bias], *("out",) * image.bias)
    return [
        row
        for name, other in theirs.items()
        for row in linear(f"{ours}/{name}", other)[: 1 + (name in biased)]
    ]


def scales(ours: str, theirs: str) -> list[Row]:
    return [Row(f"{ours}/layer_scale{i}", f"{theirs}.layer_scale{i}.lambda1") for i in (1, 2)]


def rows_2(model: ConfigDict) -> list[Row]:
    image, width = model.image, model.image.width
    positions = (image.size // image.patch_size) ** 2 + 1
    ours, theirs = "image/blocks", "encoder.layer.{}"
    names = {name: f"{theirs}.attention.attention.{name}" for name in ("query", "key", "value")}
    names["out"] = f"{theirs}.attention.output.dense"
    mlp = [
        *linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
    ]
    if image.gated:
        first = [f"{ours}/mlp/{name}" for name in ("gate", "fc1")]
        both, kernels = (tuple(f"{name}/{p}" for name in first) for p in ("bias", "kernel"))
        mlp = [
            Row(kernels, f"{theirs}.mlp.weights_in.weight", LINEAR),
            Row(both, f"{theirs}.mlp.weights_in.bias"),
            *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.weights_out"),
        ]
    return [
        *tokens(model, (1, width)),
        Row("image/position_embed", "embeddings.position_embeddings", shape=(1, positions, width)),
        Row("image/patch_embed/kernel", "embeddings.patch_embeddings.projection.weight", CONV),
        Row("image/patch_embed/bias", "embeddings.patch_embeddings.projection.bias"),
        *norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *attention_rows(image, f"{ours}/attention", names),
        *scales(ours, theirs),
        *norm(f"{ours}/norm2", f"{theirs}.norm2"),
        *mlp,
        *norm("image/norm_post", "layernorm"),
    ]


def rows_3(model: ConfigDict) -> list[Row]:
    image = model.image
    ours, theirs = "image/blocks", "layer.{}"
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
    names = {name: f"{theirs}.attention.{other}" for name, other in names.items()}
    mlp = {"gate": "gate_proj", "fc1": "up_proj", "fc2": "down_proj"}
    return [
        *tokens(model, (1, 1, image.width)),
        Row("image/patch_embed/kernel", "embeddings.patch_embeddings.weight", CONV),
        Row("image/patch_embed/bias", "embeddings.patch_embeddings.bias"),
        *norm(f"{ours}/norm1", f"{theirs}.norm1"),
        *attention_rows(image, f"{ours}/attention", names),
        *scales(ours, theirs),
        *norm(f"{ours}/norm2", f"{theirs}.norm2"),
        *(row
          for name, other in mlp.items() if name != "gate" or image.gated
          for row in linear(f"{ours}/mlp/{name}", f"{theirs}.mlp.{other}")[: 1 + image.bias]),
        *norm("image/norm_post", "norm"),
    ]  # fmt: skip


def _read_tower(theirs: Any, tensors: Tensors) -> ConfigDict:
    """What the three read alike. ValueError: it is none that there is here."""
    if not isinstance(theirs.image_size, int) or not isinstance(theirs.patch_size, int):
        raise ValueError("its images or patches are not square")
    model = zoo.default("image")
    model.embed_dim = theirs.hidden_size
    model.image.update(
        width=theirs.hidden_size, depth=theirs.num_hidden_layers, heads=theirs.num_attention_heads,
        norm_eps=float(theirs.layer_norm_eps), size=theirs.image_size, patch_size=theirs.patch_size,
        norm_pre=False, patch_bias=True, head="none", mask_token=_MASK in tensors,
        layer_scale=float(theirs.layerscale_value), drop_path=float(theirs.drop_path_rate),
        mean=preprocessor.IMAGENET[0], std=preprocessor.IMAGENET[1],
    )  # fmt: skip
    return model


def _activation(theirs: Any) -> str:
    if theirs.hidden_act not in FROM_ACTIVATIONS:
        raise ValueError(f"its activation {theirs.hidden_act!r} is unknown here")
    return FROM_ACTIVATIONS[theirs.hidden_act]


def _write_tower(model: ConfigDict) -> dict[str, Any]:
    image = model.image
    return {
        "dtype": "float32", "hidden_size": image.width, "num_hidden_layers": image.depth,
        "num_attention_heads": image.heads, "layer_norm_eps": image.norm_eps,
        "image_size": image.size, "patch_size": image.patch_size,
        "layerscale_value": image.layer_scale or 1.0, "drop_path_rate": image.drop_path,
        "hidden_act": ACTIVATIONS[image.activation],
    }  # fmt: skip


def swiglu_width(width: int, ratio: float) -> int:
    """Hidden width of DINOv2's SwiGLU: two thirds of an MLP's, in eights."""
    return (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8


def _config(settings: Mapping[str, Any], name: str) -> Any:
    import transformers

    return getattr(transformers, name).from_dict(dict(settings))


def _version_2(registers: bool) -> Architecture:
    name = "Dinov2WithRegisters" if registers else "Dinov2"

    def read_config(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
        theirs = _config(settings, f"{name}Config")
        model, width, ratio = _read_tower(theirs, tensors), theirs.hidden_size, theirs.mlp_ratio
        gated = theirs.use_swiglu_ffn
        model.image.update(
            gated=gated, activation="silu" if gated else _activation(theirs),
            mlp_dim=swiglu_width(width, ratio) if gated else int(width * ratio),
            qkv_bias="qkv" if theirs.qkv_bias else "none",
            registers=theirs.num_register_tokens if registers else 0,
            position_resize="cubic" if registers else "plain_cubic",
        )  # fmt: skip
        return model

    def write_config(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
        import transformers

        image = model.image
        ratio = max(1, image.mlp_dim // image.width)
        if image.gated:
            ratio = max(1, round(image.mlp_dim * 1.5 / image.width))
        own = {"num_register_tokens": image.registers} if registers else {}
        own |= {} if registers else {"use_mask_token": image.mask_token}
        return getattr(transformers, f"{name}Config")(
            **_write_tower(model), **own, architectures=[f"{name}Model"], mlp_ratio=ratio,
            qkv_bias=image.qkv_bias != "none", use_swiglu_ffn=image.gated,
        )  # fmt: skip

    kind = "dinov2_with_registers" if registers else "dinov2"
    return _architecture(f"{name}Model", kind, rows_2, read_config, write_config, registers)


_BIASES = {value: key for key, value in BIASED.items()}


def read_config_3(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
    theirs = _config(settings, "DINOv3ViTConfig")
    biased = tuple(n for n in ("query", "key", "value") if getattr(theirs, f"{n}_bias"))
    if biased not in _BIASES or theirs.proj_bias != theirs.mlp_bias:
        raise ValueError("its linear layers have biases in a way that no model has")
    model = _read_tower(theirs, tensors)
    model.image.update(
        mlp_dim=theirs.intermediate_size, activation=_activation(theirs),
        gated=theirs.use_gated_mlp, qkv_bias=_BIASES[biased], bias=theirs.proj_bias,
        registers=theirs.num_register_tokens, position="none", rope="centres",
        rope_theta=float(theirs.rope_theta), rope_pairs="halves",
    )  # fmt: skip
    return model


def write_config_3(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    from transformers import DINOv3ViTConfig

    image = model.image
    biases: Any = {f"{n}_bias": n in BIASED[image.qkv_bias] for n in ("query", "key", "value")}
    return DINOv3ViTConfig(
        **_write_tower(model), **biases, architectures=["DINOv3ViTModel"],
        intermediate_size=image.mlp_dim, use_gated_mlp=image.gated, proj_bias=image.bias,
        mlp_bias=image.bias, num_register_tokens=image.registers, rope_theta=image.rope_theta,
    )  # fmt: skip


def without_tokens(model: ConfigDict) -> list[str]:
    """What of a model classes with registers cannot do without."""
    image = model.image
    lacks = {"mask_token": not image.mask_token, "registers": not image.registers}
    return [f"config.model.image.{key}={image[key]}" for key, lack in lacks.items() if lack]


def _architecture(
    name: str, model_type: str, rows: Any, read_config: Any, write_config: Any, registers: bool
) -> Architecture:
    processor = "DINOv3ViTImageProcessor" if "3" in name else "BitImageProcessor"

    def read_preprocessor(path: Path, model: ConfigDict) -> dict[str, str]:
        return preprocessor.read(path, model, model_type, any_size=True)

    return Architecture(
        family=Family(
            f"Hugging Face's {name}",
            parts=({"image": ("vit",)},),
            rows=rows,
            read_back=read_back(rows, read_config, write_config),
            obstacles=without_tokens if registers else lambda model: [],
        ),
        model_type=model_type,
        classes=(name,),
        read_config=read_config,
        write_config=write_config,
        read_preprocessor=read_preprocessor,
        preprocessor=lambda config: preprocessor.write(processor, config),
        names=lambda tensors: {n.removeprefix("model."): t for n, t in tensors.items()},
        card=CARD,
    )


CARD = (
    "library_name: transformers\npipeline_tag: image-feature-extraction",
    """\
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

model, processor = AutoModel.from_pretrained("."), AutoImageProcessor.from_pretrained(".")
print(model(**processor(Image.open("picture.jpg"), return_tensors="pt")).pooler_output)""",
)

MODELS = (
    _version_2(registers=False),
    _version_2(registers=True),
    _architecture("DINOv3ViTModel", "dinov3_vit", rows_3, read_config_3, write_config_3, True),
)
