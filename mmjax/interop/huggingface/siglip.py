"""SiglipModel of transformers: SigLIP, and SigLIP 2 of a fixed resolution."""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.interop.files import Tensors
from mmjax.interop.formats import Family
from mmjax.interop.huggingface import preprocessor
from mmjax.interop.huggingface.architecture import (
    Architecture,
    clip_blocks,
    linear,
    norm,
    read_back,
    read_tower,
    write_tower,
)
from mmjax.interop.table import CONV, LINEAR, Row
from mmjax.models import zoo

_VISION, _TEXT, _POOL = "vision_model.embeddings", "text_model.embeddings", "vision_model.head"
_PACKED = ("query", "key", "value")


def rows(model: ConfigDict) -> list[Row]:
    return [
        Row("image/patch_embed/kernel", f"{_VISION}.patch_embedding.weight", CONV),
        Row("image/patch_embed/bias", f"{_VISION}.patch_embedding.bias"),
        Row("image/position_embed", f"{_VISION}.position_embedding.weight"),
        *clip_blocks("image", "vision_model"),
        *norm("image/norm_post", "vision_model.post_layernorm"),
        Row("image/pool/probe", f"{_POOL}.probe", shape=(1, 1, model.image.width)),
        Row(
            tuple(f"image/pool/attention/{name}/kernel" for name in _PACKED),
            f"{_POOL}.attention.in_proj_weight",
            LINEAR,
        ),
        Row(
            tuple(f"image/pool/attention/{name}/bias" for name in _PACKED),
            f"{_POOL}.attention.in_proj_bias",
        ),
        *linear("image/pool/attention/out", f"{_POOL}.attention.out_proj"),
        *norm("image/pool/norm", f"{_POOL}.layernorm"),
        *linear("image/pool/mlp/fc1", f"{_POOL}.mlp.fc1"),
        *linear("image/pool/mlp/fc2", f"{_POOL}.mlp.fc2"),
        Row("text/token_embed/embedding", f"{_TEXT}.token_embedding.weight"),
        Row("text/position_embed", f"{_TEXT}.position_embedding.weight"),
        *clip_blocks("text", "text_model"),
        *norm("text/norm_post", "text_model.final_layer_norm"),
        *linear("text/head", "text_model.head"),
        Row("logit_scale", "logit_scale", shape=(1,)),
        Row("logit_bias", "logit_bias", shape=(1,)),
    ]


def read_config(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
    from transformers import SiglipConfig

    theirs: Any = SiglipConfig.from_dict(dict(settings))
    image = theirs.vision_config
    half = (0.5, 0.5, 0.5)
    model = read_towers(theirs.text_config, image)
    model.image.update(
        **read_tower(image), size=image.image_size, patch_size=image.patch_size, pool="map",
        norm_pre=False, patch_bias=True, head="none", mean=half, std=half,
    )  # fmt: skip
    return model


def read_towers(text: Any, image: Any) -> ConfigDict:
    """`config.model` of a config's two towers, of which that of images is still to be filled in."""
    model = zoo.default("image", "text", "logit")
    model.embed_dim = image.hidden_size
    model.logit.update(initial=math.log(10.0), max=0.0, bias=-10.0)
    model.text.update(
        **read_tower(text), vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings, causal=False, pool="last", head="linear_bias",
    )  # fmt: skip
    return model


def write_config(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    from transformers import SiglipConfig

    return SiglipConfig(
        architectures=["SiglipModel"],
        dtype="float32",
        vision_config={
            **write_tower(model.image),
            "image_size": model.image.size,
            "patch_size": model.image.patch_size,
        },
        text_config=write_text(model, tokenizer),
    )


def write_text(model: ConfigDict, tokenizer: Tokenizer | None) -> dict[str, Any]:
    tokens = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))  # it looks at none
    if tokenizer is not None:
        tokens = {"eos_token_id": tokenizer.eot_id, "pad_token_id": tokenizer.pad_id}
        tokens["bos_token_id"] = tokenizer.start_id
    return {
        **write_tower(model.text),
        **tokens,
        "vocab_size": model.text.vocab_size,
        "max_position_embeddings": model.text.context_length,
        "projection_size": model.embed_dim,
    }


CARD = (
    "library_name: transformers\npipeline_tag: zero-shot-image-classification",
    """\
from PIL import Image
from transformers import AutoProcessor, SiglipModel

model, processor = SiglipModel.from_pretrained("."), AutoProcessor.from_pretrained(".")
inputs = processor(text=["a cat", "a dog"], images=Image.open("picture.jpg"), return_tensors="pt",
                   padding="max_length", truncation=True)
print(model(**inputs).logits_per_image.sigmoid())""",
)

MODEL = Architecture(
    family=Family(
        "Hugging Face's SiglipModel",
        rows=rows,
        read_back=read_back(rows, read_config, write_config),
        ignored=(r"(vision|text)_model\.embeddings\.position_ids",),
    ),
    model_type="siglip",
    classes=("SiglipModel",),
    read_config=read_config,
    write_config=write_config,
    preprocessor=lambda config: preprocessor.write("SiglipImageProcessor", config),
    card=CARD,
)
