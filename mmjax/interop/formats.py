"""What a weight format is: how it is recognised, read and written. `registry.py` lists them.

A format is a `Format`; the architectures that it knows are `Family`s, each a name table. Adding a
family is adding a table, adding a format is adding a module and a line in the registry.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from mmjax import models
from mmjax.data import Tokenizer
from mmjax.data.keys import PREPROCESS
from mmjax.data.tokenize import load_tokenizer
from mmjax.errors import UserError
from mmjax.interop.files import Tensors
from mmjax.interop.table import Row, from_theirs, to_theirs
from mmjax.interop.texts import Library
from mmjax.models.parts import of_model, sections
from mmjax.schema import TRAINING_ONLY, entry

# Part → its kinds.
CLIP: Mapping[str, tuple[str, ...]] = {
    "image": ("vit",), "text": ("transformer",), "logit": ("scale",),
}  # fmt: skip
OF_READERS = ("dtype",)  # keys that whoever reads weights chooses anew


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture as a format names it.

    Attributes:
      name: as a user knows it, "Hugging Face's CLIPModel"; begins sentences about it.
      rows: `config.model` → its name table, a row for each parameter of that model.
      parts: the parts that a model may have, each with its kinds; of several such sets one.
      read_back: `config.model` → what a reader finds in the files that are written of it. KeyError:
        the name of a parameter that would not be there.
      ignored: regular expressions of names found in files that are no parameters.
      obstacles: `config.model` → what this format cannot hold of it and reading back does not show,
        each a clause ("timm has no such tower").
    """

    name: str
    rows: Callable[[ConfigDict], Sequence[Row]]
    read_back: Callable[[ConfigDict], ConfigDict]
    parts: tuple[Mapping[str, tuple[str, ...]], ...] = (CLIP,)
    ignored: tuple[str, ...] = ()
    obstacles: Callable[[ConfigDict], list[str]] = lambda model: []

    def differences(self, model: ConfigDict) -> list[str]:
        """What of `config.model` this format cannot hold, each a clause."""
        unlike = min((_unlike(model, wanted) for wanted in self.parts), key=len)
        if unlike:
            return unlike
        found = self.obstacles(model)
        try:
            back = self.read_back(model)
        except KeyError as error:
            return found or [f"its weights would lack {error.args[0]}"]
        return found + [
            f"config.model.{path}={value!r} would come back as {again!r}"
            for path, key, value in of_model(model)
            if not key.resumable and path not in OF_READERS
            for again in [functools.reduce(lambda node, name: node[name], path.split("."), back)]
            if (value is None) != (again is None)
            or (value != again and TRAINING_ONLY not in key.marks)
        ]

    def check_holds(self, model: ConfigDict) -> None:
        """Raises a UserError that says what in `config.model` this format cannot hold."""
        found = self.differences(model)
        if found:
            raise UserError(f"{self.name} cannot hold this model: {'; '.join(found)}.")

    def write(self, params: Any, model: ConfigDict) -> dict[str, np.ndarray]:
        """Our parameters under the family's names; UserError: it cannot hold them, by name."""
        self.check_holds(model)
        return to_theirs(params, self.rows(model), shapes(model))

    def read(
        self, tensors: Tensors, model: ConfigDict, like: Any = None, what: str = "the weights"
    ) -> dict[str, Any]:
        """The tensors as our tree, or as the part of it that `like` is (see `from_theirs`)."""
        like = shapes(model) if like is None else like
        return from_theirs(tensors, self.rows(model), like, ignored=self.ignored, what=what)


def _unlike(model: ConfigDict, wanted: Mapping[str, tuple[str, ...]]) -> list[str]:
    """How the parts of `config.model` differ from those that are wanted, a clause for each."""
    there = sections(model)
    found = [f"it has no part {name!r}" for name in wanted if name not in there]
    more = [f"it has the part {name!r}" for name in there if name not in wanted]
    if more and not found:
        more[-1] += f" (mmjax export --parts={','.join(wanted)} leaves out what else there is)"
    return [*found, *more] + [
        f"its part {name!r} is of the kind {there[name].kind!r}"
        for name, kinds in wanted.items()
        if name in there and there[name].kind not in kinds
    ]


@dataclasses.dataclass(frozen=True)
class Training:
    """The run that weights come from, for their model card: steps, command, what was measured."""

    steps: int
    command: str
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights as they were found: the architecture is known, no parameter is read yet.

    Attributes:
      source: the file or folder, for messages.
      config: its `model` is the architecture and its `data.{resize,interpolation}` the image
        preprocessing; it has no other keys, unless the weights are of a run.
      read: shapes (of `config.model`'s tree, or of a part of it; with shardings, if it is to lie on
        a mesh) → parameters. One parameter at a time is in host memory.
      tokenizer: loads the weights' own tokenizer; None if they have none.
      words: a tokenizer's folder or hub name → that tokenizer as these weights take it: with their
        cleaning and padding.
      training: of a run, for model cards.
      left: names in the files of parameters that no model here has.
    """

    source: str
    config: ConfigDict
    read: Callable[[Any], Any]
    tokenizer: Callable[[], Tokenizer] | None = None
    training: Training | None = None
    left: Sequence[str] = ()
    words: Callable[[str | Path], Tokenizer] = load_tokenizer


@dataclasses.dataclass(frozen=True)
class Format:
    """One way to keep weights in files.

    Attributes:
      name: that of `--format=NAME`.
      detect: whether a file or folder is of this format; looks at names and small files only.
      read: a file or folder that was detected → its `Weights`. UserError: one sentence.
      write: (folder, config, params, tokenizer) → writes into an empty folder all that readers of
        the format want, but no model card. UserError: the format cannot hold the model.
      card: (config, tokenizer or None) → the model card's front matter (YAML lines) and its Python
        example.
      library: (folder that was written, config, tokenizer) → how the format's library reads texts;
        None where no model of the format has any.
      notes: for every model card: what the library does otherwise, a sentence each.
    """

    name: str
    detect: Callable[[Path], bool]
    read: Callable[[Path], Weights]
    write: Callable[[Path, ConfigDict, Any, Tokenizer | None], None]
    card: Callable[[ConfigDict, Tokenizer | None], tuple[str, str]]
    library: Callable[[Path, ConfigDict, Tokenizer], Library] | None = None
    notes: tuple[str, ...] = ()


def weights(
    source: Path,
    family: Family,
    model: ConfigDict,
    tensors: Tensors,
    *,
    tokenizer: Callable[[], Tokenizer] | None = None,
    left: Sequence[str] = (),
    words: Callable[[str | Path], Tokenizer] = load_tokenizer,
    **preprocess: str,
) -> Weights:
    """The `Weights` of a name table: tensors of `family` that make up `config.model`.

    `preprocess` are keys of `config.data.{resize,interpolation}`, `left` and `words` as in
    `Weights`.
    """
    config = ConfigDict({"model": model, "data": entry(PREPROCESS, preprocess)})
    read = functools.partial(family.read, tensors, model, what=f"the weights in {source}")
    return Weights(str(source), config, read, tokenizer, left=left, words=words)


def shapes(model: ConfigDict) -> Any:
    """Shapes and dtypes of the parameters of `config.model`."""
    return jax.tree.map(lambda x: x, _shapes(FrozenConfigDict(model.to_dict())))  # a copy


@functools.lru_cache(maxsize=32)  # an export asks four times, and each takes a second
def _shapes(model: FrozenConfigDict) -> Any:
    module = models.from_config(model.as_configdict())
    return jax.eval_shape(functools.partial(models.init, module), jax.random.key(0))
