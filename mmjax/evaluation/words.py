"""Lists of class names, templates and candidate texts: a line each, from a file or shipped here."""

import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmjax.data import texts
from mmjax.errors import UserError

IMAGENET = Path(__file__).parent / "imagenet"  # SOURCE.txt there says whose words these are


_NUMBERED = re.compile(r"[0-9]+\s*[,;:]\s*\S")  # "0,cat": a table, and no name


class ClassWords(NamedTuple):
    """The names of classes in order of label, and what data calls them; () if it does the same."""

    names: list[str]
    ids: list[str]


def wnids() -> list[str]:
    """The WordNet ids of ImageNet's classes in order of label: n01440764, n01443537, …"""
    return (IMAGENET / "wnids.txt").read_text(encoding="utf-8").split()


def class_words(given: str, name: str) -> ClassWords:
    """The classes of a file of one NAME or ID<tab>NAME a line, or of "imagenet"."""
    if not given:
        raise UserError(
            f"evals.{name}: zero-shot needs classes: a file of one name a line, or 'imagenet'."
        )
    if given == "imagenet":
        return ClassWords(read_lines(IMAGENET / "classes.txt", name), wnids())
    whole = read_lines(Path(given), name)
    if all(_NUMBERED.match(line) for line in whole):
        raise UserError(
            f"evals.{name}: the lines of {given} begin with numbers, as {whole[0]!r}: write NAME "
            "on each line, or ID<tab>NAME."
        )
    lines = [re.split(r"\s*\t\s*", line) for line in whole]
    columns = len(lines[0])
    for number, line in enumerate(lines, start=1):
        if len(line) != columns or columns > 2:
            raise UserError(
                f"evals.{name}: {given}, line {number} that is not empty: write NAME on each line, "
                "or ID<tab>NAME on each."
            )
    return ClassWords([line[-1] for line in lines], [line[0] for line in lines if columns == 2])


def templates_of(given: str, name: str) -> list[str]:
    """Prompts with {} for the class name: of a file, of "imagenet", or "plain": the name alone."""
    if given == "plain":
        return ["{}"]
    path = IMAGENET / "templates.txt" if given == "imagenet" else Path(given)
    lines = read_lines(path, name)
    for line in lines:
        if "{}" not in line:
            raise UserError(
                f"evals.{name}: the template {line!r} in {path} has no {{}} for the class."
            )
    return lines


def big_vision_words(
    classes: Sequence[str], templates: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Class names and templates as big_vision's zero-shot evaluation writes them.

    Lower case, no punctuation, "_" as a space, spaces collapsed; of a name with commas the part
    before the first (its `prompt_engineering.py` and `discriminative_classifier.py`, 2023). Its
    templates are the same 80.
    """
    names = [_plain(name.split(",")[0]) for name in classes]
    return names, ["{}".join(map(_plain_part, line.split("{}"))).strip() for line in templates]


def read_lines(path: Path, name: str) -> list[str]:
    """The lines of a file that are not empty, as `mmjax.data.texts` defines them."""
    try:
        lines = texts.lines(path.read_bytes())
    except OSError as error:
        raise UserError(f"evals.{name}: cannot read {path}: {error.strerror}.") from error
    except texts.BadText as error:
        where = f", line {error.line}," if error.line else ""
        raise UserError(f"evals.{name}: {path}{where} {error}; save it as UTF-8.") from error
    if not lines:
        raise UserError(f"evals.{name}: {path} holds no lines.")
    return lines


def _plain(text: str) -> str:
    return _plain_part(text).strip()


def _plain_part(text: str) -> str:
    text = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", text.lower())
