"""What every recipe's smoke form computes: its parameters, their initial values, its first losses.

    python -m tests.recipe_goldens write [NAME ...]    into tests/golden/recipes/NAME.json
    python -m tests.recipe_goldens check [NAME ...]    compares, to the bit
    python -m tests.recipe_goldens close [NAME ...]    compares values to 1e-4, on another machine

One device, no evaluations. The bits depend on the processor and on the version of jax, so a
refactoring is checked on the machine that wrote the goldens before it.
"""

import importlib.util
import json
import sys
import tempfile
import zlib
from pathlib import Path

import jax
import numpy as np

from mmjax import models
from mmjax.training import loop

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "golden" / "recipes"
STEPS = 5
CLOSE = 1e-4  # relative, of losses and of a parameter's mean size


def names():
    return sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def smoke_form(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("smoke")
    config.evals = {}
    config.checkpoint.update(every=1_000, best="")
    config.log.update(every=1, tensorboard=False)
    config.data.workers = 0
    return config


def golden(name):
    """{"params": path → [shape, CRC-32, mean size], "losses": a dictionary a step}."""
    config = smoke_form(name)
    params = models.init(models.from_config(config.model), jax.random.key(config.seed))
    with tempfile.TemporaryDirectory() as workdir:
        loop.train(config, workdir)
        lines = (Path(workdir) / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {
        "params": {
            jax.tree_util.keystr(path, simple=True, separator="/"): [
                list(x.shape),
                zlib.crc32(np.ascontiguousarray(x).tobytes()),
                float(np.abs(np.asarray(x, np.float64)).mean()),
            ]
            for path, x in jax.tree_util.tree_leaves_with_path(params)
        },
        "losses": [
            {key: value for key, value in row.items() if key.startswith("loss")}
            for row in rows
            if "loss" in row
        ][:STEPS],
    }


def differences(name, found, exact):
    """Sentences on what is not as it was."""
    kept = json.loads((FOLDER / f"{name}.json").read_text())
    found = json.loads(json.dumps(found))
    before, after = kept["params"], found["params"]
    result = [f"{name}: parameter {path} came or went" for path in sorted({*before} ^ {*after})]
    for path in sorted({*before} & {*after}):
        (shape, crc, size), (new_shape, new_crc, new_size) = before[path], after[path]
        same = crc == new_crc if exact else np.isclose(size, new_size, rtol=CLOSE, atol=1e-9)
        if shape != new_shape or not same:
            result.append(f"{name}: parameter {path} was {before[path]}, is {after[path]}")
    if len(kept["losses"]) != len(found["losses"]):
        result.append(f"{name}: {len(found['losses'])} steps")
    for step, (old, new) in enumerate(zip(kept["losses"], found["losses"], strict=False), 1):
        same = old == new or (
            not exact and old.keys() == new.keys()
            and all(np.isclose(old[key], new[key], rtol=CLOSE) for key in old)
        )  # fmt: skip
        if not same:
            result.append(f"{name}: step {step} was {old}, is {new}")
            break
    return result


def to_json(found):
    """A line for each parameter and each step."""
    params = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in found["params"].items())
    losses = ",\n".join(f"  {json.dumps(row)}" for row in found["losses"])
    return f'{{"params": {{\n{params}\n}}, "losses": [\n{losses}\n]}}\n'


def main(mode, chosen):
    wrong = []
    for name in chosen or names():
        found = golden(name)
        if mode == "write":
            FOLDER.mkdir(parents=True, exist_ok=True)
            (FOLDER / f"{name}.json").write_text(to_json(found))
        else:
            wrong += differences(name, found, exact=mode == "check")
    print("\n".join(wrong) or f"{mode}: {len(chosen or names())} recipes")
    return 1 if wrong else 0


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 1)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
