"""A teacher as the train step and the loader see it.

Its outputs come from frozen parameters in the state, run on what its own modalities read of each
example (the same crop at its resolution, the caption by its tokenizer), or from columns of the
batch that `mmjax embed` wrote. The objectives cannot tell which.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mmjax import models
from mmjax.data import Source, Tokenizer, modalities
from mmjax.data.modalities import LoadTokenizer, Modality, Text
from mmjax.errors import UserError
from mmjax.interop.formats import Weights
from mmjax.models import Graph
from mmjax.objectives.registry import PLAIN, frozen_of, teacher_of
from mmjax.parallel import rules
from mmjax.schema import RESUMABLE
from mmjax.teachers.cached import Cached, data_record, open_cached
from mmjax.teachers.source import Fingerprint, fingerprint, open_source

EMBEDS = ("image/embed", "text/embed")


@dataclasses.dataclass(frozen=True)
class Keys:
    """The keys of `config.teachers.NAME`.

    Attributes:
      source: Weights: whatever mmjax.load takes (a workdir, folder, file, hub name), or
        random:ARCHITECTURE for plans and smoke runs.
      cached: Folder that mmjax embed wrote, in place of running it; '': it runs in the step.
      dtype: What its embeddings are rounded to, cached or not.
      start: The student starts from it: every k-th layer, the leading heads and channels.
    """

    source: Annotated[str, RESUMABLE] = ""
    cached: Annotated[str, RESUMABLE] = ""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    start: bool = False


@dataclasses.dataclass(frozen=True)
class Teacher:
    """One entry of `config.teachers`, with no parameter read yet.

    Attributes:
      name: of the entry.
      dtype: what its embeddings are rounded to.
      weights: where it comes from; None if only its embeddings are at hand.
      model: what runs in the step; None: its embeddings are columns of the batch.
      cached: those embeddings; None if it runs in the step.
      asked: the views that objectives ask it for: "plain", or those that an objective makes, which
        it reads as the student does.
      reads: the parts of the model that "plain" is computed from; (): all.
    """

    name: str
    dtype: str
    weights: Weights | None
    model: Graph | None
    cached: Cached | None
    asked: tuple[str, ...] = ("plain",)
    reads: tuple[str, ...] = ()

    def given(self) -> tuple[str, ...]:
        """The outputs that an objective may read."""
        if self.cached is not None:
            return (*self.cached.sizes, *self.cached.scalars)
        assert self.model is not None
        return self.model.outputs()

    def abstract(self, mesh: jax.sharding.Mesh) -> Any:
        """Shapes, dtypes and shardings of its part of the train state."""
        if self.cached is not None:
            scalar = jax.ShapeDtypeStruct((), jnp.float32)
            shapes: Any = dict.fromkeys(self.cached.scalars, scalar)
        else:
            assert self.model is not None
            shapes = model_shapes(self.model)
        return with_shardings(shapes, mesh)

    def outputs(
        self,
        params: Any,
        batch: Mapping[str, Any],
        view: Mapping[str, Any] | None,
        names: tuple[str, ...],
        run: Callable,
    ) -> dict[str, Any]:
        """The named outputs of a batch; `run(model, params, batch, names)` runs a model.

        With a `view` they are of its columns, and not of the teacher's own. Embeddings are
        float32 [B, D], rounded to `dtype` on the way, whether they are computed here or were stored
        in it.
        """
        own = f"teacher/{self.name}/"
        if self.model is None:
            result = {n: batch[own + n] if n in EMBEDS else jnp.exp(params[n]) for n in names}
        else:
            result = run(self.model, params, self.inputs(batch) if view is None else view, names)
        return {
            n: x.astype(self.dtype).astype(jnp.float32) if n in EMBEDS else x
            for n, x in result.items()
        }

    def of_model(self, names: Collection[str]) -> set[str]:
        """Those of the outputs that belong to the model and not to examples."""
        if self.model is None:
            return set(names) - set(EMBEDS)
        return self.model.of_model(names)

    def inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """What it reads of a batch: its own columns, and those that it shares with the student."""
        assert self.model is not None
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
        if self.cached is not None:
            return (self.cached,)
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
        assert self.weights is not None
        inputs = models.inputs(self.weights.config.model)
        inputs = {part: of for part, of in inputs.items() if part in (self.reads or inputs)}
        words = tokenizer and (self.weights.tokenizer or tokenizer)
        data = ConfigDict({**config.data, "text_lengths": ()})  # it may look at its padding
        found = modalities.build(inputs, data=data, tokenizer=words, prefix=prefix)
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

    def for_objectives(self, asked: Mapping[str, Collection[str]], config: ConfigDict) -> "Teacher":
        """The teacher as objectives ask it: `asked` are their frozen views with the outputs.

        UserError: the student's texts are longer than it can read, or there are no images for it.
        """
        mine = {frozen_of(v)[1]: set(o) for v, o in asked.items() if teacher_of(v) == self.name}
        model = self.model
        if model is None:
            return dataclasses.replace(self, asked=tuple(sorted(mine)))
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
        tower = model.module("text")
        if mine.keys() - {PLAIN} and tower is not None:
            most, length = tower.context_length, config.model.text.context_length
            if length > most:
                raise UserError(
                    f"config.teachers.{self.name} reads the student's own texts, {length} tokens, "
                    f"and knows {most}: set config.model.text.context_length to {most} or less."
                )
        return dataclasses.replace(self, asked=tuple(sorted(mine)), reads=reads)

    def _check_tokens(self, tokenizer: Tokenizer) -> None:
        """It reads the student's masked texts: their ids must mean the same to both."""
        if self.weights is None or self.weights.tokenizer is None:
            return
        theirs, ours = self.weights.tokenizer().wrapped, tokenizer.wrapped
        if theirs.get_vocab() != ours.get_vocab():
            raise UserError(
                f"config.teachers.{self.name} reads the texts that the student reads, and "
                f"{self.weights.source} has another tokenizer: give config.data.tokenizer that one."
            )

    def read(self, mesh: jax.sharding.Mesh) -> Any:
        """The parameters of `weights`, on the mesh."""
        assert self.weights is not None
        model = models.from_config(self.weights.config.model)
        return self.weights.read(with_shardings(model_shapes(model), mesh))

    def load(self, mesh: jax.sharding.Mesh) -> tuple[Any, Fingerprint]:
        """(its part of the train state, fingerprint of the teacher).

        UserError: the cached embeddings are of another teacher than `source`.
        """
        mark = None
        if self.weights is not None:
            params = self.read(mesh)
            mark = fingerprint(self.weights.config, params)
            if self.cached is None:
                return params, mark
            self.cached.check_teacher(mark, self.weights.source)
        assert self.cached is not None
        scalars = {
            name: jax.device_put(np.float32(self.cached.scalars[name]), x.sharding)
            for name, x in self.abstract(mesh).items()
        }
        return scalars, mark or Fingerprint(self.cached.teacher, self.cached.teacher)


