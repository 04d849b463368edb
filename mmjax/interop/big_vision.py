"""big_vision's .npz files: SigLIP's two towers, and image classifiers (ViT).

A file says nothing but names and shapes: the towers are told by them, and by what all models of
big_vision have in common (tanh GELU, norms of epsilon 1e-6 and none before the blocks, pixels in
-1..1). Blocks lie a layer each or, from models that were scanned, all in one; mmjax writes the
former.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.errors import UserError
from mmjax.interop.files import Tensor, Tensors, open_tensors
from mmjax.interop.formats import CLIP, Family, Format, Weights, shapes, weights
from mmjax.interop.open_clip import TOKENIZERS
from mmjax.interop.table import Row, their_shapes
from mmjax.interop.texts import Library, load_as
from mmjax.models import zoo

FILE = "model.npz"  # of a folder that is written here
_ATTENTION = "MultiHeadDotProductAttention_0"
# As blocks were called before 2022, in the published AugReg models.
_OLD_NAMES = (
    ("MultiHeadDotProductAttention_1/", f"{_ATTENTION}/"),
    ("LayerNorm_2/", "LayerNorm_1/"),
    ("MlpBlock_3/", "MlpBlock_0/"),
    ("Transformer/posembed_input/", ""),
)


def detect(path: Path) -> bool:
    """An .npz file, or a folder that `write` made."""
    return (path / FILE).is_file() if path.is_dir() else path.suffix == ".npz"


def read(path: Path) -> Weights:
    """The weights of a file, or of a folder that `write` made.

    Raises:
      UserError: the file is damaged or holds another model.
    """
    file = path / FILE if path.is_dir() else path
    tensors = _names(open_tensors(file))
    try:
        model = _model(tensors)
    except KeyError as error:
        raise UserError(
            f"{file} is neither a SigLIP nor a ViT of big_vision: it lacks {error.args[0]}."
        ) from error
    model.name = path.absolute().stem
    scanned = any("/encoderblock/" in name for name in tensors)
    family = dataclasses.replace(FAMILY, rows=functools.partial(rows, scanned=scanned))
    tokenized = "text" in model and any((file.parent / name).is_file() for name in TOKENIZERS)
    return weights(
        path,
        family,
        model,
        _with_class_row(tensors, model),
        tokenizer=(lambda: _named(file.parent)) if tokenized else None,
        words=_named,
        resize="squash",
        interpolation="bilinear",
    )


def _named(name: str | Path) -> Tokenizer:
    return load_as(name, clean="canonicalize")


def write(folder: Path, config: ConfigDict, params: Any, tokenizer: Tokenizer | None) -> None:
    """Writes model.npz, which big_vision's `load` reads (`config.model_init`)."""
    state = FAMILY.write(params, config.model)
    if config.model.image.pool == "cls" and config.model.image.position == "learned":
        # There the class token has no position: it is added to the token itself.
        prefix = _prefix(config.model)
        positions = state[f"{prefix}pos_embedding"]
        state[f"{prefix}cls"] = state[f"{prefix}cls"] + positions[:, :1]
        state[f"{prefix}pos_embedding"] = positions[:, 1:]
    arrays: dict[str, Any] = {f"params/{name}": array for name, array in state.items()}
    np.savez(folder / FILE, **arrays)
    if tokenizer is not None:
        tokenizer.save(folder)


