"""CLIPModel of transformers: the weights of OpenAI, LAION and DataComp on the hub."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax import config as config_lib
from mmjax.data import Tokenizer
from mmjax.errors import UserError
from mmjax.interop.files import Tensors
from mmjax.interop.formats import Family
from mmjax.interop.huggingface.architecture import (
    Architecture,
    clip_blocks,
    norm,
    read_tower,
    write_preprocessor,
    write_tower,
)
from mmjax.interop.table import CONV, LINEAR, Row

_VISION, _TEXT = "vision_model.embeddings", "text_model.embeddings"
ROWS: tuple[Row, ...] = (
    Row("image/patch_embed/kernel", f"{_VISION}.patch_embedding.weight", CONV),
    Row("image/class_embed", f"{_VISION}.class_embedding"),
    Row("image/position_embed", f"{_VISION}.position_embedding.weight"),
    *norm("image/norm_pre", "vision_model.pre_layrnorm"),  # their spelling
    *clip_blocks("image", "vision_model"),
    *norm("image/norm_post", "vision_model.post_layernorm"),
    Row("image/head/kernel", "visual_projection.weight", LINEAR),
    Row("text/token_embed/embedding", f"{_TEXT}.token_embedding.weight"),
    Row("text/position_embed", f"{_TEXT}.position_embedding.weight"),
    *clip_blocks("text", "text_model"),
    *norm("text/norm_post", "text_model.final_layer_norm"),
    Row("text/head/kernel", "text_projection.weight", LINEAR),
    Row("logit_scale", "logit_scale"),
)


def obstacles(model: ConfigDict) -> list[str]:
    image, text = model.image, model.text
    present = {
        "the image tower is a ResNet": image.kind == "resnet",
        f"the image is pooled by {image.pool!r}, not by a class token": image.pool != "cls",
        f"image positions are {image.position!r}, not learned": image.position != "learned",
        "there is no norm before the image blocks": not image.norm_pre,
        "the patch embedding has a bias": image.patch_bias,
        f"the image head is {image.head!r}, not 'linear'": image.head != "linear",
        "the text tower is not causal": not text.causal,
        f"text is pooled by {text.pool!r}, not at its end token": text.pool != "eot",
        f"the text head is {text.head!r}, not 'linear'": text.head != "linear",
        "it has a logit bias": model.logit_bias_init is not None,
    }
    return [reason for reason, found in present.items() if found]


def read_config(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
    """Any `eos_token_id`, also the 2 of configs before transformers' PR #24773, means the same
    here: a text is pooled at its last real token."""
    from transformers import CLIPConfig

    theirs: Any = CLIPConfig.from_dict(dict(settings))
    model = config_lib.default().model
    model.embed_dim = theirs.projection_dim
    model.logit_scale_init = float(theirs.logit_scale_init_value)
    model.image.update(read_tower(theirs.vision_config))
    model.image.update(size=theirs.vision_config.image_size,
                       patch_size=theirs.vision_config.patch_size)  # fmt: skip
    model.text.update(read_tower(theirs.text_config))
    model.text.update(vocab_size=theirs.text_config.vocab_size,
                      context_length=theirs.text_config.max_position_embeddings)  # fmt: skip
    return model


def write_config(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    """transformers pools text at the first `eos_token_id`, except that 2 stands for "the largest
    id", as in configs written before its PR #24773. Without a tokenizer the end token is taken
    to be the last of the vocabulary, as in CLIP's own."""
    from transformers import CLIPConfig  # seconds to import

    tokens: dict[str, Any] = {"eos_token_id": model.text.vocab_size - 1}
    if tokenizer is not None:
        tokens = {
            "bos_token_id": tokenizer.start_id,
            "eos_token_id": tokenizer.eot_id,
            "pad_token_id": tokenizer.pad_id,
        }
    if tokens["eos_token_id"] == 2:
        raise UserError(
            "The tokenizer's end token has id 2, which transformers' CLIPModel takes for an old "
            "config and pools text at its largest id: use a tokenizer with another end id."
        )
    shared = {"projection_dim": model.embed_dim}
    return CLIPConfig(
        architectures=["CLIPModel"],
        dtype="float32",
        projection_dim=model.embed_dim,
        logit_scale_init_value=model.logit_scale_init,
        vision_config={
            **write_tower(model.image),
            **shared,
            "image_size": model.image.size,
            "patch_size": model.image.patch_size,
        },
        text_config={
            **write_tower(model.text),
            **shared,
            **tokens,
            "vocab_size": model.text.vocab_size,
            "max_position_embeddings": model.text.context_length,
        },
    )


CARD = (
    "library_name: transformers\npipeline_tag: zero-shot-image-classification",
    """\
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

model, processor = CLIPModel.from_pretrained("."), CLIPProcessor.from_pretrained(".")
inputs = processor(text=["a cat", "a dog"], images=Image.open("picture.jpg"), return_tensors="pt",
                   padding=True, truncation=True)
print(model(**inputs).logits_per_image.softmax(dim=-1))""",
)

MODEL = Architecture(
    family=Family(
        "Hugging Face's CLIPModel",
        rows=lambda model: ROWS,
        obstacles=obstacles,
        ignored=(r"(vision|text)_model\.embeddings\.position_ids",),
    ),
    model_type="clip",
    classes=("CLIPModel",),
    read_config=read_config,
    write_config=write_config,
    preprocessor=lambda config: write_preprocessor("CLIPImageProcessor", config),
    card=CARD,
)
