"""Lint and types see the same after a user's runs as before: `make demo`, then `make test`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = {
    "check": ("ruff", "check", "."),
    "format": ("ruff", "format", "--check", "."),
}
PARTS = ("mmjax", "configs", "demo", "benchmarks", "tests")
CHECKED = (
    "from mypy.main import process_options as o; print(*(s.path for s in o([])[0]), sep='\\n')"
)


@pytest.fixture(scope="module")
def used_tree(tmp_path_factory):
    """A copy of what is linted, and in it what the demo and a user leave behind."""
    tree = tmp_path_factory.mktemp("tree")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name)
    for path in ROOT.glob("*.*"):
        if path.is_file():
            shutil.copy2(path, tree)
    for folder in ("data/emoji", "runs/demo/checkpoints", "models", "faulty_config"):
        (tree / folder).mkdir(parents=True)
    for name in ("runs/my_config.py", "runs/demo/config.py", "data/emoji/tidy.py"):
        (tree / name).write_text("import os,sys\nx : int='no'\n")
    return tree


@pytest.mark.parametrize("tool", TOOLS)
def test_folders_of_runs_are_no_code(used_tree, tool):
    found = subprocess.run(
        [sys.executable, "-m", *TOOLS[tool]], cwd=used_tree, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_types_are_checked_of_the_same_files(used_tree):
    """Which are well typed, says `make types`."""
    used, clean = (
        subprocess.run(
            [sys.executable, "-c", CHECKED], cwd=tree, check=True, capture_output=True, text=True
        ).stdout.splitlines()
        for tree in (used_tree, ROOT)
    )
    assert sorted(used) == sorted(clean)
    assert {"mmjax/data/workers.py", "configs/demo.py", "demo/run.py"} <= set(used)


@pytest.mark.parametrize("package", ["mmjax/data", "mmjax/runs", "tests/runs"])
def test_packages_of_the_same_names_are_code(used_tree, package):
    """What excludes a user's `runs` must not exclude ours."""
    file = used_tree / package / "untidy.py"
    file.write_text("import os,sys\n")
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "."]
    found = subprocess.run(command, cwd=used_tree, capture_output=True, text=True)
    file.unlink()
    assert f"{package}/untidy.py" in found.stdout


def test_pytorch_is_imported_from_one_file():
    """Python 3.13's run has no PyTorch, and a module that imports it itself would end that run."""
    direct = re.compile(r"^(import|from) torch\b", re.MULTILINE)
    files = set((ROOT / "tests").rglob("*.py")) - {ROOT / "tests" / "pytorch.py"}
    assert [file.name for file in files if direct.search(file.read_text())] == []
