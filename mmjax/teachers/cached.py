"""A teacher's embeddings beside the data: shards of NumPy arrays, and a record of what they are of.

    FOLDER/teacher.json           the teacher, the data and the copies (written last)
    FOLDER/image_embed-00000.npy  [rows, D]; bfloat16 as its bits, uint16
    FOLDER/text_embed-00000.npy

Row copy · records + number is the record `number` (over all sources, in order of their names) as it
is shown in epoch `copy`: its augmentation and its caption are functions of (seed, source, epoch,
index) alone, so the seed and the copy say which crop the teacher saw. A record that it could not
use has rows of NaN.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from mmjax.data import BadRecord, Record, Source
from mmjax.data.draw import Draw
from mmjax.data.modalities import Column, Modality
from mmjax.errors import UserError
from mmjax.interop.formats import Weights
from mmjax.objectives.registry import PLAIN, frozen_of, teacher_of
from mmjax.teachers.source import Fingerprint, fingerprint, read_params

RECORD = "teacher.json"
SHARD_ROWS = 1 << 16
SAMPLED = 256  # captions of each source that the record vouches for


@dataclasses.dataclass(frozen=True)
class Cached(Modality):
    """The columns teacher/NAME/image_embed and text_embed [b, D] of a batch, from a folder.

    `folder`, `name`: of the teacher. `record`: what teacher.json says.
    """

    folder: str
    name: str
    record: Mapping[str, Any]

    @property
    def teacher(self) -> str:
        """The fingerprint of the teacher."""
        return self.record["teacher"]

    @property
    def sizes(self) -> dict[str, int]:
        """Output → D."""
        return {_output(name): size for name, size in self.record["outputs"].items()}

    @property
    def scalars(self) -> dict[str, float]:
        """The teacher's outputs that are scalars, "logit/scale" as a logarithm."""
        return {_output(name): value for name, value in self.record["scalars"].items()}

    @property
    def columns(self) -> dict[str, Column]:
        dtype = jnp.dtype(self.record["dtype"])
        return {f"teacher/{self.name}/{o}": Column((d,), dtype) for o, d in self.sizes.items()}

    def read(self, record: Record, draw: Draw | None) -> tuple[np.ndarray, ...]:
        assert draw is not None  # evaluation asks no teacher
        lengths, at = [s["records"] for s in self.record["data"]["sources"]], draw.address
        row = at.epoch * sum(lengths) + sum(lengths[: at.source]) + at.index
        found = tuple(self._row(output, row) for output in self.sizes)
        if any(np.isnan(embed).any() for embed in found):
            raise BadRecord(f"{record.key} was of no use to the teacher in {self.folder}")
        return found

    def check_data(self, record: Mapping[str, Any], copies: int) -> None:
        """UserError: the embeddings are not of the data that `record` describes."""
        stored = self.record["data"]
        for key, what in (("seed", "config.seed"), ("augment", "config.data.augment")):
            if stored[key] != record[key]:
                raise self._wrong(f"are of copies with {what}={stored[key]}, not {record[key]}")
        names = [[source["name"] for source in data["sources"]] for data in (stored, record)]
        if names[0] != names[1]:
            raise self._wrong(f"are of the sources {names[0]}, not {names[1]}")
        for was, now in zip(stored["sources"], record["sources"], strict=True):
            if was != now:
                raise self._wrong(
                    f"are of other records in data.train.{now['name']} ({was['records']:,} then, "
                    f"{now['records']:,} now)"
                )
        if not 0 < copies <= stored["views"]:
            raise UserError(
                f"{self.folder} holds {stored['views']} copies of each example, and config.data."
                f"copies={copies}: set it to {stored['views']} or fewer, so that copies repeat."
            )

    def check_teacher(self, mark: Fingerprint, source: str) -> None:
        """UserError: the embeddings are not of the teacher with this fingerprint."""
        if not mark.matches(self.teacher):
            raise self._wrong(
                f"are of another teacher ({self.record['source']}, {self.teacher}) than "
                f"config.teachers.{self.name}.source={source!r} ({mark.mark})"
            )

    def _row(self, output: str, row: int) -> np.ndarray:
        shard, row = divmod(row, self.record["shard_rows"])
        stored = _open_shard(str(shard_path(self.folder, output, shard)))[row]
        return stored.view(jnp.bfloat16) if stored.dtype == np.uint16 else np.array(stored)

    def _wrong(self, what: str) -> UserError:
        return UserError(
            f"The embeddings in {self.folder} {what}: run mmjax embed with this config into "
            "another folder."
        )


