"""The weight formats, reading a source whatever its format, and writing a complete folder."""

import difflib
import logging
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mmjax.data import Tokenizer
from mmjax.data.keys import PREPROCESS
from mmjax.errors import UserError
from mmjax.interop import FORMAT_NAMES, big_vision, hub, huggingface, open_clip, openai, run
from mmjax.interop.folder import replaced
from mmjax.interop.formats import Format, Training, Weights
from mmjax.interop.texts import differing, sentence
from mmjax.models.parts import sections
from mmjax.models.towers.text import ignores_padding

log = logging.getLogger("mmjax.interop")

_FORMATS = (openai.FORMAT, open_clip.FORMAT, huggingface.FORMAT, big_vision.FORMAT)
FORMATS: dict[str, Format] = {
    name: next(format for format in _FORMATS if format.name == name) for name in FORMAT_NAMES
}
_MARK = "tags: [mmjax]"  # in the model card of every export, and how an earlier one is known


def open_weights(path: str | Path) -> Weights:
    """The weights in a file or folder, whatever their format; no parameter is read yet.

    Raises:
      UserError: nothing is there, no format recognises it, or it is damaged.
    """
    path = Path(path)
    if run.detect(path):
        return run.read(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder of weights.")
    for format in FORMATS.values():
        if format.detect(path):
            return format.read(path)
    raise UserError(
        f"{path} holds no weights that mmjax knows: it reads {', '.join(FORMATS)} and its own runs."
    )


def find(source: str | Path) -> Weights:
    """The weights of what `mmjax.load` takes, of which no parameter is read yet."""
    here = Path(source).exists() or not str(source) or str(source).startswith((".", "/", "~"))
    here = here or run.detect(Path(source))  # a run, though not that step of it
    if here:
        return open_weights(source)
    weights = open_weights(hub.fetch(str(source)))
    weights.config.model.name = str(source).rpartition("/")[2]  # the folder is called by a hash
    return weights


def export(
    folder: str | Path,
    format: str,
    *,
    config: ConfigDict,
    params: Any,
    tokenizer: Tokenizer | None = None,
    training: Training | None = None,
) -> None:
    """Writes a complete folder in a format, all or nothing.

    An earlier export in `folder` is replaced; a folder that holds anything else is left as it is.

    Args:
      folder: to write.
      format: a name in `FORMATS`.
      config: of the run or the weights; `model` and `data.{resize,interpolation}` are read.
      params: our tree; every array must be whole on this host.
      tokenizer: written with the weights, where there is one. Texts of which the format's library
        makes other ids are counted and named in a warning and on the model card.
      training: for the model card, where the weights come from a run.

    Raises:
      UserError: the format cannot hold the model or use the tokenizer, or `folder` is in the way.
    """
    if format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, n=1, cutoff=0.0)[0]
        raise UserError(
            f"--format={format}: there is no such format; there are {', '.join(FORMATS)} "
            f"(nearest: {near})."
        )
    target = FORMATS[format]
    card = _card(target, config, params, tokenizer, training)
    with replaced(folder, _is_export) as new:
        target.write(new, config, params, tokenizer)
        if any("mean" in part for part in sections(config.model).values()):
            _check_preprocessing(format, config, target.read(new).config)
        notes = list(target.notes)
        if target.library is not None and tokenizer is not None and "text" in config.model:
            library = target.library(new, config, tokenizer)
            text = config.model.text
            padding = not ignores_padding(text)
            found, tried = differing(library, tokenizer, text.context_length, padding)
            if found:
                notes.append(sentence(library, found, tried))
                log.warning("%s: %s", folder, notes[-1])
        card += "".join(f"\n{note}\n" for note in notes)
        (new / "README.md").write_text(card, encoding="utf-8")


def _check_preprocessing(format: str, config: ConfigDict, found: ConfigDict) -> None:
    """UserError: images would be resized in another way after the weights are read back."""
    seen = [part for part in sections(config.model).values() if "mean" in part]
    keeps_shape = all("patches" in part for part in seen)
    for key in PREPROCESS:
        if key.name == "resize" and keeps_shape:  # nothing reads it
            continue
        wanted, read = config.data[key.name], found.data[key.name]
        if wanted != read:
            raise UserError(
                f"{format} cannot hold config.data.{key.name}={wanted!r}, how images are resized "
                f"outside training: it would come back as {read!r}. Use another format."
            )


def _is_export(folder: Path) -> bool:
    card = folder / "README.md"
    return card.is_file() and _MARK in card.read_text(encoding="utf-8").splitlines()


def _card(
    format: Format,
    config: ConfigDict,
    params: Any,
    tokenizer: Tokenizer | None,
    training: Training | None,
) -> str:
    model, count = config.model, sum(x.size for x in jax.tree.leaves(params))
    front, example = format.card(config, tokenizer)
    lines = ["---", front, _MARK, "---", f"# {model.name}", ""]
    origin = "converted by mmjax (JAX)"
    if training:
        origin = f"from {training.steps:,} steps of an mmjax (JAX) run"
        origin += f" with batches of {config.batch_size:,}"
    lines += [f"{count:,} parameters, {origin}.", "", "```python", example, "```"]
    if training and training.command:
        lines += ["", "Trained by", "", "```", training.command, "```"]
    if training and training.metrics:
        lines += ["", *(f"- {name}: {value:.6g}" for name, value in training.metrics.items())]
    return "\n".join(lines) + "\n"
