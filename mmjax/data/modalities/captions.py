"""Bags of captions: several texts of one record, as MIL-NCE reads them (Miech et al., 2020)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data.draw import Draw
from mmjax.data.modalities.base import Column, LoadTokenizer, register
from mmjax.data.modalities.text import Text
from mmjax.data.records import BadRecord, Record
from mmjax.data.workers import Batch


@register("captions")
@dataclass(frozen=True, eq=False)
class Captions(Text):
    """The first `bag` captions of a record, in their order, as NAME, int32 [bag, length], and
    NAME_mask, bool [bag, length].

    NAME_there, bool [bag], is False where a record has fewer: there is an empty text, which an
    objective leaves out. A caption repeated in its place would count twice.
    """

    bag: int = 1

    @classmethod
    def of(
        cls, name: str, spec: Any, data: ConfigDict | None, tokenizer: LoadTokenizer | None
    ) -> "Captions":
        lengths = tuple(data.text_lengths) if data else ()
        return cls(name, spec.context_length, tokenizer and tokenizer(), lengths, bag=spec.bag)

    @property
    def columns(self) -> Mapping[str, Column]:
        rows = {n: Column((self.bag, *c.shape), c.dtype) for n, c in super().columns.items()}
        return rows | {f"{self.name}_there": Column((self.bag,), np.bool_)}

    def read(self, record: Record, draw: Draw | None) -> Any:
        if draw is not None and not record.captions:
            raise BadRecord(f"{record.key} is without a caption")
        return record.captions[: self.bag]

    def batch(self, items: Sequence[Any], longest: float | None = None) -> Batch:
        bags = [tuple(item or ()) for item in items]
        texts = [text for bag in bags for text in bag + ("",) * (self.bag - len(bag))]
        columns = super().batch(texts, longest)
        rows = {n: x.reshape(len(bags), self.bag, *x.shape[1:]) for n, x in columns.items()}
        there = np.arange(self.bag) < np.array([[len(bag)] for bag in bags], np.int64)
        return rows | {f"{self.name}_there": there}

    def blank(self) -> Any:
        return ()

    def spelled(self, batch: Batch) -> int:
        return super().spelled({n: batch[n].reshape(-1, batch[n].shape[-1])
                                for n in (self.name, f"{self.name}_mask")})  # fmt: skip