def rows(model: ConfigDict, scanned: bool = False) -> list[Row]:
    """The name table of `config.model`; names are without the "params/" of files."""
    image, prefix = model.image, _prefix(model)
    width, grid = image.width, image.size // image.patch_size
    tokens = grid**2 + (image.pool == "cls")
    table = [
        *_linear("image/patch_embed", f"{prefix}embedding"),
        *_blocks("image", f"{prefix}Transformer", image, scanned),
        *_norm("image/norm_post", f"{prefix}Transformer/encoder_norm"),
    ]
    if image.position == "learned":
        shape = (1, tokens, width)
        table.append(Row("image/position_embed", f"{prefix}pos_embedding", shape=shape))
    if image.pool == "cls":
        table.append(Row("image/class_embed", f"{prefix}cls", shape=(1, 1, width)))
    if image.pool == "map":
        theirs = f"{prefix}MAPHead_0"
        table += [
            Row("image/pool/probe", f"{theirs}/probe", shape=(1, 1, width)),
            *_attention("image/pool/attention", f"{theirs}/{_ATTENTION}", image, ()),
            *_norm("image/pool/norm", f"{theirs}/LayerNorm_0"),
            *_linear("image/pool/mlp/fc1", f"{theirs}/MlpBlock_0/Dense_0"),
            *_linear("image/pool/mlp/fc2", f"{theirs}/MlpBlock_0/Dense_1"),
        ]
    if image.head == "linear_bias":
        table += _linear("image/head", f"{prefix}head")
    if "text" not in model:
        return table
    text = model.text
    return [
        *table,
        Row("text/token_embed/embedding", "txt/Embed_0/embedding"),
        Row("text/position_embed", "txt/pos_embedding", shape=(1, text.context_length, text.width)),
        *_blocks("text", "txt/Encoder_0", text, scanned),
        *_norm("text/norm_post", "txt/Encoder_0/encoder_norm"),
        *_linear("text/head", "txt/head"),
        Row("logit_scale", "t", shape=(1,)),
        Row("logit_bias", "b", shape=(1,)),
    ]


FAMILY = Family(
    "big_vision",
    parts=(CLIP, {"image": ("vit",)}),
    rows=rows,
    read_back=lambda model: _model(their_shapes(rows(model), shapes(model))),
    ignored=(r"opt/.*",),
)


def _prefix(model: ConfigDict) -> str:
    return "img/" if "text" in model else ""


def _blocks(ours: str, theirs: str, tower: ConfigDict, scanned: bool) -> list[Row]:
    ours = f"{ours}/blocks"
    theirs += "/encoderblock" if scanned else "/encoderblock_{}"
    return [
        *_norm(f"{ours}/norm1", f"{theirs}/LayerNorm_0"),
        *_attention(f"{ours}/attention", f"{theirs}/{_ATTENTION}", tower,
                    (tower.depth,) if scanned else ()),
        *_norm(f"{ours}/norm2", f"{theirs}/LayerNorm_1"),
        *_linear(f"{ours}/mlp/fc1", f"{theirs}/MlpBlock_0/Dense_0"),
        *_linear(f"{ours}/mlp/fc2", f"{theirs}/MlpBlock_0/Dense_1"),
    ]  # fmt: skip


