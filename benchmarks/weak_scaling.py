"""Does a pod of any size hold the same step? Peak memory and network bytes at 128 pairs a chip.

    python benchmarks/weak_scaling.py --markdown        (needs mmjax[tpu]; about ten minutes)

configs/clip_vit_b16.py with the ring loss, fsdp = 4 and one microbatch, compiled for 16, 64, 256
and 1,024 v5p chips. Beside the bytes that a chip sends in the compiled program stand those that a
formula predicts from the smallest slice's:

    along fsdp (all-gather, reduce-scatter):        the same
    all-reduce in groups of g chips:                2 (g - 1)/g · bytes of the array
    ring over N chips, n pairs each:                N · n · bytes that travel with a pair
"""

import argparse
import math

from tables import show

from mmjax.config_file import load_config
from mmjax.planning.hlo import SENT
from mmjax.planning.plan import Plan, make_plan

PAIRS, FSDP = 128, 4
TOPOLOGIES = ("v5p:2x2x4", "v5p:4x4x4", "v5p:4x8x8", "v5p:8x8x16")
Key = tuple[str, tuple[str, ...]]  # kind of a collective, axes


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
        config.batch_size = PAIRS * math.prod(map(int, topology.split(":")[1].split("x")))
        plans.append(make_plan(config, topology))
    smallest = sent(plans[0])
    shown = [key for key in smallest if smallest[key] > 0.01 * sum(smallest.values())]
    header = ("chips", "batch", "peak GiB", *(f"{kind} {' '.join(axes)}" for kind, axes in shown),
              "others", "step ms", "bound by")  # fmt: skip
    rows = [row(plan, plans[0], shown) for plan in plans]
    title = f"ViT-B/16, {PAIRS} pairs a v5p chip, fsdp {FSDP}; MB sent (predicted)"
    show(title, header, rows, args.markdown)


def row(plan: Plan, smallest: Plan, shown: list[Key]) -> tuple[str, ...]:
    measured, base = sent(plan), sent(smallest)
    cells = []
    for key in shown:
        kind, axes = key
        if kind == "collective-permute":
            predicted = base[key] * plan.devices / smallest.devices
        else:
            per_byte = [SENT[kind](math.prod(p.mesh[a] for a in axes)) for p in (smallest, plan)]
            predicted = base[key] / per_byte[0] * per_byte[1]
        cells.append(f"{measured.pop(key, 0.0) / 1e6:,.1f} ({predicted / 1e6:,.1f})")
    return (
        f"{plan.devices:,}", f"{plan.batch_size:,}", f"{plan.peak_bytes / 2**30:.2f}", *cells,
        f"{sum(measured.values()) / 1e6:,.1f}", f"{(plan.roofline_seconds or 0) * 1e3:.1f}",
        str(plan.bound_by),
    )  # fmt: skip


def sent(plan: Plan) -> dict[Key, float]:
    """Bytes that a chip sends a step, by kind of collective and axes."""
    return {(c["kind"], tuple(c["axes"])): c["bytes"] for c in plan.collectives or ()}


if __name__ == "__main__":
    main()
