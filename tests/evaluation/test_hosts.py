"""Two hosts, each reading its own rows, report what one host reports: alone and in training."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import host
import jax
import pytest
import small_run

from mmjax import evaluation
from mmjax.parallel.mesh import make_mesh

LOCAL = Path(__file__).parents[2] / "launch" / "local.py"


@pytest.fixture
def specs(tmp_path):
    labels = [number % 3 for number in range(21)]
    table = small_run.write_table(tmp_path, [[c] for c in small_run.captions(21)], labels)
    (tmp_path / "classes.txt").write_text("red\nsea\ncat\n")
    classes = {"classes": str(tmp_path / "classes.txt"), "label": "class"}
    return {
        "pairs": {"kind": "retrieval", "path": table, "batch_size": 7},
        "names": {"kind": "classification", "path": table, "batch_size": 8, **classes},
        "held": {"kind": "loss", "path": table, "batch_size": 8},
    }


def test_every_host_reports_the_numbers_of_one(specs):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, str(Path(host.__file__))]
    hosts = [
        subprocess.Popen(
            [*command, str(number), "2", port, json.dumps(specs)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        found = []
        for process in hosts:
            out, err = process.communicate(timeout=240)
            assert process.returncode == 0, err
            found.append(json.loads(out.rpartition("RESULT ")[2]))
    finally:
        for process in hosts:
            process.kill()
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        alone = host.evaluate(specs)
    assert found[0] == found[1]
    assert found[0]["pairs"] == alone["pairs"]
    assert found[0]["names"] == alone["names"]
    assert found[0]["held"] == pytest.approx(alone["held"], rel=1e-5)


CONFIG = """
import json
from mmjax import config as config_lib
from mmjax import models

def get_config(arg=None):
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    config.objectives.clip = config_lib.entry("objectives")
    config = config_lib.smoke(config)
    config.total_steps = 4
    config.mesh.update(data=2, fsdp=2)
    for name, spec in json.loads(open(arg).read()).items():
        config.evals[name] = config_lib.entry("evals", every=2, **spec)
    return config
"""


@pytest.mark.long
def test_evaluators_of_a_run_on_two_hosts(specs, tmp_path):
    """What they say of the last step is what one host says of its checkpoint."""
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "specs.json").write_text(json.dumps(specs))
    workdir = tmp_path / "run"
    command = [
        sys.executable, str(LOCAL), "--processes=2", "--devices=2", "--",
        sys.executable, "-m", "mmjax", "train", "--distributed", f"--workdir={workdir}",
        f"--config={tmp_path / 'config.py'}:{tmp_path / 'specs.json'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    of_step = {2: {}, 4: {}}
    for line in lines:
        if line["step"] in of_step:
            of_step[line["step"]] |= line
    alone = evaluation.evaluate(str(workdir))
    assert set(alone) == set(specs)
    for name, metrics in alone.items():
        for metric, value in metrics.items():
            assert f"{name}/{metric}" in of_step[2]
            assert of_step[4][f"{name}/{metric}"] == pytest.approx(value, rel=1e-5), metric