def _attention(ours: str, theirs: str, tower: ConfigDict, layers: Sequence[int]) -> list[Row]:
    width, heads = tower.width, (tower.heads, tower.width // tower.heads)
    out = (*layers, *heads, width)
    table = [
        Row(f"{ours}/out/kernel", f"{theirs}/out/kernel", shape=out),
        Row(f"{ours}/out/bias", f"{theirs}/out/bias"),
    ]
    for name in ("query", "key", "value"):
        kernel = (*layers, width, *heads)
        table += [
            Row(f"{ours}/{name}/kernel", f"{theirs}/{name}/kernel", shape=kernel),
            Row(f"{ours}/{name}/bias", f"{theirs}/{name}/bias", shape=(*layers, *heads)),
        ]
    return table


def _norm(ours: str, theirs: str) -> list[Row]:
    return [Row(f"{ours}/{name}", f"{theirs}/{name}") for name in ("scale", "bias")]


def _linear(ours: str, theirs: str) -> list[Row]:
    return [Row(f"{ours}/{name}", f"{theirs}/{name}") for name in ("kernel", "bias")]


def _names(tensors: Tensors) -> dict[str, Any]:
    """Tensors as they are called today."""
    found = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("params/")
        for old, new in _OLD_NAMES:
            name = name.replace(old, new)
        found[name] = tensor
    return found


def _with_class_row(tensors: dict[str, Any], model: ConfigDict) -> Tensors:
    """A position of zeros for the class token, which has none in newer files."""
    name = f"{_prefix(model)}pos_embedding"
    if model.image.pool != "cls" or name not in tensors:
        return tensors
    positions = tensors[name]
    _, count, width = positions.shape
    if count == (model.image.size // model.image.patch_size) ** 2:

        def padded() -> np.ndarray:
            return np.pad(np.asarray(positions), ((0, 0), (1, 0), (0, 0)))

        return tensors | {name: Tensor((1, 1 + count, width), padded)}
    return tensors


def _model(tensors: Tensors) -> ConfigDict:
    """`config.model` of these names and shapes; KeyError: the name that is missing."""
    two_towers = "img/embedding/kernel" in tensors
    model = zoo.default("image", *(("text", "logit") if two_towers else ()))
    prefix, half = "img/" if two_towers else "", (0.5, 0.5, 0.5)
    shape = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    patch, _, _, width = shape[f"{prefix}embedding/kernel"]
    pool = "map" if f"{prefix}MAPHead_0/probe" in shape else "mean"
    pool = "cls" if f"{prefix}cls" in shape else pool
    learned = f"{prefix}pos_embedding" in shape
    # Fixed positions fit any size; big_vision trains its ViTs with them at 224.
    count = shape[f"{prefix}pos_embedding"][1] if learned else (224 // patch) ** 2
    head = f"{prefix}head/kernel"
    model.embed_dim = shape[head][-1] if head in shape else width
    model.image.update(
        size=int(count**0.5) * patch, patch_size=patch, pool=pool,
        position="learned" if learned else "sincos", norm_pre=False, patch_bias=True,
        head="linear_bias" if head in shape else "none", mean=half, std=half,
        **_tower(shape, f"{prefix}Transformer"),
    )  # fmt: skip
    if not two_towers:
        return model
    vocab_size = shape["txt/Embed_0/embedding"][0]
    model.embed_dim = shape["txt/head/kernel"][-1]
    model.logit.update(initial=float(np.log(10.0)), max=0.0, bias=-10.0)
    model.text.update(
        vocab_size=vocab_size, context_length=shape["txt/pos_embedding"][1], causal=False,
        pool="last", head="linear_bias", **_tower(shape, "txt/Encoder_0"),
    )  # fmt: skip
    return model


def _tower(shape: dict[str, tuple[int, ...]], prefix: str) -> dict[str, Any]:
    block = f"{prefix}/encoderblock"
    if f"{block}/LayerNorm_0/scale" in shape:  # scanned
        depth = shape[f"{block}/LayerNorm_0/scale"][0]
    else:
        pattern = re.compile(re.escape(block) + r"_(\d+)/")
        depth, block = len({m[1] for name in shape if (m := pattern.match(name))}), f"{block}_0"
    *_, width, heads, _ = shape[f"{block}/{_ATTENTION}/query/kernel"]
    mlp_dim = shape[f"{block}/MlpBlock_0/Dense_0/kernel"][-1]
    return {
        "width": width, "depth": depth, "heads": heads, "mlp_dim": mlp_dim,
        "activation": "gelu_tanh", "norm_eps": 1e-6,
    }  # fmt: skip


def _library(folder: Path, config: ConfigDict, tokenizer: Tokenizer) -> Library:
    remedy = "its config names one (pp tokenize), which must be that of the files in the folder"
    return Library("big_vision", None, remedy)


def _card(config: ConfigDict, tokenizer: Tokenizer | None) -> tuple[str, str]:
    return (
        "library_name: big_vision",
        """\
import numpy as np

params = np.load("model.npz")  # or config.model_init = "model.npz" in a config of big_vision
print({name: params[name].shape for name in params})""",
    )


FORMAT = Format("big_vision", detect, read, write, _card, _library)
