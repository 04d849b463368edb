"""The processes of a job meet before JAX joins them, so that a wrong job is a sentence.

JAX 0.10 aborts the process, with a C++ stack trace, when the coordinator cannot be reached, when a
process is missing or comes twice; where its port is taken it crashes. Here every process reports to
process 0 on that port first, within a time limit, and process 0 answers all of them with one word.
"""

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, cast

from mmjax import machine
from mmjax.errors import UserError

PATIENCE = 15.0  # seconds of waiting after which a process says for whom
RETRY = 0.5  # seconds between two tries to connect
LONGEST = 1 << 16  # bytes of a report


def meet(
    address: str, processes: int, process: int, *, timeout: float, about: Mapping[str, Any],
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Returns when all processes 0 … `processes` - 1 have called it, with equal `about`.

    Args:
      address: HOST:PORT of process 0. The port is free again afterwards.
      timeout: seconds from now until the wait is given up.
      about: what must be the same everywhere, such as versions.
      say: is told whom one waits for, after a while.

    Raises:
      UserError: process 0 is not reached, some process does not come, two come with one number, or
        they differ in `processes` or `about`.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"The coordinator {address!r} is not HOST:PORT, such as 10.0.0.2:8476.")
    deadline = time.monotonic() + timeout
    report = {"processes": processes, **about}
    if process == 0:
        _receive(address, int(port), report, deadline, timeout, say)
    else:
        _report(address, host.strip("[]"), int(port), process, report, deadline, timeout, say)


def _receive(
    address: str, port: int, own: dict, deadline: float, timeout: float, say: Callable
) -> None:
    """Process 0: collects the reports, then tells everyone that all is well, or what is not."""
    guests: dict[int, socket.socket] = {}
    patience, trouble = time.monotonic() + PATIENCE, ""
    with _listen(address, port) as server, selectors.DefaultSelector() as waiting:
        server.setblocking(False)
        waiting.register(server, selectors.EVENT_READ, bytearray())
        while len(guests) < own["processes"] - 1 and not trouble:
            missing = sorted(set(range(1, own["processes"])) - guests.keys())
            for guest, report in _reports(server, waiting, own):
                number = report.pop("process")
                differ = [f"{k} {report[k]}, not {v}" for k, v in own.items() if report[k] != v]
                if differ:
                    trouble = f"Process {number} differs from process 0: {'; '.join(differ)}."
                elif number in guests and _is_alive(guests[number]):
                    trouble = (
                        f"Two processes say that they are number {number} of {own['processes']}."
                    )
                guests[number if not trouble else -1] = guest
                if trouble:
                    break
            if trouble or len(guests) == own["processes"] - 1:
                break
            if time.monotonic() > deadline:
                trouble = (
                    f"Of {own['processes']} processes, {_names(missing)} did not report to "
                    f"process 0 at {address} within {timeout:.0f} s: see their logs, and "
                    "whether that many were started."
                )
            elif time.monotonic() > patience:
                say(f"process 0 at {address} waits for {_names(missing)}")
                patience = deadline
        for link in [cast(socket.socket, key.fileobj) for key in waiting.get_map().values()]:
            if link is not server:
                _forget(link, waiting)
        for guest in guests.values():
            with guest, contextlib.suppress(OSError):  # who is gone by now, JAX will miss
                guest.settimeout(5)
                guest.sendall(json.dumps({"trouble": trouble}).encode() + b"\n")
                guest.recv(1)  # they close first, so that the port is free at once
    if trouble:
        raise UserError(trouble)


def _reports(
    server: socket.socket, waiting: selectors.BaseSelector, own: Mapping[str, Any]
) -> Iterator[tuple[socket.socket, dict]]:
    """The reports that have come, of whoever connects to the port and says nothing else.

    A stranger (a port scan, a health check) may say anything, nothing, or hang up: it is closed and
    forgotten, and nobody waits for it.
    """
    for key, _ in waiting.select(timeout=0.2):
        link, said = cast(socket.socket, key.fileobj), key.data
        try:
            if link is server:
                guest, _ = server.accept()
                guest.setblocking(False)
                waiting.register(guest, selectors.EVENT_READ, bytearray())
                continue
            more = link.recv(LONGEST)
            said += more
        except OSError as error:  # it is gone again
            if link is not server:
                _forget(link, waiting)
            else:
                machine.raise_problem("Process 0 cannot be reached by the others", error)
            continue
        if more and b"\n" not in said and len(said) < LONGEST:
            continue  # the rest is to come
        report = _message(said, {"process", *own})
        if report is None or type(report["process"]) is not int:
            _forget(link, waiting)
        else:
            waiting.unregister(link)
            yield link, report


def _forget(link: socket.socket, waiting: selectors.BaseSelector) -> None:
    waiting.unregister(link)
    link.close()


def _is_alive(guest: socket.socket) -> bool:
    """Whether the other end still waits; a process that was started again has left."""
    try:
        guest.recv(1)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False  # it has nothing more to say: this is the end of the connection


def _listen(address: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            ("", port), family=socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET,
            dualstack_ipv6=socket.has_dualstack_ipv6(), backlog=4096,
        )  # fmt: skip
    except OSError as error:
        raise UserError(
            f"Process 0 cannot listen at {address} ({os.strerror(error.errno or 0)}): give the job "
            "a port that no other one uses, by MMJAX_COORDINATOR=HOST:PORT on every host."
        ) from error


def _report(
    address: str, host: str, port: int, process: int, report: dict, deadline: float, timeout: float,
    say: Callable,
) -> None:  # fmt: skip
    """Any other process: reports to process 0 and waits for its word."""
    patience, problem = time.monotonic() + PATIENCE, "no answer"
    while time.monotonic() < deadline:
        if time.monotonic() > patience:
            say(f"process {process} still tries the coordinator {address} ({problem})")
            patience = deadline
        try:
            with socket.create_connection((host, port), timeout=5) as link:
                link.sendall(json.dumps({"process": process, **report}).encode() + b"\n")
                # Process 0 waits for the slowest; a little longer, to hear what it has to say.
                link.settimeout(max(1.0, deadline - time.monotonic()) + 5)
                answer = _read(link, ("trouble",))
        except OSError as error:  # not started yet, not resolved yet, or still an older service
            problem = str(error)
        else:
            if answer is None:
                problem = "it closed the connection"
            elif answer["trouble"]:
                raise UserError(str(answer["trouble"]))
            else:
                return
        time.sleep(RETRY)
    raise UserError(
        f"Process {process} did not reach the coordinator (process 0) at {address} within "
        f"{timeout:.0f} s: {problem}. Is it running, is that its address, and does a firewall let "
        "the port through?"
    )


def _read(link: socket.socket, fields: Collection[str]) -> dict | None:
    """One line of JSON that has the fields; None if something else comes, or nothing."""
    with link.makefile("rb") as lines:
        return _message(lines.readline(LONGEST), fields)


def _message(line: bytes | bytearray, fields: Collection[str]) -> dict | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.keys() >= set(fields) else None


def _names(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (", …" if len(numbers) > 8 else "")
    return f"process {shown}" if len(numbers) == 1 else f"processes {shown}"
