"""Images of 4:1 to 1:4 in their own shape (NaFlex) against the same images squashed to a square.

    python benchmarks/naflex.py --markdown          (needs the data of `make demo`)
    python benchmarks/naflex.py --only=fill --markdown
    python benchmarks/naflex.py --only=speed --markdown

accuracy: strips of one to four emoji, side by side or one above the other, and their captions ("the
dog face, then the pizza"). Each tower sees 64 tokens of an image; R@1 is among all captions of the
test, whose strips are drawn anew: places, sizes and ground.
fill: the share of a batch's patches that are of an image and no padding, of images whose width /
height is log-uniform in 1/4 … 4 and whose area is of 200² … 1200² pixels.
speed: forward and backward passes of a ViT-S/16 on batches of 4,096 image tokens, the programs
taking turns; the base is a tower of the kind vit at 256 patches.
"""

import argparse
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import emoji
import jax
import numpy as np
from ml_collections import ConfigDict
from tables import show

from mmjax import config as config_lib
from mmjax import data, models
from mmjax.data.images import open_image
from mmjax.data.modalities.naflex import fitting
from mmjax.models.parts import complete, part

SPRITES = ("rocket", "dog face", "pizza", "snail", "bicycle", "red heart", "sun", "mushroom")
SIDE = 24  # of a sprite's cell in pixels
LENGTHS = (128, 256, 576, 784, 1024)
TOKENS = 64
TOWER = {
    "width": 128, "depth": 2, "heads": 2, "mlp_dim": 512, "patch_size": 8, "pool": "map",
    "size": 64,
}  # fmt: skip
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # tower, data
    "squashed": ({"kind": "vit"}, {"resize": "squash"}),
    "NaFlex": ({"kind": "naflex", "patches": TOKENS}, {}),
    "NaFlex, 32, 64 or 128 tokens": (
        {"kind": "naflex", "patches": TOKENS},
        {"image_lengths": (32, 64, 128), "batch_multiple": 8},
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="accuracy, fill or speed")
    parser.add_argument("--markdown", action="store_true", help="print the tables for README.md")
    args = parser.parse_args()
    tables: dict[str, Callable[[], None]] = {
        "fill": lambda: show_fill(args.markdown),
        "speed": lambda: show_speed(args.rounds, args.markdown),
        "accuracy": lambda: show_accuracy(args.steps, args.batch, args.seeds, args.markdown),
    }
    for name, table in tables.items():
        if args.only in name:
            table()


def show_fill(markdown: bool) -> None:
    rng = np.random.default_rng(0)
    ratios = 4 ** rng.uniform(-1, 1, 4000)
    sides = rng.uniform(200, 1200, 4000)
    pairs = list(zip(ratios, sides, strict=True))
    shapes = [(round(s / math.sqrt(r)), round(s * math.sqrt(r))) for r, s in pairs]
    rows = []
    for length in LENGTHS:
        found = [math.prod(fitting(*shape, 16, length)) / 16**2 / length for shape in shapes]
        low = np.quantile(found, 0.05)
        rows.append((f"{length:,}", f"{100 * np.mean(found):.1f}", f"{100 * low:.1f}"))
    show("Fill, patches of 16 pixels", ("length", "fill %", "5 % quantile"), rows, markdown)


def show_speed(rounds: int, markdown: bool) -> None:
    small = {
        "width": 384,
        "depth": 12,
        "heads": 6,
        "mlp_dim": 1536,
        "patch_size": 16,
        "pool": "map",
    }
    fixed = step_of({"kind": "vit", "size": 256, "norm_pre": False, **small}, 256)
    steps = {"fixed, 256": fixed} | {
        f"NaFlex, {n}": step_of({"kind": "naflex", "patches": n, "norm_pre": False, **small}, n)
        for n in LENGTHS
    }
    seconds = {name: list[float]() for name in steps}
    for _ in range(rounds):
        for name, (step, _) in steps.items():
            begun = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begun)
    rows = []
    base = np.array(seconds["fixed, 256"]) / steps["fixed, 256"][1]
    for name, (_, tokens) in steps.items():
        each = np.array(seconds[name]) / tokens
        ratio = base / each
        span = f"{np.min(ratio):.2f}–{np.max(ratio):.2f}"
        rows.append((name, f"{1 / np.median(each):,.0f}", f"{np.median(ratio):.2f}×", span))
    show(
        "Image tokens a second", ("batch", "tokens/s", "× fixed", "round by round"), rows, markdown
    )


