"""Files that come with mmjax beside its code: recipes and launch scripts.

In a clone they are folders at its top; a wheel holds them inside the package (`setup.py`).
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def folder(name: str) -> Path:
    """The folder `configs` or `launch`."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def recipes() -> dict[str, Path]:
    """Name → file of every recipe: `--config=NAME` and `mmjax.recipe(NAME)`."""
    return {file.stem: file for file in sorted(folder("configs").glob("[!_]*.py"))}
