"""Folders of sentence-transformers, up to version 6: a headless model whose tokens are pooled, and
whose texts are cut sooner."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.interop.files import Tensor, Tensors, read_json
from mmjax.models.parts import sections

_POSITIONS = "embeddings.position_embeddings.weight"
_POOL = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
_KNOWN = ("Transformer", "Pooling", "Normalize")


def of_folder(folder: Path, model: ConfigDict, tensors: Tensors) -> Tensors:
    """Puts pooling and length into `config.model`; returns the tensors, positions cut to fit.

    Raises:
      UserError: the sentences go through something that no model here has.
    """
    pooling = folder / "1_Pooling" / "config.json"
    if [*sections(model)] != ["text"] or not pooling.is_file():
        return tensors
    modes = _modes(read_json(pooling))
    if len(modes) != 1 or modes[0] not in _POOL:
        raise UserError(f"{pooling} pools by {', '.join(modes)}: mmjax by the mean or first token.")
    model.text.update(pool=_POOL[modes[0]], head="none")
    if (folder / "modules.json").is_file():
        for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
            kind = module["type"].rpartition(".")[2]
            if kind not in _KNOWN:
                raise UserError(f"{folder / 'modules.json'} has a {kind}, which mmjax has not.")
    length = _length(folder, model.text.context_length)
    if length >= model.text.context_length or _POSITIONS not in tensors:
        return tensors
    model.text.context_length = length
    positions, rows = tensors[_POSITIONS], model.text.position_offset + length
    cut = Tensor((rows, positions.shape[1]), lambda: np.asarray(positions)[:rows])
    return {**tensors, _POSITIONS: cut}


def _modes(settings: Mapping[str, Any]) -> list[str]:
    """Ways of pooling: one or several under "pooling_mode" (version 6), else each that is on."""
    named = settings.get("pooling_mode")
    if named is not None:
        return [named] if isinstance(named, str) else list(named)
    prefix = "pooling_mode_"
    on = [mode.removeprefix(prefix) for mode, on in settings.items()
          if mode.startswith(prefix) and on]  # fmt: skip
    return on or ["mean"]  # the default


def _length(folder: Path, most: int) -> int:
    """Tokens of the longest text: `max_seq_length`, else (as in version 6) the tokenizer's own."""
    lengths, words = (folder / f"{name}_config.json" for name in ("sentence_bert", "tokenizer"))
    limits = read_json(lengths) if lengths.is_file() else {}
    if limits.get("do_lower_case"):
        raise UserError(f"{lengths}: do_lower_case is unknown here; let the tokenizer do it.")
    length = limits.get("max_seq_length")
    if length is None and words.is_file():
        length = read_json(words).get("model_max_length")
    return most if length is None else min(int(length), most)
