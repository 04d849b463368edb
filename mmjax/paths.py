"""Paths as people write them: `~` is the home folder, every other character means itself."""

import glob
import os
import re
from pathlib import Path
from typing import Any

from mmjax.errors import UserError


def is_url(path: Any) -> bool:
    return "://" in str(path)


def typed(path: str) -> str:
    """A path that a user typed, with a `~` or `~NAME` at its front as that home folder.

    This is done once, where the path comes in (the command line, a config, `mmjax.load`): a shell
    does not do it in `--workdir=~/runs`. `./~` is a folder of that name.

    Raises:
      UserError: there is no home folder.
    """
    if not path.startswith("~") or is_url(path):
        return path
    found = os.path.expanduser(path)
    if found == path and re.match(r"~(/|$)", path):
        raise UserError(f"{path}: this user has no home folder; set HOME, or write the whole path.")
    return found


def typed_values(value: Any) -> Any:
    """The same of the texts in a list or in a ConfigDict, which is changed; others pass through."""
    if isinstance(value, str):
        return typed(value)
    if hasattr(value, "items"):
        for key, item in value.items():
            if (found := typed_values(item)) is not item:
                value[key] = found
    return [typed_values(item) for item in value] if isinstance(value, list) else value


def check_file(option: str, file: str | Path) -> None:
    """UserError: no file of that name can be written, as there is no such folder; said before the
    work whose result `option` is to hold."""
    if Path(file).is_dir():
        raise UserError(f"{option}={file} is a folder: name a file.")
    if not Path(file).absolute().parent.is_dir():
        raise UserError(f"{option}={file} cannot be written: there is no such folder.")


def matches(path: str) -> list[str]:
    """The files that a path names here, in order; [] if it is a pattern that matches nothing.

    A path that is there as it is written is that one. Otherwise the folders at its front that are
    there as written are those, and what follows them is a pattern: braces as in a shell
    ({000..127}, {a,b}) first, then *, ? and [ ]. What is named without a wildcard need not be
    there.
    """
    head = Path(path)
    while not head.exists() and head != head.parent:
        head = head.parent
    pattern = os.path.relpath(path, head) if head != Path(path) else ""
    if not pattern:
        return [path]
    files: list[str] = []
    for part in braces(pattern):
        if not glob.has_magic(part) or (head / part).exists():
            files.append(str(head / part))
        else:
            files += (str(head / found) for found in sorted(glob.glob(part, root_dir=head)))
    return files


def braces(pattern: str) -> list[str]:
    """Braces as in a shell: {000..127} and {a,b}."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if bounds:
        low, high = bounds.groups()
        width = len(low) if low.startswith("0") else 0
        choices = [f"{number:0{width}d}" for number in range(int(low), int(high) + 1)]
    else:
        choices = match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [whole for choice in choices for whole in braces(before + choice + after)]
