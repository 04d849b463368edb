"""The compilers know every flag that training sets, and what a user has set stays."""

import importlib.util
import os
import subprocess
import sys

import pytest

from mmjax.parallel import xla_flags
from mmjax.parallel.xla_flags import DETERMINISTIC, FLAGS

COMPILE_FOR_TPU = """
import jax
from mmjax.parallel import hardware
from jax.sharding import SingleDeviceSharding
device = hardware.describe("v5e:1x1").devices[0]
x = jax.ShapeDtypeStruct((8, 128), "float32", sharding=SingleDeviceSharding(device))
print(jax.jit(lambda x: x + 1).lower(x).compile().cost_analysis() is not None)
"""
RUN_HERE = "import jax; print(float(jax.jit(lambda x: x + 1)(1.0)) == 2)"


@pytest.fixture
def installed(monkeypatch):
    """As if the accelerators' packages were there; none of their variables is set."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize(
    ("variable", "code"), [("XLA_FLAGS", RUN_HERE), ("LIBTPU_INIT_ARGS", COMPILE_FOR_TPU)]
)
def test_compilers_know_the_flags(installed, variable, code):
    xla_flags.apply(deterministic=True)
    given = os.environ[variable]
    wanted = [flag for flag in FLAGS + DETERMINISTIC if flag.variable == variable]
    assert given.split() == [f"--{flag.name}={flag.value}" for flag in wanted]
    environ = os.environ | {variable: given, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr  # an unknown flag ends the process


def test_what_the_user_set_stays(installed, monkeypatch):
    monkeypatch.setenv(
        "XLA_FLAGS", "--xla_gpu_enable_latency_hiding_scheduler=false --xla_dump_to=d"
    )
    xla_flags.apply(deterministic=False)
    given = os.environ["XLA_FLAGS"].split()
    assert given[:2] == ["--xla_gpu_enable_latency_hiding_scheduler=false", "--xla_dump_to=d"]
    assert sum("latency_hiding" in flag for flag in given) == 1
    assert not any("deterministic" in flag for flag in given)


def test_flags_can_be_left_out(installed, monkeypatch):
    monkeypatch.setenv("MMJAX_XLA_FLAGS", "off")
    xla_flags.apply(deterministic=False)
    assert os.environ["XLA_FLAGS"] == os.environ["LIBTPU_INIT_ARGS"] == ""
