"""Folders of sentence-transformers: a headless model whose tokens are pooled, and cut sooner."""

import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.interop.files import Tensor, Tensors
from mmjax.interop.huggingface.architecture import read_json
from mmjax.models.parts import sections

_POSITIONS = "embeddings.position_embeddings.weight"
_KNOWN = ("Transformer", "Pooling", "Normalize")


def of_folder(folder: Path, model: ConfigDict, tensors: Tensors) -> Tensors:
    """Puts pooling and length into `config.model`; returns the tensors, positions cut to fit.

    Raises:
      UserError: the sentences go through something that no model here has.
    """
    pooling = folder / "1_Pooling" / "config.json"
    if [*sections(model)] != ["text"] or not pooling.is_file():
        return tensors
    settings = read_json(pooling)
    modes = [m for m, on in settings.items() if m.startswith("pooling_mode_") and on]
    pool = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in pool:
        raise UserError(f"{pooling} pools by {', '.join(modes)}: mmjax by the mean or first token.")
    model.text.update(pool=pool[modes[0]], head="none")
    if (folder / "modules.json").is_file():
        for module in json.loads((folder / "modules.json").read_text(encoding="utf-8")):
            kind = module["type"].rpartition(".")[2]
            if kind not in _KNOWN:
                raise UserError(f"{folder / 'modules.json'} has a {kind}, which mmjax has not.")
    lengths = folder / "sentence_bert_config.json"
    limits = read_json(lengths) if lengths.is_file() else {}
    if limits.get("do_lower_case"):
        raise UserError(f"{lengths}: do_lower_case is unknown here; let the tokenizer do it.")
    length = limits.get("max_seq_length") or model.text.context_length
    if length >= model.text.context_length or _POSITIONS not in tensors:
        return tensors
    model.text.context_length = length
    positions, rows = tensors[_POSITIONS], model.text.position_offset + length
    cut = Tensor((rows, positions.shape[1]), lambda: np.asarray(positions)[:rows])
    return {**tensors, _POSITIONS: cut}
