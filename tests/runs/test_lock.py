"""One job a workdir, on disks and in buckets."""

import json
import os
import subprocess
import sys
import time

import pytest
from etils import epath

from mmjax.errors import UserError
from mmjax.runs import lock

HOLD = """
import sys, time
from etils import epath
from mmjax.runs.lock import locked
with locked(epath.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    job = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert job.stdout.readline() == "held\n"
    yield job
    job.kill()
    job.wait()


def test_second_owner_is_told_of_the_first_until_it_is_dead(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LEAVING", 0.1)
    with (
        pytest.raises(UserError, match=f"in use by process {holder.pid} of .* on .*another --wor"),
        lock.locked(epath.Path(tmp_path)),
    ):
        pass
    holder.kill()
    holder.wait()
    with lock.locked(epath.Path(tmp_path)):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def test_bucket_knows_a_living_owner_from_a_dead_one(tmp_path):
    path, owner = epath.Path(tmp_path / "lock.json"), {"host": "h", "pid": 1, "user": "u"}
    owner |= {"job": "17", "since": "noon"}
    with lock._in_bucket(path, owner, renew=0.1):
        time.sleep(0.3)  # it renews
        with (
            pytest.raises(UserError, match="process 1 of u on h, job 17, since noon"),
            lock._in_bucket(path, owner, renew=0.2),
        ):
            pass
    assert not path.exists()
    path.write_text(json.dumps(owner))  # left by one that was killed
    with lock._in_bucket(path, owner, renew=0.1):
        assert "renewed" in path.read_text()
