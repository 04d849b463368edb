"""Which class of an evaluation each class of its data is: by name, said, kept with the results."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from mmjax.data import Source
from mmjax.data.classes import Class, classes_of, describe, mapped, match, some, to_tsv
from mmjax.errors import UserError

BESIDE = ".classes.tsv"  # results.json has results.classes.tsv beside it


class Classes(NamedTuple):
    """The classes of an evaluation in order of label, and what is to be said of them."""

    rows: tuple[Class, ...]
    about: str


def named(
    source: Source,
    names: Sequence[str],
    ids: Sequence[str],
    name: str,
    *,
    allow_skips: bool,
    from_one: bool = True,
) -> tuple[Source, Classes]:
    """A source whose labels are those of `names`, if it knows the names of its own classes.

    Args:
      source: its labels are positions in its own classes, or, without names for these, in `names`.
      names, ids: the classes that are asked for, see `classes.match`.
      name: of the evaluator, for messages.
      allow_skips: leave out records of other classes, counted and named.
      from_one: as of `classes.match`.

    Raises:
      UserError: classes that are none of `names`, or nothing says which they are.
    """
    folders = classes_of(source)
    if not folders:
        called = ids or [str(label) for label in range(len(names))]
        rows = tuple(Class(n, *pair) for n, pair in enumerate(zip(called, names, strict=True)))
        return source, Classes(rows, f"{describe(rows)}, by the label itself")
    try:
        labels, how = match(folders, names, ids, from_one=from_one)
    except UserError as error:
        raise UserError(
            f"evals.{name}: {source.name}: {error}: write a line ID<tab>NAME for each class into "
            "the file of classes, ID as the data calls it."
        ) from error
    unknown = [folder for folder, label in zip(folders, labels, strict=True) if label < 0]
    missing = [names[n] for n in np.setdiff1d(np.arange(len(names)), labels)]
    rows = tuple(Class(n, folders[i], names[n]) for i, n in sorted_labels(labels))
    about = f"{describe(rows)}, matched {how}"
    if missing:
        about += f"; {len(missing):,} names are of no class of the data ({some(missing)})"
    if unknown:
        others = f"{len(unknown):,} of the {len(folders):,} classes of the data are none of the"
        others += f" names ({some(unknown)})"
        if not allow_skips:
            raise UserError(
                f"evals.{name}: {source.name}: {others}: rename or remove them, write a line "
                "ID<tab>NAME for each class into the file of classes, ID as the data calls it, or "
                "leave their records out by --allow-skips."
            )
        about += f"; {others}, and their records are left out"
    return mapped(source, labels), Classes(rows, about)


def as_trained(
    source: Source, names: Sequence[str], name: str, allow_skips: bool
) -> tuple[Source, Classes | None]:
    """A source with the labels that its classes have in a training set, by the very same names.

    Args:
      source: may lack some of the classes.
      names: the classes of the training set in order of label; () if they have no names.
      name, allow_skips: as of `named`.

    Returns:
      The source, and the classes; None where a side has no names: then labels are what they are.

    Raises:
      UserError: it has classes that training knows nothing of.
    """
    folders = classes_of(source)
    rows = tuple(Class(label, called, called) for label, called in enumerate(names))
    if not rows or not folders:
        return source, None
    label = {called: number for number, called in enumerate(names)}
    unknown = [folder for folder in folders if folder not in label]
    if unknown and not allow_skips:
        raise UserError(
            f"evals.{name}: {source.name} has {len(unknown):,} classes that are not in the "
            f"training set ({some(unknown)}): rename or remove them, or leave their records out by "
            "--allow-skips."
        )
    labels = np.array([label.get(folder, -1) for folder in folders], np.int32)
    return mapped(source, labels), Classes(rows, f"{describe(rows)}, as in training, by name")


def sorted_labels(labels: np.ndarray) -> list[tuple[int, int]]:
    """(position, label) of a table of labels in order of label, without those of -1."""
    order = np.argsort(labels, kind="stable")
    return [(int(i), int(labels[i])) for i in order if labels[i] >= 0]


def of_evaluators(evaluators: Mapping[str, Any]) -> dict[str, Classes]:
    """The classes of the evaluators that have some."""
    found = {name: getattr(evaluator, "classes", None) for name, evaluator in evaluators.items()}
    return {name: classes for name, classes in found.items() if classes is not None}


def write(classes: Mapping[str, Classes], results: str) -> None:
    """Writes label, folder and name of every class beside a file of results, on the first host."""
    if classes and jax.process_index() == 0:
        path = epath.Path(results)
        rows = {name: found.rows for name, found in classes.items()}
        (path.parent / f"{path.stem}{BESIDE}").write_text(to_tsv(rows))
