"""Writes the pages of docs/generated from what the code declares: keys, kinds, recipes, commands.

Sphinx calls `write` before it reads the pages (docs/conf.py): no list is kept by hand twice.
"""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmjax import config as config_lib
from mmjax import evaluation, objectives
from mmjax.config_file import load_config
from mmjax.data import sources
from mmjax.interop import huggingface
from mmjax.interop.open_clip import encoders, towers
from mmjax.models import parts
from mmjax.runs.stages import phases
from mmjax.schema import ADJUSTABLE, REQUIRED, SAME_RECORDS, Key

ROOT = Path(__file__).parents[1]
CITATION = r"[A-Z]\w+ et al\.,? \(?\d{4}"
RESULT = (  # in the docstring of a recipe: 70.2 % zero-shot ImageNet, a perplexity of 3.99, …
    r"(\d+\.\d+ / )?\d+\.\d+ % [^.;,(]*?(?= in their| with | where | after |[.;,(])"
    r"|perplexity of \d\.\d+|\d+\.\d+ on [A-Z]\w+"
)


def write(folder: Path) -> None:
    """Writes all generated pages into the folder; one that has not changed is not touched, so that
    Sphinx does not build it anew."""
    folder.mkdir(exist_ok=True)
    pages = {
        "keys.md": keys_page(),
        "objectives.md": kinds_table("objectives"),
        "parts.md": kinds_table("model"),
        "evaluators.md": kinds_table("evals"),
        "sources.md": sources_table(),
        "recipes.md": recipes_page(),
        "commands.md": commands_page(),
        "models.md": fenced(output_of("models")),
        "weights.md": weights_page(),
    }
    _write(folder, pages)


def copy_notebooks(folder: Path) -> None:
    """Copies notebooks/ there, since Sphinx reads its own folder only; links lead into docs/."""
    folder.mkdir(exist_ok=True)
    notebooks = [*(ROOT / "notebooks").glob("*.ipynb"), ROOT / "notebooks/index.md"]
    texts = {path.name: path.read_text(encoding="utf-8") for path in notebooks}
    _write(folder, {name: text.replace("](../docs/", "](../") for name, text in texts.items()})


def _write(folder: Path, pages: dict[str, str]) -> None:
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def documented(section: str) -> dict[str, Any]:
    """Kind → the class or function whose docstring describes it."""
    if section == "model":
        return {name: kind.module for name, kind in parts.KINDS.items()}
    if section == "evals":
        return {name: kind.make for name, kind in evaluation.KINDS.items()}
    return dict(objectives.REGISTRY)


def keys_page() -> str:
    """Every config key: a table for each section, and for each kind of a section of entries."""
    lines: list[str] = []
    for section, keys in config_lib.SECTIONS.items():
        lines += [f"## config.{section}".rstrip("."), "", *key_table(keys)]
    for section, common in config_lib.ENTRIES.items():
        lines += [f"## config.{section}.NAME", "", *key_table(common)]
        for kind, keys in config_lib.kinds(section).items():
            own = [key for key in keys if key not in common]
            lines += [f"### {kind} ({section})", "", summary(documented(section)[kind]), ""]
            lines += key_table(own) if own else ["No keys of its own.", ""]
    return "\n".join(lines)


def key_table(keys: Iterable[Key]) -> list[str]:
    rows = []
    for key in keys:
        default = "required" if key.default is REQUIRED else f"`{key.default!r}`"
        meaning = markdown(key.meaning)
        if key.resumable:
            meaning += " *May change on resume.*"
        elif ADJUSTABLE in key.marks:
            meaning += " *May change on resume with* `--adjust`."
        elif SAME_RECORDS in key.marks:
            meaning += " *May change on resume if the records stay the same.*"
        rows.append((f"`{key.name}`", default, markdown(str(key.values)), meaning))
    return table(("key", "default", "value", "meaning"), rows)


def kinds_table(section: str) -> str:
    """The kinds of a section with a sentence each and the names of their keys."""
    common = config_lib.ENTRIES[section]
    rows = []
    for kind, keys in config_lib.kinds(section).items():
        own = ", ".join(f"`{key.name}`" for key in keys if key not in common)
        rows.append((f"`{kind}`", summary(documented(section)[kind]), own))
    return "\n".join(table(("kind", "what it does", "keys"), rows))


