"""What a contrastive loss over the global batch costs: memory by the compiler's word, and time.

    python benchmarks/contrastive_memory.py --topology=v5e:16x16 --markdown    (needs mmjax[tpu])
    python benchmarks/contrastive_memory.py --topology=h100:32x8 --markdown    (needs mmjax[gpu])
    python benchmarks/contrastive_memory.py --time --markdown                  (8 CPU devices)

Memory: temporaries of one device for loss and gradients of [B, D] bfloat16 embeddings, in the three
forms: dense (one matrix of logits, split by rows), our ring, and the same ring differentiated by
JAX, which keeps every block. Time: ring against dense in one process, taking turns.
"""

import argparse
import functools
import re
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tables import show

from mmjax.objectives import contrastive
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import ring
from mmjax.parallel.hardware import describe

LOSSES: dict[str, Callable] = {
    "CLIP": contrastive.clip_loss,
    "SigLIP": functools.partial(contrastive.siglip_loss, bias=-10.0),
}
FORMS = ("dense", "ring", "ring without custom VJP")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--topology", help="v5e:16x16, h100:32x8, …: print memory there")
    parser.add_argument("--time", action="store_true", help="time on eight CPU devices")
    parser.add_argument("--batch", type=int, nargs="+", help="global batches")
    parser.add_argument("--width", type=int, help="of the embeddings")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each form, with --time")
    parser.add_argument("--markdown", action="store_true", help="print the table for README.md")
    args = parser.parse_args()
    if args.topology:
        memory(args)
    elif args.time:
        timing(args)
    else:
        parser.error("give --topology or --time")


def gradients(loss: Callable, form: str) -> Any:
    """Loss and gradients in one of FORMS, jitted."""
    implementation = "dense" if form == "dense" else "ring"
    step = jax.value_and_grad(functools.partial(loss, implementation=implementation), (0, 1, 2))
    if form != FORMS[2]:
        return jax.jit(step)

    def plain(*arrays):
        without: Any = ring.pair_statistics
        with mock.patch.object(ring, "pair_statistics", without.__wrapped__):
            return step(*arrays)

    return jax.jit(plain)


def memory(args: argparse.Namespace) -> None:
    cluster = describe(args.topology)
    mesh = mesh_lib.make_mesh(devices=cluster.devices)
    width = args.width or 768
    split, whole = NamedSharding(mesh, P(mesh_lib.BATCH)), NamedSharding(mesh, P())
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    rows = []
    for name, loss in LOSSES.items():
        for batch in args.batch or (32_768, 262_144, 1_048_576):
            embed = jax.ShapeDtypeStruct((batch, width), jnp.bfloat16, sharding=split)
            cells = [name, f"{batch:,}"]
            for form in FORMS:
                with jax.set_mesh(mesh):
                    lowered = gradients(loss, form).lower(embed, embed, scale)
                    cells.append(temporaries(lowered, cluster.chip.usable))
            rows.append(cells)
    title = f"Temporaries of one device, {args.topology}, D = {width}, bfloat16, MB (10^6 bytes)"
    show(title, ("loss", "batch", *FORMS), rows, args.markdown)


def temporaries(lowered: jax.stages.Lowered, capacity: float) -> str:
    """MB, and whether it fits; the TPU compiler refuses what does not."""
    try:
        analysis: Any = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        asked = re.search(r"(?:Used |temporaries \()([\d.]+)G", str(error))
        if not asked:
            raise
        return f"does not compile ({float(asked[1]):.1f} GiB)"
    size = analysis.temp_size_in_bytes
    return f"{size / 1e6:,.2f}" + ("" if size <= capacity else " (does not fit)")


def timing(args: argparse.Namespace) -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    mesh = mesh_lib.make_mesh()
    width = args.width or 512
    rng = np.random.default_rng(0)
    rows = []
    for name, loss in LOSSES.items():
        for batch in args.batch or (2_048, 8_192, 16_384):
            x, y = rng.normal(size=(2, batch, width)).astype(np.float32)
            x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y))
            with jax.set_mesh(mesh):
                put = mesh_lib.put_batch({"x": x, "y": y}, batch)
                steps = {form: gradients(loss, form) for form in FORMS[:2]}
                seconds: dict[str, list[float]] = {form: [] for form in steps}
                values = {form: step(put["x"], put["y"], 14.3)[0] for form, step in steps.items()}
                for _ in range(args.rounds):
                    for form, step in steps.items():
                        begun = time.perf_counter()
                        jax.block_until_ready(step(put["x"], put["y"], 14.3))
                        seconds[form].append(time.perf_counter() - begun)
            assert abs(values["ring"] - values["dense"]) < 1e-5 * abs(values["dense"])
            ratios = [r / d for r, d in zip(seconds["ring"], seconds["dense"], strict=True)]
            middle = {form: statistics.median(times) for form, times in seconds.items()}
            rows.append([
                name, f"{batch:,}", f"{middle['dense'] * 1e3:,.0f}", f"{middle['ring'] * 1e3:,.0f}",
                f"{statistics.median(ratios):.2f}×", f"{min(ratios):.2f}–{max(ratios):.2f}",
            ])  # fmt: skip
    title = f"Loss and gradients on 8 CPU devices, D = {width}, float32, ms"
    header = ("loss", "batch", "dense", "ring", "ring / dense", "turn by turn")
    show(title, header, rows, args.markdown)


if __name__ == "__main__":
    main()
