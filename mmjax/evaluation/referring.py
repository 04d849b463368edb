"""Referring expressions: where is what a text says? The box that the model spells, greedily, after
`ARef: text :` is right if its intersection over union with the true one is 0.5 or more (RefCOCO's
Acc@0.5, Yu et al., 2016)."""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mmjax import inference, models
from mmjax.data import BadRecord, Record, Source, eval_batches, modalities
from mmjax.data.boxes import in_image, overlap, read_box
from mmjax.data.modalities.region_texts import RegionTexts, refer
from mmjax.errors import UserError
from mmjax.evaluation.bootstrap import estimates
from mmjax.evaluation.progress import track
from mmjax.evaluation.skips import NAMED, REMEDY, open_test, report_unreadable
from mmjax.evaluation.spec import Evaluation, Subject
from mmjax.inference import Columns, on_mesh
from mmjax.models.fusion import Fusion

RIGHT = 0.5  # intersection over union
log = logging.getLogger("mmjax.evaluation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReferringKeys(Evaluation):
    """The keys of the kind "referring".

    Attributes:
      of: The decoder, a fusion of the image and of texts with boxes=True; '' is the one that the
        model has.
    """

    of: str = ""


@dataclasses.dataclass(frozen=True)
class Expressions:
    """A source of which each record is there once for each of its regions.

    Attributes:
      source: whose regions they are.
      owners: int [M], the number of the record of each.
    """

    source: Source
    owners: np.ndarray

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def skipped(self) -> dict[str, int]:
        return {}

    def __len__(self) -> int:
        return len(self.owners)

    def __getitem__(self, index: int) -> Record:
        return self.source[int(self.owners[index])]

    def captions(self, index: int) -> tuple[str, ...]:
        return self.source.captions(int(self.owners[index]))


class Referring:
    """Box accuracy of referring expressions."""

    metrics = ("accuracy", "mean_iou", "spelled", "expressions", "images")

    def __init__(self, name: str, spec: Any, subject: Subject):
        self._model, self._workers = subject.model, subject.data.workers
        self._of, (self._image, text) = decoder_of(subject, spec.of, name)
        if subject.tokenizer is None:
            raise UserError(f"evals.{name}: the model reads texts, and has no tokenizer.")
        self._tokenizer, self._batch_size = subject.tokenizer, spec.batch_size
        read = modalities.build(
            models.inputs(subject.architecture), data=subject.data,
            tokenizer=lambda: self._tokenizer,
        )  # fmt: skip
        self._modality, regions = read[self._image], read[text]
        assert isinstance(regions, RegionTexts)  # decoder_of
        source = open_test(spec, name)
        self._skipped = {"skipped": 0.0} if spec.allow_skips else {}
        said, owners = list[str](), list[int]()
        boxes, views = list[np.ndarray](), list[np.ndarray]()
        for number, record in self._records(source, spec.allow_skips):
            found = record.parts["boxes"]
            try:
                pixels, to_image = regions.view(record.part("image"), found, None)
            except BadRecord as error:
                self._skip(source, f"{record.key} {error}", spec.allow_skips)
                continue
            said += found.texts
            owners += [number] * len(pixels)
            boxes.append(pixels)
            views += [to_image] * len(pixels)
        if not said:
            raise UserError(
                f"evals.{name}: no record of {source.name} has regions: set boxes to where they "
                "are, or path to data that has some, as RefCOCO."
            )
        self._source = Expressions(source, np.array(owners))
        self._boxes, self._views = np.concatenate(boxes), np.stack(views)
        self._prompts, mask = refer(self._tokenizer, said, None, regions.length)
        # What ends a text is no part of its beginning.
        self._given = mask.sum(axis=1) - self._tokenizer.ends

    def __call__(self, params: Any) -> dict[str, float]:
        """ "accuracy" at an overlap of 0.5, "mean_iou" and "spelled", the share of outputs that are
        a box, with intervals that draw images; the numbers of "expressions" and "images"."""
        with on_mesh(params) as params:
            size, rows = inference.global_batch(self._batch_size)
            batches = eval_batches(
                self._source, (self._modality,), batch_size=size, rows=rows, workers=self._workers
            )
            shown = track(map(self._asked, batches), len(self._source), size, self._source.name)
            found = inference.say(
                self._model, params, shown, size, of=self._of, reads=self._image,
                end_id=self._tokenizer.eot_id,
            )  # fmt: skip
        unreadable = found["unreadable"]
        bad = np.unique(self._source.owners[found["index"][unreadable]])
        source, allowed = self._source.source, bool(self._skipped)
        skipped = report_unreadable(source, bad, (self._modality,), allowed)
        metrics = self._measure(found["said"][~unreadable], found["index"][~unreadable])
        return metrics | {name: count + skipped for name, count in self._skipped.items()}

    def _asked(self, batch: Columns) -> Columns:
        number = batch["index"]
        return batch | {"prompt": self._prompts[number], "given": self._given[number]}

    def _measure(self, said: np.ndarray, rows: np.ndarray) -> dict[str, float]:
        """Metrics of the texts int32 [M, L], each with its prompt, of the expressions `rows`."""
        answers = [read_box(self._tokenizer.text(text[given:]))
                   for text, given in zip(said, self._given[rows], strict=True)]  # fmt: skip
        spelled = np.array([answer is not None for answer in answers])
        shares = np.array([answer or (0.0,) * 4 for answer in answers])
        pairs = zip(shares, self._views[rows], strict=True)
        pixels = np.concatenate([in_image(box[None], view) for box, view in pairs])
        turned = (shares[:, 2:] <= shares[:, :2]).any(axis=1)  # right of its right side: no box
        iou = np.where(turned, 0.0, overlap(pixels, self._boxes[rows]))
        images, cluster = np.unique(self._source.owners[rows], return_inverse=True)

        def metrics(counts: np.ndarray) -> dict[str, float]:
            weights = counts[cluster] / counts[cluster].sum()
            return {
                "accuracy": weights @ (iou >= RIGHT),
                "mean_iou": weights @ iou,
                "spelled": weights @ spelled,
            }

        sizes = {"expressions": float(len(iou)), "images": float(len(images))}
        return {**estimates(metrics, len(images)), **sizes}

    def _records(self, source: Source, allow_skips: bool) -> Iterator[tuple[int, Record]]:
        """The records that have regions, with their numbers."""
        for number in range(len(source)):
            try:
                record = source[number]
            except BadRecord as error:
                self._skip(source, str(error), allow_skips)
                continue
            if "boxes" in record.parts:
                yield number, record

    def _skip(self, source: Source, problem: str, allow_skips: bool) -> None:
        """Counts a record that cannot be used, or raises UserError."""
        if not allow_skips:
            raise UserError(f"{source.name}: {problem}; {REMEDY}.")
        self._skipped["skipped"] += 1
        if self._skipped["skipped"] <= NAMED:
            log.warning("%s: %s; it is left out", source.name, problem)


def decoder_of(subject: Subject, asked: str, name: str) -> tuple[str, Sequence[str]]:
    """The decoder that spells boxes, and the two parts that it is of. UserError: there is none."""
    kinds = {part: kind for part, (kind, _) in subject.model.inputs().items()}
    modules = {part: subject.model.module(part) for part in subject.model.parts}
    able = {
        part: module.of
        for part, module in modules.items()
        if isinstance(module, Fusion)
        and (kinds.get(module.of[0]), kinds.get(module.of[1])) == ("image", "region_texts")
    }
    chosen = asked or (next(iter(able)) if len(able) == 1 else "")
    if chosen not in able:
        which = f"choose of={' or '.join(map(repr, able))}" if able else "train one by locca"
        raise UserError(
            f"evals.{name}: this model has no one part {asked or 'fusion'!r} that spells boxes, a "
            f"fusion of images and of texts with boxes=True: {which}."
        )
    return chosen, able[chosen]
