"""Who a process is, and the meeting of all of them before JAX: what cannot work is a sentence."""

import contextlib
import socket
import struct
import threading
import time

import pytest

from mmjax.errors import UserError
from mmjax.parallel import distributed
from mmjax.parallel.distributed import Job, find_job
from mmjax.parallel.rendezvous import meet

GIVEN = {"MMJAX_COORDINATOR": "h:1", "MMJAX_PROCESSES": "4", "MMJAX_PROCESS": "3"}
SLURM = {
    "SLURM_JOB_ID": "4099", "SLURM_STEP_NODELIST": "node[007-010],x", "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}  # fmt: skip
OMPI = {
    "OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.1,10.1.0.1:34911", "OMPI_COMM_WORLD_SIZE": "16",
    "OMPI_COMM_WORLD_RANK": "9", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "8",
}  # fmt: skip


@pytest.fixture
def environ(monkeypatch):
    """Sets variables, and gives what `find_job` is called with."""

    def set_all(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return variables

    return set_all


def test_flags_win_over_variables_and_variables_over_the_cluster(environ):
    assert find_job(environ(GIVEN | SLURM)) == Job("h:1", 4, 3)
    assert find_job(GIVEN, "g:2", 8, 0) == Job("g:2", 8, 0)


def test_one_task_a_node_uses_all_its_gpus(environ):
    assert find_job(environ(SLURM)) == Job("node007:61443", 4, 2, None)


def test_one_task_a_gpu_uses_its_own(environ):
    assert find_job(environ(SLURM | {"SLURM_STEP_TASKS_PER_NODE": "4"})).devices == [0]
    for name in SLURM:
        environ({name: ""})


def test_open_mpi(environ):
    assert find_job(environ(OMPI)) == Job("10.0.0.1:61441", 16, 9, [1])


def test_no_cluster_at_all():
    with pytest.raises(UserError, match="found neither TPU metadata, SLURM"):
        find_job({})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"MMJAX_PROCESSES": ""}, "MMJAX_PROCESSES is not set"),
        ({"MMJAX_PROCESSES": "two"}, "are numbers"),
        ({"MMJAX_PROCESS": "4"}, "MMJAX_PROCESS=4 of MMJAX_PROCESSES=4: they are numbered 0 … 3"),
    ],
)
def test_half_a_job_description(change, match):
    with pytest.raises(UserError, match=match):
        find_job(GIVEN | change)


def test_time_limit_that_is_none(monkeypatch):
    monkeypatch.setenv("MMJAX_JOIN_TIMEOUT", "soon")
    with pytest.raises(UserError, match="MMJAX_JOIN_TIMEOUT=soon is no whole number"):
        distributed.initialize("127.0.0.1:1", 2, 1)


def address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def gather(*jobs, timeout=10.0, about=({},) * 9):
    """Calls `meet` in a thread for each (processes, process): what each says in the end."""
    at, said = address(), [""] * len(jobs)

    def call(i, processes, process):
        try:
            meet(at, processes, process, timeout=timeout, about=about[i], say=lambda _: None)
        except UserError as error:
            said[i] = str(error)

    threads = [threading.Thread(target=call, args=(i, *job)) for i, job in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return at, said


def test_all_meet_and_leave_the_port_free():
    at, said = gather(*((8, process) for process in range(8)))
    assert said == [""] * 8
    with socket.create_server(("127.0.0.1", int(at.split(":")[1]))):
        pass


def test_process_that_does_not_come_is_named_to_all():
    at, said = gather((4, 0), (4, 2), timeout=1.0)
    assert said[0] == said[1]
    assert f"Of 4 processes, processes 1, 3 did not report to process 0 at {at}" in said[0]


def test_two_with_one_number():
    _, said = gather((3, 0), (3, 1), (3, 1))
    assert said == ["Two processes say that they are number 1 of 3."] * 3


@pytest.mark.parametrize(
    ("jobs", "about", "match"),
    [
        (((3, 0), (2, 1)), ({}, {}), "processes 2, not 3"),
        (((2, 0), (2, 1)), ({"jax": "1"}, {"jax": "2"}), "jax 2, not 1"),
    ],
)
def test_processes_that_differ(jobs, about, match):
    _, said = gather(*jobs, about=about)
    assert said == [f"Process 1 differs from process 0: {match}."] * 2


def test_unreachable_coordinator_is_named_early():
    at, said = gather((2, 1), timeout=1.0)
    assert said[0].startswith(
        f"Process 1 did not reach the coordinator (process 0) at {at} within 1"
    )
    assert "Connection refused" in said[0]


def test_port_of_another_program():
    with socket.create_server(("", 0)) as server:
        at = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match=f"cannot listen at {at} .*give the job a port"):
            meet(at, 2, 0, timeout=1, about={}, say=print)


