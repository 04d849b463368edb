"""The doctor measures what is there, on every process, and says what looks wrong."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mmjax
from mmjax import checkup
from mmjax.errors import UserError
from mmjax.runs.local_path import workdir_path

LOCAL = Path(__file__).parents[1] / "launch" / "local.py"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return checkup.examine(str(tmp_path_factory.mktemp("workdir")))


def test_one_process_with_eight_devices(report):
    assert (report["processes"], report["devices"], report["platform"]) == (1, 8, "cpu")
    (host,) = report["hosts"]
    assert {"mmjax", "jax", "numpy", "python"} <= host["versions"].keys()
    assert 1e8 < host["matmul"] < 1e14
    assert 1e5 < report["all_reduce"] < 1e12
    assert 1e5 < host["write"] < 1e12
    assert 1e5 < host["read"] < 1e12
    assert abs(host["clock_skew"]) < 1e-6
    assert not list(Path(report["workdir"]).iterdir())


def test_it_leaves_nothing_that_it_made(tmp_path):
    """The workdir was not there, nor its parents; one that was there stays."""
    (tmp_path / "there").mkdir()
    for folder in ("not/there/yet", "there", "there/run"):
        rates = checkup.measured_storage(workdir_path(tmp_path / folder))
        assert min(rates) > 1e5
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_its_own_version_is_that_of_the_code():
    assert checkup.versions()["mmjax"] == mmjax.__version__


def test_every_process_is_in_the_report(tmp_path):
    file = tmp_path / "doctor.json"
    done = subprocess.run(
        [sys.executable, LOCAL, "--processes=2", "--devices=2", "--", sys.executable, "-m", "mmjax",
         "doctor", "--distributed", f"--workdir={tmp_path / 'w'}", f"--json={file}"],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stdout + done.stderr  # a busy machine may look wrong
    found = json.loads(file.read_text())
    assert (found["processes"], found["devices"]) == (2, 4)
    assert [host["devices"] for host in found["hosts"]] == [2, 2]
    assert found["all_reduce"] > 0
    assert abs(found["hosts"][1]["clock_skew"]) < 0.5  # one clock, read at two moments
    assert "4 × cpu (cpu) in 2 process(es)" in done.stdout
    assert done.returncode == bool(found["warnings"])
    assert f"wrote {file}" in done.stdout
    assert not (tmp_path / "w").exists()


def test_what_looks_wrong_is_said(report):
    sick = copy.deepcopy(report)
    sick["hosts"] = [copy.deepcopy(report["hosts"][0]) for _ in range(4)]
    assert checkup.warnings(sick) == report["warnings"] == []
    sick["hosts"][1]["matmul"] /= 2
    sick["hosts"][2]["clock_skew"] = -3.0
    sick["hosts"][3]["versions"]["jax"] = "0.1"
    sick["hosts"][3]["free"]["/tmp"] = 10**9
    said = "\n".join(checkup.warnings(sick))
    assert "process 1 " in said
    assert "computes at 50% of the median" in said
    assert "is -3.0 s off: run NTP" in said
    assert "has jax 0.1, process 0 has" in said
    assert "1.0 GB are free in /tmp" in said
    sick = copy.deepcopy(report)
    sick["peak"] = 10 * report["hosts"][0]["matmul"]
    assert "% of the published peak" in checkup.warnings(sick)[0]


def test_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written and read"):
        mmjax.doctor(tmp_path / "file" / "w")
    with pytest.raises(UserError, match=r"--json=.* cannot be written: there is no such folder"):
        mmjax.doctor(json=tmp_path / "no" / "doctor.json")
