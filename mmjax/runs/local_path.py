"""The folder of a run as a path that every library reads literally."""

import glob
import os
from collections.abc import Iterator
from typing import Self

from etils import epath

from mmjax.errors import UserError
from mmjax.paths import is_url, typed


class LocalPath(epath.gpath.PosixGPath):
    """A folder on this machine in which every character means itself.

    etils puts a path into the pattern of `glob` as it is, where `[lr=1e-3]` is one of five
    characters: Orbax then misses the files that it has just written. And it takes /gs/x for a
    bucket.
    """

    _uri_scheme = None

    def glob(self, pattern: str) -> Iterator[Self]:
        for found in glob.iglob(os.path.join(glob.escape(os.fspath(self)), pattern)):
            yield type(self)(found)


def workdir_path(path: str | os.PathLike[str]) -> epath.Path:
    """A folder to write to, as an absolute path or as the URL that it is.

    Raises:
      UserError: a file of a checkpoint could not be found again under that name.
    """
    if is_url(path):
        return epath.Path(path)
    absolute = os.path.abspath(typed(path) if isinstance(path, str) else path)
    if "\\" in absolute:  # tensorstore takes it for /
        raise UserError(
            f"{absolute} has a backslash, which checkpoints cannot: name another folder."
        )
    try:
        absolute.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{absolute!a} is not UTF-8, which checkpoints need: name another folder."
        ) from error
    return LocalPath(absolute)


def shown(folder: epath.Path) -> str:
    """A folder as messages name it: relative if it is inside the current one."""
    if is_url(folder):
        return str(folder)
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith("..") else relative
