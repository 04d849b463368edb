"""ViTModel and ViTForImageClassification of transformers: an image tower alone.

The class scores of a classifier are its "image/features", the pooled output of a ViTModel likewise.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.interop.files import Tensors
from mmjax.interop.formats import Family
from mmjax.interop.huggingface import preprocessor
from mmjax.interop.huggingface.architecture import (
    Architecture,
    linear,
    norm,
    read_back,
    read_tower,
    write_tower,
)
from mmjax.interop.table import CONV, Row
from mmjax.models import zoo


def rows(model: ConfigDict) -> list[Row]:
    classifies = model.image.head == "linear_bias"
    base, width = "vit." if classifies else "", model.image.width
    positions = (model.image.size // model.image.patch_size) ** 2 + 1
    embeddings, layer = f"{base}embeddings", f"{base}encoder.layer.{{}}"
    blocks, attention = "image/blocks", f"{layer}.attention.attention"
    heads = {
        "linear_bias": linear("image/head", "classifier"),
        "tanh": linear("image/head", "pooler.dense"),
    }
    return [
        Row("image/class_embed", f"{embeddings}.cls_token", shape=(1, 1, width)),
        Row(
            "image/position_embed",
            f"{embeddings}.position_embeddings",
            shape=(1, positions, width),
        ),
        Row("image/patch_embed/kernel", f"{embeddings}.patch_embeddings.projection.weight", CONV),
        Row("image/patch_embed/bias", f"{embeddings}.patch_embeddings.projection.bias"),
        *norm(f"{blocks}/norm1", f"{layer}.layernorm_before"),
        *linear(f"{blocks}/attention/query", f"{attention}.query"),
        *linear(f"{blocks}/attention/key", f"{attention}.key"),
        *linear(f"{blocks}/attention/value", f"{attention}.value"),
        *linear(f"{blocks}/attention/out", f"{layer}.attention.output.dense"),
        *norm(f"{blocks}/norm2", f"{layer}.layernorm_after"),
        *linear(f"{blocks}/mlp/fc1", f"{layer}.intermediate.dense"),
        *linear(f"{blocks}/mlp/fc2", f"{layer}.output.dense"),
        *norm("image/norm_post", f"{base}layernorm"),
        *heads.get(model.image.head, []),
    ]


def obstacles(model: ConfigDict) -> list[str]:
    none = model.image.head not in ("tanh", "linear_bias")  # transformers would make a random one
    return [f"the head is {model.image.head!r}, not 'tanh' or 'linear_bias'"] * none


def read_config(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
    from transformers import ViTConfig

    theirs: Any = ViTConfig.from_dict(dict(settings))
    if not theirs.qkv_bias:
        raise ValueError("its attention has no biases")
    if theirs.pooler_act != "tanh":
        raise ValueError(f"its pooler's activation is {theirs.pooler_act!r}")
    head, width = "none", theirs.hidden_size
    if "classifier.weight" in tensors:
        head, width = "linear_bias", theirs.num_labels
    elif "pooler.dense.weight" in tensors:
        head = "tanh"
    half = (0.5, 0.5, 0.5)
    model = zoo.default("image")
    model.embed_dim = width
    model.image.update(
        **read_tower(theirs), size=theirs.image_size, patch_size=theirs.patch_size, norm_pre=False,
        patch_bias=True, head=head, mean=half, std=half,
    )  # fmt: skip
    return model


def write_config(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    from transformers import ViTConfig

    classes = {"num_labels": model.embed_dim} if model.image.head == "linear_bias" else {}
    return ViTConfig(
        **write_tower(model.image),
        **classes,
        architectures=["ViTForImageClassification" if classes else "ViTModel"],
        dtype="float32",
        image_size=model.image.size,
        patch_size=model.image.patch_size,
    )


CARD = (
    "library_name: transformers\npipeline_tag: image-feature-extraction",
    """\
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

model, processor = AutoModel.from_pretrained("."), AutoImageProcessor.from_pretrained(".")
print(model(**processor(Image.open("picture.jpg"), return_tensors="pt")).last_hidden_state)""",
)

MODEL = Architecture(
    family=Family(
        "Hugging Face's ViTModel",
        parts=({"image": ("vit",)},),
        rows=rows,
        read_back=read_back(rows, read_config, write_config),
        obstacles=obstacles,
    ),
    model_type="vit",
    classes=("ViTForImageClassification", "ViTModel"),
    read_config=read_config,
    write_config=write_config,
    preprocessor=lambda config: preprocessor.write("ViTImageProcessor", config),
    card=CARD,
)
