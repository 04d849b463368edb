"""The goldens of the recipes: how every parameter lies, and what a step sends over the network.

    python tests/planning/goldens.py [RECIPE ...]      (make golden: all of them)

writes tests/golden/RECIPE.json. A change that adds an all-gather shows in the diff.
"""

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "golden"
RECIPES = {  # config → the slice it is made for
    "clip_vit_b32": "v5e:8x8",
    "clip_vit_b16": "v5e:16x16",
    "clip_vit_l14": "v5p:4x4x8",
    "clip_1m_batch": "v5e:16x16",
    "siglip_b16": "v5e:16x16",
    "siglip_so400m": "v5e:16x16",
}


def plan(recipe: str) -> Any:
    from mmjax.config_file import load_config
    from mmjax.planning.plan import make_plan

    return make_plan(load_config(str(ROOT / "configs" / f"{recipe}.py")), RECIPES[recipe])


def golden(plan: Any) -> dict[str, Any]:
    """What of a plan a reviewer wants to see change; bytes in whole MB, small collectives apart."""
    collectives = [
        f"{c['kind']} {' '.join(c['axes'])}: {c['count']} times, {c['bytes'] / 1e6:,.0f} MB"
        for c in plan.collectives
    ]
    return {
        "topology": plan.topology,
        "mesh": plan.mesh,
        "batch_size": plan.batch_size,
        "collectives": {libtpu(): collectives},
        "shardings": plan.shardings,
    }


def libtpu() -> str:
    """The release of the compiler, which decides on collectives."""
    return ".".join(metadata.version("libtpu").split(".")[:3])


def read(recipe: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{recipe}.json").read_text())


def write(recipe: str, made: dict[str, Any]) -> None:
    """Other compilers' collectives stay."""
    path = FOLDER / f"{recipe}.json"
    if path.exists():
        made = made | {"collectives": read(recipe)["collectives"] | made["collectives"]}
    path.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or RECIPES:
        made = plan(name)
        write(name, golden(made))
        print(
            f"{name}: peak {made.peak_bytes / 2**30:.2f} GiB of {made.capacity_bytes / 2**30:.2f}, "
            f"step {made.roofline_seconds * 1e3:.1f} ms bound by {made.bound_by}, "
            f"MFU bound {made.mfu_bound:.1%}, compiled in {made.compile_seconds:.0f} s",
            flush=True,
        )
