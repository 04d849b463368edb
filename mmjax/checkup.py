"""`mmjax.doctor`, `mmjax doctor`: is this machine, or this whole job, fit to train?

Every process measures itself; process 0 prints all of them, and what looks wrong.
"""

import contextlib
import functools
import os
import platform
import shutil
import socket
import statistics
import time
import uuid
from collections.abc import Callable
from importlib import metadata
from json import dumps, loads
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import mmjax
from mmjax import machine
from mmjax.errors import UserError
from mmjax.parallel.hardware import peak_flops
from mmjax.parallel.mesh import make_mesh
from mmjax.paths import check_file, is_url
from mmjax.runs.local_path import workdir_path

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy",
            "libtpu", "jax-cuda13-plugin")  # fmt: skip
GB, TERA = 1e9, 1e12
# What is worth a warning.
SLOW: tuple[tuple[Literal["matmul", "write", "read"], str, float], ...] = (
    ("matmul", "computes", 0.8), ("write", "writes", 0.5), ("read", "reads", 0.5),
)  # of the median host's rate # fmt: skip
SLOW_CHIP = 0.5  # of the published peak
SKEW = 1.0  # seconds between the clocks of two hosts
FREE_DISK = 10 * GB


class Host(TypedDict):
    """What one process measured. Rates are FLOP/s and bytes/s, sizes are bytes."""

    host: str
    versions: dict[str, str]
    cpus: int | None
    memory: int
    devices: int
    matmul: float
    free: dict[str, int]
    lacking: list[str]
    write: NotRequired[float]
    read: NotRequired[float]
    clock_skew: NotRequired[float]


class Report(TypedDict):
    """What all processes measured, and what looks wrong, a sentence each."""

    processes: int
    devices: int
    platform: str
    device_kind: str
    slices: int
    peak: float | None
    all_reduce: float | None
    workdir: str | None
    hosts: list[Host]
    warnings: list[str]


