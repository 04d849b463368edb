"""What evaluators embed: the records of a source, and texts, each by a part of the model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmjax import inference, models
from mmjax.data import Source, Tokenizer, eval_batches, modalities
from mmjax.data.modalities import Modality, Views
from mmjax.errors import UserError
from mmjax.evaluation.progress import track
from mmjax.evaluation.skips import report_unreadable
from mmjax.evaluation.spec import Subject
from mmjax.inference import Columns
from mmjax.models import Graph
from mmjax.models.towers.text import ignores_padding

SCALE = "logit/scale"


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

    def records(
        self,
        params: Any,
        source: Source,
        part: str,
        views: Views | None = None,
        against: tuple[str, np.ndarray] | None = None,
    ) -> tuple[Columns, dict[str, float]]:
        """Embeds all records of a source in order, by a part of the model.

        Args:
          params: parameters of the model.
          source: the records.
          part: of the model.
          views: what is read of a record instead of what the part reads. Each view is a row of a
            batch, and PART/embed is float32 [N, views, D].
          against: see `beside`; the cosines stand for PART/embed then, and D is K.

        Returns:
          PART/embed float32 [N, D], label int32 [N] and index int32 [N] (the record's number) of
          the records that can be read; and with `allow_skips` how many are left out, as "skipped".

        Raises:
          UserError: some cannot, and may not be skipped; on every host, after all were tried.
        """
        output, reads = f"{part}/embed", dict(self.reads)
        if output not in self.model.outputs() or part not in reads:
            raise UserError(f"this model has no part {part!r} that embeds what it reads.")
        read, each = views or reads[part], views.count if views else 1
        size, rows = inference.global_batch(-(-self.batch_size // each))
        batches: Iterable[Columns] = eval_batches(
            source, (read,), batch_size=size, rows=rows, workers=self.workers
        )
        batches = track(batches, len(source), size, f"{source.name}: {part}")
        if views:
            batches = map(views.apart, batches)
        if against:
            of = (part, against[0])
            columns = inference.cosines(self.model, params, batches, against[1], size * each, of)
            columns[output] = columns.pop("cosine")
        else:
            columns = inference.run(self.model, params, batches, (output,), size * each)
        if views:
            columns = views.together(columns, output)
        unreadable = columns.pop("unreadable")
        numbers = columns["index"][unreadable]
        skipped = report_unreadable(source, numbers, (read,), self.allow_skips)
        kept = {name: value[~unreadable] for name, value in columns.items()}
        return kept, {"skipped": float(skipped)} if self.allow_skips else {}

    def beside(
        self,
        params: Any,
        source: Source,
        of: tuple[str, str],
        texts: np.ndarray,
        views: Views | None = None,
    ) -> tuple[Columns, np.ndarray, dict[str, float]]:
        """Records as `records` gives them, and texts to multiply them with: the products are
        cosines.

        Where the model has another text for each record (`Graph.conditioned`), a record is float32
        [K], its cosines with K texts as it has them, and a text a unit vector of as many.

        Args:
          of: the parts of records and texts.
          texts: what `texts` gave, float [K, D]; of such a model also [K, M, D], M texts of a class
            each, which is their mean.
        """
        if not self.conditions(of[1]):
            records, skipped = self.records(params, source, of[0], views)
            return records, texts, skipped
        features = texts if texts.ndim == 3 else texts[:, None]
        records, skipped = self.records(params, source, of[0], views, (of[1], features))
        return records, np.eye(len(texts), dtype=np.float32), skipped

    def conditions(self, part: str) -> bool:
        """Whether texts of this part depend on the record that they are compared with."""
        return f"{part}/embed" in self.model.conditioned()

    def scale(self, params: Any) -> float:
        """The scale of the model's logits, which it must give."""
        found: Any = self.model.apply({"params": params}, {}, (SCALE,))
        return float(found[SCALE])

    def texts(self, params: Any, tokens: Columns, part: str = "text") -> np.ndarray:
        """float32 [N, D] of what `tokenize` returned for the same part: embeddings, or where these
        depend on the record, the features that all have in common."""
        size, rows = inference.global_batch(self.batch_size)
        batches = track(inference.cut(tokens, size, rows), len(tokens[part]), size, "texts")
        output = f"{part}/{'features' if self.conditions(part) else 'embed'}"
        return inference.run(self.model, params, batches, (output,), size)[output]

    def tokenize(self, texts: Sequence[str], part: str = "text") -> Columns:
        """The columns PART int32 and PART_mask bool [N, L] of texts, the same on every host.

        L is the full context, or for a tower that does not look at padding what the longest of the
        texts needs, rounded up to a multiple of 8: the same embeddings for less.
        """
        embeds = f"{part}/embed" in self.model.outputs() or self.conditions(part)
        if not embeds or self.tokenizer is None:
            lacks = "tokenizer" if embeds else f"part {part!r}"
            raise UserError(
                f"this model has no {lacks}, which texts need; probe and knn need none."
            )
        tower = self.model.module(part)
        text, mask = self.tokenizer.encode(texts, tower.context_length)
        length, longest = tower.context_length, int(mask.sum(axis=1).max())
        if ignores_padding(tower):
            length = min(-(-longest // 8) * 8, length)
        return {part: text[:, :length], f"{part}_mask": mask[:, :length]}
