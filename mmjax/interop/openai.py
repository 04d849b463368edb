"""OpenAI's CLIP: one .pt file, a TorchScript archive as published or a state dict.

It names no architecture: all is told by the shapes, as OpenAI's own build_model does, and by what
all of its models have in common (QuickGELU, heads of 64, pictures cut from the centre).
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.data.clip_bpe import BPE, find_bpe
from mmjax.data.tokenize import END, START, clip_tokenizer, respelled
from mmjax.errors import UserError
from mmjax.interop import open_clip
from mmjax.interop.files import Tensors, open_tensors
from mmjax.interop.formats import Family, Format, Weights, shapes, weights
from mmjax.interop.open_clip.tables import rows
from mmjax.interop.table import their_shapes
from mmjax.interop.texts import LARGEST, Library, check_end, is_openais, load_as
from mmjax.interop.torchscript import is_archive
from mmjax.models import zoo
from mmjax.models.parts import part

FILE = "model.pt"  # of a folder that is written here
MARKS = ("input_resolution", "context_length", "vocab_size")  # OpenAI's files have them as tensors
_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
# What stays float32 in OpenAI's files; all other parameters are float16.
_FULL = re.compile(r"(^|\.)(ln_\w+|bn\d|downsample\.1)\.|embedding|logit_scale")


def detect(path: Path) -> bool:
    """A file with OpenAI's names, or a folder that `write` made. A state dict that has none of
    OpenAI's marks and a config of open_clip beside it is open_clip's."""
    if path.is_dir():
        return (path / FILE).is_file() and not (path / open_clip.CONFIG).is_file()
    if path.suffix not in _SUFFIXES:
        return False
    tensors = open_tensors(path)
    known = any(name.endswith("text_projection") for name in tensors) and any(
        name.endswith(("visual.proj", "visual.attnpool.c_proj.weight")) for name in tensors
    )
    marked = all(name in tensors for name in MARKS)
    return known and (marked or not (path.parent / open_clip.CONFIG).is_file())


def read(path: Path) -> Weights:
    """The weights of a file, or of a folder that `write` made.

    Raises:
      UserError: nothing says which activation they were trained with.
    """
    file = path / FILE if path.is_dir() else path
    tensors = open_tensors(file)
    if not (is_archive(file) or all(name in tensors for name in MARKS)):
        raise UserError(
            f"{file} holds weights of a CLIP, but not which: for OpenAI's own give the published "
            f"file, for open_clip's put its {open_clip.CONFIG} (or model_configs/NAME.json of "
            "open_clip, under that name) beside it."
        )
    model = _model(tensors)
    model.name = path.absolute().stem
    folder = file.parent
    return weights(path, FAMILY, model, tensors, tokenizer=lambda: _tokenizer(folder), words=_named)


def write(folder: Path, config: ConfigDict, params: Any, tokenizer: Tokenizer | None) -> None:
    """Writes model.pt, which OpenAI's `clip.load` and open_clip's `load_openai_model` read.

    Values that float16 holds exactly are float16 where OpenAI's are, all others float32.
    """
    state = FAMILY.write(params, config.model)
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "OpenAI's format is a file of PyTorch, which is not installed: "
            "pip install 'mmjax[torch]', or use another format."
        ) from error
    values = (
        config.model.image.size,
        config.model.text.context_length,
        config.model.text.vocab_size,
    )
    marks = {name: np.array(value) for name, value in zip(MARKS, values, strict=True)}
    arrays = {name: _as_published(name, array) for name, array in state.items()} | marks
    torch.save({name: torch.tensor(array) for name, array in arrays.items()}, folder / FILE)
    if tokenizer is not None:
        check_end(tokenizer, LARGEST, "OpenAI's clip").save(folder)


FAMILY = Family(
    "OpenAI's CLIP",
    parts=({"image": ("vit", "resnet"), "text": ("transformer",), "logit": ("scale",)},),
    rows=rows,
    read_back=lambda model: _model(their_shapes(rows(model), shapes(model))),
    ignored=(*MARKS, *open_clip.NO_PARAMETERS),
)


def _model(tensors: Tensors) -> ConfigDict:
    """`config.model` of these shapes."""

    def shape(name: str) -> tuple[int, ...]:
        return tuple(tensors[name].shape)

    def count(pattern: str) -> int:
        return len({match[1] for name in tensors if (match := re.match(pattern, name))})

    model = zoo.default("image", "text", "logit")
    width, model.embed_dim = shape("text_projection")
    model.text.update(
        vocab_size=shape("token_embedding.weight")[0],
        context_length=shape("positional_embedding")[0],
        depth=count(r"transformer\.resblocks\.(\d+)\."),
        **_tower(width),
    )
    if "visual.proj" in tensors:
        width, _, patch, _ = shape("visual.conv1.weight")
        grid = round((shape("visual.positional_embedding")[0] - 1) ** 0.5)
        depth = count(r"visual\.transformer\.resblocks\.(\d+)\.")
        model.image.update(size=grid * patch, patch_size=patch, depth=depth, **_tower(width))
    else:
        width = shape("visual.layer1.0.conv1.weight")[0]
        grid = round((shape("visual.attnpool.positional_embedding")[0] - 1) ** 0.5)
        stages = tuple(count(rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
        model.image = part(
            "resnet", size=32 * grid, width=width, stages=stages, heads=width // 2,
            head="linear_bias",
        )  # fmt: skip
    return model


def _tower(width: int) -> dict[str, Any]:
    return {
        "width": width,
        "heads": width // 64,
        "mlp_dim": 4 * width,
        "activation": "quick_gelu",
    }


def _as_published(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype != np.float32 or _FULL.search(name):
        return array
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array


def _tokenizer(folder: Path) -> Tokenizer:
    own = any((folder / file).is_file() for file in open_clip.TOKENIZERS)
    return _named(folder if own else find_bpe(folder))


def _named(name: str | Path) -> Tokenizer:
    if Path(name).name == BPE:
        return clip_tokenizer(name)
    found = load_as(name, clean="lower", pad_id=0)
    return check_end(found, LARGEST, "OpenAI's CLIP")


def _library(folder: Path, config: ConfigDict, tokenizer: Tokenizer) -> Library:
    """OpenAI's clip has its tokenizer inside, and looks at no file of the folder."""
    length, encode = config.model.text.context_length, None
    if is_openais(tokenizer):
        inside = respelled(tokenizer, (START, END))
        encode = lambda texts: inside.encode(texts, length)[0]  # noqa: E731
        remedy = f"its own tokenizer spells the special tokens {START} and {END}"
    else:
        remedy = "give it ids of the tokenizer in the folder, as mmjax makes them"
    return Library("OpenAI's clip", encode, remedy)


def _card(config: ConfigDict, tokenizer: Tokenizer | None) -> tuple[str, str]:
    return (
        "pipeline_tag: zero-shot-image-classification",
        """\
import clip  # OpenAI's
import torch
from PIL import Image

model, preprocess = clip.load("model.pt", device="cpu")
image, text = preprocess(Image.open("picture.jpg"))[None], clip.tokenize(["a cat", "a dog"])
with torch.inference_mode():
    print(model(image, text)[0].softmax(dim=-1))""",
    )


FORMAT = Format("openai", detect, read, write, _card, _library)
