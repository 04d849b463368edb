"""Classes by name: the order in which folders are numbered, and matching them with names.

A label is a number, and it is the class's name that says whose. Where both sides have names (a
folder a class and a file of class names, training and test set) they are matched by these.
"""

import csv
import dataclasses
import functools
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmjax.data.account import Accounted, account_of
from mmjax.data.records import BadRecord, Record, Source
from mmjax.data.texts import clean, is_null
from mmjax.errors import UserError

NAMED = 3  # in a message


class Class(NamedTuple):
    """A class of some data: its label, what the data calls it, and what the model does."""

    label: int
    folder: str
    name: str


class Match(NamedTuple):
    """labels: int [n], the class of each folder, -1 for none; how: by what they were matched."""

    labels: np.ndarray
    how: str


def in_order(folders: Iterable[str]) -> list[str]:
    """Names of folders in order of label: numbers by their value, others as Python sorts them, as
    torchvision's ImageFolder does."""
    names = sorted(folders)
    return sorted(names, key=int) if names and all(map(is_number, names)) else names


def about_order(folders: Sequence[str]) -> str:
    """What is to be said of the order of `in_order`, in one sentence; "" if there is no doubt."""
    names = list(folders)
    if names and all(map(is_number, names)):
        if list(map(int, names)) == list(range(len(names))):
            return ""
        counts_from_one = list(map(int, names)) == list(range(1, len(names) + 1))
        why = "count from 1" if counts_from_one else "are numbers with gaps"
        return f"the folders {why}, labels from 0: the folder {names[-1]} is label {len(names) - 1}"
    natural = sorted(names, key=_natural)
    if natural == names:
        return ""
    at = next(n for n, pair in enumerate(zip(names, natural, strict=True)) if len(set(pair)) > 1)
    return (
        f"labels are in lexicographic order ({_some(names, at)}), which is not the natural one "
        f"({_some(natural, at)})"
    )


def match(
    folders: Sequence[str], names: Sequence[str], ids: Sequence[str] = (), *, from_one: bool = True
) -> Match:
    """Which of some named classes each folder is.

    Args:
      folders: what the data calls its classes, in order of label.
      names: the names of the classes that are asked for, in order of label.
      ids: other names of these, such as WordNet ids; () for none.
      from_one: folders 1 … N may be numbers that count from 1; else they are refused.

    By the name itself or the id, else by the name apart from case, "_", "-" and a number in front
    of it. Where no folder is called so: by their numbers, 0 … N-1 or 1 … N; or, if there are as
    many of both and no doubt about the order, by that.

    Raises:
      UserError: nothing says which folder is which class; the message begins in the middle of a
        sentence, after whose classes they are.
    """
    exact = _once(names) | _once(ids)
    loose = {_loose(word): number for word, number in _once(map(_loose, names)).items()}
    found = [exact.get(folder, loose.get(_loose(folder), -1)) for folder in folders]
    if max(found, default=-1) >= 0:
        twice = [n for n, label in enumerate(found) if label >= 0 and found.index(label) < n]
        if twice:
            first, second = folders[found.index(found[twice[0]])], folders[twice[0]]
            raise UserError(
                f"the folders {first!r} and {second!r} are both {names[found[twice[0]]]!r}"
            )
        return Match(np.array(found, np.int32), "by name")
    if all(map(is_number, folders)):
        return _by_number(list(map(int, folders)), len(names), from_one)
    if len(folders) != len(names):
        raise UserError(
            f"{len(names):,} class names are given ({some(names)}), but the data has "
            f"{len(folders):,} classes ({some(folders)}), and none is called as one of the names"
        )
    doubt = about_order(folders) if list(folders) == in_order(folders) else ""
    if doubt:
        raise UserError(f"no folder is called as a class, and {doubt}")
    return Match(
        np.arange(len(names), dtype=np.int32), "by their order alone, as no name is the same"
    )


def _by_number(numbers: Sequence[int], count: int, from_one: bool) -> Match:
    least, most = min(numbers), max(numbers)
    span = f"the folders {least} … {most}"
    if len(set(numbers)) < len(numbers):
        raise UserError("two folders are the same number")
    if most > count or (most == count and least == 0):
        raise UserError(f"{span} are no labels of {count:,} classes, 0 … {count - 1}")
    if least == 0:
        return Match(np.array(numbers, np.int32), "by number")
    if most == count and from_one:
        return Match(np.array(numbers, np.int32) - 1, "by number, counted from 1")
    if most == count:
        raise UserError(f"{span} count from 1, and nothing says in which order")
    raise UserError(f"{span} may count from 0 or from 1, as neither 0 nor {count} is among them")


