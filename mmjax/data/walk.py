"""Batches for evaluation: every record of a source once, in order, nothing random, nothing skipped.

The last batch is padded with rows whose `mask` is False; every host yields the same number of
batches, each its own rows. What cannot be read is marked and not raised: the other hosts, which
read other rows, have to hear of it.
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from mmjax.data.examples import group_of
from mmjax.data.images import eval_transform, open_image
from mmjax.data.records import BadRecord, Source
from mmjax.data.segments import NO_SEGMENTS, Segments
from mmjax.data.tokenize import Tokenizer
from mmjax.data.workers import Batch, read_ahead

PREFETCH = 4


def eval_batches(
    source: Source,
    *,
    image_size: int | None,
    tokenizer: Tokenizer | None,
    text_length: int,
    batch_size: int,
    rows: np.ndarray,
    workers: int = 0,
    resize: str = "shortest",
    interpolation: str = "bicubic",
    segments: Segments = NO_SEGMENTS,
) -> Generator[Batch]:
    """All records in order.

    Args:
      source: what to walk.
      image_size: side of the images; None leaves out `image` and decodes nothing.
      tokenizer: for the captions; None leaves out `text` and `text_mask`.
      text_length: columns of `text`.
      batch_size: rows of the global batch.
      rows: the rows of the global batch to load here.
      workers: worker processes; 0 reads with threads.
      resize, interpolation: how a picture comes to its size, as of `eval_transform`.
      segments: tags and regions that the model reads; its regions are then yielded, too.

    Yields:
      image uint8 [b, S, S, 3]; text int32 and text_mask bool [b, L]: the record's first caption,
      all padding if it has none; label int32 [b], -1 if there is none; group int32 [b], the
      record's, or without one a negative number of its own; index int32 [b], the record's number;
      mask bool [b], False on padding rows; unreadable bool [b], True where the record cannot be
      read or decoded (its image is black): see `why_unreadable`.
    """
    load = _EvalBatch(
        source, image_size, tokenizer, text_length, batch_size, np.asarray(rows),
        {"resize": resize, "interpolation": interpolation}, segments,
    )  # fmt: skip
    steps = -(-len(source) // batch_size)
    return read_ahead(load, 0, steps, workers=workers, prefetch=PREFETCH)


def why_unreadable(source: Source, number: int) -> str:
    """What is wrong with a record that was unreadable, by name."""
    try:
        record = source[number]
        if record.regions is not None:
            Segments.parse(record)
    except BadRecord as error:
        return str(error)
    if record.regions is None:
        try:
            open_image(record.image)
        except BadRecord as error:
            return f"{record.key} {error}"
    return f"{record.key} could not be read a moment ago"


@dataclass
class _EvalBatch:
    """step → batch; what each worker process holds."""

    source: Source
    image_size: int | None
    tokenizer: Tokenizer | None
    text_length: int
    batch_size: int
    rows: np.ndarray
    fit: dict[str, str]
    segments: Segments

    def __call__(self, step: int) -> Batch:
        numbers = step * self.batch_size + self.rows
        mask = numbers < len(self.source)
        batch = {
            "label": np.full(len(numbers), -1, np.int32),
            "group": np.full(len(numbers), -1, np.int32),
            "index": np.where(mask, numbers, 0).astype(np.int32),
            "mask": mask,
            "unreadable": np.zeros(len(numbers), bool),
        }
        if self.image_size is not None:
            shape = (len(numbers), self.image_size, self.image_size, 3)
            batch["image"] = np.zeros(shape, np.uint8)
        if self.segments.regions:
            count, width = self.segments.regions, self.segments.width
            batch["regions"] = np.zeros((len(numbers), count, width), np.float32)
            batch["regions_mask"] = np.zeros((len(numbers), count), bool)
        captions, tags = [""] * len(numbers), [""] * len(numbers)
        for row in np.flatnonzero(mask):
            number = int(numbers[row])
            try:
                record = self.source[number]
                if self.image_size is not None:
                    image = open_image(record.image)
                    batch["image"][row] = eval_transform(image, self.image_size, **self.fit)
                if self.segments.regions:
                    found = self.segments.read(record)
                    batch["regions"][row], batch["regions_mask"][row] = found
            except BadRecord:
                batch["unreadable"][row] = True
                continue
            tags[row] = record.tags
            batch["label"][row] = record.label
            batch["group"][row] = group_of(record, number)
            captions[row] = record.captions[0] if record.captions else ""
        if self.tokenizer is not None:
            text, mask = self.segments.encode(self.tokenizer, captions, tags, self.text_length)
            absent = np.array([not caption for caption in captions])  # rows of padding
            text[absent], mask[absent] = self.tokenizer.pad_id, False
            batch |= {"text": text, "text_mask": mask}
        return batch
