"""Lists of class names, templates and candidate texts: a line each, from a file or shipped here."""

from pathlib import Path

from mmjax.errors import UserError

IMAGENET = Path(__file__).parent / "imagenet"  # SOURCE.txt there says whose words these are


def class_names(given: str, name: str) -> list[str]:
    """The classes in order of label: those of a file, or of "imagenet"."""
    if not given:
        raise UserError(
            f"evals.{name}: zero-shot needs classes: a file of one name a line, or 'imagenet'."
        )
    return read_lines(IMAGENET / "classes.txt" if given == "imagenet" else Path(given), name)


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


def read_lines(path: Path, name: str) -> list[str]:
    """The non-empty lines of a UTF-8 file, stripped."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise UserError(f"evals.{name}: cannot read {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"evals.{name}: {path} is not UTF-8 text.") from error
    lines = [line for line in lines if line]
    if not lines:
        raise UserError(f"evals.{name}: {path} holds no lines.")
    return lines