def test_address_without_a_port():
    with pytest.raises(UserError, match="is not HOST:PORT"):
        meet("host", 2, 1, timeout=1, about={}, say=print)


def test_strangers_and_processes_that_start_again_are_no_trouble():
    at = address()
    done = []

    def call(process):
        meet(at, 2, process, timeout=20, about={}, say=lambda _: None)
        done.append(process)

    first = threading.Thread(target=call, args=(0,))
    first.start()
    host, port = at.split(":")
    for line in (b"GET / HTTP/1.0\r\n", b'{"process": 1, "processes": 2}\n'):
        while True:
            try:
                stranger = socket.create_connection((host, int(port)), timeout=5)
                break
            except ConnectionRefusedError:
                continue
        stranger.sendall(line)
        stranger.close()
        if b"GET" in line:
            first.join(timeout=0.3)
            assert first.is_alive()
    first.join()
    assert done == [0]  # the one that left had reported: JAX will miss it


def reset(link):
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()


def says(text, then=socket.socket.close):
    def say(link):
        with contextlib.suppress(OSError):  # process 0 has heard enough
            link.sendall(text)
        then(link)

    return say


def silent(_):
    """Stays connected and says nothing, as a health check may."""


STRANGERS = [
    reset, silent, socket.socket.close, says(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    says(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64)), says(b"a half", silent),
    says(b'{"process": 1', reset), says(b'{"trouble": ""}\n'), says(b'{"process": 1}\n'),
    says(b'{"process": "1", "processes": 2, "jax": "1"}\n'), says(b"[1]\n"),
    says(b"[" * 9999 + b"\n"),
    says(b'{"process": null, "processes": null, "jax": null}\n'), says(b"\xff\xfe\n"),
    says(b"x" * (1 << 17)),
]  # fmt: skip


def test_whatever_strangers_do_they_are_no_trouble_and_nobody_waits_for_them():
    at, said = address(), {}

    def call(process):
        try:
            meet(at, 2, process, timeout=20, about={"jax": "1"}, say=lambda _: None)
            said[process] = "met"
        except BaseException as error:
            said[process] = repr(error)

    first, second = (threading.Thread(target=call, args=(process,)) for process in (0, 1))
    first.start()
    host, port = at.split(":")
    links = []
    for stranger in STRANGERS:
        while True:
            with contextlib.suppress(ConnectionRefusedError):  # it does not listen yet
                links.append(socket.create_connection((host, int(port)), timeout=5))
                break
        stranger(links[-1])
    begun = time.monotonic()
    second.start()
    for thread in (first, second):
        thread.join()
    assert said == {0: "met", 1: "met"}
    assert time.monotonic() - begun < 4  # silent ones are not waited for
    for link in links:
        link.close()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b'{"process": 0}\n', b"7\n"]
)
def test_another_service_on_the_coordinators_port(answer):
    def serve():
        while True:
            try:
                link, _ = server.accept()
            except OSError:  # the test is over
                return
            with contextlib.suppress(OSError):
                link.sendall(answer)
                link.recv(1 << 16)
            reset(link)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        at = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(UserError, match="did not reach the coordinator"):
            meet(at, 2, 1, timeout=1, about={}, say=lambda _: None)
        server.shutdown(socket.SHUT_RDWR)
