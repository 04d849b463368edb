"""What a modality is: it turns one field of a record into columns of the batch."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from ml_collections import ConfigDict

from mmjax.data.draw import Draw
from mmjax.data.records import Record, Source
from mmjax.data.tokenize import Tokenizer
from mmjax.data.workers import Batch
from mmjax.errors import UserError

LoadTokenizer = Callable[[], Tokenizer]
M = TypeVar("M", bound="Modality")


class Column(NamedTuple):
    """The shape of one example, and the dtype."""

    shape: tuple[int, ...]
    dtype: Any


class Modality:
    """Reads what one part of the model is fed. Pickles cheaply: every worker process gets one.

    A subclass has `of`, `columns` and `read`, and is registered under its kind.

    Attributes:
      media: the media of sources (their key `media`) that it reads; (): the one of its kind's name,
        or if there is none of that name, those of any source.
      media_otherwise: media that it also reads where no other part of the model does.
    """

    media: ClassVar[tuple[str, ...]] = ()
    media_otherwise: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def of(
        cls, name: str, spec: Any, data: ConfigDict | None, tokenizer: LoadTokenizer | None
    ) -> "Modality":
        """For one part of a model. `name` names the columns (NAME, NAME_mask, …), `spec` has the
        part's keys, `data` is `config.data` and `tokenizer` loads the run's. For shapes alone these
        two may be None."""
        raise NotImplementedError

    @property
    def columns(self) -> Mapping[str, Column]:
        raise NotImplementedError

    def read(self, record: Record, draw: Draw | None) -> Any:
        """The item of one example, as `batch` takes it: an array, or a tuple of one for each
        column. Without a `draw` (in evaluation) nothing is random. Raises BadRecord."""
        raise NotImplementedError

    def batch(self, items: Sequence[Any], longest: float | None = None) -> Batch:
        """The columns [b, …] of some items; None stands for an example that there is not.

        `longest`: tokens of the longest text in the global batch; None: these are all of it.
        """
        del longest
        blank = tuple(np.zeros(*column) for column in self.columns.values())
        rows = [blank if i is None else i if isinstance(i, tuple) else (i,) for i in items]
        stacked = map(np.stack, zip(*rows, strict=True))
        return dict(zip(self.columns, stacked, strict=True))

    def at(self, length: int) -> "Modality":
        """The modality as it reads for a batch of this sequence length (`data/buckets.py`); most
        know one length alone."""
        del length
        return self

    def blank(self) -> Any:
        """An item of a record that has nothing for it, in training: all zeros, of which nothing is
        padding, so that a tower computes finite numbers."""
        return tuple(
            np.full(shape, dtype == np.bool_, dtype) for shape, dtype in self.columns.values()
        )

    def spelled(self, batch: Batch) -> int:
        """How many texts of a batch spell a special token out, as that of its end."""
        del batch
        return 0

    def counted(self, items: Sequence[Any]) -> Mapping[str, int]:
        """What the run counts of some items of training, by name."""
        del items
        return {}

    def check(self, source: Source, spec: Mapping[str, Any], key: str) -> None:
        """Looks at what `spec`, the config's entry `key`, has opened. UserError: it lacks what is
        read here."""


KINDS: dict[str, type[Modality]] = {}


def register(kind: str) -> Callable[[type[M]], type[M]]:
    """Adds a modality under the name by which parts of models ask for it."""

    def add(modality: type[M]) -> type[M]:
        KINDS[kind] = modality
        return modality

    return add


def medium(kind: str) -> str:
    """The first medium that a kind of modality reads, or the kind itself where it names none."""
    return (*KINDS[kind].media, kind)[0]


def build(
    inputs: Mapping[str, tuple[str, Any]],
    *,
    data: ConfigDict | None = None,
    tokenizer: LoadTokenizer | None = None,
    prefix: str = "",
) -> dict[str, Modality]:
    """Part of the model → the modality that it reads, its columns named PREFIX + part.

    `inputs` are of `models.inputs`: part → (kind of modality, keys of the part); `data` and
    `tokenizer` as of `Modality.of`. UserError: there is no such kind.
    """
    for name, (kind, _) in inputs.items():
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.0)[0]
            raise UserError(f"config.model.{name}: no modality {kind!r}; the nearest is {near!r}.")
    return {
        name: KINDS[kind].of(prefix + name, spec, data, tokenizer)
        for name, (kind, spec) in inputs.items()
    }
