"""The compiler flags that training sets, each with where it comes from.

`mmjax train` applies them before JAX starts; a flag that is set already, in XLA_FLAGS or
LIBTPU_INIT_ARGS, stays as it is. MMJAX_XLA_FLAGS=off leaves all of them out.
"""

import importlib.util
import os
from typing import NamedTuple

OFF = "MMJAX_XLA_FLAGS"


class Flag(NamedTuple):
    """`variable`: which environment variable carries it to the compiler."""

    variable: str
    name: str
    value: str
    why: str
    source: str


_GPU, _TPU = "XLA_FLAGS", "LIBTPU_INIT_ARGS"
_JAX_GPU = "docs.jax.dev, GPU performance tips"
_NVIDIA = "NVIDIA JAX-Toolbox, GPU performance"
_MAXTEXT = "MaxText, benchmarks/xla_flags_library.py"

FLAGS = (
    Flag(_GPU, "xla_gpu_enable_latency_hiding_scheduler", "true",
         "collectives start early and end late, with computation between", _JAX_GPU),
    Flag(_GPU, "xla_gpu_enable_pipelined_all_gather", "true",
         "a layer's parameters (fsdp) come while the layer before computes", _NVIDIA),
    Flag(_GPU, "xla_gpu_enable_pipelined_reduce_scatter", "true",
         "a layer's gradients (fsdp) leave while the next computes", _NVIDIA),
    Flag(_GPU, "xla_gpu_enable_pipelined_all_reduce", "true",
         "a layer's gradients (data) leave while the next computes", _NVIDIA),
    Flag(_TPU, "xla_tpu_enable_async_collective_fusion", "true",
         "computation runs in the shadow of collectives", _MAXTEXT),
    Flag(_TPU, "xla_tpu_enable_async_collective_fusion_fuse_all_gather", "true",
         "the same for the parameters of fsdp", _MAXTEXT),
    Flag(_TPU, "xla_tpu_enable_async_collective_fusion_multiple_steps", "true",
         "a collective may hide behind several computations", _MAXTEXT),
    Flag(_TPU, "xla_tpu_overlap_compute_collective_tc", "true",
         "the core computes while it drives a collective", _MAXTEXT),
    Flag(_TPU, "xla_enable_async_all_gather", "true",
         "the parameters of fsdp come while something computes", _MAXTEXT),
    Flag(_TPU, "xla_tpu_enable_data_parallel_all_reduce_opt", "true",
         "gradients are added up across slices while the backward pass goes on", _MAXTEXT),
    Flag(_TPU, "xla_tpu_data_parallel_opt_different_sized_ops", "true",
         "the same where the parts differ in size", _MAXTEXT),
)  # fmt: skip
DETERMINISTIC = (
    Flag(_GPU, "xla_gpu_deterministic_ops", "true",
         "no atomic additions, no choice of kernels by their speed", "openxla.org, Determinism"),
)  # fmt: skip


def apply(*, deterministic: bool) -> None:
    """Puts the flags for the accelerators of this machine into the environment."""
    installed = {
        _GPU: any(map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))),
        _TPU: importlib.util.find_spec("libtpu") is not None,
    }
    chosen = () if os.environ.get(OFF) == "off" else FLAGS
    for flag in (*chosen, *DETERMINISTIC[: int(deterministic)]):
        present = os.environ.get(flag.variable, "")
        if installed[flag.variable] and f"--{flag.name}=" not in present:
            os.environ[flag.variable] = f"{present} --{flag.name}={flag.value}".strip()