@dataclasses.dataclass(frozen=True)
class CachedTeacher:
    """An entry of `config.teachers` whose embeddings are at hand.

    Attributes:
      name: of the entry.
      dtype: what the embeddings are rounded to.
      cached: the embeddings.
      weights: of the teacher, to check that they are its; None if they are not at hand.
    """

    name: str
    dtype: str
    cached: Cached
    weights: Weights | None = None

    def given(self) -> tuple[str, ...]:
        """The outputs that an objective may read."""
        return (*self.cached.sizes, *self.cached.scalars)

    def abstract(self, mesh: jax.sharding.Mesh) -> Any:
        """Shapes, dtypes and shardings of its part of the train state: its scalars."""
        whole = NamedSharding(mesh, P())
        scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
        return {_parameter(name): scalar for name in self.cached.scalars}

    def outputs(
        self,
        params: Any,
        batch: Mapping[str, Any],
        view: Mapping[str, Any] | None,
        names: tuple[str, ...],
        run: Callable[..., Mapping[str, Any]],
    ) -> dict[str, Any]:
        """The named outputs, which are columns of the batch or scalars of the state."""
        del view, run
        own, scalars = f"teacher/{self.name}/", self.of_model(names)
        found = {n: batch[own + n] for n in names if n not in scalars}
        given = {name: params[_parameter(name)] for name in scalars}
        of_model = {n: jnp.exp(x) if n.endswith("/scale") else x for n, x in given.items()}
        return rounded(found, self.dtype) | of_model

    def of_model(self, names: Collection[str]) -> set[str]:
        """Those of the outputs that belong to the model and not to examples."""
        return set(names) & self.cached.scalars.keys()

    def counted(self) -> "CachedTeacher":
        return self

    def readers(self, config: ConfigDict, tokenizer: Any = None) -> tuple[Modality, ...]:
        """The embeddings."""
        return (self.cached,)

    def for_objectives(
        self, asked: Mapping[str, Collection[str]], config: ConfigDict
    ) -> "CachedTeacher":
        """UserError: an objective asks for a view that it makes, of which nothing was stored."""
        views = {frozen_of(view)[1] for view in asked if teacher_of(view) == self.name}
        if views - {PLAIN}:
            raise UserError(
                f"config.teachers.{self.name}.cached holds embeddings of the examples as they are "
                f"loaded, and an objective asks for the view {min(views - {PLAIN})!r}: run the "
                f"teacher in the step, config.teachers.{self.name}.cached=''."
            )
        return self

    def load(self, mesh: jax.sharding.Mesh) -> tuple[Any, Fingerprint]:
        """(its scalars, its fingerprint). UserError: the embeddings are of another teacher than
        config.teachers.NAME.source."""
        mark = Fingerprint(self.cached.teacher, self.cached.teacher)
        if self.weights is not None:
            params = read_params(self.weights, mesh)
            mark = fingerprint(self.weights.config, params)
            self.cached.check_teacher(mark, self.weights.source)
        values = {_parameter(name): value for name, value in self.cached.scalars.items()}
        shardings = self.abstract(mesh)
        return {
            name: jax.device_put(np.float32(value), shardings[name].sharding)
            for name, value in values.items()
        }, mark


def rounded(outputs: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Outputs with embeddings, float32 [B, D], rounded to `dtype`: a teacher's are the same whether
    they are computed in the step or were stored."""
    return {
        name: x.astype(dtype).astype(jnp.float32) if name.endswith("/embed") else x
        for name, x in outputs.items()
    }


def _parameter(output: str) -> str:
    """The name in the train state of an output that is a scalar."""
    return output.replace("/", "_")


def open_cached(folder: str, name: str, dtype: str) -> Cached:
    """The embeddings in a folder; UserError: there are none, or of another dtype."""
    path = Path(folder) / RECORD
    key = f"config.teachers.{name}"
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError as error:
        begun = path.with_suffix(".part").exists()
        remedy = "run the same mmjax embed again, it goes on" if begun else "run mmjax embed first"
        raise UserError(f"{key}.cached={folder}: {path} is missing; {remedy}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): run mmjax embed again.") from error
    if record["dtype"] != dtype:
        raise UserError(
            f"{key}.dtype={dtype!r}, and the embeddings in {folder} are {record['dtype']}: set it "
            "to that."
        )
    return Cached(folder, name, record)


def data_record(config: ConfigDict, sources: Sequence[Source]) -> dict[str, Any]:
    """What decides which example and copy a row is: seed, augmentation, and the sources."""
    named = zip(sorted(config.data.train), sources, strict=True)
    augment = config.data.augment.to_dict()
    return {
        "seed": config.seed,
        "views": config.data.copies,
        "augment": json.loads(json.dumps(augment)),  # tuples as lists, as they are read again
        "sources": [
            {"name": name, "records": len(source), "captions": _sample(source)}
            for name, source in named
        ],
    }


def _output(name: str) -> str:
    """An output as it is called today; a folder may be older than the slash."""
    return name if "/" in name else "/".join(name.rsplit("_", 1))


def shard_path(folder: str | Path, output: str, number: int) -> Path:
    return Path(folder) / f"{output.replace('/', '_')}-{number:05d}.npy"


def bits(embed: np.ndarray, dtype: str) -> np.ndarray:
    """float32 embeddings as they are stored: NumPy's files know no bfloat16."""
    rounded = embed.astype(jnp.dtype(dtype))
    return rounded.view(np.uint16) if dtype == "bfloat16" else rounded


def _sample(source: Source) -> str:
    """A digest of captions evenly over the source."""
    digest = hashlib.sha256()
    for number in np.linspace(0, len(source) - 1, min(SAMPLED, len(source))).astype(int):
        digest.update(json.dumps(source.captions(int(number))).encode())
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=1024)  # open files: of this process, so that `Cached` pickles
def _open_shard(path: str) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): run mmjax embed again.") from error