def open_teachers(config: ConfigDict) -> tuple[Teacher, ...]:
    """The teachers of `config.teachers` in order of their names.

    UserError: nothing of that kind is where the config says, or it names neither.
    """
    return tuple(_open(name, config) for name in sorted(config.teachers))


def load_teachers(
    teachers: Sequence[Teacher], mesh: jax.sharding.Mesh, workdir: epath.Path | None
) -> dict[str, Any]:
    """name → part of the train state. A run goes on with the teachers that it began with:
    WORKDIR/teachers.json has their fingerprints."""
    loaded = {teacher.name: teacher.load(mesh) for teacher in teachers}
    if workdir is not None and teachers:
        _check_record(workdir / "teachers.json", {name: mark for name, (_, mark) in loaded.items()})
    return {name: params for name, (params, _) in loaded.items()}


def check_data(teachers: Sequence[Teacher], config: ConfigDict, sources: Sequence[Source]) -> None:
    """UserError: cached embeddings are of other data, or of other augmented copies of it."""
    cached = [teacher.cached for teacher in teachers if teacher.cached is not None]
    record = data_record(config, sources) if cached else {}
    for embeddings in cached:
        embeddings.check_data(record, config.data.copies)


def model_shapes(model: Graph) -> Any:
    return jax.eval_shape(lambda: models.init(model, jax.random.key(0)))


def with_shardings(shapes: Any, mesh: jax.sharding.Mesh) -> Any:
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        rules.param_shardings(shapes, mesh),
    )


def _open(name: str, config: ConfigDict) -> Teacher:
    spec, key = config.teachers[name], f"config.teachers.{name}"
    if not spec.source and not spec.cached:
        raise UserError(
            f"{key} names no teacher: set {key}.source to its weights (for a plan, random:ViT-B/16 "
            f"will do), or {key}.cached to what mmjax embed wrote."
        )
    weights = open_source(spec.source, key, config) if spec.source else None
    if spec.cached:
        return Teacher(name, spec.dtype, weights, None, open_cached(spec.cached, name, spec.dtype))
    assert weights is not None
    return Teacher(name, spec.dtype, weights, models.from_config(weights.config.model), None)


def _check_record(path: epath.Path, marks: dict[str, Fingerprint]) -> None:
    record = {name: mark.mark for name, mark in marks.items()}
    if path.exists():
        before = json.loads(path.read_text())
        for name, mark in marks.items():
            if not mark.matches(before.get(name, mark.mark)):
                raise UserError(
                    f"config.teachers.{name} is not the teacher that {path.parent} began with "
                    f"(fingerprint {mark.mark}, not {before[name]}): give it back, or start in "
                    "another --workdir."
                )
        record |= {name: before[name] for name in marks.keys() & before.keys()}
    multihost_utils.sync_global_devices("teachers")
    if jax.process_index() == 0:
        path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
