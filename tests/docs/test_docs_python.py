"""The Python of README and docs/ runs, as do the examples of public docstrings.

The blocks of a page run in their order, in a folder with the files that the pages speak of.
"""

import doctest
import pkgutil
import re
from typing import Any

import jax
import pytest
import tiny
from docs_pages import BLOCKS, PAGES, ROOT, fresh
from PIL import Image

import mmjax
from mmjax import config as config_lib
from mmjax import config_check, models
from mmjax.data import train_tokenizer
from mmjax.interop import registry
from mmjax.planning.command import check

PYTHON = [block for block in BLOCKS if block.page in PAGES and block.language == "python"]
API = ROOT / "docs/reference/api.md"
DOCUMENTED = re.findall(
    r"auto(?:function|class|module):: ([\w.]+)", API.read_text(encoding="utf-8")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the pages speak of: images, tables of them, and weights where they have a run."""
    folder = tmp_path_factory.mktemp("docs")
    texts = [f"a {name}" for name in ("cat", "dog", "owl", "fox")]
    rows = ["image,caption"]
    for number, text in enumerate(texts):
        name = f"{text[2:]}.jpg"
        Image.new("RGB", (40, 40), (number * 60, 90, 200)).save(folder / name)
        rows.append(f"{name},{text}")
    for name in ("captions.csv", "held_out.csv"):
        (folder / name).write_text("\n".join(rows) + "\n")
    words = train_tokenizer(texts * 2, 540)
    config = tiny.config()
    config.model.text.update(vocab_size=words.vocab_size, unroll=False)
    model = models.from_config(config.model)
    registry.export(folder / "runs/mine", "huggingface", config=config, params=tiny.params(model),
                    tokenizer=words)  # fmt: skip
    return folder


@pytest.fixture
def quick():
    """Compiles in a part of the time; what the blocks compute stays the same."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("page", dict.fromkeys(b.page for b in PYTHON), ids=lambda p: p.stem)
def test_python_runs(page, folder, quick, monkeypatch):
    """A page's blocks in order, with their names; each that sets keys sets right ones."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"entry": config_lib.entry}
    for block in PYTHON:
        if block.page != page:
            continue
        code = compile("\n" * block.line + block.text, str(page), "exec")
        if not block.runs:
            continue
        config = names["config"] = fresh()
        exec(code, names)
        if "config." in block.text and "get_config" not in block.text:
            check_keys(config)
        if get_config := names.pop("get_config", None):
            for arg in (None, "smoke"):
                check(get_config(arg))


def check_keys(config: Any) -> None:
    """UserError: a key does not exist, or does not take its value."""
    for path, value in config_check.leaves(config):
        if value is not None:
            config_lib.key_of(path, config).check(path, value)


def test_the_public_functions_are_documented():
    functions = {f"mmjax.{name}" for name in dir(mmjax) if callable(getattr(mmjax, name))}
    documented = {id(pkgutil.resolve_name(name)) for name in DOCUMENTED}
    assert [f for f in functions if id(pkgutil.resolve_name(f)) not in documented] == []


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_of_docstrings_are_right(name, quick):
    thing = pkgutil.resolve_name(name)
    examples = doctest.DocTestFinder(recurse=True).find(thing, name, globs={})
    runner = doctest.DocTestRunner()
    for example in examples:
        runner.run(example)
    assert thing.__doc__
    assert runner.failures == 0
