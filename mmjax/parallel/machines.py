"""What a topology of `mmjax plan` is called by those who rent it out, and how it is cut into hosts.

python -m mmjax.parallel.machines 4*v5e:16x16      # as shell variables, for launch/*.sh
"""

import math
import shlex
import sys
from typing import NamedTuple

from mmjax.errors import UserError
from mmjax.parallel.hardware import parse_topology

# Google Cloud's pages "TPU v5e", "TPU v5p", "TPU v6e" (accelerator types, chips a VM), "TPU
# software versions", "Plan TPUs in GKE" (node labels), "GPU machine types".
# Type as written before its number, what that counts a chip, runtime version, GKE's label.
_TPUS = {
    "v5e": ("v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice"),
    "v5p": ("v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice"),
    "v6e": ("v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice"),
}
_GPUS = {"a100": "nvidia-a100-80gb", "h100": "nvidia-h100-80gb", "h200": "nvidia-h200-141gb"}
_ONE_HOST = {"1x1": 1, "2x2": 4, "2x4": 8}  # chips of flat slices that are one machine
CHIPS_A_HOST = 4  # of larger slices


class Machine(NamedTuple):
    """`slices` times `hosts` machines with `chips` accelerators each.

    accelerator_type and runtime name a TPU slice to Cloud TPU ("" for GPUs). gke_label and
    gke_shape are the values of the node labels gke-tpu-accelerator and gke-tpu-topology, or, for
    GPUs, of gke-accelerator and "".
    """

    topology: str
    slices: int
    hosts: int
    chips: int
    accelerator_type: str
    runtime: str
    gke_label: str
    gke_shape: str


def machine(topology: str) -> Machine:
    """The machines of e.g. "v5e:16x16", "4*v6e:8x8" or "h100:32x8". UserError: there is none."""
    slices, generation, shape = parse_topology(topology)
    sides = [int(side) for side in shape.split("x")]
    if generation in _GPUS:
        return Machine(topology, 1, sides[0], sides[1], "", "", _GPUS[generation], "")
    if generation not in _TPUS:
        raise UserError(f"--topology={topology}: nobody here knows how to rent a {generation}.")
    size = math.prod(sides)
    chips = _ONE_HOST.get(shape, CHIPS_A_HOST) if len(sides) == 2 else CHIPS_A_HOST
    name, number, runtime, label = _TPUS[generation]
    return Machine(
        topology, slices, size // chips, chips, f"{name}-{number * size}", runtime, label, shape
    )


def main() -> None:
    try:
        found = machine(sys.argv[1])
    except UserError as error:
        sys.exit(f"{error}")
    for name, value in found._asdict().items():
        print(f"{name}={shlex.quote(str(value))}")


if __name__ == "__main__":
    main()
