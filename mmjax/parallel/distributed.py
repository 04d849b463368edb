"""Joining the processes of one job."""

import os

import jax

from mmjax.errors import UserError

COORDINATOR, PROCESSES, PROCESS = "MMJAX_COORDINATOR", "MMJAX_PROCESSES", "MMJAX_PROCESS"


def initialize() -> None:
    """Joins the other processes of the job, before the first use of a device.

    Where the three variables MMJAX_COORDINATOR (host:port of process 0), MMJAX_PROCESSES (their
    number) and MMJAX_PROCESS (from 0) are set, as `launch/local.py` does, they say which; otherwise
    JAX finds out from TPU metadata, SLURM, Open MPI or Kubernetes.

    Raises:
      UserError: some of the variables are missing or no numbers, or the coordinator cannot be
        reached.
    """
    given = {name: os.environ.get(name) for name in (COORDINATOR, PROCESSES, PROCESS)}
    missing = [name for name, value in given.items() if not value]
    if missing and len(missing) < len(given):
        raise UserError(f"{missing[0]} is not set, but another of {', '.join(given)} is: set all.")
    address, count, number = given.values()
    try:
        processes, process = (int(value) if value else None for value in (count, number))
    except ValueError as error:
        raise UserError(f"{PROCESSES} and {PROCESS} are numbers: {error}.") from error
    try:
        jax.distributed.initialize(address, processes, process)
    except (RuntimeError, ValueError) as error:
        tried = f"at {address}" if address else "that JAX looked for (TPU, SLURM, MPI, Kubernetes)"
        raise UserError(
            f"The other processes of this job were not reached through the coordinator {tried}: "
            f"{str(error).splitlines()[0]}"
        ) from error
