"""Splits of a data set: how they are called, where they show, and which of them a source reads.

Training reads the training split and evaluation the test split wherever splits are known: TFDS,
Karpathy's JSON, a column `split`, a folder that holds train/ and test/, files named train-… and
test-…. Where none are known, a `split` that is asked for is an error.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from mmjax.errors import UserError

# What people call a split → what it is. restval is Karpathy's, to be trained on with train.
_MEANS = {
    "train": "train", "training": "train", "restval": "train", "val": "val", "valid": "val",
    "validation": "val", "validate": "val", "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
_IN_NAME = re.compile(rf"(?:^|[-_.])({'|'.join(_MEANS)})(?=[-_.\d]|$)")


class NoSplits(UserError):  # noqa: N818
    """A split is asked for, and the data is not divided."""


class Split:
    """What a source is to read: `wanted` as the user set it, "" for `unset`.

    `known` says whether the source turned out to have splits.
    """

    def __init__(self, wanted: str, unset: str, name: str):
        self.wanted, self.known = wanted, False
        self.found: list[str] = []  # what was read of what, for an Account
        self._unset, self._name = unset, name

    @property
    def text(self) -> str:
        return self.wanted or self._unset

    def choose(self, known: Iterable[str], where: object) -> set[str]:
        """The names, among those of the splits that are known, to read. UserError: there are none.

        Several are joined by +. Where no split is of that name, another word for it will do.
        """
        names = sorted(set(known))
        self.known = True
        chosen: set[str] = set()
        for part in self.text.split("+"):
            found = {n for n in names if n == part and self.wanted}
            meant = _meaning(part)
            found = found or {n for n in names if meant and _meaning(n) == meant}
            if not found:
                raise UserError(
                    f"{self._name}: {where} has no split {part!r}, but {', '.join(names)}; "
                    "set split to what is to be read."
                )
            chosen |= found
        if len(names) > 1:
            self.found.append(
                f"{'+'.join(sorted(chosen))} is read of the splits {', '.join(names)} in {where}; "
                "split says otherwise"
            )
        return chosen

    def folder(self, folder: Path) -> Path:
        """The subfolder of the split, or the folder itself if its subfolders are no splits.

        UserError: they are, and others beside them, and nobody said which is meant.
        """
        inside = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
        splits = [name for name in inside if _meaning(name)]
        if len({_meaning(name) for name in splits}) < (2 if len(splits) < len(inside) else 1):
            return folder
        others = sorted(set(inside) - set(splits))
        if others and not self.wanted:
            raise UserError(
                f"{self._name}: {folder} holds the splits {', '.join(splits)} beside "
                f"{', '.join(others[:3])}: set split, or name the folder that is meant."
            )
        chosen = sorted(self.choose(splits, f"the folder {folder}"))
        if len(chosen) > 1:
            raise UserError(
                f"{self._name}: split={self.text} names {len(chosen)} folders of {folder}: make "
                "each a source of its own."
            )
        return folder / chosen[0]

    def files(self, files: Sequence[str]) -> list[str]:
        """Those of the split, where all names tell theirs and there are several splits."""
        split = {file: _of_file(file) for file in files}
        if not all(split.values()) or len({_meaning(s) for s in split.values()}) < 2:
            return list(files)
        chosen = self.choose(split.values(), f"the names of {files[0]} and others")
        return [file for file in files if split[file] in chosen]

    def rows(self, values: Iterable[object], where: object) -> Collection[str] | None:
        """Which values of a column `split` are to be read; None: all, they are no names of splits
        or there are none."""
        found = {str(value).strip() for value in values}
        if not found or (not self.wanted and not all(map(_meaning, found))):
            return None
        return self.choose(found, where)


def split_column(columns: Collection[str], filtered: Collection[str] = ()) -> str:
    """The column that may hold the split of each row, or "": a filter that looks at it decides."""
    found = next((c for c in columns if str(c).strip().lower() == "split"), "")
    return "" if found in filtered else found


def is_split(name: str) -> bool:
    """Whether something is called as a split is."""
    return bool(_meaning(name))


def _meaning(name: str) -> str:
    """train, val or test; "" if it is no name of a split. train2017 is one."""
    return _MEANS.get(re.sub(r"[-_]?\d{4}$", "", name.strip().lower()), "")


def _of_file(file: str) -> str:
    """The split in the name of a file, or that of its folder, or ""."""
    path = Path(file)
    found = _IN_NAME.search(path.name.lower())
    return found[1] if found else path.parent.name if _meaning(path.parent.name) else ""
