"""The real train step of a config, compiled by the real compiler for described devices."""

import dataclasses
import math
import re
import time
from collections.abc import Iterable
from typing import Any

import jax
import jax.extend
from ml_collections import ConfigDict

from mmjax import config_check
from mmjax.core.state import TrainState, model_params
from mmjax.core.step import frozen_models, owned, total_loss
from mmjax.core.views import run_views
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.hardware import Topology
from mmjax.training.assemble import Parts, assemble


@dataclasses.dataclass(frozen=True)
class Buffer:
    """One of the largest arrays of a program, on one device."""

    bytes: float
    shape: str
    operation: str


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of one device, in bytes.

    used: arguments, temporaries, and results outside the memory of arguments. activations: what is
    kept for the backward pass, a part of the temporaries, counted from the shapes. text:
    the program; "" where the compiler refused it for its size. model_flops: of all devices.
    """

    mesh: jax.sharding.Mesh
    state: TrainState  # shapes and shardings
    text: str
    used: float
    arguments: float
    temporaries: float
    activations: float
    largest: tuple[Buffer, ...]
    model_flops: int
    seconds: float


def compile_step(config: ConfigDict, topology: Topology) -> Compiled:
    """Compiles one train step of `config`, at its longest text, for the devices of `topology`.

    Raises:
      UserError: the config cannot work, or does not divide over these devices.
    """
    mesh = mesh_lib.make_mesh(**config.mesh, devices=topology.devices)
    config_check.validate_on_mesh(config, dict(mesh.shape))

    with jax.set_mesh(mesh):
        parts = assemble(config, mesh)
        state, batch, step = parts.state, parts.batch, parts.step()
        kept, model_flops = _activations(parts, mesh), parts.flops(batch)
        begun = time.perf_counter()
        try:
            compiled = step.lower(state, batch).compile()
        except jax.errors.JaxRuntimeError as error:
            temporaries = _asked(str(error))
            if temporaries is None:
                raise
            arguments = sum(map(device_bytes, jax.tree.leaves((state, batch))))
            largest = _largest_traced(step.trace(state, batch).jaxpr, parts.batch_size, mesh)
            return Compiled(
                mesh, state, "", arguments + temporaries, arguments, temporaries, kept, largest,
                model_flops, time.perf_counter() - begun,
            )  # fmt: skip
    seconds = time.perf_counter() - begun
    memory: Any = compiled.memory_analysis()
    text = compiled.as_text() or ""
    arguments, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    used = arguments + temporaries + results
    return Compiled(
        mesh, state, text, used, arguments, temporaries, kept, _largest_arrays(text), model_flops,
        seconds,
    )  # fmt: skip


def device_bytes(x: jax.ShapeDtypeStruct) -> int:
    """Bytes of one device's part of an array."""
    assert x.sharding is not None
    return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _activations(parts: Parts, mesh: jax.sharding.Mesh) -> float:
    """Bytes a device keeps for the backward pass: the residuals that have the batch in them."""
    config = parts.config

    def residuals(state: Any, batch: Any) -> Any:
        def loss(params):
            own, now = (
                owned(parts.objectives, params, state.memory, state.ema),
                model_params(params),
            )
            outputs = run_views(
                parts.model, parts.objectives, now, batch, jax.random.key(0),
                own=own, microbatches=config.optim.microbatches,
                frozen=frozen_models(parts.model, parts.teachers, state.teachers, state.ema, now),
            )  # fmt: skip
            return total_loss(parts.objectives, outputs, batch, own)[0]

        return jax.vjp(loss, state.params)[1]

    kept = [
        x.size * x.dtype.itemsize
        for x in jax.tree.leaves(jax.eval_shape(residuals, parts.state, parts.kept(parts.batch)))
        if any(side % parts.batch_size == 0 for side in x.shape)
    ]
    return sum(kept) / (mesh.shape["data"] * mesh.shape["fsdp"])


def _asked(message: str) -> float | None:
    """Bytes of temporaries that the TPU compiler refused for want of memory, if that is why."""
    found = re.search(r"HLO temporaries \(([\d.]+)([KMGT]?)\)|Used ([\d.]+)([KMGT]?) of", message)
    if not found:
        return None
    units = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}
    return float(found[1] or found[3]) * units[found[2] or found[4] or ""]


def _largest_traced(jaxpr: Any, batch_size: int, mesh: jax.sharding.Mesh) -> tuple[Buffer, ...]:
    """The largest arrays of a program that was refused, from its trace: those with the batch in
    them are split over the devices, and inside a shard_map all are."""
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    found: dict[str, Buffer] = {}

    def walk(jaxpr: Any, inside: bool) -> None:
        for equation in jaxpr.eqns:
            local = inside or equation.primitive.name == "shard_map"
            inner = list(jax.extend.core.jaxprs_in_params(equation.params))
            for part in inner:
                walk(part, local)
            for variable in () if inner else equation.outvars:
                sides = variable.aval.shape
                split = not local and any(side % batch_size == 0 for side in sides if side)
                size = variable.aval.size * variable.aval.dtype.itemsize
                shape = f"{variable.aval.dtype}[{','.join(map(str, sides))}]"
                if split:
                    size, shape = size / devices, f"{shape} over {devices} devices"
                name = f"{equation.source_info.name_stack}/{equation.primitive.name}"
                found.setdefault(shape, Buffer(size, shape, name))

    walk(jaxpr, False)
    return _top(found.values())


def _top(buffers: Iterable[Buffer]) -> tuple[Buffer, ...]:
    return tuple(sorted(buffers, key=lambda buffer: -buffer.bytes)[:3])


_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}


def _largest_arrays(text: str) -> tuple[Buffer, ...]:
    """The largest results of instructions in a program's text."""
    found: dict[str, Buffer] = {}
    for kind, sides, operation, rest in re.findall(r"= (\w+)\[([\d,]+)\]\S* ([\w-]+)\((.*)", text):
        if kind in _WIDTHS and operation not in ("parameter", "get-tuple-element", "bitcast"):
            shape = f"{kind}[{sides}]"
            size = _WIDTHS[kind] * math.prod(map(int, sides.split(",")))
            name = re.search(r'op_name="([^"]*)"', rest)
            found.setdefault(shape, Buffer(size, shape, name[1] if name else operation))
    return _top(found.values())
