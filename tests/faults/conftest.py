"""Undisturbed runs to compare with, one of each topology."""

import pytest
from runs import Run


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """The workdir of a run in one process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    Run(workdir).finish()
    return workdir


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """The workdir of a run in two processes that split the parameters."""
    workdir = tmp_path_factory.mktemp("pair") / "run"
    Run(workdir, "mesh.fsdp=2", processes=2, devices=1).finish()
    return workdir
