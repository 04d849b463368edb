"""The one way the benchmarks print: a table for the eye, or one for README.md."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> None:
    if markdown:
        print(f"{title}\n")
        for cells in (header, ("---",) * len(header), *rows):
            print("| " + " | ".join(cells) + " |")
        return
    table = Table(*header, title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
