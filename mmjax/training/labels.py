"""The labels that a run learns classes from: that there are any, what they mean, that they fit."""

import itertools
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from etils import epath

from mmjax import data, models
from mmjax.core.views import run_plain
from mmjax.data.classes import Class, classes_of, describe, some, to_tsv
from mmjax.errors import UserError
from mmjax.runs.workdir import CLASSES, TRAINED
from mmjax.training.assemble import Parts

TRIED = 16  # records of a source that may be bad ones


def count_classes(parts: Parts) -> int:
    """How many classes the run's objectives tell apart; 0 if none learns from labels."""
    wanted = tuple({o.logits for o, _ in parts.objectives.values() if o.logits})
    if not wanted:
        return 0
    shapes = jax.eval_shape(
        lambda batch: run_plain(
            parts.model, models.init(parts.model, jax.random.key(0)), batch, wanted
        ),
        parts.batch,
    )
    return min(shape.shape[-1] for shape in shapes.values())


def check(
    sources: Mapping[str, data.Source], count: int
) -> tuple[dict[str, list[Class]], list[str]]:
    """The classes of the sources that know their names, and a line to say of each.

    Args:
      sources: entry of config.data.train → source.
      count: classes of the model.

    Raises:
      UserError: no source has labels; one has more classes than the model; or two call the same
        label by different names.
    """
    named = {name: classes_of(source) for name, source in sources.items() if classes_of(source)}
    if not named and not any(map(_has_labels, sources.values())):
        raise UserError(
            "config.objectives learns from labels, and no source of config.data.train has any: "
            "name the column or field with label=…, or give one folder a class."
        )
    for name, classes in named.items():
        if len(classes) > count:
            raise UserError(
                f"config.data.train.{name} has {len(classes):,} classes ({some(classes)}), and the "
                f"model tells {count:,} apart: widen its head (config.model.embed_dim)."
            )
    for name, source in sources.items():
        _check_range(name, source, count)
    for (one, first), (two, second) in itertools.pairwise(named.items()):
        if first != second:
            other = next(
                f"{label} is {a!r} in one and {b!r} in the other"
                for label, (a, b) in enumerate(itertools.zip_longest(first, second))
                if a != b
            )
            raise UserError(
                f"config.data.train.{one} and .{two} have different classes ({other}): a label "
                "would mean two things; give both the same folders, empty ones too."
            )
    rows = {
        f"{TRAINED}{name}": [Class(label, called, called) for label, called in enumerate(classes)]
        for name, classes in named.items()
    }
    lines = []
    for of, found in rows.items():
        fewer = f", of {count:,} that the model tells apart" if len(found) < count else ""
        lines.append(f"config.{of}: {describe(found)}{fewer}")
    if named:
        lines += [
            f"config.data.train.{name}: its labels have no names and are taken as those above"
            for name in sources.keys() - named.keys()
        ]
    return rows, lines


def write(folder: epath.Path, classes: Mapping[str, Sequence[Class]]) -> None:
    """Writes WORKDIR/classes.tsv: of, label, folder, class."""
    if classes and jax.process_index() == 0:
        (folder / CLASSES).write_text(to_tsv(classes))


def _check_range(name: str, source: data.Source, count: int) -> None:
    """The labels of a source that has them without reading its records; of others, the loader looks
    at each (`data.train_batches`)."""
    labels = getattr(source, "labels", None)
    if labels is None:
        return
    wrong = np.flatnonzero((labels < -1) | (labels >= count))
    if len(wrong):
        first, found = int(wrong[0]), labels[labels >= 0]
        from_one = len(found) and found.min() > 0 and found.max() == count
        raise UserError(
            f"config.data.train.{name}: {source[first].key} has the label {labels[first]}, and the "
            f"model tells {count:,} classes apart, 0 … {count - 1}"
            + ("; the labels seem to count from 1." if from_one else ".")
        )


def _has_labels(source: data.Source) -> bool:
    """By its first record that can be read."""
    for number in range(min(TRIED, len(source))):
        try:
            return source[number].label >= 0
        except data.BadRecord:
            continue
    return False