def doctor(workdir: str | Path | None = None, *, json: str | Path | None = None) -> Report:
    """Measures this machine, or every machine of a job: devices, network, storage, clocks.

    >>> import mmjax
    >>> report = mmjax.doctor()
    >>> report["processes"]
    1

    Args:
      workdir: where storage is measured, by a file of 64 MB for each process. What was made for
        that is removed. Without it, storage is not measured.
      json: a file to write the report to.

    Returns:
      The report, the same on all processes; `warnings` is empty if nothing looks wrong.

    Raises:
      UserError: `workdir` or `json` cannot be written.
    """
    if json:
        check_file("--json", json)
    report = examine(None if workdir is None else str(workdir))
    if json and jax.process_index() == 0:
        Path(json).write_text(dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def examine(workdir: str | None) -> Report:
    """Measures; see `doctor`."""
    storage = measured_storage(workdir_path(workdir)) if workdir else {}
    on_cpu = jax.default_backend() == "cpu"
    here: Host = {
        "host": socket.gethostname(),
        "versions": versions(),
        "cpus": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "devices": len(jax.local_devices()),
        "matmul": matmul_rate(1024 if on_cpu else 8192),
        "free": free_disk(workdir),
        "lacking": machine.problems(),
    }
    if storage:
        here["write"], here["read"] = storage
    hosts = _gather(here)
    for host, skew in zip(hosts, clock_skews(), strict=True):
        host["clock_skew"] = skew
    kind = jax.devices()[0].device_kind
    report: Report = {
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
        "device_kind": kind,
        "slices": len({getattr(device, "slice_index", 0) for device in jax.devices()}),
        "peak": peak_flops(kind),
        "all_reduce": all_reduce_rate(2**22 if on_cpu else 2**28),
        "workdir": workdir,
        "hosts": hosts,
        "warnings": [],
    }
    report["warnings"] = warnings(report)
    return report


def versions() -> dict[str, str]:
    """Python, the system, mmjax, and the packages that are installed."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    found["mmjax"] = mmjax.__version__
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def matmul_rate(size: int) -> float:
    """bfloat16 (CPU: float32) FLOP/s of a [size, size] product, over the devices of this host."""
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    product = jax.jit(lambda x: x @ x)
    inputs = [jax.device_put(jnp.ones((size, size), dtype), d) for d in jax.local_devices()]
    seconds = _fastest(lambda: [product(x) for x in inputs])
    return 2 * size**3 * len(inputs) / seconds


def all_reduce_rate(size: int) -> float | None:
    """Bytes/s that each device sends while all add up `size` float32; None on one device.

    In a ring, 2 (n - 1) / n of the bytes ("bus bandwidth" of NVIDIA's nccl-tests).
    """
    count = jax.device_count()
    if count == 1:
        return None
    with jax.set_mesh(make_mesh()):
        mesh = jax.sharding.get_mesh()

        @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
        @jax.shard_map(in_specs=P("data"), out_specs=P())
        def add(x: jax.Array) -> jax.Array:
            total: jax.Array = jax.lax.psum(x[0], "data")
            return total

        make = jax.jit(
            lambda: jnp.ones((count, size), jnp.float32),
            out_shardings=NamedSharding(mesh, P("data")),
        )
        x = make()
        total = add(x)
        if np.asarray(total.addressable_shards[0].data)[0] != count:
            raise UserError("The devices add up to a wrong sum: one of them, or a link, is broken.")
        return 2 * (count - 1) / count * 4 * size / _fastest(lambda: add(x))


def measured_storage(workdir: epath.Path) -> tuple[float, float]:
    """`storage_rates` of a folder that need not be there, and is not there afterwards, either."""
    with contextlib.ExitStack() as cleanup:
        if not is_url(workdir):  # a bucket has no folders
            folders = (Path(workdir), *Path(workdir).parents)
            for missing in reversed([folder for folder in folders if not folder.exists()]):
                cleanup.callback(_remove_if_empty, missing)
        rates = storage_rates(workdir)
        multihost_utils.sync_global_devices("doctor storage")  # others may write there, still
    return rates


def storage_rates(workdir: epath.Path, size: int = 64 * 2**20) -> tuple[float, float]:
    """Bytes/s of writing and of reading a file of random bytes in `workdir`."""
    content = np.random.default_rng().bytes(size)
    path = workdir / f"doctor-{uuid.uuid4().hex}"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            if not is_url(path):
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read the disk, too
        written = time.perf_counter()
        same = path.read_bytes() == content
        read = time.perf_counter()
    except Exception as error:  # the libraries of buckets raise their own
        raise UserError(
            f"--workdir={workdir} cannot be written and read ({str(error).splitlines()[0]})."
        ) from error
    finally:
        with contextlib.suppress(Exception):  # what kept us from writing keeps us from this
            path.unlink(missing_ok=True)
    if not same:
        raise UserError(f"--workdir={workdir} gives back other bytes than were written.")
    return size / (written - started), size / (read - written)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def free_disk(workdir: str | None) -> dict[str, int]:
    """Free bytes of the local folders that a run writes to."""
    folders = [workdir] if workdir and not is_url(workdir) else []
    folders += ["/tmp", str(machine.home() or "/"), "/dev/shm"]
    found = {}
    for folder in folders:
        path = Path(folder).absolute()
        existing = next(p for p in (path, *path.parents) if p.exists())
        found[folder] = shutil.disk_usage(existing).free
    return found


def clock_skews(rounds: int = 9) -> list[float]:
    """Seconds by which each process's clock is ahead of that of process 0; median of rounds.

    All read it as they leave the same barrier: it is known to a fraction of a network round trip.
    """
    readings = []
    for number in range(rounds):
        multihost_utils.sync_global_devices(f"doctor clock {number}")
        now = time.time()
        # Whole and fraction apart: on the devices a number has 32 bits.
        split = np.array([int(now), int(now % 1 * 1e9)], np.int32)
        both = np.asarray(multihost_utils.process_allgather(split)).reshape(-1, 2).astype(np.int64)
        readings.append((both[:, 0] - both[0, 0]) + (both[:, 1] - both[0, 1]) / 1e9)
    return [float(skew) for skew in np.median(readings, axis=0)]


def warnings(report: Report) -> list[str]:
    """What looks wrong in a report, a sentence each."""
    found = []
    hosts = report["hosts"]
    for key, meaning, share in SLOW:
        rates = [host[key] for host in hosts if key in host]
        for number, rate in enumerate(rates):
            if rate < share * statistics.median(rates):
                found.append(
                    f"process {number} ({hosts[number]['host']}) {meaning} at "
                    f"{rate / statistics.median(rates):.0%} of the median"
                )
    for number, host in enumerate(hosts):
        where = f"process {number} ({host['host']})"
        if report["peak"] and host["matmul"] < SLOW_CHIP * report["peak"] * host["devices"]:
            share = host["matmul"] / (report["peak"] * host["devices"])
            found.append(f"{where} reaches {share:.0%} of the published peak")
        if abs(host["clock_skew"]) > SKEW:
            found.append(f"the clock of {where} is {host['clock_skew']:+.1f} s off: run NTP")
        for name, version in hosts[0]["versions"].items():
            if host["versions"].get(name) != version:
                found.append(
                    f"{where} has {name} {host['versions'].get(name)}, process 0 has {version}"
                )
        found += [f"{where}: {lacking}" for lacking in host["lacking"]]
        found += [
            f"{where}: {free / GB:.1f} GB are free in {folder}"
            for folder, free in host["free"].items()
            if free < FREE_DISK and folder != "/dev/shm"
        ]
    return found


def show(console: Console, report: Report) -> None:
    """The report as sentences and a table."""
    hosts = report["hosts"]
    console.print("  ".join(f"{name} {version}" for name, version in hosts[0]["versions"].items()))
    console.print(
        f"\n[bold]{report['devices']} × {report['device_kind']}[/] ({report['platform']}) in "
        f"{report['processes']} process(es), {report['slices']} slice(s)\n"
    )
    table = Table("process", "host", "devices", "CPUs", "RAM GB", "matmul TFLOP/s", "write MB/s",
                  "read MB/s", "clock s", "least free", box=None)  # fmt: skip
    for column in table.columns[2:-1]:
        column.justify = "right"
    for number, host in enumerate(hosts):
        rates = [f"{host[key] / 1e6:,.0f}" if key in host else "-" for key in ("write", "read")]
        folder, free = min(host["free"].items(), key=lambda item: item[1])
        table.add_row(
            str(number), host["host"], str(host["devices"]), str(host["cpus"]),
            f"{host['memory'] / GB:,.0f}", f"{host['matmul'] / TERA:,.3g}", *rates,
            f"{host['clock_skew']:+.4f}", f"{free / GB:,.0f} GB in {escape(folder)}",
        )  # fmt: skip
    console.print(table)
    if report["all_reduce"]:
        console.print(
            f"\nall-reduce over {report['devices']} devices: {report['all_reduce'] / GB:,.2f} GB/s "
            "a device (bus bandwidth)"
        )
    for warning in report["warnings"]:
        console.print(f"[red bold]warning[/] {escape(warning)}")
    if not report["warnings"]:
        console.print("\n[green bold]Nothing looks wrong.[/]")


def _fastest(call: Callable[[], Any], rounds: int = 5) -> float:
    """Seconds of the fastest of some calls, after one that compiles."""
    jax.block_until_ready(call())
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - started)
    return min(times)


def _gather(here: Host) -> list[Host]:
    """`here` of every process, in order."""
    text = np.frombuffer(dumps(here).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(text.size))).reshape(-1)
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: text.size] = text
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]
