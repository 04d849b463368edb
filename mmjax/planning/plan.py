"""A plan: what one device of a described cluster holds, computes and sends in a train step.

The roofline is a bound, not a forecast: each of compute, memory and network runs at its published
peak and hides behind the slowest of the three (Williams et al., 2009).
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mmjax.data.buckets import buckets_of, trained
from mmjax.models.parts import sections
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.hardware import Topology, describe
from mmjax.params import path_string
from mmjax.planning import hlo
from mmjax.planning.compile import Compiled, compile_step, device_bytes


@dataclasses.dataclass(frozen=True)
class Plan:
    """Of one device and one step: bytes, FLOPs, seconds. The fields are the keys of the JSON.

    `loaded_examples` are those of which `batch_size` are chosen to train on (config.data.curation).
    What needs the compiled program is None where it was refused for its size. `capacity_bytes` is
    what the compiler gives a program. `peak_bytes` = arguments (parameters, optimizer, batch) +
    temporaries + new results; `activation_bytes` are those of the temporaries that are kept for the
    backward pass. `model_flops` are those that MFU counts (`step_flops`); `hardware_flops` also
    count what is computed again, `float32_flops` those of them that are exact products of float32,
    the slow ones. `roofline` has the seconds of each resource, `roofline_seconds` is the largest of
    them, and `mfu_bound` the model FLOP/s that it allows, as a share of the peak.
    """

    topology: str
    devices: int
    mesh: dict[str, int]
    batch_size: int
    loaded_examples: int
    total_steps: int
    fits: bool
    peak_bytes: float
    capacity_bytes: float
    argument_bytes: float
    parameter_bytes: float
    optimizer_bytes: float
    temp_bytes: float
    activation_bytes: float
    model_flops: float
    hardware_flops: float | None
    float32_flops: float | None
    hbm_bytes: float | None
    collectives: list[dict[str, Any]] | None
    roofline: dict[str, float] | None
    roofline_seconds: float | None
    bound_by: str | None
    mfu_bound: float | None
    examples_per_second: float | None
    largest_buffers: list[dict[str, Any]]
    advice: list[str]
    shardings: dict[str, str]
    compile_seconds: float

    def __repr__(self) -> str:
        """What it says in short; the fields have the rest."""
        memory = f"{self.peak_bytes / 2**30:.2f} of {self.capacity_bytes / 2**30:.2f} GiB"
        seconds = self.roofline_seconds
        speed = f", at least {seconds * 1e3:.1f} ms a step ({self.bound_by})" if seconds else ""
        fits = "fits" if self.fits else "does not fit"
        return f"Plan({self.topology}: {fits}, {memory} a device{speed})"

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def make_plan(config: ConfigDict, topology: str) -> Plan:
    """Compiles the step of `config` for `topology` ("v5e:16x16") and counts what it costs.

    Raises:
      UserError: there is no such cluster, its compiler is not installed, or the config cannot work
        on it.
    """
    cluster = describe(topology)
    compiled = compile_step(config, cluster)
    sizes = dict(compiled.mesh.shape)
    devices = len(cluster.devices)
    parameters = sum(map(device_bytes, jax.tree.leaves(compiled.state.params)))
    state = sum(map(device_bytes, jax.tree.leaves(compiled.state)))
    model = compiled.model_flops / devices
    fits, loaded = compiled.used <= cluster.chip.usable, buckets_of(config).kinds[0].size
    size = trained(config, loaded)
    counted: dict[str, Any] = dict.fromkeys(NEED_THE_PROGRAM)
    if compiled.text:
        counted = _count(hlo.analyse(compiled.text, sizes), compiled.mesh, cluster)
        seconds = counted["roofline_seconds"]
        counted["mfu_bound"] = model / cluster.chip.flops / seconds
        counted["examples_per_second"] = size / seconds
    return Plan(
        topology=topology,
        devices=devices,
        mesh=sizes,
        batch_size=size,
        loaded_examples=loaded,
        total_steps=config.total_steps,
        fits=fits,
        peak_bytes=compiled.used,
        capacity_bytes=cluster.chip.usable,
        argument_bytes=compiled.arguments,
        parameter_bytes=parameters,
        optimizer_bytes=state - parameters,
        temp_bytes=compiled.temporaries,
        activation_bytes=compiled.activations,
        model_flops=model,
        **counted,
        largest_buffers=[dataclasses.asdict(b) for b in compiled.largest],
        advice=[] if fits else advice(config, compiled, state),
        shardings=shardings(compiled.state.params),
        compile_seconds=compiled.seconds,
    )


NEED_THE_PROGRAM = (
    "hardware_flops", "float32_flops", "hbm_bytes", "collectives", "roofline", "roofline_seconds",
    "bound_by", "mfu_bound", "examples_per_second",
)  # fmt: skip


def _count(cost: hlo.Cost, mesh: jax.sharding.Mesh, cluster: Topology) -> dict[str, Any]:
    """What the program costs, and the seconds of each resource at its published peak."""
    roofline = {
        "compute": (cost.flops - cost.float32_flops) / cluster.chip.flops
        + cost.float32_flops / cluster.chip.float32_flops,
        "memory": cost.hbm_bytes / cluster.chip.hbm_bandwidth,
        **network_seconds(cost.collectives, mesh, cluster),
    }
    slowest = max(roofline, key=lambda name: roofline[name])
    return {
        "hardware_flops": cost.flops,
        "float32_flops": cost.float32_flops,
        "hbm_bytes": cost.hbm_bytes,
        "collectives": [dataclasses.asdict(c) for c in cost.collectives],
        "roofline": roofline,
        "roofline_seconds": roofline[slowest],
        "bound_by": slowest,
    }


def network_seconds(
    collectives: tuple[hlo.Collective, ...], mesh: jax.sharding.Mesh, cluster: Topology
) -> dict[str, float]:
    """Seconds on the links inside a slice or host ("network"), and between them ("outside").

    Between groups, a collective of k devices a group shares their k links, except a ring's
    permutation: there one device of each group sends all of its bytes.
    """
    seconds = {"network": 0.0}
    if cluster.groups > 1:
        seconds["outside"] = 0.0
    for collective in collectives:
        seconds["network"] += collective.bytes / cluster.chip.network
        together = devices_together(mesh, collective.axes, cluster)
        if together is not None:
            links = 1 if collective.kind == "collective-permute" else together
            seconds["outside"] += collective.bytes / links / cluster.chip.outside
    return seconds


def devices_together(
    mesh: jax.sharding.Mesh, axes: tuple[str, ...], cluster: Topology
) -> int | None:
    """How many devices of a collective over `axes` are in one slice or host; None: all are."""
    size = len(cluster.devices) // cluster.groups
    number = {device: i // size for i, device in enumerate(cluster.devices)}
    groups = np.vectorize(number.__getitem__)(mesh.devices)
    first = groups[tuple(slice(None) if axis in axes else 0 for axis in mesh_lib.AXES)]
    together = int((first == first.flat[0]).sum())
    return None if together == first.size else together


def advice(config: ConfigDict, compiled: Compiled, state: float) -> list[str]:
    """What to try when a step does not fit, the cheapest first."""
    tries = []
    sizes = compiled.mesh.shape
    if state > compiled.used / 4 and sizes["data"] > 1:
        fsdp = sizes["fsdp"] * min(sizes["data"], 8)
        tries.append(
            f"config.mesh.fsdp={fsdp} (parameters and optimizer are {state / 2**30:.1f} GiB)"
        )
    for name, part in sections(config.model).items():
        if part.get("remat", "full") != "full":
            tries.append(f"config.model.{name}.remat=full")
    share = trained(config, buckets_of(config).kinds[0].size) // (sizes["data"] * sizes["fsdp"])
    if share % (2 * config.optim.microbatches) == 0:
        tries.append(f"config.optim.microbatches={2 * config.optim.microbatches}")
    tries.append("more devices, or a smaller config.batch_size")
    return tries


def shardings(params: Any) -> dict[str, str]:
    """Path → "shape axes" of every parameter, e.g. "image/head/kernel" → "768,512 fsdp,-"."""
    result = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        spec = tuple(x.sharding.spec) + (None,) * (x.ndim - len(x.sharding.spec))
        axes = ",".join(axis or "-" for axis in spec)
        result[path_string(path)] = f"{','.join(map(str, x.shape))} {axes}".strip()
    return result
