"""One job a workdir: a second one is told who is there, not left to overwrite its checkpoints.

On a file system the kernel holds the lock and drops it with the process, however that ends. Buckets
have no locks: there the owner renews a time stamp, and is gone when it stops doing so.
"""

import contextlib
import fcntl
import getpass
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from mmjax.errors import UserError

log = logging.getLogger("mmjax.runs")
NAME = "lock.json"
LEAVING = 3.0  # seconds that what is left of a killed job may take to go
RENEW = 20.0  # seconds between two time stamps of the owner


@contextlib.contextmanager
def locked(workdir: epath.Path) -> Iterator[None]:
    """Holds the workdir. UserError: another job does; it is named."""
    owner = {
        "host": socket.gethostname(), "pid": os.getpid(), "user": _user(),
        "job": os.environ.get("SLURM_JOB_ID", ""), "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }  # fmt: skip
    kind = _in_bucket if "://" in str(workdir) else _on_disk
    with kind(workdir / NAME, owner):
        yield


@contextlib.contextmanager
def _on_disk(path: epath.Path, owner: dict[str, Any]) -> Iterator[None]:
    with open(path, "a+") as file:
        patience = time.monotonic() + LEAVING
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < patience:
                    time.sleep(0.1)
                    continue
                file.seek(0)
                raise _taken(path, file.read()) from None
            except OSError as error:  # a network file system without locks
                log.warning("%s cannot be locked (%s): start one job at a time", path, error)
            break
        file.truncate(0)
        file.write(json.dumps(owner))
        file.flush()
        yield


@contextlib.contextmanager
def _in_bucket(path: epath.Path, owner: dict[str, Any], renew: float = RENEW) -> Iterator[None]:
    before = path.read_text() if path.exists() else ""
    if before:
        time.sleep(2.5 * renew)  # a living owner would have renewed it
        if path.exists() and path.read_text() != before:
            raise _taken(path, before)
    stop, mine = threading.Event(), {**owner, "key": uuid.uuid4().hex}

    def keep() -> None:
        while not stop.wait(renew):
            with contextlib.suppress(Exception):  # the next one may get through
                path.write_text(json.dumps({**mine, "renewed": time.time()}))

    path.write_text(json.dumps({**mine, "renewed": time.time()}))
    thread = threading.Thread(target=keep, daemon=True, name="lock")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        path.unlink(missing_ok=True)


def _taken(path: epath.Path, text: str) -> UserError:
    try:
        owner = json.loads(text)
        who = f"process {owner['pid']} of {owner['user']} on {owner['host']}"
        who += f", job {owner['job']}" if owner["job"] else ""
        who += f", since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return UserError(f"{path.parent} is in use by {who}: end that job, or name another --workdir.")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
