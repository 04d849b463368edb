"""Which fusion tells captions apart that differ in one word? Image–text matching on emoji.

    python benchmarks/fusion.py --seeds=2 --markdown          (needs the data of `make demo`)

All models have about the same number of parameters and see the same batches; `matching` with
uniform negatives is their only objective. On the unseen style, every picture whose label has
neighbours in one word ("black flag", "black cat") is scored with its own label and up to eight of
them: pairs is how often its own wins against one, first how often against all.
"""

import argparse
import collections

import emoji
import numpy as np
from tables import show

from mmjax import config as config_lib
from mmjax.pretrained import Pretrained

# Name → layers of image tower, text tower, fusion; its style. Blocks of 197,000 parameters each, a
# third more with cross-attention, twice as many with bottlenecks.
SHAPES = {
    "late: towers and a joint head": (3, 3, 0, "concat"),
    "early: one stream": (0, 0, 6, "concat"),
    "hybrid: merged attention": (2, 1, 3, "concat"),
    "hybrid: cross-attention": (2, 1, 2, "cross"),
    "hybrid: bottlenecks": (1, 1, 2, "bottleneck"),
}
NEIGHBOURS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--markdown", action="store_true", help="print the table for README.md")
    args = parser.parse_args()
    rows = []
    for name, shape in SHAPES.items():
        results = [measure(shape, args.steps, args.batch, seed) for seed in range(args.seeds)]
        parameters, *scores = zip(*results, strict=True)
        rows.append((name, f"{parameters[0]:,}", *(emoji.spread(list(s)) for s in scores)))
    title = f"Matching on the unseen style, {args.steps} steps of {args.batch}, seeds {args.seeds}"
    show(title, ("fusion", "parameters", "pairs %", "first %"), rows, args.markdown)


def measure(shape: tuple[int, int, int, str], steps: int, batch: int, seed: int):
    """(parameters, share of pairs in %, share of firsts in %) of one run."""
    image, text, depth, style = shape
    run = emoji.config(steps, batch, seed)
    run.model.image.depth, run.model.text.depth = image, text
    run.model.text.mlm_head = False
    run.model.fusion = config_lib.entry("model", kind=style, depth=depth)
    if not (image and text):
        del run.model.logit  # nothing is compared before the fusion
    run.objectives.matching = config_lib.entry("objectives", negatives="uniform")
    trained, _ = emoji.train(run)
    pairs, firsts = hard_negatives(trained, *emoji.unseen(trained))
    return emoji.count(trained), 100 * pairs, 100 * firsts


def hard_negatives(
    trained: Pretrained, images: np.ndarray, labels: list[str]
) -> tuple[float, float]:
    """How often a picture's own label beats a neighbour's, and all of them."""
    near = one_word_apart(labels)
    rng = np.random.default_rng(0)
    pictures, texts = [], []
    for number, label in enumerate(labels):
        others = sorted(near[label])
        if others:
            chosen = rng.choice(others, min(NEIGHBOURS, len(others)), replace=False)
            pictures += [number] * (1 + len(chosen))
            texts += [label, *chosen]
    name = "fusion/match"
    scores = trained.outputs((name,), images=images[pictures], texts=texts, batch_size=512)[name]
    wins = collections.defaultdict(list)
    own = {}
    for picture, value in zip(pictures, scores, strict=True):
        if picture not in own:
            own[picture] = value
        else:
            wins[picture].append(own[picture] > value)
    return (
        float(np.mean([w for picture in wins.values() for w in picture])),
        float(np.mean([all(picture) for picture in wins.values()])),
    )


def one_word_apart(labels: list[str]) -> dict[str, set[str]]:
    """Label → the labels of as many words that differ in one of them."""
    alike = collections.defaultdict(set)
    for label in set(labels):
        words = tuple(label.split())
        for position in range(len(words) if len(words) > 1 else 0):
            rest = words[:position] + words[position + 1 :]
            alike[len(words), position, rest].add(label)
    near: dict[str, set[str]] = collections.defaultdict(set)
    for together in alike.values():
        for label in together:
            near[label] |= together - {label}
    return near


if __name__ == "__main__":
    main()
