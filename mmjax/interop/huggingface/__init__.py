"""Hugging Face's transformers: folders of config.json, weights, preprocessor and tokenizer files.

Neither direction needs torch (but to read .bin files). An architecture is a module here: a name
table, and how its config.json reads and is written.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.numpy
from ml_collections import ConfigDict, FrozenConfigDict

from mmjax.data import Tokenizer
from mmjax.data.tokenize import load_tokenizer
from mmjax.errors import UserError
from mmjax.interop.files import open_tensors, read_json
from mmjax.interop.formats import Format, Weights, weights
from mmjax.interop.huggingface import (
    aimv2,
    bert,
    clap,
    clip,
    clip_bert,
    dino,
    preprocessor,
    sentence,
    siglip,
    siglip2,
    tipsv2,
    videoprism,
    vit,
    xclip,
)
from mmjax.interop.huggingface.architecture import Architecture
from mmjax.interop.texts import Library, check_end

ARCHITECTURES: tuple[Architecture, ...] = (
    *clip.MODELS, *clip_bert.MODELS, siglip.MODEL, siglip2.MODEL, vit.MODEL, *dino.MODELS,
    tipsv2.MODEL, *aimv2.MODELS, *bert.MODELS, videoprism.MODEL, xclip.MODEL, clap.MODEL,
)  # fmt: skip
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")


def detect(path: Path) -> bool:
    """A folder whose config.json names a class or type of transformers, or its file of weights. A
    config.json that is damaged is one of these where their weights lie beside it."""
    folder = path if path.is_dir() else path.parent
    settings = folder / "config.json"
    if not settings.is_file() or (path.is_file() and path.name not in WEIGHTS):
        return False
    try:
        found = json.loads(settings.read_text(encoding="utf-8"))
    except ValueError:
        return any((folder / name).is_file() for name in WEIGHTS)
    return isinstance(found, dict) and ("model_type" in found or "architectures" in found)


def read(path: Path) -> Weights:
    """The weights of a folder, or of a file in it.

    Raises:
      UserError: an architecture that is not known here, or a file is missing or damaged.
    """
    given = [path] if path.is_file() else []
    path = path.parent if path.is_file() else path
    settings = read_json(path / "config.json")
    architecture = _architecture_of(settings, path)
    files = given or [path / name for name in WEIGHTS if (path / name).is_file()]
    if not files:
        raise UserError(f"{path} holds no weights: one of {', '.join(WEIGHTS)} is expected.")
    tensors = architecture.names(open_tensors(files[0]))
    try:
        tensors = {**architecture.lacking(settings), **tensors}
        model = architecture.read_config(settings, tensors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path / 'config.json'} is no config of {architecture.family.name} ({error})."
        ) from error
    model.name = Path(settings.get("_name_or_path") or path.absolute()).name
    tensors = sentence.of_folder(path, model, tensors)
    if architecture.read_preprocessor is not None:
        prepared = architecture.read_preprocessor(path, model)
    else:
        prepared = preprocessor.read(path, model, architecture.model_type)
    has_words = any((path / name).is_file() for name in TOKENIZERS)
    pooled_at = architecture.pooled_at(settings)

    def words(name: str | Path) -> Tokenizer:
        return check_end(architecture.words(name), pooled_at, str(path / "config.json"))

    return weights(
        path,
        architecture.family,
        model,
        tensors,
        tokenizer=(lambda: words(path)) if has_words else None,
        words=words,
        **prepared,
    )


def write(folder: Path, config: ConfigDict, params: Any, tokenizer: Tokenizer | None) -> None:
    """Writes what `from_pretrained` of the model's class, processor and tokenizer load."""
    architecture = architecture_for(config.model, tokenizer)
    state = architecture.family.write(params, config.model) | architecture.constants(config.model)
    settings = architecture.write_config(config.model, tokenizer)
    # One key of metadata: several would lie in another order in every process.
    safetensors.numpy.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    # Defaults too: they have changed before.
    text = settings.to_json_string(use_diff=False)
    (folder / "config.json").write_text(text, encoding="utf-8")
    prepared = architecture.preprocessor(config)
    if prepared:
        _write_json(folder / architecture.preprocessor_file, prepared)
    if tokenizer is not None:
        tokenizer.save(folder)
        file = folder / "tokenizer_config.json"
        length = {"model_max_length": config.model.text.context_length}
        _write_json(file, json.loads(file.read_text(encoding="utf-8")) | length)


def architecture_for(model: ConfigDict, tokenizer: Tokenizer | None) -> Architecture:
    """The architecture that holds `config.model` with this tokenizer; UserError: what keeps the
    likeliest from it."""
    counts = zip(_differences(FrozenConfigDict(model)), ARCHITECTURES, strict=True)
    _, likeliest = min(counts, key=lambda pair: (pair[0], not pair[1].suits(tokenizer)))
    likeliest.family.check_holds(model)
    return likeliest


@functools.lru_cache(maxsize=8)
def _differences(model: FrozenConfigDict) -> tuple[int, ...]:
    """How many differences each architecture has; an export asks several times."""
    return tuple(len(a.family.differences(ConfigDict(model))) for a in ARCHITECTURES)


def _architecture_of(settings: Mapping[str, Any], path: Path) -> Architecture:
    classes = settings.get("architectures") or []
    for architecture in ARCHITECTURES:
        if any(name in architecture.classes for name in classes):
            return architecture
    kind = settings.get("model_type")
    for architecture in ARCHITECTURES:
        if not classes and kind == architecture.model_type:
            return architecture
    known = ", ".join(name for a in ARCHITECTURES for name in a.classes)
    raise UserError(
        f"{path} holds a {'/'.join(classes) or kind}, which mmjax cannot read: it reads {known}."
    )


def _card(config: ConfigDict, tokenizer: Tokenizer | None) -> tuple[str, str]:
    return architecture_for(config.model, tokenizer).card


def _library(folder: Path, config: ConfigDict, tokenizer: Tokenizer) -> Library:
    """transformers itself makes the ids: its tokenizer of the folder."""
    words, text = load_tokenizer(folder).wrapped, config.model.text

    def encode(texts: Sequence[str]) -> Any:
        rows = words(
            list(texts), padding="max_length", truncation=True, max_length=text.context_length
        )
        return rows["input_ids"]

    remedy = "give it the ids of mmjax"
    if tokenizer.clean == "sentence":
        remedy = (
            "first put spaces for punctuation, lower the case and end in a period, as the model "
            "was trained (canonicalize_text of videoprism.utils)"
        )
    elif tokenizer.clean:
        remedy = (
            "clean texts first, as the model was trained, with "
            f"open_clip.tokenizer.get_clean_fn({tokenizer.clean!r})"
        )
    misread = None
    padding = text.position_offset - 1
    if padding >= 0:  # RoBERTa's: real tokens with the id of padding take no position there
        misread = lambda ids, mask: ((ids == padding) & mask).any(axis=1)  # noqa: E731
        remedy = f"its positions skip the id {padding}: give it position_ids from {padding + 1} on"
    return Library("transformers", encode, remedy, misread)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


FORMAT = Format("huggingface", detect, read, write, _card, _library)