def weights_page() -> str:
    """What other libraries' weights may be of, by name: classes, and towers that open_clip takes
    from timm and transformers."""
    classes = [name for one in huggingface.ARCHITECTURES for name in one.classes]
    lists = {
        "Classes of transformers": classes,
        "Image towers of timm in open_clip": [*towers.TOWERS],
        "Text towers of transformers in open_clip": [*encoders.ENCODERS],
    }
    rows = [(what, ", ".join(f"`{name}`" for name in names)) for what, names in lists.items()]
    return "\n".join(table(("", "read and written"), rows))


def sources_table() -> str:
    """The kinds of sources, and which keys each honours beside those that all do."""
    rows = []
    for name, kind in sources.KINDS.items():
        keys = ", ".join(f"`{key}`" for key in sorted(kind.keys))
        rows.append((f"`{name}`", "yes" if kind.remote else "no", keys))
    return "\n".join(table(("kind", "remote storage", "keys"), rows))


def recipes_page() -> str:
    """A table of configs/, and the docstring of each."""
    rows, sections = [], []
    for path in sorted((ROOT / "configs").glob("*.py")):
        name = path.stem
        title, *rest = paragraphs(path)
        config = load_config(str(path))
        seen = sum((p.stop - p.start) * p.config.batch_size for p in phases(config))
        examples = f"{seen / 1e9:.3g} B" if seen >= 1e9 else f"{seen / 1e6:.3g} M"
        kinds = ", ".join(f"`{objective}`" for objective in config.objectives)
        link = f"[{name}](#{name.replace('_', '-')})"
        cited = (
            found_in(rest, CITATION).replace("(", "").replace(".,", "."),
            found_in(rest, RESULT),
        )
        rows.append((link, config.model.name, kinds, f"{config.batch_size:,}", examples, *cited))
        sections += [f"## {name}", "", f"{title} (`configs/{name}.py`)", ""]
        sections += [line for text in rest for line in (text, "")]
    columns = ("recipe", "architecture", "objectives", "batch", "examples", "source", "published")
    return "\n".join([*table(columns, rows), *sections])


def found_in(paragraphs: list[str], pattern: str) -> str:
    found = re.search(pattern, " ".join(" ".join(paragraphs).split()))
    return found[0].strip() if found else ""


def paragraphs(path: Path) -> list[str]:
    """The docstring of a file as Markdown; what is indented in it is a block of commands."""
    text = inspect.cleandoc(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    return [
        fenced(inspect.cleandoc(part)) if part.startswith("    ") else markdown(part)
        for part in re.split(r"\n\s*\n", text)
    ]


def commands_page() -> str:
    """What every command says with --help."""
    text = output_of("--help")
    lines = [fenced(text), ""]
    for name in commands_in(text):
        text = output_of(name, "--help")
        lines += [f"## mmjax {name}", "", fenced(text), ""]
        for part in commands_in(text):
            lines += [f"### mmjax {name} {part}", "", fenced(output_of(name, part, "--help")), ""]
    return "\n".join(lines)


def commands_in(help_text: str) -> list[str]:
    """The commands that a --help lists."""
    listed = help_text.partition("positional arguments:\n")[2].partition("\n\n")[0]
    return re.findall(r"^    (\w+) ", listed, re.MULTILINE)


def output_of(*command: str) -> str:
    run = [sys.executable, "-m", "mmjax", *command]
    return subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(columns), line("---" for _ in columns), *map(line, rows), ""]


def fenced(text: str) -> str:
    return f"```text\n{text.strip()}\n```"


def summary(thing: Any) -> str:
    """The first sentence of the docstring of a class or function."""
    doc = " ".join(inspect.cleandoc(thing.__doc__ or "").partition("\n\n")[0].split())
    return markdown(re.split(r"(?<=\.)\s+(?=[A-Z])", doc)[0])


def markdown(text: str) -> str:
    """A docstring's text as Markdown that shows the same: < and $ and * stand for themselves."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([<$*_])", r"\\\1", p) for p in parts)
