"""ChineseCLIPModel of transformers (Yang et al., 2022): CLIP's image tower, and a BERT whose first
token is the text."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.interop.files import Tensors
from mmjax.interop.formats import Family
from mmjax.interop.huggingface import bert, clip, preprocessor
from mmjax.interop.huggingface.architecture import (
    Architecture,
    read_back,
    read_tower,
    write_tower,
)
from mmjax.interop.table import Row
from mmjax.models import zoo


def rows(model: ConfigDict) -> list[Row]:
    of_text = ("text/token", "text/position", "text/blocks", "text/norm")
    others = [row for row in clip.rows(model) if not row.paths[0].startswith(of_text)]
    return [*others, *bert.encoder("text_model.")]


def read_config(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
    from transformers import ChineseCLIPConfig

    theirs: Any = ChineseCLIPConfig.from_dict(dict(settings))
    image, text = theirs.vision_config, theirs.text_config
    model = zoo.default("image", "text", "logit")
    model.embed_dim = theirs.projection_dim
    model.logit.initial = float(theirs.logit_scale_init_value)
    model.image.update(read_tower(image), size=image.image_size, patch_size=image.patch_size)
    model.text.update(
        **read_tower(text), vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings, token_types=text.type_vocab_size,
        norm="post", embed_norm=True, causal=False, mask_padding=True, pool="cls",
    )  # fmt: skip
    return model


def write_config(model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    from transformers import ChineseCLIPConfig

    tokens = {}
    if tokenizer is not None:
        tokens = {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.start_id,
                  "eos_token_id": tokenizer.eot_id}  # fmt: skip
    return ChineseCLIPConfig(
        architectures=["ChineseCLIPModel"],
        dtype="float32",
        projection_dim=model.embed_dim,
        logit_scale_init_value=model.logit.initial,
        vision_config={
            **write_tower(model.image),
            "image_size": model.image.size,
            "patch_size": model.image.patch_size,
            "projection_dim": model.embed_dim,
        },
        text_config={
            **write_tower(model.text),
            "vocab_size": model.text.vocab_size,
            "max_position_embeddings": model.text.context_length,
            "type_vocab_size": model.text.token_types,
            **tokens,
        },
    )


MODEL = Architecture(
    family=Family(
        "Hugging Face's ChineseCLIPModel",
        rows=rows,
        read_back=read_back(rows, read_config, write_config),
        # Older files hold a pooler, which the class leaves.
        ignored=(r"(vision|text)_model\.embeddings\.position_ids", r"text_model\.pooler\..*"),
    ),
    model_type="chinese_clip",
    classes=("ChineseCLIPModel",),
    read_config=read_config,
    write_config=write_config,
    preprocessor=lambda config: preprocessor.write("ChineseCLIPImageProcessor", config),
    card=(clip.MODEL.card[0], clip.MODEL.card[1].replace("CLIPModel", "ChineseCLIPModel")),
)
