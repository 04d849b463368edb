"""The pages of README and docs/, and the blocks of code in them.

A block that cannot run says why in a comment on the line before it:
<!-- not run: needs PyTorch -->.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from mmjax import config as config_lib
from mmjax.config_file import load_config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
MADE = {"generated", "notebooks"}  # what a build puts into docs/
PAGES = [page for page in PAGES if not MADE & set(page.relative_to(ROOT).parts)]
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "launch/README.md", ROOT / "benchmarks/README.md"]
BLOCK = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: .+ -->\s*\Z")


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        runs = not NOT_RUN.search(text[: match.start()])
        found.append(Block(page, line, match[2], match[3], runs))
    return found


BLOCKS = [block for page in (*OTHERS, *PAGES) for block in blocks_of(page)]


def fresh() -> Any:
    """A config to set keys of, such as those of most recipes."""
    return config_lib.complete(load_config(str(ROOT / "configs/pairs.py")))
