"""What accelerators can do, by their makers' word, and clusters of them that are only described.

`describe("v5e:16x16")` gives 256 devices to lay a mesh on and compile for, on a machine with none.
"""

import difflib
import importlib.util
import os
import re
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from mmjax.errors import UserError

# Plans may be made in several threads, but plugins and environment variables are of the process.
_ONE_AT_A_TIME = threading.Lock()


class Chip(NamedTuple):
    """One accelerator, in bytes, bytes/s and dense bfloat16 FLOP/s.

    float32_flops: of float32 products that round nothing (Precision.HIGHEST): six bfloat16 passes
    on TPUs, CUDA cores on GPUs. hbm: device memory, of which a program gets `usable`. network:
    published bandwidth of all links to other chips of a slice or host together. outside: of one
    chip's share of its host's network card, to other hosts (GPU) or slices (TPU).
    """

    kind: str  # how `jax.Device.device_kind` begins
    flops: float
    float32_flops: float
    hbm: float
    usable: float
    hbm_bandwidth: float
    network: float
    outside: float


GIB = 2.0**30
# TPUs: Google Cloud's pages "TPU v4", "TPU v5e", "TPU v5p", "TPU v6e" (peak compute, HBM capacity
# and bandwidth, interchip interconnect); the compiler keeps a little of the HBM (v5e: 15.75 of 16).
# Between slices: 100 Gb/s a host of 4 chips (v4: 50 Gb/s each), "Cloud TPU Multislice overview".
# GPUs: NVIDIA's A100, H100 and H200 data sheets, dense, SXM; NVLink to the same host, one 400 Gb/s
# (A100: 200 Gb/s) adapter each to others, as in DGX. JAX preallocates 75 % unless told otherwise
# (XLA_PYTHON_CLIENT_MEM_FRACTION); we count 92 %, which leaves 6 GB to CUDA and NCCL.
CHIPS = {
    "v4": Chip("TPU v4", 275e12, 275e12 / 6, 32 * GIB, 31.75 * GIB, 1228e9, 300e9, 6.25e9),
    "v5e": Chip("TPU v5 lite", 197e12, 197e12 / 6, 16 * GIB, 15.75 * GIB, 819e9, 200e9, 3.1e9),
    "v5p": Chip("TPU v5", 459e12, 459e12 / 6, 95 * GIB, 94.75 * GIB, 2765e9, 600e9, 6.25e9),
    "v6e": Chip("TPU v6 lite", 918e12, 918e12 / 6, 32 * GIB, 31.25 * GIB, 1640e9, 448e9, 6.25e9),
    "a100": Chip("NVIDIA A100", 312e12, 19.5e12, 80e9, 0.92 * 80e9, 2039e9, 600e9, 25e9),
    "h100": Chip("NVIDIA H100", 989e12, 67e12, 80e9, 0.92 * 80e9, 3350e9, 900e9, 50e9),
    "h200": Chip("NVIDIA H200", 989e12, 67e12, 141e9, 0.92 * 141e9, 4800e9, 900e9, 50e9),
}
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")  # v5e, v6e
_SMALL_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")  # v5p; beyond: multiples of 4, ascending
_LARGEST_CUBE = 6144  # chips of one slice
# What the CUDA compiler wants to know: capability, SMs, FP32 cores an SM, clock in GHz, L2 bytes,
# shared memory of an SM and of a block (CUDA C++ Programming Guide, "Compute capabilities").
_GPU = {
    "a100": ((8, 0), 108, 64, 1.41, 40 * 2**20, 167_936, 166_912),
    "h100": ((9, 0), 132, 128, 1.98, 50 * 2**20, 233_472, 232_448),
    "h200": ((9, 0), 132, 128, 1.98, 50 * 2**20, 233_472, 232_448),
}


def peak_flops(device_kind: str) -> float | None:
    """Published peak of a device by its kind, e.g. "NVIDIA H100 80GB HBM3"; None if unknown."""
    known = [chip for chip in CHIPS.values() if device_kind.startswith(chip.kind)]
    return max(known, key=lambda chip: len(chip.kind)).flops if known else None


class Topology(NamedTuple):
    """A described cluster. `groups`: slices (TPU) or hosts (GPU), joined by a slower network."""

    name: str
    chip: Chip
    devices: Sequence[jax.Device]
    groups: int


def describe(topology: str) -> Topology:
    """The devices of a cluster that is not there.

    `topology` is GENERATION:SHAPE for a TPU slice ("v5e:16x16", "v5p:4x4x8"), N*GENERATION:SHAPE
    for N slices, or GPU:HOSTSxGPUS ("h100:32x8"). Call it before JAX has used a device.

    Raises:
      UserError: no such generation or slice, a string of another form, or the compiler for it is
        not installed.
    """
    slices, generation, shape = parse_topology(topology)
    with _ONE_AT_A_TIME:
        if generation in _GPU:
            return _gpus(topology, generation, shape)
        return _tpus(topology, generation, shape, slices)


