"""Classes of transformers with CLIP's image tower and a BERT whose first token is the text:
ChineseCLIPModel (Yang et al., 2022), and AltCLIPModel (Chen et al., 2022), whose texts go through
XLM-RoBERTa."""

import functools
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.interop.files import Tensors
from mmjax.interop.formats import Family
from mmjax.interop.huggingface import bert, clip, preprocessor
from mmjax.interop.huggingface.architecture import (
    Architecture,
    linear,
    norm,
    read_back,
    read_tower,
    write_tower,
)
from mmjax.interop.table import LINEAR, Row
from mmjax.models import zoo


def rows_chinese(model: ConfigDict) -> list[Row]:
    head = Row("text/head/kernel", "text_projection.weight", LINEAR)
    return [*_others(model), *bert.encoder("text_model."), head]


def rows_alt(model: ConfigDict) -> list[Row]:
    return [
        *_others(model),
        *bert.encoder("text_model.roberta."),
        *norm("text/norm_head", "text_model.pre_LN"),
        *linear("text/head_fc1", "text_model.transformation"),
        Row("text/head_fc2/kernel", "text_projection.weight", LINEAR),
    ]


def _others(model: ConfigDict) -> list[Row]:
    return [row for row in clip.rows(model) if not row.paths[0].startswith("text/")]


def _read_config(name: str, settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
    import transformers

    theirs: Any = getattr(transformers, f"{name}Config").from_dict(dict(settings))
    image, text, alt = theirs.vision_config, theirs.text_config, name == "AltCLIP"
    offset = text.pad_token_id + 1 if alt else 0  # as RoBERTa's
    if alt and text.project_dim != theirs.projection_dim:
        raise ValueError(f"its project_dim={text.project_dim} is not its projection_dim")
    model = zoo.default("image", "text", "logit")
    model.embed_dim = theirs.projection_dim
    model.logit.initial = float(theirs.logit_scale_init_value)
    model.image.update(read_tower(image), size=image.image_size, patch_size=image.patch_size)
    model.text.update(
        **read_tower(text), vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings - offset, token_types=text.type_vocab_size,
        position_offset=offset, norm="post", embed_norm=True, causal=False, mask_padding=True,
        pool="cls", head="normed" if alt else "linear",
    )  # fmt: skip
    return model


def _write_config(name: str, model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    import transformers

    offset, own = model.text.position_offset, dict[str, Any]()
    if tokenizer is not None:
        own = {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.start_id,
               "eos_token_id": tokenizer.eot_id}  # fmt: skip
    if name == "AltCLIP":
        own |= {"project_dim": model.embed_dim, "pad_token_id": offset - 1}
    return getattr(transformers, f"{name}Config")(
        architectures=[f"{name}Model"],
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
            "max_position_embeddings": model.text.context_length + offset,
            "type_vocab_size": model.text.token_types,
            **own,
        },
    )


def _names(tensors: Tensors) -> Tensors:
    """transformers 5 writes AltCLIP's images under "layer", and reads "layers", as published."""
    old, new = (f"vision_model.encoder.{layer}." for layer in ("layer", "layers"))
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


def _offset(model: ConfigDict) -> list[str]:
    sound = 0 < model.text.position_offset <= model.text.vocab_size
    return [] if sound else ["its positions begin after that of padding, which is an id"]


def _architecture(name: str, model_type: str, rows: Any, processor: str) -> Architecture:
    read_config = functools.partial(_read_config, name)
    write_config = functools.partial(_write_config, name)
    return Architecture(
        family=Family(
            f"Hugging Face's {name}Model",
            rows=rows,
            read_back=read_back(rows, read_config, write_config),
            # Older files hold a pooler, which the classes leave.
            ignored=(r".*embeddings\.position_ids", r"text_model\.(roberta\.)?pooler\..*"),
            obstacles=_offset if name == "AltCLIP" else lambda model: [],
        ),
        model_type=model_type,
        classes=(f"{name}Model",),
        read_config=read_config,
        write_config=write_config,
        preprocessor=lambda config: preprocessor.write(processor, config),
        names=_names,
        card=(clip.MODEL.card[0], clip.MODEL.card[1].replace("CLIPModel", f"{name}Model")),
    )


MODELS = (
    _architecture("ChineseCLIP", "chinese_clip", rows_chinese, "ChineseCLIPImageProcessor"),
    _architecture("AltCLIP", "altclip", rows_alt, "CLIPImageProcessor"),
)
