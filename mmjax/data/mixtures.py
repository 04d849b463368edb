"""Mixtures of sources that show different things, such as images with texts and sounds with texts.

Where a source has nothing for a part of the model, the part sees a blank row, and a column
PART_there says so: objectives leave such rows out. Which source lacks what follows from the config
alone, so that shapes are known before data is read; a record that cannot be read is another matter,
and is replaced as ever.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmjax.data.draw import Draw
from mmjax.data.modalities import Column, Modality
from mmjax.data.modalities.base import KINDS
from mmjax.data.records import Record
from mmjax.data.sources import KEYS
from mmjax.data.workers import Batch
from mmjax.schema import find

Inputs = Mapping[str, tuple[str, Any]]  # of `models.inputs`: part → (kind of modality, its keys)
Sources = Mapping[str, Mapping[str, Any]]  # config.data.train


def lacking(inputs: Inputs, sources: Sources) -> dict[str, frozenset[str]]:
    """Part → the names of the sources whose records have nothing for it.

    Parts for which every source has something are left out, and those for which none has: what is
    wrong then is said of each source (`Modality.check`).
    """
    found = {}
    for part in inputs:
        without = frozenset(n for n, spec in sources.items() if not _feeds(spec, part, inputs))
        if 0 < len(without) < len(sources):
            found[part] = without
    return found


def media_of(kind: str) -> tuple[str, ...]:
    """The media of sources (their key `media`) that a kind of modality reads; () if it reads what
    any source may have."""
    return KINDS[kind].media or tuple({kind} & {*find(KEYS, "media").choices})


def _feeds(spec: Mapping[str, Any], part: str, inputs: Inputs) -> bool:
    """Whether a source has something for a part."""
    if part in spec.get("without", ()):
        return False
    kind = inputs[part][0]
    media = media_of(kind)
    if not media:
        return True
    shown = "" if spec.get("kind") == "text" else spec.get("media", "image")
    of_others = {m for name, (kind, _) in inputs.items() if name != part for m in media_of(kind)}
    return shown in media or (shown in KINDS[kind].media_otherwise and shown not in of_others)


def in_mixture(
    modalities: Mapping[str, Modality], sources: Sources, inputs: Inputs
) -> list[Modality]:
    """The modalities of a model's parts, each as it reads a mixture of these sources."""
    without = lacking(inputs, sources)
    names = sorted(sources)  # the order of `open_sources`
    return [
        AtTimes(modality, part, frozenset(names.index(name) for name in without[part]))
        if part in without
        else modality
        for part, modality in modalities.items()
    ]


@dataclass(frozen=True)
class AtTimes(Modality):
    """A modality that some sources have nothing for: its columns, and bool [] NAME_there.

    Attributes:
      of_others: what reads the other sources.
      name: of the part of the model.
      without: the numbers of the sources that have nothing.
    """

    of_others: Modality
    name: str
    without: frozenset[int]

    @property
    def columns(self) -> Mapping[str, Column]:
        return {f"{self.name}_there": Column((), np.bool_), **self.of_others.columns}

    def read(self, record: Record, draw: Draw | None) -> Any:
        if draw is not None and draw.address.source in self.without:
            return None
        return self.of_others.read(record, draw)

    def batch(self, items: Sequence[Any], longest: float | None = None) -> Batch:
        there = np.array([item is not None for item in items])
        blank = self.of_others.blank()
        shown = self.of_others.batch([blank if i is None else i for i in items], longest)
        return {f"{self.name}_there": there, **shown}  # a bag has such a column of its own

    def at(self, length: int) -> "AtTimes":
        return replace(self, of_others=self.of_others.at(length))

    def spelled(self, batch: Batch) -> int:
        return self.of_others.spelled(batch)

    def counted(self, items: Sequence[Any]) -> Mapping[str, int]:
        return self.of_others.counted([item for item in items if item is not None])
