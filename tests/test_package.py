"""The wheel: that it holds what a user needs, and works outside of the repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import mmjax
from mmjax import shipped
from mmjax.errors import UserError

ROOT = Path(mmjax.__file__).parents[1]


def test_launch_scripts_are_copied_as_they_are(tmp_path):
    written = shipped.copy_launch(tmp_path / "mine" / "launch")
    assert {file.name for file in written} >= {"submit.sh", "jobset.py", "README.md", "Dockerfile"}
    submit = tmp_path / "mine" / "launch" / "slurm" / "submit.sh"
    assert submit.read_bytes() == (ROOT / "launch" / "slurm" / "submit.sh").read_bytes()
    assert os.access(submit, os.X_OK)
    with pytest.raises(UserError, match="is not an empty folder"):
        shipped.copy_launch(tmp_path / "mine")


def test_the_version_is_said_once_more_only_for_citing():
    assert f"version: {mmjax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{mmjax.__version__}] - " in (ROOT / "CHANGELOG.md").read_text()


def environment(folder: Path, what: Path | str, *options: str) -> Path:
    """A virtual environment that has mmjax from `what`, and else what runs this test, but not its
    mmjax: .pth files of a folder that a .pth names are not read."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps",
         *options, what],
        check=True,
    )  # fmt: skip
    return folder / "bin"


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The repository in a folder called mmjax, without what is not tracked."""
    target = tmp_path_factory.mktemp("clones with a space") / "mmjax"
    hidden = shutil.ignore_patterns(
        ".*", "build", "dist", "data", "runs", "__pycache__", "*.egg-info"
    )

    def ignore(folder, names):  # at the top: mmjax/data and mmjax/runs are packages
        return hidden(folder, names) if Path(folder) == ROOT else {"__pycache__"} & {*names}

    return Path(shutil.copytree(ROOT, target, ignore=ignore))


@pytest.mark.long
def test_the_wheel_trains_evaluates_and_exports_in_a_clean_environment(clone, tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path]
    subprocess.run([*pip, clone], check=True)
    (wheel,) = tmp_path.glob("mmjax-*.whl")
    assert wheel.name.startswith(f"mmjax-{mmjax.__version__}-")
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("configs", "launch"):
        files = [f for f in (ROOT / folder).rglob("*") if f.is_file() and f.suffix != ".pyc"]
        assert {f"mmjax/{folder}/{f.relative_to(ROOT / folder)}" for f in files} <= names
    assert not [name for name in names if "pyc" in name or name.startswith(("tests", "demo"))]
    assert "mmjax/py.typed" in names

    bin, elsewhere = environment(tmp_path / "venv", wheel, "--no-index"), tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*command):
        done = subprocess.run(
            [bin / command[0], *command[1:]], cwd=elsewhere, capture_output=True, text=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("python", "-c", "import mmjax; print(mmjax.__file__)").strip()
    assert Path(where).is_relative_to(tmp_path / "venv")
    assert run("mmjax", "--version") == f"mmjax {mmjax.__version__}\n"
    run("mmjax", "train", "--config=pairs:smoke", "--workdir=run", "--config.total_steps=2")
    assert "R@1" in run("mmjax", "eval", "--workdir=run", "--task=retrieval", "--data=generated:24")
    run("mmjax", "export", "--workdir=run", "--output=out")
    assert (elsewhere / "out" / "model.safetensors").is_file()
    run("mmjax", "launch", "--copy", "scripts")
    assert os.access(elsewhere / "scripts" / "slurm" / "submit.sh", os.X_OK)
    assert "slurm/submit.sh" in run("mmjax", "launch", "--list")


@pytest.mark.long
def test_an_editable_install_works_in_the_folder_that_contains_the_clone(clone, tmp_path):
    bin = environment(tmp_path / "venv", clone, "--editable")
    code = "import mmjax; print(mmjax.recipe('pairs:smoke').total_steps, mmjax.__file__)"
    done = subprocess.run(
        [bin / "python", "-c", code], cwd=clone.parent, capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert done.stdout == f"6 {clone / 'mmjax' / '__init__.py'}\n", done.stderr
