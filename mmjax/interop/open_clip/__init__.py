"""open_clip: folders of open_clip_config.json, weights and tokenizer, or a training checkpoint with
that config beside it. Of a CoCa its two towers are read, not its decoder.

Reading and writing need no torch (but to read .bin and .pt files).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.data.clean import cleaner
from mmjax.data.clip_bpe import BPE, find_bpe
from mmjax.data.tokenize import OPEN_CLIP, clip_tokenizer, load_tokenizer, respelled
from mmjax.errors import UserError
from mmjax.interop.files import Tensor, Tensors, open_tensors, read_json
from mmjax.interop.formats import Family, Format, Weights, weights
from mmjax.interop.open_clip import config as settings_lib
from mmjax.interop.open_clip.tables import has_own_text, rows
from mmjax.interop.resize import resize_positions, resize_sequence
from mmjax.interop.texts import LARGEST, Library, check_end, is_openais, load_as

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
)
# Masks and numbers of positions are constants, and batch norms count for training's sake.
NO_PARAMETERS = (r"(.*\.)?attn_mask", r".*\.num_batches_tracked", r".*\.position_ids")
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")
_DECODER = "text_decoder."
FAMILY = Family(
    "open_clip",
    parts=(
        {"image": ("vit", "resnet", "convnext"), "text": ("transformer",), "logit": ("scale",)},
    ),
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
    settings = read_json(folder / CONFIG)
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
        words=lambda named: _named(named, folder, text),
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
    # One key of metadata: several would lie in another order in every process.
    safetensors.numpy.save_file(state, folder / WEIGHTS[0], metadata={"format": "pt"})
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
            lambda x: resize_sequence(x, length),
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
    if any((folder / file).is_file() for file in TOKENIZERS):
        return _named(folder, folder, text)
    return _named(text.get("hf_tokenizer_name") or find_bpe(folder), folder, text)


def _named(name: str | Path, folder: Path, text: dict[str, Any]) -> Tokenizer:
    """A tokenizer as the config in `folder` cleans and pads texts; `name` is a folder, a hub name
    or OpenAI's file."""
    options = text.get("tokenizer_kwargs") or {}
    unknown = sorted(options.keys() - {"clean", "strip_sep_token"})
    if unknown:
        raise UserError(
            f"{folder / CONFIG}: text_cfg.tokenizer_kwargs.{unknown[0]} makes a tokenizer that "
            "mmjax does not have."
        )
    if Path(name).name == BPE:
        return clip_tokenizer(name, OPEN_CLIP)
    if text.get("hf_tokenizer_name"):
        end = settings_lib.STRIPPED if options.get("strip_sep_token") else None
        found = load_as(name, options.get("clean", settings_lib.CLEANED), end_id=end)
    else:
        found = load_as(name, options.get("clean", "lower"), pad_id=0)
    pooled_at = {"argmax": LARGEST, "eos": text.get("eos_id", 2)}
    pool = "" if text.get("embed_cls") else text.get("pool_type", "argmax")
    return check_end(found, pooled_at.get(pool), str(folder / CONFIG))


def _weights_of(folder: Path) -> Path | None:
    """The folder's file of weights: by open_clip's names, else the only one."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    if (folder / "config.json").is_file():
        return None  # of transformers, as then are the other files
    others = [p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".pt", ".pth")]
    return others[0] if len(others) == 1 else None


def _library(folder: Path, config: ConfigDict, tokenizer: Tokenizer) -> Library:
    """As open_clip does: its own tokenizer with its names of the ends, or that of the folder after
    a cleaning that cannot be turned off."""
    length = config.model.text.context_length
    if is_openais(tokenizer):
        inside = respelled(tokenizer, OPEN_CLIP)
        remedy = "its own tokenizer spells the special tokens <start_of_text> and <end_of_text>"
        return Library("open_clip", lambda texts: inside.encode(texts, length)[0], remedy)
    words, clean = load_tokenizer(folder).wrapped, cleaner(tokenizer.clean or settings_lib.CLEANED)

    def encode(texts: Sequence[str]) -> Any:
        cleaned = [clean(text) for text in texts]
        rows = words(cleaned, padding="max_length", truncation=True, max_length=length)
        ids = np.asarray(rows["input_ids"])
        stripped = settings_lib.strips_end(tokenizer)
        return np.where(ids == words.sep_token_id, settings_lib.STRIPPED, ids) if stripped else ids

    remedy = "give it the ids of mmjax"
    if not tokenizer.clean:
        remedy = f"it cleans them; {_AS_THEY_ARE} keeps them as they are"
    return Library("open_clip", encode, remedy)


_AS_THEY_ARE = "tokenizer.clean_fn = str"


def _card(config: ConfigDict, tokenizer: Tokenizer | None) -> tuple[str, str]:
    as_they_are = ""
    if tokenizer is not None and not tokenizer.clean:
        as_they_are = f"\n{_AS_THEY_ARE}  # it was trained on texts as they are"
    return (
        "library_name: open_clip\npipeline_tag: zero-shot-image-classification",
        f"""\
import open_clip
import torch
from PIL import Image

model, preprocess = open_clip.create_model_from_pretrained("local-dir:.")
tokenizer = open_clip.get_tokenizer("local-dir:."){as_they_are}
image, text = preprocess(Image.open("picture.jpg"))[None], tokenizer(["a cat", "a dog"])
with torch.inference_mode():
    print(model.get_logits(image, text)[0].softmax(dim=-1))""",
    )


_ALPHA = (
    "Transparent images: mmjax lays them on white, open_clip drops the alpha channel and keeps the "
    "colours below it. Lay them on white before you give them to open_clip."
)
FORMAT = Format("open_clip", detect, read, write, _card, _library, (_ALPHA,))