def step_of(keys: dict[str, Any], length: int) -> tuple[Callable[[], Any], int]:
    """A forward and backward pass of an image tower, and the tokens of its batch."""
    model = models.from_config(complete({"embed_dim": 256, "image": keys}))
    params = models.init(model, jax.random.key(0))
    modality: Any = next(iter(data.modalities.build(model.inputs()).values()))
    rows = 4096 // length
    batch = modality.batch([modality.blank()] * rows)
    if keys["kind"] == "naflex":
        image = np.zeros((16 * round(length**0.5 * 0.7), 16 * int(length**0.5 / 0.7), 3), np.uint8)
        batch = modality.batch([modality.cut(image)] * rows)

    @jax.jit
    def gradient(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            found: Any = model.apply({"params": params}, batch, ("image/embed",))
            return found["image/embed"].sum()

        return jax.grad(loss)(params)

    run = functools.partial(gradient, params, batch)
    jax.block_until_ready(run())
    return lambda: jax.block_until_ready(run()), rows * length


def show_accuracy(steps: int, batch: int, seeds: int, markdown: bool) -> None:
    rows = []
    for name, arm in ARMS.items():
        begun = time.perf_counter()
        found = [recall(*arm, steps, batch, seed) for seed in range(seeds)]
        minutes = (time.perf_counter() - begun) / 60 / seeds
        rows.append((name, emoji.spread(found), f"{np.std(found):.1f}", f"{minutes:.1f}"))
    title = (
        f"Strips of 4:1 to 1:4, {steps} steps of {batch} images of {TOKENS} tokens, seeds {seeds}"
    )
    header = ("images", "R@1 %", "deviation", "minutes")
    show(title, header, rows, markdown)


def recall(tower: dict[str, Any], keys: dict[str, Any], steps: int, batch: int, seed: int) -> float:
    run = config(tower, keys, steps, batch, seed)
    train = data.from_records(Strips(4096, seed), "strips")
    run.data.train.strips = config_lib.entry("data.train", path=train)
    trained, _ = emoji.train(run)
    test = Strips(512, 1000)
    examples = [test[i] for i in range(len(test))]
    captions = sorted({example["text"] for example in examples})
    images = trained.embed_images([example["image"] for example in examples])
    nearest = (images @ trained.embed_texts(captions).T).argmax(axis=1)
    right = [captions[n] == e["text"] for n, e in zip(nearest, examples, strict=True)]
    return 100 * float(np.mean(right))


class Strips(Sequence[dict[str, Any]]):
    """Strips of sprites, number i drawn from (seed, i) alone."""

    def __init__(self, count: int, seed: int):
        self._count, self._seed, self._sprites = count, seed, sprites()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if index >= self._count:
            raise IndexError(index)
        rng = np.random.default_rng((self._seed, index))
        count, across = int(rng.integers(1, 5)), bool(rng.integers(2))
        shown = rng.choice(len(SPRITES), count, replace=False)
        cells = [self._cell(number, rng) for number in shown]
        image = np.concatenate(cells, axis=int(across))
        return {"image": image, "text": ", then ".join(f"the {SPRITES[n]}" for n in shown)}

    def _cell(self, number: int, rng: np.random.Generator) -> np.ndarray:
        side = int(rng.integers(SIDE * 2 // 3, SIDE + 1))
        pixels = open_image(self._sprites[number]).resize((side, side))
        sprite = np.asarray(pixels)
        cell = np.empty((SIDE, SIDE, 3), np.uint8)
        cell[:] = rng.integers(120, 256, 3)
        y, x = rng.integers(0, SIDE - side + 1, 2)
        alpha = sprite[..., 3:] / 255
        place = cell[y : y + side, x : x + side]
        place[:] = place * (1 - alpha) + sprite[..., :3] * alpha
        return cell


@functools.cache
def sprites() -> list[np.ndarray]:
    """uint8 [h, w, 4] of Google's emoji."""
    source: Any = data.open_source({"path": str(emoji.FOLDER / "google")})
    number = {source.captions(i)[0]: i for i in range(len(source))}
    pictures = (open_image(source[number[name]].part("image")) for name in SPRITES)
    return [np.asarray(picture.convert("RGBA")) for picture in pictures]


def config(
    tower: dict[str, Any], keys: dict[str, Any], steps: int, batch: int, seed: int
) -> ConfigDict:
    """Two towers of two layers; both arms see the whole strip, nothing is cropped."""
    result = emoji.config(steps, batch, seed)
    own = {key: value for key, value in tower.items() if key != "kind"}
    look = {"mean": (0.6, 0.55, 0.5), "std": (0.35,) * 3, "norm_pre": False}
    with result.unlocked():
        result.model.image = part(tower["kind"], **TOWER, **look, **own)
    result.model.text.update(vocab_size=600, depth=2, context_length=24)
    del result.data.train.google, result.data.train.fluent, result.data.train.openmoji
    result.data.tokenizer = "captions:600"
    whole = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "crop_aspect": "image"}
    result.data.augment = ConfigDict({**config_lib.default().data.augment, **whole})
    result.data.update(**keys)
    if result.data.image_lengths:  # as many tokens a batch as the others
        result.data.token_budget = batch * TOKENS
        result.batch_size = 2 * batch
    result.objectives.clip = config_lib.entry("objectives")
    return result


if __name__ == "__main__":
    main()
