"""Object tags behind a caption, in one row of tokens, as Oscar has them (Li et al., 2020).

[start] caption… [end] padding, tags… [end] padding: the tags begin at a fixed position.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data.draw import Draw
from mmjax.data.modalities.base import LoadTokenizer, register
from mmjax.data.modalities.text import Text
from mmjax.data.records import Record, Source
from mmjax.data.workers import Batch
from mmjax.errors import UserError


@register("tags")
@dataclass(frozen=True, eq=False)
class Tags(Text):
    """A caption and, in the last `tags` tokens of the row, the field "tags" of the record."""

    tags: int = 0

    @classmethod
    def of(
        cls, name: str, spec: Any, data: ConfigDict | None, tokenizer: LoadTokenizer | None
    ) -> "Tags":
        return cls(name, spec.context_length, tokenizer and tokenizer(), tags=spec.tags)

    def read(self, record: Record, draw: Draw | None) -> Any:
        caption = super().read(record, draw)
        return None if caption is None else (caption, record.parts.get("tags", ""))

    def tokens(self, items: Sequence[Any], length: int) -> tuple[np.ndarray, np.ndarray]:
        captions, tags = ([item[number] for item in items] for number in (0, 1))
        text, mask = self.tokenizer.encode(captions, length - self.tags)
        start = int(self.tokenizer.start_id is not None)  # it stands before the caption alone
        more, there = self.tokenizer.encode(tags, self.tags + start)
        text = np.concatenate([text, more[:, start:]], axis=1)
        mask = np.concatenate([mask, there[:, start:]], axis=1)
        return text, mask

    def blank(self) -> Any:
        return "", ""

    def spelled(self, batch: Batch) -> int:
        return 0  # there are end tokens inside of every row

    def check(self, source: Source, spec: Mapping[str, Any], key: str) -> None:
        if not spec.get("tags"):
            raise UserError(
                f"config.model.{self.name}.tags={self.tags} wants object tags: set {key}.tags to "
                "where they are, e.g. json:tags."
            )
