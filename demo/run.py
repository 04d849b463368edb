"""The demo from nothing to a picture: data, training, evaluation, export, and a look at all of it.

    python -m demo.run [WORKDIR]           (default runs/demo; `make demo` does this)

Each part uses what is there: a second run trains no further, an interrupted one resumes.
"""

import importlib.util
import json
import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import mmjax
from demo.picture import draw
from demo.prepare import prepare
from mmjax import evaluation
from mmjax.config_file import load_config
from mmjax.data import open_source
from mmjax.data.images import open_image
from mmjax.errors import UserError
from mmjax.evaluation import report
from mmjax.pretrained import Pretrained
from mmjax.training import loop

DATA, CONFIG = Path("data/emoji"), "configs/demo.py"
console = Console(highlight=False)


def main(workdir: Path) -> None:
    """Runs the demo into `workdir`; the last thing it writes is results.json."""
    begun = time.perf_counter()
    console.rule("data")
    for style, count in prepare(DATA, console.print).items():
        console.print(f"{style:>15} {count:,} pictures with labels and tags")

    console.rule("training")
    loop.train(load_config(CONFIG), str(workdir))
    seconds, speed = training_time(workdir)

    console.rule("evaluation on a style that was never trained on")
    scores = evaluation.evaluate(workdir)
    console.print(report.table(scores))

    console.rule("export")
    clip = mmjax.load(workdir)
    folder = workdir / "huggingface"
    clip.export(folder, "huggingface")
    source = open_source({"path": str(DATA / "twitter")})
    labels = (DATA / "labels.txt").read_text(encoding="utf-8").splitlines()
    view = View(clip, source, labels)
    difference = torch_difference(folder, view)
    console.print(f"wrote {folder} for transformers.CLIPModel", end="; ")
    console.print(
        "PyTorch is not installed, so it is unchecked (install torch and run again)"
        if difference is None
        else f"PyTorch's logits differ by at most {difference:.1e} at scale {view.scale:.0f}"
    )
    picture = workdir / "demo.png"
    draw(picture, view)

    results = {
        "train_seconds": round(seconds, 1),
        "total_seconds": round(time.perf_counter() - begun, 1),
        "examples_per_second": round(speed, 1),
        "heldout": {
            direction: {k: scores["twitter"][f"{direction}/{k}"] for k in ("R@1", "R@5", "R@10")}
            for direction in ("image_to_text", "text_to_image")
        }
        | {"candidates": int(scores["twitter"]["texts"])},
        "zero_shot": {k: scores["groups"][k] for k in ("top1", "top5")}
        | {"classes": int(scores["groups"]["classes"])},
        "export": {"max_abs_logit_diff": difference},
    }
    part = workdir / "results.json.part"
    part.write_text(json.dumps(results, indent=2) + "\n")
    part.replace(workdir / "results.json")
    console.rule("result")
    console.print(table(results))
    for line in closing(workdir):
        console.print(line, markup=False, soft_wrap=True)


def closing(workdir: Path) -> list[str]:
    """What there is now, and what to do next, in short lines."""
    mmjax = Path(sys.executable).with_name("mmjax")  # the PATH may lack it, as after `make demo`
    command = "mmjax" if shutil.which("mmjax") else os.path.relpath(mmjax)
    return [
        f"The picture:   {workdir / 'demo.png'}",
        f"The run:       {command} report --workdir={shlex.quote(str(workdir))}",
        "Step by step:  notebooks/01_quickstart.ipynb",
        f"On your data:  {command} train --config=pairs --workdir=runs/mine \\",
        "                 --config.data.train.pairs.path=captions.csv",
    ]


class View:
    """The trained model on the unseen pictures and all labels, embedded once.

    pictures: their files. images: uint8 [N, S, S, 3]; names: the label of each; image_embed [N, D].
    labels [M] and text_embed [M, D]. scale: the logit scale.
    """

    def __init__(self, clip: Pretrained, source: Any, labels: list[str]):
        self.clip, self.labels = clip, labels
        self.pictures = [source[i].part("image") for i in range(len(source))]
        self.names = [source.captions(i)[0] for i in range(len(source))]
        self.images = clip.preprocess([open_image(data) for data in self.pictures])
        self.image_embed = clip.embed_images(self.images, batch_size=256)
        self.text_embed = clip.embed_texts(labels, batch_size=256)
        scale: Any = clip.model.apply({"params": clip.params}, {}, ("logit/scale",))
        self.scale = float(scale["logit/scale"])


def training_time(workdir: Path) -> tuple[float, float]:
    """(seconds, examples a second) of all training steps of a run, restarts included."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    lines = [line for line in lines if "examples_per_second" in line]
    batch = json.loads((workdir / "config.json").read_text())["batch_size"]
    seconds = examples = 0.0
    previous = 0
    for line in lines:
        count = max(0, line["step"] - previous) * batch
        examples += count
        seconds += count / line["examples_per_second"]
        previous = line["step"]
    return seconds, examples / seconds


def torch_difference(folder: Path, view: View, count: int = 64) -> float | None:
    """Largest difference of logits [count, count] to PyTorch's CLIPModel; None without PyTorch."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(folder).eval()
    image = view.clip.config.model.image
    pixels = (view.images[:count] / 255 - np.array(image.mean)) / np.array(image.std)
    tokens = view.clip.tokenize(view.labels[:count])
    with torch.no_grad():
        theirs = clip(
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32),
            input_ids=torch.tensor(tokens["text"], dtype=torch.long),
            attention_mask=torch.tensor(tokens["text_mask"], dtype=torch.long),
        ).logits_per_image.numpy()
    ours = view.scale * view.image_embed[:count] @ view.text_embed[:count].T
    return float(np.abs(ours - theirs).max())


def table(results: dict[str, Any]) -> Table:
    """The numbers that matter, for the terminal."""
    held, zero = results["heldout"], results["zero_shot"]
    grid = Table("twitter's style, never trained on", "R@1", "R@5", "R@10")
    for direction in ("image_to_text", "text_to_image"):
        name = f"{direction.replace('_', ' ')} ({held['candidates']:,} labels)"
        grid.add_row(name, *(f"{value:.1%}" for value in held[direction].values()))
    grid.add_row(
        f"zero-shot, {zero['classes']} groups (top-1, top-5)", f"{zero['top1']:.1%}",
        f"{zero['top5']:.1%}", "",
    )  # fmt: skip
    grid.caption = (
        f"trained in {results['train_seconds']:.0f} s at {results['examples_per_second']:,.0f} "
        f"examples/s on {os.cpu_count()} cores; all together {results['total_seconds']:.0f} s"
    )
    return grid


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo"))
    except UserError as error:
        sys.exit(f"demo: {error}")
