"""Joining the processes of one job: one contract for every launcher.

Which process this is, of how many, and where process 0 listens comes from flags, from MMJAX_*
variables, or from what the cluster says of itself (TPU metadata, SLURM, Open MPI, Kubernetes).
"""

import os
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import NamedTuple

import jax

from mmjax.errors import UserError
from mmjax.parallel.rendezvous import meet

COORDINATOR, PROCESSES, PROCESS = "MMJAX_COORDINATOR", "MMJAX_PROCESSES", "MMJAX_PROCESS"
JOIN_TIMEOUT, HEARTBEAT = "MMJAX_JOIN_TIMEOUT", "MMJAX_HEARTBEAT"  # seconds


class Job(NamedTuple):
    """`coordinator`: HOST:PORT of process 0. `devices`: the local ones to use; None: all."""

    coordinator: str
    processes: int
    process: int
    devices: list[int] | None = None


def initialize(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Job:
    """Joins the other processes of the job, before the first use of a device.

    Arguments win over MMJAX_COORDINATOR, MMJAX_PROCESSES and MMJAX_PROCESS, and those over what the
    cluster says. MMJAX_JOIN_TIMEOUT is the time for all to appear (300), MMJAX_HEARTBEAT that after
    which a silent process is taken for dead and the others end (100).

    Raises:
      UserError: the description of the job is missing, incomplete or nonsense, or the processes do
        not come together; the address tried is named.
    """
    timeout, heartbeat = _seconds(JOIN_TIMEOUT, 300), _seconds(HEARTBEAT, 100)
    job = find_job(os.environ, coordinator, processes, process, timeout)
    if job.processes > 1:
        meet(
            job.coordinator, job.processes, job.process, timeout=timeout,
            about={"mmjax": metadata.version("mmjax"), "jax": jax.__version__},
            say=lambda text: print(f"mmjax: {text}", file=sys.stderr, flush=True),
        )  # fmt: skip
    try:
        jax.distributed.initialize(
            job.coordinator, job.processes, job.process, local_device_ids=job.devices,
            cluster_detection_method="deactivate", initialization_timeout=timeout,
            heartbeat_timeout_seconds=heartbeat, shutdown_timeout_seconds=heartbeat,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"JAX did not join the job at {job.coordinator}: {str(error).splitlines()[0]}"
        ) from error
    return job


def find_job(
    environ: Mapping[str, str],
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    timeout: int = 300,
) -> Job:
    """What flags, MMJAX_* in `environ` or the cluster say of the job; raises as `initialize`."""
    given = {
        COORDINATOR: coordinator or environ.get(COORDINATOR),
        PROCESSES: environ.get(PROCESSES) if processes is None else processes,
        PROCESS: environ.get(PROCESS) if process is None else process,
    }
    missing = [name for name, value in given.items() if value in (None, "")]
    if len(missing) == len(given):
        return _cluster_job(environ, timeout)
    if missing:
        raise UserError(
            f"{missing[0]} is not set, but another of {', '.join(given)} is: set all "
            "(or --coordinator, --processes, --process)."
        )
    try:
        job = Job(str(given[COORDINATOR]), int(str(given[PROCESSES])), int(str(given[PROCESS])))
    except ValueError as error:
        raise UserError(f"{PROCESSES} and {PROCESS} are numbers: {error}.") from error
    if not 0 <= job.process < job.processes:
        raise UserError(
            f"{PROCESS}={job.process} of {PROCESSES}={job.processes}: they are numbered 0 … "
            f"{job.processes - 1}."
        )
    return job


def _cluster_job(environ: Mapping[str, str], timeout: int) -> Job:
    # JAX knows the clusters, but its public `initialize` neither tells the address that it found
    # nor fails other than by aborting the process.
    from jax._src import clusters

    try:
        address, count, number, devices = clusters.ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, timeout
        )
    except Exception as error:  # of several libraries: metadata server, Kubernetes' API
        raise UserError(
            f"The cluster does not say what this job is ({str(error).splitlines()[0]}): set "
            f"{COORDINATOR}, {PROCESSES} and {PROCESS} on every host."
        ) from error
    if address is None or count is None or number is None:
        raise UserError(
            "--distributed found neither TPU metadata, SLURM (srun), Open MPI (mpirun) nor "
            f"Kubernetes: set {COORDINATOR}, {PROCESSES} and {PROCESS} on every host, or leave the "
            "flag out where one process is all."
        )
    if _tasks_a_node(environ) == "1":
        devices = None  # JAX would give the one process of a node its first GPU only
    return Job(address, count, number, list(devices) if devices is not None else None)


def _tasks_a_node(environ: Mapping[str, str]) -> str | None:
    """Processes a host, where the launcher says so: SLURM ("8(x4)") or Open MPI."""
    of_slurm = environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0]
    return of_slurm or environ.get("OMPI_COMM_WORLD_LOCAL_SIZE")


def _seconds(name: str, default: int) -> int:
    value = os.environ.get(name) or str(default)
    if not value.isdigit() or int(value) < 1:
        raise UserError(f"{name}={value} is no whole number of seconds.")
    return int(value)
