"""`import mmjax`: what it offers, that it is quick, and that type checkers see the same."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mmjax
from mmjax import config as config_lib
from mmjax.errors import UserError


def test_all_that_dir_shows_is_there():
    names = [name for name in dir(mmjax) if not name.startswith("__")]
    assert {"load", "train", "evaluate", "plan", "export", "convert", "recipe", "config"} <= {
        *names
    }
    for name in names:
        value = getattr(mmjax, name)
        module, _, attribute = mmjax._HOMES[name].partition(":")
        found = importlib.import_module(module)
        assert value is (getattr(found, attribute) if attribute else found)
        assert value.__doc__
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        mmjax.trian  # noqa: B018


def test_type_checkers_see_the_same():
    """What is imported for type checkers is what `__getattr__` imports."""
    tree = ast.parse(Path(mmjax.__file__).read_text())
    (block,) = (
        node for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )  # fmt: skip
    typed = {}
    for node in block.body:
        for alias in node.names:
            assert alias.asname == alias.name  # an explicit re-export
            of_package = node.module == "mmjax"
            typed[alias.name] = f"mmjax.{alias.name}" if of_package else (
                f"{node.module}:{alias.name}"
            )  # fmt: skip
    assert typed == mmjax._HOMES
    assert (Path(mmjax.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["train", "--help"]])
def test_help_needs_no_jax(argv):
    code = f"""
import sys
from mmjax import cli
try:
    cli.main({argv!r})
except SystemExit as stopped:
    assert stopped.code == 0
heavy = {{"jax", "flax", "grain", "transformers", "rich", "PIL"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if argv == ["--version"]:
        assert done.stdout == f"mmjax {mmjax.__version__}\n"


def test_recipes_by_name():
    assert {"clip_vit_b16", "pairs", "demo"} <= set(mmjax.list_recipes())
    config = mmjax.recipe("clip_vit_b16:smoke", batch_size=8, **{"optim.lr": 2})
    assert (config.batch_size, config.optim.lr, config.total_steps) == (8, 2.0, 6)
    config.optim.warmup_steps = 3  # a key that there is
    with pytest.raises(AttributeError):
        config.optim.warmup = 3
    with pytest.raises(UserError, match=r"config\.optim\.lrr.* nearest is config\.optim\.lr"):
        mmjax.recipe("pairs", **{"optim.lrr": 1})
    with pytest.raises(UserError, match=r"config\.batch_size=0 must be"):
        mmjax.recipe("pairs", batch_size=0)
    with pytest.raises(
        UserError, match=r"no file or recipe clip_vit_b17; the nearest .* clip_vit_b16"
    ):
        mmjax.recipe("clip_vit_b17:smoke")
    with pytest.raises(UserError, match=r"no file nowhere/pairs\.py; .* --config=pairs"):
        mmjax.recipe("nowhere/pairs.py:smoke")


@pytest.mark.parametrize("name", ["pairs", "clip_kd", "bert_base", "finetune_clip"])
def test_smoke_is_the_only_variant_and_keeps_the_names_of_the_data(name):
    whole, small = mmjax.recipe(name), mmjax.recipe(f"{name}:smoke")
    assert set(small.data.train) == set(whole.data.train)
    assert {source.path for source in small.data.train.values()} == {"generated:64"}
    source = sorted(whole.data.train)[0]
    mine = mmjax.recipe(f"{name}:smoke", **{f"data.train.{source}.path": "mine.csv"})
    assert mine.data.train[source].path == "mine.csv"
    if name != "finetune_clip":  # its argument names weights
        with pytest.raises(UserError, match="takes no argument 'smok', only 'smoke'"):
            mmjax.recipe(f"{name}:smok")


def test_no_key_of_an_evaluator_is_an_argument_of_evaluate():
    keys = {key.name for kind in config_lib.kinds("evals").values() for key in kind}
    assert not keys & set(inspect.signature(mmjax.evaluate).parameters)


def test_lists_of_names():
    assert {"ViT-B/16", "tiny"} <= set(mmjax.list_models())
    assert {"clip", "siglip", "mlm"} <= set(mmjax.list_objectives())
    with pytest.raises(UserError, match=r"'vit-b-32'; the nearest is 'ViT-B/32'"):
        mmjax.models.zoo.config("vit-b-32")


def test_the_example_that_trains_on_own_arrays(tmp_path, monkeypatch, capsys):
    """As it is written for users, of the recipe's smoke form."""
    root = Path(__file__).parents[1]
    pages = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    blocks = [
        block for page in pages
        for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
        if "from_records(" in block and "mmjax.train(" in block
    ]  # fmt: skip
    assert blocks
    monkeypatch.chdir(tmp_path)
    small = blocks[0].replace('"pairs", total_steps=100', '"pairs:smoke", total_steps=2')
    assert small != blocks[0]
    scope = {}
    exec(small, scope)
    assert (tmp_path / "runs" / "arrays" / "checkpoints" / "2").is_dir()
    assert "image_to_text/R@1" in capsys.readouterr().out
    assert repr(scope["clip"]).startswith("Pretrained(ViT-tiny/8-64 (smoke): ")
    state = mmjax.train(scope["config"], "runs/arrays")  # has ended
    assert repr(state).startswith("TrainState(step=2, parameters=")
    scope["config"].data.train.pairs.path = mmjax.data.from_records(
        zip(scope["images"][:2], "ab", strict=True)
    )
    with pytest.raises(UserError, match=r"other records in config\.data\.train\.pairs"):
        mmjax.train(scope["config"], "runs/arrays")


def test_a_program_that_sets_up_no_logging_sees_messages_alone():
    code = """
import logging, warnings
import mmjax.training
logging.getLogger("mmjax.data").warning("said")
warnings.warn("IProgress not found. Please update jupyter and ipywidgets.")  # tqdm, in a notebook
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "said\n"
