"""Held-out loss: the run's own objectives over fixed batches of a source.

A contrastive loss depends on the batch: only full batches of `batch_size`, in order, are used, and
what is left at the end is not. So the number is a function of the source and the batch size, not of
the devices. Objectives that learn from a teacher or keep a state are left out: it is the model
alone that is measured.
"""

import itertools
from typing import Any

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from mmjax import models, objectives
from mmjax.core.step import total_loss
from mmjax.core.views import run_views
from mmjax.data import (
    Tokenizer,
    eval_batches,
    modalities,
    open_source,
    train_columns,
    vocabulary,
)
from mmjax.errors import UserError
from mmjax.evaluation.classes import as_trained
from mmjax.evaluation.skips import unreadable as unreadable_records
from mmjax.evaluation.spec import Subject, source_of
from mmjax.inference import on_mesh
from mmjax.models.parts import vocabularies
from mmjax.objectives.registry import is_frozen
from mmjax.parallel.mesh import batch_shards, local_rows, put_batch


class HeldOutLoss:
    """The loss of the objectives on held-out records, with each record's first caption."""

    def __init__(self, name: str, spec: Any, subject: Subject):
        model, tokenizer = subject.model, subject.tokenizer

        def load() -> Tokenizer:
            if tokenizer is None:
                raise UserError(f"evals.{name}: the model reads texts, and has no tokenizer.")
            return tokenizer

        self._subject, inputs = subject, models.inputs(subject.architecture)
        self._modalities = modalities.build(inputs, data=subject.data, tokenizer=load).values()
        texts = vocabularies(subject.architecture).values()
        rows = min((part.vocab_size for part in texts), default=0)
        known = vocabulary.of_tokenizer(tokenizer, rows) if tokenizer else None
        every = objectives.build(subject.objectives, subject.architecture, known)
        built = {
            each: (objective, weight)
            for each, (objective, weight) in every.items()
            if not (objective.params or objective.state or any(map(is_frozen, objective.requires)))
        }
        if not built:
            raise UserError(
                f"evals.{name}: every objective of the run learns from a teacher or keeps a state, "
                "so there is no loss of the model alone: measure retrieval or zeroshot."
            )
        learns = any(objective.logits for objective, _ in built.values())
        source = open_source(source_of(spec), name, labels=learns)
        names = subject.classes if learns else ()
        self._source, self.classes = as_trained(source, names, name, allow_skips=False)
        for modality in self._modalities:
            modality.check(self._source, spec, f"config.evals.{name}")
        self._batch_size = spec.batch_size
        if len(self._source) < self._batch_size:
            raise UserError(
                f"evals.{name}: batch_size={self._batch_size} is more than the "
                f"{len(self._source)} records of {self._source.name}: lower it."
            )
        with on_mesh(None):
            shards = batch_shards()
        if self._batch_size % shards:
            raise UserError(
                f"evals.{name}: batch_size={self._batch_size} is not a multiple of the "
                f"{shards} devices that share the batch, and the loss depends on it."
            )

        def loss(params, batch, key):
            unreadable = batch.pop("unreadable")
            outputs = run_views(model, built, params, batch, key, train=False)
            total, metrics = total_loss(built, outputs, batch)
            return metrics | {"loss": total}, unreadable

        self._loss = jax.jit(loss, out_shardings=P())

    def __call__(self, params: Any) -> dict[str, float]:
        """Means over the batches: "loss", "loss/OBJECTIVE", "OBJECTIVE/METRIC"; and "examples"."""
        with on_mesh(params) as params:
            results = [
                self._loss(params, put_batch(batch, self._batch_size), key)
                for batch, key in zip(self._batches(), self._keys(), strict=False)
            ]
        metrics, unreadable = zip(*results, strict=True)
        bad = np.flatnonzero(np.concatenate(unreadable))
        if len(bad):
            what = unreadable_records(self._source, bad, self._modalities)
            raise UserError(f"{what}; repair or remove them.")
        means = {name: float(np.mean([m[name] for m in metrics])) for name in metrics[0]}
        return means | {"examples": float(len(results) * self._batch_size)}

    def _batches(self):
        """The full batches, with the columns that training has."""
        batches = eval_batches(
            self._source,
            self._modalities,
            batch_size=self._batch_size,
            rows=local_rows(self._batch_size),
            workers=self._subject.data.workers,
        )
        columns = {*train_columns(self._modalities), "unreadable"}
        for batch in itertools.islice(batches, len(self._source) // self._batch_size):
            yield {name: column for name, column in batch.items() if name in columns}

    def _keys(self):
        """The same random views (masks and the like) at every evaluation."""
        key = jax.random.key(self._subject.seed)
        return (jax.random.fold_in(key, number) for number in itertools.count())
