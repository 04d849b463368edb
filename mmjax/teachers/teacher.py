"""Teachers as the train step and the loader see them, opened from `config.teachers`.

One runs in the step (`online.py`), or its embeddings are columns of the batch that `mmjax embed`
wrote (`cached.py`). The objectives cannot tell which.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, Self

import jax
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mmjax import models
from mmjax.core import step
from mmjax.data import Source
from mmjax.data.modalities import LoadTokenizer, Modality
from mmjax.errors import UserError
from mmjax.interop.formats import Weights
from mmjax.schema import RESUMABLE
from mmjax.teachers.cached import CachedTeacher, data_record, open_cached
from mmjax.teachers.online import OnlineTeacher
from mmjax.teachers.source import Fingerprint, open_source


@dataclasses.dataclass(frozen=True)
class Keys:
    """The keys of `config.teachers.NAME`.

    Attributes:
      source: Weights: whatever mmjax.load takes (a workdir, folder, file, hub name), or
        random:ARCHITECTURE for plans and smoke runs.
      cached: Folder that mmjax embed wrote, instead of running it; '': it runs in the step.
      dtype: What its embeddings are rounded to, cached or not.
      start: The student starts from it: every k-th layer, the leading heads and channels.
    """

    source: Annotated[str, RESUMABLE] = ""
    cached: Annotated[str, RESUMABLE] = ""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    start: bool = False


class Teacher(step.Teacher, Protocol):
    """One entry of `config.teachers`, with no parameter read yet."""

    @property
    def weights(self) -> Weights | None:
        """Where it comes from; None if only its embeddings are at hand."""
        ...

    def given(self) -> tuple[str, ...]:
        """The outputs that an objective may read."""
        ...

    def abstract(self, mesh: jax.sharding.Mesh) -> Any:
        """Shapes, dtypes and shardings of its part of the train state."""
        ...

    def readers(
        self, config: ConfigDict, tokenizer: LoadTokenizer | None = None
    ) -> tuple[Modality, ...]:
        """What the loader reads for it beside what it reads for the student of the run `config`;
        `tokenizer` loads the run's, None: for shapes alone."""
        ...

    def for_objectives(self, asked: Mapping[str, Collection[str]], config: ConfigDict) -> Self:
        """The teacher as objectives ask it: `asked` are their frozen views with the outputs."""
        ...

    def load(self, mesh: jax.sharding.Mesh) -> tuple[Any, Fingerprint]:
        """(its part of the train state, its fingerprint)."""
        ...


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
    cached = [teacher.cached for teacher in teachers if isinstance(teacher, CachedTeacher)]
    record = data_record(config, sources) if cached else {}
    for embeddings in cached:
        embeddings.check_data(record, config.data.copies)


def _open(name: str, config: ConfigDict) -> Teacher:
    spec, key = config.teachers[name], f"config.teachers.{name}"
    weights = open_source(spec.source, key, config) if spec.source else None
    if spec.cached:
        cached = open_cached(spec.cached, name, spec.dtype)
        return CachedTeacher(name, spec.dtype, cached, weights)
    if weights is None:
        raise UserError(
            f"{key} names no teacher: set {key}.source to its weights (for a plan, random:ViT-B/16 "
            f"will do), or {key}.cached to what mmjax embed wrote."
        )
    return OnlineTeacher(name, spec.dtype, weights, models.from_config(weights.config.model))


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
        record |= before  # those of other phases, too
    multihost_utils.sync_global_devices("teachers")
    if jax.process_index() == 0:
        path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
