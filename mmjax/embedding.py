"""`mmjax.embed`, `mmjax embed`: runs the teachers of a config over its training data, once a copy.

It writes their embeddings (`teachers/cached.py` says how); interrupted, the same call goes on.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from rich.console import Console

from mmjax import config_check, data, inference
from mmjax.data import Address, BadRecord, Source
from mmjax.data.draw import Draw
from mmjax.data.modalities import LoadTokenizer, Modality
from mmjax.data.workers import Batch, read_ahead
from mmjax.errors import UserError
from mmjax.interop import registry
from mmjax.models import Graph
from mmjax.parallel import mesh as mesh_lib
from mmjax.runs.workdir import make_tokenizer
from mmjax.teachers import cached
from mmjax.teachers.online import OnlineTeacher
from mmjax.teachers.source import Fingerprint, fingerprint, read_params
from mmjax.teachers.teacher import open_teachers

console = Console(highlight=False)


def embed(config: ConfigDict, output: str | Path) -> list[Path]:
    """Precomputes what the teachers of a config say of its training data, for every augmented copy.

    >>> import mmjax
    >>> config = mmjax.recipe("mobileclip_reinforced")
    >>> mmjax.embed(config, "runs/embeddings")  # doctest: +SKIP
    [PosixPath('runs/embeddings/datacomp'), PosixPath('runs/embeddings/openai')]
    >>> config.teachers.datacomp.cached = "runs/embeddings/datacomp"
    >>> config.teachers.openai.cached = "runs/embeddings/openai"
    >>> state = mmjax.train(config, "runs/student")  # doctest: +SKIP

    Args:
      config: of the run that will read them: the same seed, augmentation and number of copies.
      output: the folder to write; it gets a folder for each teacher. Called again after an
        interruption, it continues.

    Returns:
      The folder of each teacher, for `config.teachers.NAME.cached`.

    Raises:
      UserError: the config is wrong, has no teacher with a source or no number of copies, or a
        folder there holds other embeddings.
    """
    config_check.validate(config)
    if config.data.copies < 1:
        raise UserError(
            "config.data.copies=0 shows every example anew each epoch: set how many copies to "
            "embed, e.g. config.data.copies=8, here and in training."
        )
    # Also those whose embeddings are there: they may be of other data.
    running = config.copy_and_resolve_references()
    for spec in running.teachers.values():
        spec.cached = ""
    running.teachers = {name: spec for name, spec in running.teachers.items() if spec.source}
    teachers = [t for t in open_teachers(running) if isinstance(t, OnlineTeacher)]
    if not teachers:
        raise UserError("config.teachers has no teacher with a source to embed with.")
    mesh = mesh_lib.make_mesh(**config.mesh)
    config_check.validate_on_mesh(config, dict(mesh.shape))
    folders = {teacher.name: Path(output) / teacher.name for teacher in teachers}
    with jax.set_mesh(mesh):
        sources = data.open_sources(config.data.train)
        start = config.init_from.source
        of_weights = registry.find(start).tokenizer if start else None
        tokenizer = functools.cache(lambda: make_tokenizer(config, sources, of_weights))
        for teacher in teachers:
            _embed(teacher, config, sources, tokenizer, mesh, folders[teacher.name])
    return list(folders.values())


def _embed(
    teacher: OnlineTeacher,
    config: ConfigDict,
    sources: Sequence[Source],
    tokenizer: LoadTokenizer,
    mesh: jax.sharding.Mesh,
    folder: Path,
) -> None:
    model, params = teacher.model, read_params(teacher.weights, mesh)
    outputs = tuple(name for name in model.outputs() if name.endswith("/embed"))
    of_model = [name for name in model.outputs() if name.endswith(("/scale", "/bias"))]
    scalars = {name: float(params[name.replace("/", "_")]) for name in of_model}
    mark = fingerprint(teacher.weights.config, params)
    record = {
        "teacher": mark.mark,
        "source": teacher.weights.source,
        "dtype": teacher.dtype,
        "outputs": {name: teacher.weights.config.model.embed_dim for name in outputs},
        "scalars": scalars,
        "shard_rows": cached.SHARD_ROWS,
        "data": cached.data_record(config, sources),
    }
    rows = config.data.copies * sum(map(len, sources))
    if not _begin(folder, record, mark):
        console.print(f"{folder} is complete: {rows:,} rows of {record['source']}", markup=False)
        return
    read = tuple(teacher.modalities(config, tokenizer).values())
    for shard, start in enumerate(range(0, rows, cached.SHARD_ROWS)):
        paths = {name: cached.shard_path(folder, name, shard) for name in outputs}
        if all(path.exists() for path in paths.values()):
            continue
        stop = min(start + cached.SHARD_ROWS, rows)
        load = _Copies(
            list(sources), read, config.seed, start, stop, config.batch_size,
            mesh_lib.local_rows(config.batch_size),
        )  # fmt: skip
        embeds = _run(model, params, outputs, load, config)
        for name, path in paths.items():
            _write(path, cached.bits(embeds[name], teacher.dtype))
        console.print(f"{folder}: {stop:,} of {rows:,} rows", markup=False)
    if jax.process_index() == 0:
        (folder / cached.RECORD).with_suffix(".part").rename(folder / cached.RECORD)
    multihost_utils.sync_global_devices("embedded")


def _run(
    model: Graph,
    params: Any,
    outputs: tuple[str, ...],
    load: "_Copies",
    config: ConfigDict,
) -> dict[str, np.ndarray]:
    """float32 [rows, D] of each output, all rows of a shard in order, on every host; NaN where the
    record cannot be used."""
    steps = -(-(load.stop - load.start) // load.batch_size)
    batches = read_ahead(load, 0, steps, workers=config.data.workers, prefetch=config.data.prefetch)
    found = inference.run(
        model, params, batches, outputs, load.batch_size, microbatches=config.optim.microbatches
    )
    for name in outputs:
        found[name] = np.where(found["bad"][:, None], np.float32(np.nan), found[name])
    return found


@dataclass
class _Copies:
    """number → what the teacher reads of the next rows from `start` on; what a worker holds."""

    sources: list[Source]
    modalities: tuple[Modality, ...]
    seed: int
    start: int
    stop: int
    batch_size: int
    rows: np.ndarray

    def __call__(self, number: int) -> Batch:
        positions = self.start + number * self.batch_size + self.rows
        examples = [self._example(int(p)) for p in np.minimum(positions, self.stop - 1)]
        batch = {
            "bad": np.array([example is None for example in examples]),
            "mask": positions < self.stop,
        }
        for i, modality in enumerate(self.modalities):
            batch |= modality.batch([None if e is None else e[i] for e in examples])
        return batch

    def _example(self, position: int) -> tuple[Any, ...] | None:
        """What the modalities read; None: training shows a neighbour, with the neighbour's row."""
        lengths = [len(source) for source in self.sources]
        epoch, number = divmod(position, sum(lengths))
        ends = np.cumsum(lengths)
        source = int(np.searchsorted(ends, number, side="right"))
        address = Address(source, epoch, number - int(ends[source]) + lengths[source])
        try:
            record = self.sources[source][address.index]
            draw = Draw(self.seed, address, record)
            return tuple(modality.read(record, draw) for modality in self.modalities)
        except BadRecord:
            return None


def _begin(folder: Path, record: dict[str, Any], mark: Fingerprint) -> bool:
    """Whether there is anything to do; UserError: the folder holds other embeddings."""
    complete = folder / cached.RECORD
    part = complete.with_suffix(".part")
    for path in (complete, part):
        found = json.loads(path.read_text()) if path.exists() else record
        if not mark.matches(found["teacher"]) or {**found, "teacher": mark.mark} != record:
            raise UserError(
                f"{folder} holds embeddings of another teacher, other data or other copies: name "
                "another --output, or remove it."
            )
    done = complete.exists()
    multihost_utils.sync_global_devices("looked")
    if not done and jax.process_index() == 0:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(record, indent=2) + "\n")
        except OSError as error:
            raise UserError(f"--output: cannot write to {folder} ({error.strerror}).") from error
    return not done


def _write(path: Path, array: np.ndarray) -> None:
    """All or nothing: a shard that is there is whole."""
    if jax.process_index() == 0:
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, array)
        temporary.replace(path)
