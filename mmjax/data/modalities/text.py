"""Texts: one of a record's captions as token ids, trimmed to a few fixed lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data import packing
from mmjax.data.draw import Draw
from mmjax.data.modalities.base import Column, LoadTokenizer, Modality, register
from mmjax.data.records import BadRecord, Record
from mmjax.data.workers import Batch


@register("text")
@dataclass(frozen=True, eq=False)
class Text(Modality):
    """A caption as NAME, int32 [length], and NAME_mask, bool [length]: in training one of the
    record's, in evaluation its first. An example without one is a row of padding.

    `lengths`: those that a batch is trimmed to, the smallest that holds its longest text; `pack`:
    texts a row, told apart by NAME_segment, int32 [length]; 0: one, and no such column.
    """

    name: str
    length: int
    tokenizer: Any  # a Tokenizer; None: for shapes alone
    lengths: tuple[int, ...] = ()
    pack: int = 0

    @classmethod
    def of(
        cls, name: str, spec: Any, data: ConfigDict | None, tokenizer: LoadTokenizer | None
    ) -> "Text":
        lengths, pack = (tuple(data.text_lengths), data.pack) if data else ((), 0)
        return cls(name, spec.context_length, tokenizer and tokenizer(), lengths, pack)

    @property
    def columns(self) -> Mapping[str, Column]:
        row = (self.length,)
        columns = {self.name: Column(row, np.int32), f"{self.name}_mask": Column(row, np.bool_)}
        return columns | ({f"{self.name}_segment": Column(row, np.int32)} if self.pack else {})

    def read(self, record: Record, draw: Draw | None) -> Any:
        if draw is None:
            return record.captions[0] if record.captions else None
        if draw.caption is None:
            raise BadRecord(f"{record.key} is without a caption")
        return draw.caption

    def tokens(self, items: Sequence[Any], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids int32 [n, length] and their mask bool [n, length] of what `read` gave."""
        return self.tokenizer.encode(items, length)

    def batch(self, items: Sequence[Any], longest: float | None = None) -> Batch:
        text, mask = self._rows(items, self.length)
        if self.lengths:
            most = mask.sum(axis=1).max() if longest is None else longest
            length = min((n for n in self.lengths if n >= most), default=self.length)
            if mask[:, length:].any():  # another record stands in, and its text is longer
                text, mask = self._rows(items, length)
            text, mask = (np.ascontiguousarray(x[:, :length]) for x in (text, mask))
        return {self.name: text, f"{self.name}_mask": mask}

    def blank(self) -> Any:
        return ""  # a start and an end: no tower divides by a length of 0

    def spelled(self, batch: Batch) -> int:
        return int(self.tokenizer.spelled(batch[self.name], batch[f"{self.name}_mask"]).sum())

    def packed(self, items: Sequence[Any], rows: int) -> tuple[Batch, int]:
        """The columns of texts that share `rows` rows; and how many found no room."""
        found = packing.pack(*self._rows(items, self.length), rows, self.tokenizer.pad_id)
        return dict(zip(self.columns, found[:3], strict=True)), found.left_out

    def _rows(self, items: Sequence[Any], length: int) -> tuple[np.ndarray, np.ndarray]:
        """`tokens`, and rows of padding where there is no item."""
        text = np.full((len(items), length), self.tokenizer.pad_id, np.int32)
        mask, there = np.zeros(text.shape, bool), [item is not None for item in items]
        text[there], mask[there] = self.tokens([i for i in items if i is not None], length)
        return text, mask
