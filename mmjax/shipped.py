"""Files that come with mmjax beside its code: recipes and launch scripts.

In a clone they are folders at its top; a wheel holds them inside the package (`setup.py`).
"""

import shutil
from pathlib import Path

from mmjax.errors import UserError

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """The folder `configs` or `launch`."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def recipes() -> dict[str, Path]:
    """Name → file of every recipe: `--config=NAME` and `mmjax.recipe(NAME)`."""
    return {file.stem: file for file in sorted(folder("configs").glob("[!_]*.py"))}


def launch_files() -> list[str]:
    """The scripts that start a run on a cluster, as paths in their folder; README.md says how."""
    root = folder("launch")
    files = (file for file in root.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return sorted(str(file.relative_to(root)) for file in files)


def copy_launch(target: str | Path) -> list[Path]:
    """Copies them into a folder, as they are there; the files that were written.

    UserError: the folder has something in it, or cannot be written.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} is not an empty folder: name one that is, or a new one.")
    written = []
    try:
        for name in launch_files():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder("launch") / name, target / name)  # with its permissions
            written.append(target / name)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}.") from error
    return written
