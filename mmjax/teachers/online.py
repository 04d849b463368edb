"""A teacher that runs in the train step, on what its own modalities read of each example: the same
crop at its resolution, the caption by its tokenizer."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from mmjax import models
from mmjax.data import Tokenizer, modalities
from mmjax.data.modalities import LoadTokenizer, Modality, Text
from mmjax.errors import UserError
from mmjax.interop.formats import Weights
from mmjax.models import Graph
from mmjax.models.flops import plain_model
from mmjax.models.parts import vocabularies
from mmjax.objectives.registry import PLAIN, frozen_of, teacher_of
from mmjax.parallel import rules
from mmjax.teachers.cached import rounded
from mmjax.teachers.source import Fingerprint, fingerprint, read_params


@dataclasses.dataclass(frozen=True)
class OnlineTeacher:
    """An entry of `config.teachers` with no parameter read yet.

    Attributes:
      name: of the entry.
      dtype: what its embeddings are rounded to.
      weights: where it comes from.
      model: what runs in the step.
      asked: the views that objectives ask it for: "plain", or those that an objective makes, which
        it reads as the student does.
      reads: the parts of the model that "plain" is computed from; (): all.
    """

    name: str
    dtype: str
    weights: Weights
    model: Graph
    asked: tuple[str, ...] = (PLAIN,)
    reads: tuple[str, ...] = ()

    def given(self) -> tuple[str, ...]:
        """The outputs that an objective may read."""
        return self.model.outputs()

    def abstract(self, mesh: jax.sharding.Mesh) -> Any:
        """Shapes, dtypes and shardings of its part of the train state."""
        shapes = jax.eval_shape(lambda: models.init(self.model, jax.random.key(0)))
        return rules.with_shardings(shapes, mesh)

    def outputs(
        self,
        params: Any,
        batch: Mapping[str, Any],
        view: Mapping[str, Any] | None,
        names: tuple[str, ...],
        run: Callable[..., Mapping[str, Any]],
    ) -> dict[str, Any]:
        """The named outputs of a batch; `run(model, params, batch, names)` runs a model.

        With a `view` they are of its columns, and not of the teacher's own.
        """
        read = self.inputs(batch) if view is None else view
        return rounded(run(self.model, params, read, names), self.dtype)

    def of_model(self, names: Collection[str]) -> set[str]:
        """Those of the outputs that belong to the model and not to examples."""
        return self.model.of_model(names)

    def counted(self) -> "OnlineTeacher":
        """The same, as a trace shows all of its products."""
        return dataclasses.replace(self, model=plain_model(self.weights.config.model))

    def inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What it reads of a batch: its own columns, and those that it shares with the student."""
        read = modalities.build(self.model.inputs()).values()
        columns = [name for modality in read for name in modality.columns]
        names = {name: f"teacher/{self.name}/{name}" for name in columns}
        shown = {name: own if own in batch else name for name, own in names.items()}
        return {name: batch[key] for name, key in shown.items() if key in batch}

    def readers(
        self, config: ConfigDict, tokenizer: LoadTokenizer | None = None
    ) -> tuple[Modality, ...]:
        """What the loader reads for it beside what it reads for the student.

        A column is shared where the student's modality is equal: images of one size, but no texts.
        `config` is the run's, `tokenizer` loads the run's; None: for shapes alone. UserError: it
        knows other tokens than those that it is to read.
        """
        if set(self.asked) - {PLAIN} and tokenizer is not None:
            self._check_tokens(tokenizer())
        if PLAIN not in self.asked:
            return ()
        student = modalities.build(models.inputs(config.model), data=config.data)
        own = self.modalities(config, tokenizer, prefix=f"teacher/{self.name}/")
        return tuple(m for part, m in own.items() if m != student.get(part))

    def modalities(
        self, config: ConfigDict, tokenizer: LoadTokenizer | None, prefix: str = ""
    ) -> dict[str, Modality]:
        """All that is asked for reads, its columns named PREFIX + part; texts by its own tokenizer,
        or by the run's. UserError: it does not know the run's tokens."""
        inputs = models.inputs(self.weights.config.model)
        inputs = {part: of for part, of in inputs.items() if part in (self.reads or inputs)}
        reader = tokenizer and (self.weights.tokenizer or tokenizer)
        # It may look at its padding, and shows images at its own length.
        data = ConfigDict({**config.data, "text_lengths": (), "image_lengths": ()})
        found = modalities.build(inputs, data=data, tokenizer=reader, prefix=prefix)
        for part, modality in found.items():
            if not isinstance(modality, Text) or modality.tokenizer is None:
                continue
            size, rows = modality.tokenizer.vocab_size, inputs[part][1].vocab_size
            if size > rows:
                raise UserError(
                    f"config.teachers.{self.name}: {self.weights.source} has no tokenizer of its "
                    f"own, and the run's has {size} tokens where the teacher knows {rows}: give "
                    "config.data.tokenizer the teacher's."
                )
        return found

    def for_objectives(
        self, asked: Mapping[str, Collection[str]], config: ConfigDict
    ) -> "OnlineTeacher":
        """The teacher as objectives ask it: `asked` are their frozen views with the outputs.

        UserError: the student's texts are longer than it can read, or there are no images for it.
        """
        mine = {frozen_of(v)[1]: set(o) for v, o in asked.items() if teacher_of(v) == self.name}
        model = self.model
        read = modalities.build(model.inputs())
        columns = {column for modality in read.values() for column in modality.columns}
        needed = model.sources(mine.get(PLAIN, ()), columns)
        reads = tuple(part for part, modality in read.items() if needed & modality.columns.keys())
        of_student = {kind for kind, _ in models.inputs(config.model).values()}
        if "regions" in of_student and any(model.inputs()[part][0] == "image" for part in reads):
            raise UserError(
                f"config.teachers.{self.name} reads images, and a model of regions trains on "
                "records without any: remove the teacher, or give the model an image tower."
            )
        for part, spec in vocabularies(config.model).items() if mine.keys() - {PLAIN} else ():
            tower, length = model.module(part), spec.context_length
            if tower is not None and length > tower.context_length:
                raise UserError(
                    f"config.teachers.{self.name} reads the student's own texts, {length} tokens, "
                    f"and knows {tower.context_length}: set config.model.{part}.context_length to "
                    f"{tower.context_length} or less."
                )
        return dataclasses.replace(self, asked=tuple(sorted(mine)), reads=reads)

    def _check_tokens(self, tokenizer: Tokenizer) -> None:
        """It reads the student's masked texts: their ids must mean the same to both."""
        if self.weights.tokenizer is None:
            return
        theirs, ours = self.weights.tokenizer().wrapped, tokenizer.wrapped
        if _meanings(theirs) != _meanings(ours):
            raise UserError(
                f"config.teachers.{self.name} reads the texts that the student reads, and "
                f"{self.weights.source} has another tokenizer: give config.data.tokenizer that one."
            )

    def load(self, mesh: jax.sharding.Mesh) -> tuple[Any, Fingerprint]:
        """(its part of the train state, its fingerprint)."""
        params = read_params(self.weights, mesh)
        return params, fingerprint(self.weights.config, params)


def _meanings(wrapped: Any) -> dict[int, str]:
    """Id → token; special tokens, which are spelled otherwise in open_clip, are all alike."""
    special = set(getattr(wrapped, "all_special_tokens", ()))
    return {n: "" if token in special else token for token, n in wrapped.get_vocab().items()}
