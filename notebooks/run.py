"""Executes notebooks: NAME.py (jupytext's percent format) becomes NAME.ipynb with its outputs.

    make notebooks                              all of them
    python notebooks/run.py 01_quickstart       some

Edit the .py files: they are the sources. The .ipynb beside them are what GitHub and the
documentation show. A notebook runs in the folder of its source, as it does in Jupyter.
"""

import sys
import time
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
SECONDS = 600  # that a cell may take on a busy machine; a notebook takes less than 180 on two cores
BYTES = 400_000  # of a notebook with its outputs, so that the repository stays small


def execute(source: Path, folder: Path) -> NotebookNode:
    """The notebook of a source with its outputs, run in `folder`.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell has failed; it is shown with its traceback.
    """
    notebook = read(source)
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )  # fmt: skip
    client.execute()
    for cell in notebook.cells:
        cell.metadata = {}  # when it ran
        cell.outputs = [_kept(output) for output in cell.get("outputs", ())]
        if cell.cell_type != "code":
            del cell["outputs"]
    return notebook


def read(source: Path) -> NotebookNode:
    """The notebook of a source, without outputs; a cell's id is its number."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return notebook


def write(notebook: NotebookNode, path: Path) -> None:
    text = jupytext.writes(notebook, fmt="ipynb")
    if len(text) > BYTES:
        raise ValueError(
            f"{path.name} has {len(text):,} bytes, and {BYTES:,} are allowed: show smaller or "
            "fewer pictures."
        )
    path.write_text(text + "\n", encoding="utf-8")


def _kept(output: Any) -> Any:
    """An output without what only says where or how often it ran."""
    if output.output_type == "execute_result":
        output.execution_count = None
    output.pop("transient", None)
    return output


def main(names: list[str]) -> None:
    sources = [HERE / f"{Path(name).stem}.py" for name in names] or sorted(HERE.glob("[0-9]*.py"))
    for source in sources:
        start = time.monotonic()
        write(execute(source, HERE), source.with_suffix(".ipynb"))
        print(f"{source.stem}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
