"""CLIPModel of transformers (OpenAI's, LAION's and DataComp's weights), MetaClip2Model (MetaCLIP 2,
Chuang et al., 2025), which differs in where it pools texts, and their towers alone."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.interop.files import Tensors
from mmjax.interop.formats import CLIP, Family
from mmjax.interop.huggingface import preprocessor
from mmjax.interop.huggingface.architecture import (
    Architecture,
    clip_blocks,
    norm,
    read_back,
    read_tower,
    write_tower,
)
from mmjax.interop.table import CONV, LINEAR, Row
from mmjax.interop.texts import LARGEST
from mmjax.models import zoo
from mmjax.models.parts import sections

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


PARTS = {"": ("image", "text", "logit"), "Text": ("text",), "Vision": ("image",)}


def rows(model: ConfigDict) -> list[Row]:
    """Of both towers, or of the only one."""
    parts = {name.replace("logit", "logit_scale") for name in sections(model)}
    return [row for row in ROWS if row.paths[0].split("/")[0] in parts]


def _read_config(name: str, part: str) -> Callable[[Mapping[str, Any], Tensors], ConfigDict]:
    """`eos_token_id` is not read: a text is pooled at its end, and a tokenizer that ends it with
    another id is refused (`_pooled_at`)."""

    def read_config(settings: Mapping[str, Any], tensors: Tensors) -> ConfigDict:
        import transformers  # seconds to import

        theirs: Any = getattr(transformers, f"{name}{part}Config").from_dict(dict(settings))
        model = zoo.default(*PARTS[part])
        model.embed_dim = theirs.projection_dim
        if part != "Text":
            image = theirs if part else theirs.vision_config
            model.image.update(read_tower(image))
            model.image.update(size=image.image_size, patch_size=image.patch_size)
        if part != "Vision":
            text = theirs if part else theirs.text_config
            model.text.update(read_tower(text), vocab_size=text.vocab_size)
            model.text.context_length = text.max_position_embeddings
        if not part:
            model.logit.initial = float(theirs.logit_scale_init_value)
        return model

    return read_config


def _pooled_at(name: str, part: str) -> Callable[[Mapping[str, Any]], int | str | None]:
    def pooled_at(settings: Mapping[str, Any]) -> int | str | None:
        import transformers

        theirs: Any = getattr(transformers, f"{name}{part}Config").from_dict(dict(settings))
        end = (theirs if part else theirs.text_config).eos_token_id
        return LARGEST if end == 2 and name == "CLIP" else end

    return pooled_at if part != "Vision" else lambda settings: None


def _write_config(name: str, model: ConfigDict, tokenizer: Tokenizer | None) -> Any:
    import transformers

    settings: dict[str, dict[str, Any]] = {}
    if "image" in model:
        size = {"image_size": model.image.size, "patch_size": model.image.patch_size}
        settings["Vision"] = write_tower(model.image) | size
    if "text" in model:
        settings["Text"] = write_tower(model.text) | {
            "vocab_size": model.text.vocab_size,
            "max_position_embeddings": model.text.context_length,
            **_tokens(model, tokenizer),
        }
    for tower in settings.values():
        tower["projection_dim"] = model.embed_dim
    if len(settings) == 1:
        part, tower = settings.popitem()
        return getattr(transformers, f"{name}{part}Config")(
            architectures=[f"{name}{part}ModelWithProjection"], dtype="float32", **tower
        )
    return getattr(transformers, f"{name}Config")(
        architectures=[f"{name}Model"],
        dtype="float32",
        projection_dim=model.embed_dim,
        logit_scale_init_value=model.logit.initial,
        vision_config=settings["Vision"],
        text_config=settings["Text"],
    )


def _tokens(model: ConfigDict, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """transformers pools text at the first `eos_token_id`, except that to a CLIPModel 2 stands for
    "the largest id", as in configs written before its PR #24773. Without a tokenizer the end token
    is taken to be the last of the vocabulary, after the start token, as in CLIP's own."""
    if tokenizer is None:
        start, end = model.text.vocab_size - 2, model.text.vocab_size - 1
        return {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    ids = {"eos_token_id": tokenizer.eot_id, "pad_token_id": tokenizer.pad_id}
    return ids | {"bos_token_id": tokenizer.start_id}


def _architecture(name: str, part: str) -> Architecture:
    """CLIPModel or MetaClip2Model, or its "Text" or "Vision" tower with its projection alone."""
    model = f"{name}{part}ModelWithProjection" if part else f"{name}Model"
    read_config, write_config = _read_config(name, part), functools.partial(_write_config, name)
    kind, tower = {"CLIP": "clip", "MetaClip2": "metaclip_2"}[name], f"_{part.lower()}_model"
    example = (
        _EXAMPLE.replace("CLIPModel", model)
        if not part
        else f"""\
from transformers import {model}

model = {model}.from_pretrained(".")"""
    )
    return Architecture(
        family=Family(
            f"Hugging Face's {model}",
            parts=({name: CLIP[name] for name in PARTS[part]},),
            rows=rows,
            read_back=read_back(rows, read_config, write_config),
            ignored=(r"(vision|text)_model\.embeddings\.position_ids",),
        ),
        model_type=kind + tower if part else kind,
        classes=(model,),
        read_config=read_config,
        pooled_at=_pooled_at(name, part),
        suits=lambda tokenizer: name != "CLIP" or tokenizer is None or tokenizer.eot_id != 2,
        write_config=write_config,
        preprocessor=lambda config: (
            preprocessor.write("CLIPImageProcessor", config) if "image" in PARTS[part] else {}
        ),
        card=("library_name: transformers\npipeline_tag: zero-shot-image-classification", example),
    )


_EXAMPLE = """\
from PIL import Image
from transformers import AutoProcessor, CLIPModel

model, processor = CLIPModel.from_pretrained("."), AutoProcessor.from_pretrained(".")
inputs = processor(text=["a cat", "a dog"], images=Image.open("picture.jpg"), return_tensors="pt",
                   padding=True, truncation=True)
print(model(**inputs).logits_per_image.softmax(dim=-1))"""

MODELS = tuple(
    _architecture(name, part) for name in ("CLIP", "MetaClip2") for part in ("", "Text", "Vision")
)
MODEL = MODELS[0]
