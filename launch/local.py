"""One command as several processes of one job, on this machine: a cluster over loopback.

    python launch/local.py --processes=4 --devices=2 -- mmjax train --distributed --config=...

Every process has its own simulated CPU devices, and they talk over gloo as hosts of a cluster do.
Each line of output begins with the number of its process. When one fails, the others are stopped
and its exit status is returned; SIGTERM is passed on, so that a run may save before it ends.
"""

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, or the status of the first process that failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, default=2, help="hosts of the cluster")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of each")
    parser.add_argument(
        "--grace", type=float, default=60, help="seconds to end after SIGTERM, before SIGKILL"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would run, and stop")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    args = parser.parse_args(argv)
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command or args.processes < 1 or args.devices < 1:
        parser.error("give a command after --, and at least one process with one device")
    variables = environment(args.processes, args.devices)
    if args.dry_run:
        for number in range(args.processes):
            given = [f"{k}={v}" for k, v in (variables | {"MMJAX_PROCESS": str(number)}).items()]
            print("env", *given, shlex.join(command))
        return 0
    try:
        return run(command, args.processes, variables, args.grace)
    except FileNotFoundError as error:
        parser.error(f"cannot run {error.filename}: there is no such program")


def environment(processes: int, devices: int) -> dict[str, str]:
    """What every process is told, beside its number."""
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "MMJAX_COORDINATOR": f"127.0.0.1:{free_port()}",
        "MMJAX_PROCESSES": str(processes),
        "PYTHONUNBUFFERED": "1",
    }


def run(command: Sequence[str], processes: int, variables: dict[str, str], grace: float) -> int:
    jobs: list[subprocess.Popen] = []
    readers: list[threading.Thread] = []

    def pass_on(number: int, _frame: object) -> None:
        for job in jobs:
            with contextlib.suppress(ProcessLookupError):
                job.send_signal(number)
        signal.setitimer(signal.ITIMER_REAL, grace)

    def enough(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGALRM, enough)
    try:
        for number in range(processes):
            job = subprocess.Popen(
                command, env=os.environ | variables | {"MMJAX_PROCESS": str(number)}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            jobs.append(job)
            readers.append(threading.Thread(target=relay, args=(number, job), daemon=True))
            readers[-1].start()
        return first_failure(jobs)
    except KeyboardInterrupt:
        return 130
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        stop(jobs)
        for reader in readers:
            reader.join(timeout=10)


def first_failure(jobs: Sequence[subprocess.Popen]) -> int:
    """Waits until all have ended, or one has failed; its status, or 0."""
    while True:
        statuses = [job.poll() for job in jobs]
        failed = [status for status in statuses if status]
        if failed:
            return failed[0] if failed[0] > 0 else 128 - failed[0]  # as a shell reports a signal
        if None not in statuses:
            return 0
        time.sleep(0.05)


def stop(jobs: Sequence[subprocess.Popen], patience: float = 5) -> None:
    """Ends the processes and what they started, first politely."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for job in jobs:
            if job.poll() is None:
                os.killpg(job.pid, number)
        for job in jobs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(timeout=patience)


def relay(number: int, job: subprocess.Popen) -> None:
    assert job.stdout is not None
    for line in job.stdout:
        sys.stdout.write(f"[{number}] {line}")
        sys.stdout.flush()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
