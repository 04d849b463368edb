"""Small pictures first and large ones last (CLIPA), against large ones from the start, with as many
floating-point operations.

    python benchmarks/stages.py --markdown          (needs the data of `make demo`)

Both are one run of one config, the first with a stage: pictures of 16 pixels, 16 patches, until a
fifth of its operations is left, and of 32 pixels, 64 patches, then, with new moments. Its rate in
the second stage is lower, as CLIPA's is. As many steps of small pictures are taken as pay for those
of large ones. R@1 is picture → label of the emoji of a fourth style, among all labels.
"""

import argparse
import time

import emoji
import jax
from ml_collections import ConfigDict
from tables import show

from mmjax import config as config_lib
from mmjax import models
from mmjax.models.flops import forward_flops

SMALL, LARGE, PATCH = 16, 32, 4  # sides in pixels
LAST = 0.2  # share of the operations that the second stage has
RATE = 5e-3  # of the second stage; the first has that of the other runs, 1e-2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400, help="of the run without stages")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--markdown", action="store_true", help="print the table for README.md")
    args = parser.parse_args()
    rows = []
    for name in ("large", "small, then large"):
        runs = []
        for seed in range(args.seeds):
            run = one_stage(args.steps, args.batch, seed)
            runs.append(run if name == "large" else two_stages(run))
        begun = time.perf_counter()
        found = [100 * emoji.recall(emoji.train(run)[0]) for run in runs]
        minutes = (time.perf_counter() - begun) / 60 / args.seeds
        seen = f"{runs[0].total_steps * args.batch:,}"
        rows.append((name, seen, emoji.deviation(found), f"{minutes:.1f}"))
    title = f"Pictures of {LARGE} pixels, {args.steps} steps of {args.batch}, seeds {args.seeds}"
    show(title, ("pictures", "pairs seen", "R@1 %", "minutes"), rows, args.markdown)


def one_stage(steps: int, batch: int, seed: int) -> ConfigDict:
    result = emoji.config(steps, batch, seed)
    result.model.image.update(
        size=LARGE, patch_size=PATCH, depth=4, pool="mean", position="sincos", norm_pre=False
    )
    result.model.text.update(depth=2, mlm_head=False)
    result.objectives.clip = config_lib.entry("objectives")
    return result


def two_stages(run: ConfigDict) -> ConfigDict:
    """The run in two stages, and as many operations."""
    small = run.copy_and_resolve_references()
    small.model.image.size = SMALL
    last = max(1, round(LAST * run.total_steps))
    first = round((run.total_steps - last) * operations(run) / operations(small))
    small.update(total_steps=first + last)
    small.checkpoint.every = first + last
    small.stages.large = config_lib.entry(
        "stages",
        start=first / (first + last),
        fresh=True,
        changes=(f"model.image.size={LARGE}", f"optim.lr={RATE}"),
    )
    return small


def operations(run: ConfigDict) -> int:
    """Of the forward pass of a pair; a step has three times as many for each."""
    model = models.from_config(run.model)
    return forward_flops(run.model, jax.eval_shape(lambda: models.init(model, jax.random.key(0))))


if __name__ == "__main__":
    main()
