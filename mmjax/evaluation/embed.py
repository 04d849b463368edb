"""What evaluators embed: the records of a source, and texts, each by a part of the model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmjax import inference, models
from mmjax.data import Source, Tokenizer, eval_batches, modalities
from mmjax.data.modalities import Modality
from mmjax.errors import UserError
from mmjax.evaluation.progress import track
from mmjax.evaluation.skips import report_unreadable
from mmjax.evaluation.spec import Subject
from mmjax.inference import Columns
from mmjax.models import Graph
from mmjax.models.towers.text import ignores_padding


@dataclass(frozen=True)
class Embedder:
    """Embeds records and texts with a model, `batch_size` at a time over all devices.

    Attributes:
      model: the parts that embed give "PART/embed".
      tokenizer: None if there is none.
      batch_size: rounded up to a multiple of the devices that share it.
      reads: part → the modality by which it reads a record.
      workers: processes that load data; 0: threads.
      allow_skips: leave out records that cannot be read, counted.
    """

    model: Graph
    tokenizer: Tokenizer | None
    batch_size: int
    # Texts do not depend on it: evaluators of the same class names share their classifier.
    reads: tuple[tuple[str, Modality], ...] = field(compare=False)
    workers: int
    allow_skips: bool

    @classmethod
    def of(cls, spec: Any, subject: Subject) -> "Embedder":
        """For an evaluator with the keys `spec`."""
        words = subject.tokenizer
        read = modalities.build(
            models.inputs(subject.architecture),
            data=subject.data,
            tokenizer=(lambda: words) if words else None,
        )
        return cls(
            model=subject.model,
            tokenizer=subject.tokenizer,
            batch_size=spec.batch_size,
            reads=tuple(read.items()),
            workers=subject.data.workers,
            allow_skips=spec.allow_skips,
        )

    def records(self, params: Any, source: Source, part: str) -> tuple[Columns, dict[str, float]]:
        """Embeds all records of a source in order, by a part of the model.

        Returns:
          PART/embed float32 [N, D], label int32 [N] and index int32 [N] (the record's number) of
          the records that can be read; and with `allow_skips` how many are left out, as "skipped".

        Raises:
          UserError: some cannot, and may not be skipped; on every host, after all were tried.
        """
        output, reads = f"{part}/embed", dict(self.reads)
        if output not in self.model.outputs() or part not in reads:
            raise UserError(f"this model has no part {part!r} that embeds what it reads.")
        size, rows = inference.global_batch(self.batch_size)
        batches: Iterable[Columns] = eval_batches(
            source, (reads[part],), batch_size=size, rows=rows, workers=self.workers
        )
        batches = track(batches, len(source), size, f"{source.name}: {part}")
        columns = inference.run(self.model, params, batches, (output,), size)
        unreadable = columns.pop("unreadable")
        numbers = columns["index"][unreadable]
        skipped = report_unreadable(source, numbers, (reads[part],), self.allow_skips)
        kept = {name: value[~unreadable] for name, value in columns.items()}
        return kept, {"skipped": float(skipped)} if self.allow_skips else {}

    def texts(self, params: Any, tokens: Columns, part: str = "text") -> np.ndarray:
        """float32 [N, D] of what `tokenize` returned for the same part."""
        size, rows = inference.global_batch(self.batch_size)
        batches = track(inference.cut(tokens, size, rows), len(tokens[part]), size, "texts")
        return inference.run(self.model, params, batches, (f"{part}/embed",), size)[f"{part}/embed"]

    def tokenize(self, texts: Sequence[str], part: str = "text") -> Columns:
        """The columns PART int32 and PART_mask bool [N, L] of texts, the same on every host.

        L is the full context, or for a tower that does not look at padding what the longest of the
        texts needs, rounded up to a multiple of 8: the same embeddings for less.
        """
        if f"{part}/embed" not in self.model.outputs() or self.tokenizer is None:
            lacks = "tokenizer" if f"{part}/embed" in self.model.outputs() else f"part {part!r}"
            raise UserError(
                f"this model has no {lacks}, which texts need; probe and knn need none."
            )
        tower = self.model.module(part)
        text, mask = self.tokenizer.encode(texts, tower.context_length)
        length, longest = tower.context_length, int(mask.sum(axis=1).max())
        if ignores_padding(tower):
            length = min(-(-longest // 8) * 8, length)
        return {part: text[:, :length], f"{part}_mask": mask[:, :length]}
