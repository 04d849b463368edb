"""What saving costs the train loop: how long it blocks, and how long the write goes on beside it.

    python benchmarks/checkpoint.py --markdown

Training goes on while Orbax writes. A round is some steps without a save, then a save and steps
until the checkpoint is whole on disk; every step is waited for, so that its time is its own. The
model is ViT-B/32 with --depth layers a tower (with 12, AdamW and its moments it has 1.8 GB). The
share is of the time from one save to the next, at --every steps; the recipes save every 1,000 or
more. On CPUs the write takes its compression and its copies from the cores that compute, which
accelerators do not share: that is the last column, not the blocking.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from etils import epath
from tables import show

from mmjax import config as config_lib
from mmjax import models
from mmjax.parallel import mesh as mesh_lib
from mmjax.runs.checkpoint import FOLDER, Checkpoints
from mmjax.runs.metrics import ProgressLine
from mmjax.training.assemble import Parts, assemble
from mmjax.training.prepare import fresh_state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="without a save, in a round")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--depth", type=int, default=4, help="layers of both towers")
    parser.add_argument("--every", type=int, default=100, help="steps between two saves")
    parser.add_argument("--markdown", action="store_true", help="print the table for README.md")
    args = parser.parse_args()
    config = config_lib.default()
    config.model = models.zoo.config("ViT-B/32")
    config.model.image.depth = config.model.text.depth = args.depth
    config.objectives.clip = config_lib.entry("objectives")
    config.batch_size, config.checkpoint.keep = args.batch, 1
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as folder:
        measure(assemble(config, mesh), mesh, Path(folder), args)


def measure(parts: Parts, mesh: jax.sharding.Mesh, folder: Path, args: argparse.Namespace) -> None:
    step = parts.step()
    state = fresh_state(parts, None, mesh, ProgressLine(1))
    batch = mesh_lib.put_batch(random_batch(parts), args.batch)
    checkpoints = Checkpoints(epath.Path(folder), parts.config.checkpoint)
    quiet, beside, blocked, lasted = [], [], [], []

    def timed_step() -> float:
        nonlocal state
        begun = time.perf_counter()
        state, _ = step(state, batch)
        jax.block_until_ready(state)
        return time.perf_counter() - begun

    for number in range(args.rounds + 1):
        quiet_now = [timed_step() for _ in range(args.steps)]
        begun = time.perf_counter()
        checkpoints.save(int(state.step), state, {})
        blocked_now, target = time.perf_counter() - begun, folder / FOLDER / str(int(state.step))
        beside_now = []
        while not target.exists():
            beside_now.append(timed_step())
        lasted_now = time.perf_counter() - begun
        if number:  # the first round compiles
            quiet += quiet_now
            beside += beside_now
            blocked.append(blocked_now)
            lasted.append(lasted_now)
    checkpoints.close()
    one, many = statistics.median(quiet), statistics.median(beside)
    held = statistics.median(blocked)
    size = sum(x.nbytes for x in jax.tree.leaves(state)) / 1e9
    header = ("state GB", "step s", "save blocks s", f"of {args.every} steps", "write lasts s",
              "step beside it s")  # fmt: skip
    row = (f"{size:.2f}", f"{one:.2f}", f"{held:.2f} ({min(blocked):.2f}–{max(blocked):.2f})",
           f"{held / (args.every * one + held):.1%}", f"{statistics.median(lasted):.1f}",
           f"{many:.2f}")  # fmt: skip
    show(f"Saving beside training, batch {args.batch}", header, [row], args.markdown)


def random_batch(parts: Parts) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = {name: rng.integers(0, 200, x.shape).astype(x.dtype) for name, x in parts.batch.items()}
    return batch | {"text_mask": np.ones(batch["text"].shape, bool)}


if __name__ == "__main__":
    main()
