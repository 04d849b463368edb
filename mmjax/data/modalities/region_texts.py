"""A caption, and one region of the image with what is said of it, as LocCa reads them (Wan et al.,
2024): `ARef: text : box` asks where something is, and `GCap: box : text` what is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from mmjax.data.augment import Augment
from mmjax.data.boxes import VISIBLE, Boxes, in_pixels, read_box, seen_in, spell
from mmjax.data.draw import Draw
from mmjax.data.images import MAX_PIXELS, Resize, check_size, eval_view, image_shape
from mmjax.data.modalities.base import Column, LoadTokenizer, register
from mmjax.data.modalities.image import drawn_crop
from mmjax.data.modalities.text import Text
from mmjax.data.records import BadRecord, Record
from mmjax.data.tokenize import Tokenizer
from mmjax.data.workers import Batch
from mmjax.errors import UserError

REFER, DESCRIBE, BETWEEN = "ARef:", "GCap:", ":"
TRIED = ((0.0, 0.02, 0.2, 0.998), (0.1, 0.5, 0.75, 0.9))  # boxes that a tokenizer should give back


class Item(NamedTuple):
    """A caption and a region with its box as shares of what is shown, None where there is none; and
    how many boxes the record has, and how many of them the crop cut and dropped."""

    caption: str | None
    region: tuple[str, tuple[float, ...]] | None
    boxes: int = 0
    cut: int = 0
    dropped: int = 0


@register("region_texts")
@dataclass(frozen=True, eq=False)
class RegionTexts(Text):
    """A caption as of `Text`, and NAME_regions, int32 [2, length], with NAME_regions_mask, bool [2,
    length]: the texts ARef and GCap of one of the regions that are in the crop, by chance in
    training, the first in evaluation.

    NAME_given, int32 [3], says of caption, ARef and GCap how many tokens are given and not to be
    predicted: the start and the prefix; or `length` where there is no such text.

    Boxes move with the image. One of which the crop shows less than VISIBLE is dropped, another is
    cut at its edges. Over-long texts are cut, boxes never are.
    """

    augment: Augment = field(default_factory=Augment)
    max_pixels: int = MAX_PIXELS
    resize: Resize = "shortest"

    @classmethod
    def of(
        cls, name: str, spec: Any, data: ConfigDict | None, tokenizer: LoadTokenizer | None
    ) -> "RegionTexts":
        words = tokenizer and tokenizer()
        if words:
            check_tokenizer(words, name, spec.context_length)
        if data is None:
            return cls(name, spec.context_length, words)
        return cls(
            name, spec.context_length, words, tuple(data.text_lengths),
            augment=Augment(**data.augment), max_pixels=data.max_pixels, resize=data.resize,
        )  # fmt: skip

    @property
    def columns(self) -> Mapping[str, Column]:
        pair = (2, self.length)
        return {
            **super().columns,
            f"{self.name}_regions": Column(pair, np.int32),
            f"{self.name}_regions_mask": Column(pair, np.bool_),
            f"{self.name}_given": Column((3,), np.int32),
        }

    def read(self, record: Record, draw: Draw | None) -> Item:
        captions = record.captions
        caption = draw.caption if draw else captions[0] if captions else None
        if "boxes" not in record.parts:
            if caption is None and draw:
                raise BadRecord(f"{record.key} is without a caption and without regions")
            return Item(caption, None)
        boxes = record.parts["boxes"]
        try:
            found, visible = seen_in(*self.view(record.part("image"), boxes, draw))
        except BadRecord as error:
            raise BadRecord(f"{record.key} {error}") from error
        kept = np.flatnonzero(visible >= VISIBLE)
        cut = int((visible[kept] < 1 - 1e-9).sum())
        counts = len(visible), cut, len(visible) - len(kept)
        if not len(kept):
            return Item(caption, None, *counts)
        # Parts that differ in their tokens show the same region.
        chosen = 0 if draw is None else draw.once("region", lambda: _one_of(draw, len(kept)))
        number = int(kept[chosen])
        return Item(caption, (boxes.texts[number], tuple(found[number].tolist())), *counts)

    def view(self, image: Any, boxes: Boxes, draw: Draw | None) -> tuple[np.ndarray, np.ndarray]:
        """The boxes in pixels of the image [n, 4], and what of it is shown, 3 × 3. BadRecord."""
        if draw is not None:
            crop = drawn_crop(image, draw, self.augment, self.max_pixels)
            return in_pixels(boxes, *crop.image_shape), crop.to_image
        if isinstance(image, bytes):
            check_size(image, self.max_pixels)
        shape = image_shape(image)
        return in_pixels(boxes, *shape), eval_view(*shape, self.resize)

    def batch(self, items: Sequence[Any], longest: float | None = None) -> Batch:
        items = [Item(None, None) if item is None else item for item in items]
        columns = super().batch([item.caption or "" for item in items], longest)
        said = [item.region[0] if item.region else "" for item in items]
        boxes = [item.region[1] if item.region else (0.0,) * 4 for item in items]
        ids, mask = zip(
            refer(self.tokenizer, said, boxes, self.length),
            describe(self.tokenizer, said, boxes, self.length),
            strict=True,
        )
        there = [[item.caption is not None, *(item.region is not None,) * 2] for item in items]
        return columns | {
            f"{self.name}_regions": np.stack(ids, axis=1),
            f"{self.name}_regions_mask": np.stack(mask, axis=1),
            f"{self.name}_given": np.where(there, given(self.tokenizer), self.length).astype(
                np.int32
            ),
        }

    def counted(self, items: Sequence[Any]) -> Mapping[str, int]:
        boxes, cut, dropped = np.sum([(0, 0, 0), *(item[2:] for item in items)], axis=0).tolist()
        return {"boxes": boxes, "boxes_cut": cut, "boxes_dropped": dropped}

    def blank(self) -> Any:
        return Item(None, None)


def refer(
    tokenizer: Tokenizer, texts: Sequence[str], boxes: Sequence[Sequence[float]] | None, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """`ARef: text : box` as ids int32 [n, length] and their mask bool [n, length]; without `boxes`
    up to the second colon: what is given to a model that is to say the box."""
    first, between = tokenizer.ids([REFER, BETWEEN])
    spelled = [[]] * len(texts) if boxes is None else tokenizer.ids([spell(box) for box in boxes])
    # Room is left for the longest box, so that a text is cut alike with and without one.
    most = tokenizer.room(length) - len(first) - len(between) - most_tokens(tokenizer)
    rows = [[*first, *said[:most], *between, *box]
            for said, box in zip(tokenizer.ids(texts), spelled, strict=True)]  # fmt: skip
    return tokenizer.rows(rows, length)


def describe(
    tokenizer: Tokenizer, texts: Sequence[str], boxes: Sequence[Sequence[float]], length: int
) -> tuple[np.ndarray, np.ndarray]:
    """`GCap: box : text` as of `refer`."""
    first, between = tokenizer.ids([DESCRIBE, BETWEEN])
    spelled = tokenizer.ids([spell(box) for box in boxes])
    rows = [[*first, *box, *between, *said]
            for said, box in zip(tokenizer.ids(texts), spelled, strict=True)]  # fmt: skip
    return tokenizer.rows(rows, length)


def given(tokenizer: Tokenizer) -> tuple[int, ...]:
    """How many tokens of a caption, ARef and GCap are given: the start, and the prefix of two."""
    start = int(tokenizer.start_id is not None)
    return 1, *(start + len(ids) for ids in tokenizer.ids([REFER, DESCRIBE]))


def most_tokens(tokenizer: Tokenizer) -> int:
    """Tokens of the longest box."""
    return max(map(len, tokenizer.ids([spell((side,) * 4) for side in (0.0, 0.5, 0.999)])))


def check_tokenizer(tokenizer: Tokenizer, name: str, length: int) -> None:
    """UserError: it does not keep boxes as they are spelled, or there is no room for one."""
    for box, ids in zip(TRIED, tokenizer.ids([spell(box) for box in TRIED]), strict=True):
        back = read_box(tokenizer.text(ids))
        if back is None or spell(back) != spell(box):
            raise UserError(
                f"config.model.{name}.boxes: the tokenizer reads the box {spell(box)} and gives "
                f"back {tokenizer.text(ids)!r}: take one that keeps digits, commas and brackets."
            )
    prefix = max(len(ids) for ids in tokenizer.ids([REFER, DESCRIBE]))
    least = prefix + len(tokenizer.ids([BETWEEN])[0]) + most_tokens(tokenizer) + 1
    if (room := tokenizer.room(length)) < least:
        raise UserError(
            f"config.model.{name}.context_length={length} has no room for a box and a text: set it "
            f"to {length + least - room} or more."
        )


def _one_of(draw: Draw, count: int) -> int:
    return int(draw.rng("region").integers(count))