def parse_topology(topology: str) -> tuple[int, str, str]:
    """(slices, generation, shape) of e.g. "4*v5e:16x16"; UserError: nobody can have that."""
    form = re.fullmatch(r"(?:(\d+)\*)?(\w+):(\d+(?:x\d+)*)", topology)
    if not form:
        raise UserError(
            f"--topology={topology}: write GENERATION:SHAPE, like v5e:16x16, v5p:4x4x8, "
            "4*v5e:16x16 (four slices) or h100:32x8 (hosts × GPUs)."
        )
    slices, generation, shape = int(form[1] or 1), form[2], form[3]
    if generation not in CHIPS:
        near = difflib.get_close_matches(generation, CHIPS, n=1, cutoff=0.0)[0]
        raise UserError(
            f"--topology={topology}: there is no {generation}; the nearest is {near} (known: "
            f"{', '.join(CHIPS)})."
        )
    if generation not in _GPU:
        _check_slice(topology, generation, shape)
    elif shape.count("x") != 1 or slices != 1:
        raise UserError(
            f"--topology={topology}: GPU clusters are written HOSTSxGPUS, like {generation}:32x8."
        )
    return slices, generation, shape


def _check_slice(topology: str, generation: str, shape: str) -> None:
    """libtpu also answers for slices that nobody can have."""
    if generation == "v4":
        raise UserError(
            f"--topology={topology}: libtpu describes a v4 core by core, but a v4 machine shows "
            "JAX whole chips, so a plan would be of another mesh; plan for v5p."
        )
    if generation == "v5p":
        sides = [int(side) for side in shape.split("x")]
        size = sides[0] * sides[1] * sides[2] if len(sides) == 3 else 0
        ordered = sides == sorted(sides) and all(side % 4 == 0 and side for side in sides)
        if shape in _SMALL_CUBES or (ordered and 0 < size <= _LARGEST_CUBE):
            return
        slices = f"{', '.join(_SMALL_CUBES)}, and AxBxC of multiples of 4 with A ≤ B ≤ C"
    elif shape in _FLAT:
        return
    else:
        slices = ", ".join(_FLAT)
    raise UserError(
        f"--topology={topology}: {generation} has no slice {shape}; it has {slices}. Several "
        f"slices are written N*{generation}:SHAPE."
    )


_TPU_HOST = {
    "TPU_SKIP_MDS_QUERY": "1",  # this machine is no TPU host: ask no metadata server
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # the lock is for chips
}


def _tpus(topology: str, generation: str, shape: str, slices: int) -> Topology:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={topology} needs the TPU compiler: pip install 'mmjax[tpu]' (no TPU is "
            "needed)."
        )
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    # Only while libtpu starts: a process that is started later would take this for a TPU host.
    given = {name: value for name, value in _TPU_HOST.items() if name not in os.environ}
    os.environ.update(given)
    try:
        found = _topology("tpu", f"{generation}:{shape}", options)
    finally:
        for name in given:
            del os.environ[name]
    return Topology(topology, CHIPS[generation], found, slices)


def _gpus(topology: str, generation: str, shape: str) -> Topology:
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise UserError(
            f"--topology={topology} needs the CUDA compiler: pip install 'mmjax[gpu]' (4 GB; no "
            "GPU is needed; an environment of its own keeps it apart)."
        )
    # Without a GPU the compiler cannot time Triton's kernels and finds no tiles.
    flag, flags = "--xla_gpu_enable_triton_gemm=false", os.environ.get("XLA_FLAGS", "")
    if flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()
    options = {"target_config": _target_config(generation)}
    found = _topology("cuda", "", {"topology": f"1x{shape}", **options})
    return Topology(topology, CHIPS[generation], found, int(shape.split("x")[0]))


def _topology(platform: str, name: str, options: dict) -> Sequence[jax.Device]:
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    return topologies.get_topology_desc(platform=platform, topology_name=name, **options).devices


def _target_config(generation: str) -> str:
    """XLA's GpuTargetConfigProto of a GPU, as text."""
    (major, minor), cores, fpus, clock, cache, shared, optin = _GPU[generation]
    chip = CHIPS[generation]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {optin}
  shared_memory_per_core: {shared} core_count: {cores} fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {chip.hbm_bandwidth:.0f} l2_cache_size: {cache} clock_rate_ghz: {clock}
  device_memory_size: {chip.hbm:.0f} registers_per_core_limit: 65536
  registers_per_block_limit: 65536 cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 13 }}
device_description_str: "{chip.kind}"
"""