def describe(classes: Sequence[Class]) -> str:
    """The first three and the last: "3 classes: cat → 0, n02 → 1 (small dog), emu → 2"."""
    lines = [_pair(one) for one in classes]
    if len(lines) > NAMED + 1:
        lines = [*lines[:NAMED], "…", lines[-1]]
    return f"{len(classes):,} classes: {', '.join(lines)}"


def some(names: Sequence[str]) -> str:
    """The first few, quoted."""
    return ", ".join(map(repr, names[:NAMED])) + (", …" if len(names) > NAMED else "")


def to_tsv(classes: Mapping[str, Sequence[Class]]) -> str:
    """A line for each class of some data sets: of, label, folder, class."""
    file = io.StringIO()
    rows = csv.writer(file, delimiter="\t", lineterminator="\n")
    rows.writerow(["of", "label", "folder", "class"])
    rows.writerows([of, *one] for of, found in classes.items() for one in found)
    return file.getvalue()


def of_tsv(text: str) -> dict[str, list[Class]]:
    """What `to_tsv` wrote."""
    found: dict[str, list[Class]] = {}
    for row in csv.DictReader(io.StringIO(text), delimiter="\t"):
        one = Class(int(row["label"]), row["folder"], row["class"])
        found.setdefault(row["of"], []).append(one)
    return found


def names_in(labels: Iterable[object]) -> dict[str, int]:
    """Class → its label, where labels are stored as the names of classes, in order; {} where any is
    a number, or something else than a text."""
    found = {label if isinstance(label, str) else None for label in labels if not is_null(label)}
    if None in found or any(map(_numeric, filter(None, found))):
        return {}
    return {name: label for label, name in enumerate(in_order({clean(n) for n in found if n}))}


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return clean(text).casefold() in ("true", "false")
    return True


class Relabelled(Accounted):
    """A source whose records get their label from `label_of`, which raises BadRecord where there is
    none; a function that data workers can be sent."""

    def __init__(self, source: Source, label_of: Callable[[Record], int]):
        self.name, self.account = source.name, account_of(source)
        self._source, self._label_of = source, label_of

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        return dataclasses.replace(record, label=self._label_of(record))

    def captions(self, index: int) -> tuple[str, ...]:
        return self._source.captions(index)


def mapped(source: Source, labels: np.ndarray) -> Relabelled:
    """The source with its labels mapped by a table int [n]; records of a class with -1 are bad."""
    return Relabelled(source, functools.partial(_by_table, labels, classes_of(source)))


def _by_table(labels: np.ndarray, classes: Sequence[str], record: Record) -> int:
    if not 0 <= record.label < len(labels):
        return record.label
    label = int(labels[record.label])
    if label < 0:
        name = classes[record.label]
        raise BadRecord(f"{record.key} is of {name!r}, which is none of the classes")
    return label


def classes_of(source: Source) -> tuple[str, ...]:
    """The names of a source's classes in order of label; () if it knows none."""
    return tuple(getattr(source, "classes", ()))


def is_number(name: str) -> bool:
    return re.fullmatch(r"[0-9]+", name) is not None


def _once(words: Iterable[str]) -> dict[str, int]:
    """Word → its position, of those that occur once."""
    listed = list(words)
    counts = Counter(listed)
    return {word: number for number, word in enumerate(listed) if counts[word] == 1}


def _loose(name: str) -> str:
    """Of "001.Black_footed_Albatross", as data sets name folders, "black footed albatross"."""
    return re.sub(r"[\s_-]+", " ", re.sub(r"^[0-9]+\.", "", name)).strip().casefold()


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key by which "a2" comes before "a10"."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), "") if is_number(part) else (1, 0, part) for part in parts]


def _some(names: Sequence[str], at: int) -> str:
    start = max(0, at - 1)
    return ", ".join([*(["…"] if start else []), *names[start : start + NAMED], "…"])


def _pair(one: Class) -> str:
    return f"{one.folder} → {one.label}" + (f" ({one.name})" if one.name != one.folder else "")
