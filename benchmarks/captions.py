"""Captions for pictures of a style never seen: how many labels are said exactly, and samples.

    python benchmarks/captions.py --markdown --picture=captions.png     (data of `make demo`)

A captioner (an image tower and cross-attending layers) trained on labels of three styles names the
pictures of the fourth, by beam search; F1 is that of the words, each picture counted once.
"""

import argparse
import collections
from typing import Any

import emoji
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw
from tables import show

from mmjax import config as config_lib
from mmjax import models
from mmjax.pretrained import Pretrained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--picture", default="", help="a PNG of samples to write")
    parser.add_argument("--markdown", action="store_true", help="print the table for README.md")
    args = parser.parse_args()
    exact: dict[int, list[float]] = {1: [], args.beams: []}
    f1: dict[int, list[float]] = {1: [], args.beams: []}
    for seed in range(args.seeds):
        run = captioner(args.steps, args.batch, seed)
        trained, _ = emoji.train(run)
        images, labels = emoji.unseen(trained)
        labels = as_spoken(trained.tokenizer, labels)
        for beams in exact:
            said = say(trained, images, beams)
            hits = [a == b for a, b in zip(said, labels, strict=True)]
            exact[beams].append(100 * float(np.mean(hits)))
            shares = [overlap(a, b) for a, b in zip(said, labels, strict=True)]
            f1[beams].append(100 * float(np.mean(shares)))
        if args.picture and not seed:
            draw(args.picture, images, labels, said)
    rows = [
        (f"{beams} beams" if beams > 1 else "greedy", emoji.spread(exact[beams]),
         emoji.spread(f1[beams]))
        for beams in exact
    ]  # fmt: skip
    title = f"Labels said of {len(labels):,} unseen-style pictures, {args.steps} steps, in %"
    show(title, ("search", "exact", "token F1"), rows, args.markdown)


def captioner(steps: int, batch: int, seed: int):
    run = emoji.config(steps, batch, seed)
    run.model.image.depth, run.model.text.depth = 4, 0
    run.model.text.update(causal=True, pool="eot")
    run.model.fusion = config_lib.entry("model", kind="cross", depth=2)
    del run.model.logit
    run.objectives.caption = config_lib.entry("objectives")
    return run


def say(trained: Pretrained, images: np.ndarray, beams: int, size: int = 128) -> list[str]:
    """The texts of the pictures."""
    tokenizer: Any = trained.tokenizer
    texts: list[str] = []
    for start in range(0, len(images), size):
        rows = np.minimum(np.arange(start, start + size), len(images) - 1)
        said = models.generate(
            trained.model, trained.params, {"image": jnp.asarray(images[rows])},
            start_id=tokenizer.start_id, end_id=tokenizer.eot_id, beams=beams,
        )  # fmt: skip
        texts += tokenizer.wrapped.batch_decode(np.asarray(said.tokens), skip_special_tokens=True)
    return [text.strip() for text in texts[: len(images)]]


def as_spoken(tokenizer, texts: list[str]) -> list[str]:
    """The texts as a model would say them, in the tokenizer's lower case and spaces."""
    ids = tokenizer.wrapped(texts, add_special_tokens=False)["input_ids"]
    return [text.strip() for text in tokenizer.wrapped.batch_decode(ids)]


def overlap(said: str, label: str) -> float:
    """F1 of the words of two texts."""
    a, b = said.split(), label.split()
    common = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if a or b else 1.0


def draw(path: str, images: np.ndarray, labels: list[str], said: list[str], count: int = 24):
    """Every so many-th picture with what was said of it, and its label where that is another."""
    side, columns = 96, 4
    chosen = np.linspace(0, len(images) - 1, count).astype(int)
    sheet = Image.new("RGB", (columns * 330, -(-count // columns) * (side + 12)), "white")
    pen = ImageDraw.Draw(sheet)
    for place, number in enumerate(chosen):
        x, y = place % columns * 330, place // columns * (side + 12)
        sheet.paste(Image.fromarray(images[number]).resize((side, side)), (x, y))
        right = said[number] == labels[number]
        pen.text((x + side + 8, y + 30), said[number], fill="green" if right else "firebrick")
        if not right:
            pen.text((x + side + 8, y + 48), f"({labels[number]})", fill="grey")
    sheet.save(path)


if __name__ == "__main__":
    main()
