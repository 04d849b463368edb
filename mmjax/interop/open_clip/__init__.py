"""open_clip: folders of open_clip_config.json, weights and tokenizer, or a training checkpoint with
that config beside it. Of a CoCa its two towers are read, not its decoder.

Reading and writing need no torch (but to read .bin and .pt files).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.data.tokenize import clip_tokenizer, load_tokenizer
from mmjax.errors import UserError
from mmjax.interop.files import Tensor, Tensors, open_tensors
from mmjax.interop.formats import Family, Format, Weights, weights
from mmjax.interop.open_clip import config as settings_lib
from mmjax.interop.open_clip.bpe import find_bpe
from mmjax.interop.open_clip.tables import has_own_text, rows
from mmjax.interop.resize import resize_positions, resize_text_positions

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
# Masks are constants, and batch norms count for training's sake.
NO_PARAMETERS = (r"(.*\.)?attn_mask", r".*\.num_batches_tracked")
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")
_DECODER = "text_decoder."
FAMILY = Family(
    "open_clip",
    parts=({"image": ("vit", "resnet"), "text": ("transformer",), "logit": ("scale",)},),
    rows=rows,
    read_back=settings_lib.read_back,
    ignored=NO_PARAMETERS,
    obstacles=settings_lib.obstacles,
)


def detect(path: Path) -> bool:
    """A folder with open_clip_config.json and weights, or a file of weights beside that config."""
    folder = path if path.is_dir() else path.parent
    return (folder / CONFIG).is_file() and (path.is_file() or _weights_of(path) is not None)


def read(path: Path) -> Weights:
    """The weights of a folder or file.

    Raises:
      UserError: the config is damaged or of a model that is not known here.
    """
    folder, file = (path, _weights_of(path)) if path.is_dir() else (path.parent, path)
    settings = _read_json(folder / CONFIG)
    architecture = settings.get("model_cfg", settings)  # open_clip's own model_configs/NAME.json
    try:
        model = settings_lib.read_model(architecture)
        images = settings_lib.read_preprocess(settings.get("preprocess_cfg") or {}, model)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder / CONFIG} is no config of open_clip ({error!r}).") from error
    model.name = path.absolute().name if path.is_dir() else path.stem
    assert file is not None  # or it would not have been detected
    text = architecture["text_cfg"]
    tensors, left = open_tensors(file), set()
    if "multimodal_cfg" in architecture:  # a CoCa: its decoder is built as none here is
        left = {name for name in tensors if name.startswith(_DECODER)}
    return weights(
        path,
        FAMILY,
        model,
        native_names({n: tensor for n, tensor in tensors.items() if n not in left}, model),
        left=sorted(left),
        tokenizer=lambda: _tokenizer(folder, text),
        **images,
    )


def write(folder: Path, config: ConfigDict, params: Any, tokenizer: Tokenizer | None) -> None:
    """Writes what `open_clip.create_model_and_transforms("local-dir:FOLDER")` loads."""
    state = FAMILY.write(params, config.model)
    settings = {
        "model_cfg": settings_lib.write_model(config.model, tokenizer),
        "preprocess_cfg": settings_lib.write_preprocess(config),
    }
    (folder / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    safetensors.numpy.save_file(
        state, folder / WEIGHTS[0], metadata={"format": "pt", "producer": "mmjax"}
    )
    if tokenizer is not None:
        tokenizer.save(folder)


def native_names(tensors: Tensors, model: ConfigDict) -> Tensors:
    """Tensors as they are called and shaped today: with or without the prefix of a text tower of
    its own, scalars for one-element arrays, positions resized where the config says another size
    than the file."""
    tensors = {name.removeprefix("text."): tensor for name, tensor in tensors.items()}
    if has_own_text(model):
        ours = ("visual.", "logit_")
        tensors = {n if n.startswith(ours) else f"text.{n}": t for n, t in tensors.items()}
    for name in ("logit_scale", "logit_bias"):
        if name in tensors and tuple(tensors[name].shape) == (1,):
            tensors[name] = _changed(tensors[name], (), lambda x: x[0])
    return _resized(tensors, model)


def _resized(tensors: dict[str, Any], model: ConfigDict) -> Tensors:
    name = "text.positional_embedding" if has_own_text(model) else "positional_embedding"
    length = model.text.context_length + (model.text.pool == "appended")
    if name in tensors and tensors[name].shape[0] != length:
        tensors[name] = _changed(
            tensors[name], (length, tensors[name].shape[1]),
            lambda x: resize_text_positions(x, length),
        )  # fmt: skip
    name = "visual.positional_embedding"
    if name in tensors and model.image.kind == "vit":
        count, width = tensors[name].shape
        old, new = round((count - 1) ** 0.5), model.image.size // model.image.patch_size
        if old != new:
            tensors[name] = _changed(
                tensors[name], (1 + new**2, width),
                lambda x: resize_positions(x, (old, old), (new, new), class_token=True),
            )  # fmt: skip
    return tensors


def _changed(tensor: Any, shape: tuple[int, ...], change: Any) -> Tensor:
    return Tensor(shape, lambda: change(np.asarray(tensor)))


def _tokenizer(folder: Path, text: dict[str, Any]) -> Tokenizer:
    """The tokenizer that open_clip would take, with its cleaning."""
    name, options = text.get("hf_tokenizer_name"), text.get("tokenizer_kwargs") or {}
    unknown = sorted(options.keys() - {"clean"})
    if unknown:
        raise UserError(
            f"{folder / CONFIG}: text_cfg.tokenizer_kwargs.{unknown[0]} makes a tokenizer that "
            "mmjax does not have."
        )
    own = any((folder / file).is_file() for file in TOKENIZERS)
    if name:
        return load_tokenizer(folder if own else name, clean=options.get("clean", "whitespace"))
    if own:
        return load_tokenizer(folder, clean=options.get("clean", "lower"), pad_id=0)
    return clip_tokenizer(find_bpe(folder))


def _weights_of(folder: Path) -> Path | None:
    """The folder's file of weights: by open_clip's names, else the only one."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    if (folder / "config.json").is_file():
        return None  # of transformers, as then are the other files
    others = [p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt", ".pth")]
    return others[0] if len(others) == 1 else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error}): get it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object: get it again.")
    return found


def _card(config: ConfigDict) -> tuple[str, str]:
    return (
        "library_name: open_clip\npipeline_tag: zero-shot-image-classification",
        """\
import open_clip
import torch
from PIL import Image

model, preprocess = open_clip.create_model_from_pretrained("local-dir:.")
tokenizer = open_clip.get_tokenizer("local-dir:.")
image, text = preprocess(Image.open("picture.jpg"))[None], tokenizer(["a cat", "a dog"])
with torch.inference_mode():
    print(model.get_logits(image, text)[0].softmax(dim=-1))""",
    )


FORMAT = Format("open_clip", detect, read, write, _card)
