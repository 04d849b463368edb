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
from ml_collections import ConfigDict

from mmjax import objectives
from mmjax.core.step import total_loss
from mmjax.core.views import run_views
from mmjax.data import Tokenizer, eval_batches, open_source, vocabulary
from mmjax.data.segments import Segments, check_source
from mmjax.errors import UserError
from mmjax.evaluation.embed import batch_shards, on_mesh
from mmjax.evaluation.skips import unreadable as unreadable_records
from mmjax.evaluation.spec import source_of
from mmjax.models import Graph
from mmjax.objectives.registry import is_frozen
from mmjax.parallel.mesh import local_rows, put_batch


class HeldOutLoss:
    """Evaluator of the weighted total and its parts, with each record's first caption."""

    def __init__(
        self, name: str, spec: Any, *, config: ConfigDict, model: Graph, tokenizer: Tokenizer
    ):
        self._config, self._tokenizer = config, tokenizer
        self._source = open_source(source_of(spec), name)
        check_source(config.model, spec, self._source, f"config.evals.{name}")
        self._batch_size = spec.batch_size
        if len(self._source) < self._batch_size:
            raise UserError(
                f"evals.{name}: batch_size={self._batch_size} is more than the "
                f"{len(self._source)} records of {self._source.name}: lower it."
            )
        if self._batch_size % batch_shards():
            raise UserError(
                f"evals.{name}: batch_size={self._batch_size} is not a multiple of the "
                f"{batch_shards()} devices that share the batch, and the loss depends on it."
            )
        words = vocabulary.of_tokenizer(tokenizer, config.model.text.vocab_size)
        every = objectives.build(config.objectives, config.model, words)
        goals = {
            goal: (objective, weight)
            for goal, (objective, weight) in every.items()
            if not (objective.params or objective.state or any(map(is_frozen, objective.requires)))
        }
        if not goals:
            raise UserError(
                f"evals.{name}: every objective of the run learns from a teacher or keeps a state, "
                "so there is no loss of the model alone: measure retrieval or zeroshot."
            )

        def loss(params, batch, key):
            unreadable = batch.pop("unreadable")
            outputs = run_views(model, goals, params, batch, key, train=False)
            total, metrics = total_loss(goals, outputs, batch)
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
            raise UserError(f"{unreadable_records(self._source, bad)}; repair or remove them.")
        means = {name: float(np.mean([m[name] for m in metrics])) for name in metrics[0]}
        return means | {"examples": float(len(results) * self._batch_size)}

    def _batches(self):
        """The full batches, with the columns that training has."""
        segments = Segments.of(self._config.model)
        images = "image" in self._config.model.towers and not segments.regions
        batches = eval_batches(
            self._source,
            image_size=self._config.model.image.size if images else None,
            tokenizer=self._tokenizer,
            text_length=self._config.model.text.context_length,
            batch_size=self._batch_size,
            rows=local_rows(self._batch_size),
            workers=self._config.data.workers,
            resize=self._config.data.resize,
            interpolation=self._config.data.interpolation,
            segments=segments,
        )
        columns = ("image", "regions", "regions_mask", "text", "text_mask", "group", "unreadable")
        for batch in itertools.islice(batches, len(self._source) // self._batch_size):
            yield {name: batch[name] for name in columns if name in batch}

    def _keys(self):
        """The same random views (masks and the like) at every evaluation."""
        key = jax.random.key(self._config.seed)
        return (jax.random.fold_in(key, number) for number in itertools.count())
