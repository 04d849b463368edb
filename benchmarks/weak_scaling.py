"""Does a pod of any size hold the same step? Peak memory and network bytes at 128 pairs a chip.

    python benchmarks/weak_scaling.py --markdown        (needs mmjax[tpu]; about five minutes)

configs/clip_vit_b16.py with the ring loss, fsdp = 16 and one microbatch, compiled for 16, 64, 256 and 1,024 v5e
chips (four slices). Beside the bytes that the compiled program sends stand those of a formula:

    all-gather, reduce-scatter along fsdp (f):  what the smallest slice sends; f is the same
    all-reduce along data (d):                  2 (d - 1)/d · bytes of the gradients a chip holds
    ring over N chips, n pairs each:            N · n · bytes a pair has with it, both ways
"""

import argparse

from tables import show

from mmjax.cli import load_config
from mmjax.planning.plan import Plan, make_plan

PAIRS, FSDP = 128, 16
TOPOLOGIES = ("v5e:4x4", "v5e:8x8", "v5e:16x16", "4*v5e:16x16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--markdown", action="store_true", help="print the table for README.md")
    args = parser.parse_args()
    plans = []
    for topology in TOPOLOGIES:
        config = load_config("configs/clip_vit_b16.py")
        config.objectives.clip = {"weight": 1.0, "implementation": "ring"}
        config.mesh.update(data=-1, fsdp=FSDP)
        config.optim.microbatches = 1
        config.batch_size = PAIRS * chips(topology)
        plans.append(make_plan(config, topology))
    header = ("chips", "batch", "peak GiB", "along fsdp MB", "along data MB (formula)",
              "ring MB (formula)", "step ms", "bound by")  # fmt: skip
    rows = [row(plan, plans[0]) for plan in plans]
    show(f"ViT-B/16, {PAIRS} pairs a v5e chip, fsdp {FSDP}", header, rows, args.markdown)


def chips(topology: str) -> int:
    slices, _, shape = topology.rpartition("*")
    sides = shape.split(":")[1].split("x")
    return int(slices or 1) * int(sides[0]) * int(sides[1])


def row(plan: Plan, smallest: Plan) -> tuple[str, ...]:
    fsdp, data, ring = sent(plan, "fsdp"), sent(plan, "data"), ring_bytes(plan)
    # Gradients lie as the parameters do, in float32.
    replicas = plan.mesh["data"]
    predicted_data = 2 * (replicas - 1) / replicas * plan.parameter_bytes
    predicted_ring = ring_bytes(smallest) * plan.devices / smallest.devices
    return (
        f"{plan.devices:,}", f"{plan.batch_size:,}", f"{plan.peak_bytes / 2**30:.2f}",
        f"{fsdp / 1e6:,.1f}", f"{data / 1e6:,.1f} ({predicted_data / 1e6:,.1f})",
        f"{ring / 1e6:,.1f} ({predicted_ring / 1e6:,.1f})",
        f"{(plan.roofline_seconds or 0) * 1e3:.1f}", str(plan.bound_by),
    )  # fmt: skip


def sent(plan: Plan, axis: str) -> float:
    """Bytes of a chip's collectives along one axis alone."""
    found = plan.collectives or ()
    return sum(c["bytes"] for c in found if tuple(c["axes"]) == (axis,))


def ring_bytes(plan: Plan) -> float:
    found = plan.collectives or ()
    return sum(c["bytes"] for c in found if c["kind"] == "collective-permute")


if __name__ == "__main__":
    main()
