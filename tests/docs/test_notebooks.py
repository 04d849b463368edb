"""Notebooks run, and what is committed of them are the outputs of the sources beside them.

All are compared with their sources; one is executed, another each day. `make notebooks` executes
all.
"""

import re
import runpy
import shutil
import time
from types import SimpleNamespace

import jupytext
import pytest
from docs_pages import ROOT

from demo import packages, prepare
from mmjax.errors import UserError

NOTEBOOKS = ROOT / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("[0-9]*.py"))
TODAY = [SOURCES[int(time.time() // 86400) % len(SOURCES)]]

run = SimpleNamespace(**runpy.run_path(str(NOTEBOOKS / "run.py")))


def test_there_are_notebooks_and_the_documentation_lists_them():
    listed = re.findall(r"^(\d\d_\w+)$", (NOTEBOOKS / "index.md").read_text(), re.MULTILINE)
    assert listed == [source.stem for source in SOURCES] != []


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_outputs_are_of_the_source(source):
    """Every cell is as in the source, ran in order and without an error, and says no machine's
    paths."""
    committed = source.with_suffix(".ipynb")
    notebook, expected = jupytext.read(committed), run.read(source)
    assert [(c.cell_type, c.source) for c in notebook.cells] == [
        (c.cell_type, c.source) for c in expected.cells
    ], "make notebooks"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert committed.stat().st_size <= run.BYTES
    said = " ".join(output.get("text", "") for output in outputs)
    assert not re.search(r"(?<![\w.])/(tmp|home|root|work|Users)/|Traceback|Warning", said)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_links_lead_to_files(source):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", source.read_text(encoding="utf-8"))
    links = [link for link in links if "://" not in link]
    assert [link for link in links if not (NOTEBOOKS / link).exists()] == []
    assert links


@pytest.mark.parametrize("source", TODAY, ids=lambda path: path.stem)
def test_a_notebook_runs(source, tmp_path):
    folder = tmp_path / "notebooks"
    shutil.copytree(NOTEBOOKS, folder, ignore=shutil.ignore_patterns("runs", "*.ipynb"))
    if "demo.prepare" in source.read_text(encoding="utf-8"):
        try:
            packages.fetch(prepare.TEXT, tmp_path / "data/emoji/packages")
        except UserError as error:
            pytest.skip(str(error))
    run.execute(source, folder)
