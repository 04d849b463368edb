"""A student a quarter of its teacher's size: alone, with the teacher online, with it cached.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/distill.py [--seeds=2] [--steps=600]

The teacher is the demo's model (`configs/demo.py`, 1.0M parameters) on pictures of 48 pixels. The
students have 0.25M, pictures of 32 pixels, the same data, seed and steps; what differs is the loss:
CLIP alone, or CLIP-KD's four losses (CLIP, features, interactive contrast, similarities). Measured
on the style that none of them was trained on. Runs are kept in runs/distill, so that what was
interrupted goes on. Wants `make demo`'s data.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from tables import show

from mmjax import config as config_lib
from mmjax import embedding
from mmjax.config_file import load_config
from mmjax.training import loop

VIEWS = 8
KD = {  # CLIP-KD's weights; features are 128 wide, not 512, and their loss is a mean over them
    "distill_feature": 500.0,
    "distill_interactive": 1.0,
    "distill_similarity": 1.0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600, help="of every student")
    parser.add_argument("--runs", type=Path, default=Path("runs/distill"))
    parser.add_argument("--markdown", action="store_true")
    args = parser.parse_args()

    teacher = args.runs / "teacher"
    config = load_config("configs/demo.py")
    with config.unlocked():
        config.model.update(name="emoji teacher")
        config.model.image.size = 48
    loop.train(config, str(teacher))
    results: dict[str, list[dict[str, Any]]] = {"teacher": [result(teacher)]}
    for seed in range(args.seeds):
        embeds = args.runs / f"embeddings-{args.steps}-{seed}"
        embedding.embed(student(seed, args.steps, str(teacher)), str(embeds))
        for name, source, cached in (
            ("student alone", "", ""),
            ("distilled, teacher online", str(teacher), ""),
            ("distilled, teacher cached", str(teacher), str(embeds / "teacher")),
        ):
            workdir = args.runs / f"{name.replace(', ', '-').replace(' ', '-')}-{args.steps}-{seed}"
            loop.train(student(seed, args.steps, source, cached), str(workdir))
            results.setdefault(name, []).append(result(workdir))
    rows = [row(name, found, results) for name, found in results.items()]
    header = (
        "model", "picture → label R@1", "label → picture R@1", "× alone", "examples/s", "× online"
    )  # fmt: skip
    title = f"Unseen style, {args.seeds} seeds, {args.steps} steps a student"
    show(title, header, rows, args.markdown)
    pairs = zip(
        results["distilled, teacher online"], results["distilled, teacher cached"], strict=True
    )
    apart = max(difference(online["losses"], cached["losses"]) for online, cached in pairs)
    print(f"\nLosses of the cached teacher differ from the online one's by at most {apart:.1e}.")


def student(seed: int, steps: int, source: str, cached: str = "") -> Any:
    """The demo's config with a quarter of the parameters, and the teacher if there is one."""
    config = load_config("configs/demo.py")
    with config.unlocked():
        config.model.name = "emoji student"
        config.model.image.update(width=64, depth=3, heads=1, mlp_dim=256)
        config.model.text.update(width=32, mlp_dim=128)
        config.update(seed=seed, total_steps=steps)
        config.data.copies = VIEWS
        config.checkpoint.every = steps
        if source:
            config.teachers.teacher = config_lib.entry("teachers", source=source, cached=cached)
            for name, weight in KD.items():
                config.objectives[name] = config_lib.entry("objectives", weight=weight)
    return config


def result(workdir: Path) -> dict[str, Any]:
    """Retrieval on the unseen style at the end, the middle speed, and the losses."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    last = next(line for line in reversed(lines) if "twitter/image_to_text/R@1" in line)
    speeds = [line["examples_per_second"] for line in lines if "examples_per_second" in line]
    return {
        "i2t": last["twitter/image_to_text/R@1"],
        "t2i": last["twitter/text_to_image/R@1"],
        "speed": float(np.median(speeds)),
        "losses": {line["step"]: line["loss"] for line in lines if "loss" in line},
    }


def row(name: str, found: list[dict[str, Any]], results: dict[str, Any]) -> tuple[str, ...]:
    def mean(which: str, key: str) -> float:
        return float(np.mean([r[key] for r in results[which]]))

    def spread(key: str) -> str:
        values = [100 * r[key] for r in found]
        return f"{np.mean(values):.1f} % ({min(values):.1f}–{max(values):.1f})"

    distilled = name.startswith("distilled")
    alone = mean(name, "i2t") / mean("student alone", "i2t")
    online = mean(name, "speed") / mean("distilled, teacher online", "speed")
    return (
        name, spread("i2t"), spread("t2i"), f"{alone:.2f}" if distilled else "",
        f"{mean(name, 'speed'):,.0f}", f"{online:.2f}" if distilled else "",
    )  # fmt: skip


def difference(ours: dict[int, float], theirs: dict[int, float]) -> float:
    """The largest relative difference of the losses at the same step."""
    return max(abs(ours[step] - theirs[step]) / abs(theirs[step]) for step in ours)


if __name__ == "__main__":
    main()
