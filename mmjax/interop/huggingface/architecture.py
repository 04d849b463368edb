"""What a module of this package says about one class of transformers, and rows they all share."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.data.tokenize import load_tokenizer
from mmjax.interop.files import Tensors
from mmjax.interop.formats import Family
from mmjax.interop.table import LINEAR, Row
from mmjax.models.parts import sections

ACTIVATIONS = {
    "quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu",
    "silu": "silu",
}  # fmt: skip
FROM_ACTIVATIONS = {theirs: ours for ours, theirs in ACTIVATIONS.items()}
FROM_ACTIVATIONS |= {"gelu_new": "gelu_tanh", "gelu_python": "gelu"}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A class of transformers.

    Attributes:
      family: its name tables.
      model_type: as in config.json.
      classes: names under "architectures" in config.json that it reads.
      read_config: (config.json, tensors) → `config.model`.
      write_config: (`config.model`, tokenizer or None) → a config object of transformers.
      preprocessor: config → content of `preprocessor_file`; empty for texts alone.
      preprocessor_file: preprocessor_config.json, or what a class of videos has.
      read_preprocessor: (folder, `config.model`) → the keys of `config.data` that say how an image
        is resized, what else the file says put into the model; None: as all classes of images do.
      card: front matter of the model card, and its Python example.
      names: tensors of a file, older spellings and prefixes made those of the table.
      lacking: config.json → parameters that the class makes of it where a file has none.
      constants: `config.model` → tensors that the class keeps in its files, and that are no
        parameters.
      words: a tokenizer's folder or hub name → that tokenizer as the class takes it.
      suits: tokenizer or None → whether the class pools texts that it made at their end.
      pooled_at: config.json → the id, or LARGEST, at which texts are pooled; None: at no id.
    """

    family: Family
    model_type: str
    classes: tuple[str, ...]
    read_config: Callable[[Mapping[str, Any], Tensors], ConfigDict]
    write_config: Callable[[ConfigDict, Tokenizer | None], Any]
    preprocessor: Callable[[ConfigDict], dict[str, Any]]
    card: tuple[str, str]
    preprocessor_file: str = "preprocessor_config.json"
    read_preprocessor: Callable[[Path, ConfigDict], dict[str, str]] | None = None
    names: Callable[[Tensors], Tensors] = lambda tensors: tensors
    lacking: Callable[[Mapping[str, Any]], dict[str, np.ndarray]] = lambda settings: {}
    constants: Callable[[ConfigDict], dict[str, np.ndarray]] = lambda model: {}
    words: Callable[[str | Path], Tokenizer] = load_tokenizer
    suits: Callable[[Tokenizer | None], bool] = lambda tokenizer: True
    pooled_at: Callable[[Mapping[str, Any]], int | str | None] = lambda settings: None


def read_back(
    rows: Callable[[ConfigDict], Sequence[Row]],
    read_config: Callable[[Mapping[str, Any], Tensors], ConfigDict],
    write_config: Callable[[ConfigDict, Tokenizer | None], Any],
) -> Callable[[ConfigDict], ConfigDict]:
    """The `Family.read_back` of a class: by its config.json and the names of its weights."""

    def back(model: ConfigDict) -> ConfigDict:
        names = dict.fromkeys(row.theirs for row in rows(model))
        with _quiet():
            found = read_config(write_config(model, None).to_dict(), names)
        for name, part in sections(found).items():
            said = {"mean", "std", "patches"} & set(part)  # by preprocessor_config.json
            part.update({key: model[name][key] for key in said})
        return found

    return back


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """transformers compares a config with its own defaults, and warns of those."""
    logger = logging.getLogger("transformers.configuration_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def norm(ours: str, theirs: str) -> list[Row]:
    return [Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias")]


def linear(ours: str, theirs: str) -> list[Row]:
    return [
        Row(f"{ours}/kernel", f"{theirs}.weight", LINEAR),
        Row(f"{ours}/bias", f"{theirs}.bias"),
    ]


def clip_blocks(ours: str, theirs: str) -> list[Row]:
    """The blocks of CLIP and SigLIP."""
    ours, theirs = f"{ours}/blocks", f"{theirs}.encoder.layers.{{}}"
    return [
        *norm(f"{ours}/norm1", f"{theirs}.layer_norm1"),
        *linear(f"{ours}/attention/query", f"{theirs}.self_attn.q_proj"),
        *linear(f"{ours}/attention/key", f"{theirs}.self_attn.k_proj"),
        *linear(f"{ours}/attention/value", f"{theirs}.self_attn.v_proj"),
        *linear(f"{ours}/attention/out", f"{theirs}.self_attn.out_proj"),
        *norm(f"{ours}/norm2", f"{theirs}.layer_norm2"),
        *linear(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1"),
        *linear(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2"),
    ]


def write_tower(tower: ConfigDict) -> dict[str, Any]:
    """Keys of config.json that all transformers' towers share."""
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_dim,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.heads,
        "hidden_act": ACTIVATIONS[tower.activation],
        "layer_norm_eps": tower.norm_eps,
    }


def read_tower(theirs: Any) -> dict[str, Any]:
    """The inverse of `write_tower`, of a config object. ValueError: an unknown activation."""
    if theirs.hidden_act not in FROM_ACTIVATIONS:
        raise ValueError(f"its activation {theirs.hidden_act!r} is unknown here")
    return {
        "width": theirs.hidden_size,
        "mlp_dim": theirs.intermediate_size,
        "depth": theirs.num_hidden_layers,
        "heads": theirs.num_attention_heads,
        "activation": FROM_ACTIVATIONS[theirs.hidden_act],
        "norm_eps": float(theirs.layer_norm_eps),
    }
