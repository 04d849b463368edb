"""Two hosts, each reading its own rows: both report what one host reports."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import host
import jax
import pytest
import small_run

from mmjax.parallel.mesh import make_mesh


@pytest.fixture
def specs(tmp_path):
    labels = [number % 3 for number in range(21)]
    table = small_run.write_table(tmp_path, [[c] for c in small_run.captions(21)], labels)
    (tmp_path / "classes.txt").write_text("red\nsea\ncat\n")
    classes = {"classes": str(tmp_path / "classes.txt"), "label": "class"}
    return {
        "pairs": {"task": "retrieval", "path": table, "batch_size": 7},
        "names": {"task": "classification", "path": table, "batch_size": 8, **classes},
        "held": {"task": "loss", "path": table, "batch_size": 8},
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
