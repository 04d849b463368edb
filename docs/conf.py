"""Sphinx: `make docs` builds docs/ into build/docs, with warnings as errors."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import generate  # noqa: E402 - beside this file
from docutils import nodes  # noqa: E402

project = "mmjax"
html_show_copyright = False
author = "the mmjax authors"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["generated"]  # included by other pages
html_theme = "furo"
html_title = "mmjax"
html_theme_options = {"source_directory": "docs/"}

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with their outputs: make notebooks
nb_render_markdown_format = "myst"  # of outputs, which may be tables

default_role = "code"  # docstrings write `x` as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
napoleon_use_rtype = False
napoleon_use_ivar = True
smartquotes = False  # docstrings quote values and options
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = False
doctest_test_doctest_blocks = "default"  # >>> in docstrings


def _dashes(app, doctree):
    """What smartquotes would do of Sphinx's own text, and to no option in a docstring."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))


def setup(app):
    app.connect("doctree-read", _dashes)
    app.connect("builder-inited", lambda app: generate.write(Path(app.srcdir) / "generated"))
    app.connect(
        "builder-inited", lambda app: generate.copy_notebooks(Path(app.srcdir) / "notebooks")
    )
