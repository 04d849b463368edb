"""Writing a folder all or nothing: a reader sees the old one or the new one, never half of one."""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from mmjax.errors import UserError


@contextlib.contextmanager
def replaced(folder: str | Path, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Yields an empty temporary folder that becomes `folder` when the block ends without error.

    Args:
      folder: its parents are created; what it held before is gone afterwards.
      is_ours: says whether a folder with something in it is an earlier one.

    Raises:
      UserError: `folder` is not an earlier one, holds a file that the new one does not, or cannot
        be written; it is left as it was.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder to export to.")
    if folder.exists() and any(folder.iterdir()) and not is_ours(folder):
        raise UserError(f"{folder} is not empty and not an earlier export: name another folder.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UserError(f"cannot write to {folder.parent}: {error.strerror}.") from error
    try:
        new = temporary / "new"
        new.mkdir()
        yield new
        mode = new.stat().st_mode & 0o666  # what the umask allows: safetensors gives 0600
        for file in filter(Path.is_file, new.rglob("*")):
            file.chmod(mode)
        if folder.exists():
            strangers = sorted({p.name for p in folder.iterdir()} - {p.name for p in new.iterdir()})
            if strangers:
                raise UserError(
                    f"{folder} holds {strangers[0]}, which is no part of this export and would be "
                    "lost: move it, or name another folder."
                )
            folder.rename(temporary / "old")
        new.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
