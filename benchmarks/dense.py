"""What do captions with boxes, self-distillation and masked patches add to the sigmoid loss?

    python benchmarks/dense.py --markdown          (needs the data of `make demo`)

Scenes of 64 pixels hold two to five emoji, one over the other; a caption names them from left to
right ("grinning face, pizza, rocket"), and each has its box. They are drawn anew from three styles
of emoji; a test of 512 scenes has a fourth style. Each row adds an objective to those above it, as
SigLIP 2 does (Tschannen et al., 2025). Measured are

mIoU: a linear probe of the patches' tokens, fitted on 512 scenes of the styles that were seen, says
which of nine groups of emoji, or the ground, each pixel is of: the mean over these ten of
intersection over union, as on PASCAL VOC;
boxes: how often the decoder's answer to "ARef: pizza :" overlaps the true box by half or more
(RefCOCO's Acc@0.5), where there is a decoder;
R@1: image → caption among the captions of the test.
"""

import argparse
import functools
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import emoji
import jax
import numpy as np
from ml_collections import ConfigDict
from tables import show

from mmjax import config as config_lib
from mmjax import data
from mmjax.data.images import open_image
from mmjax.evaluation import probe
from mmjax.evaluation.features import Labelled
from mmjax.parallel.mesh import make_mesh
from mmjax.pretrained import Pretrained

SIZE, PATCH = 64, 8  # of a scene and of a patch, in pixels
SPRITE = 14, 28  # least and greatest side of an emoji in a scene
EACH = 12  # emoji of a group
GROUPS = (0, 1, 3, 4, 5, 6, 7, 8, 9)  # those that emoji which stand alone are of
LETTERS = set("abcdefghijklmnopqrstuvwxyz ")  # of names that are said without commas and colons
COVERED = 0.3  # largest share of an emoji that a later one may cover
TRAIN, PROBE, TEST = 8192, 512, 512  # scenes
DECAY = 1e-3  # of the probe
HEADS: dict[str, Any] = {"prototypes": 256, "hidden": 256, "bottleneck": 64}
ADDED: dict[str, dict[str, dict[str, Any]]] = {  # row of the table → objectives
    "sigmoid": {"siglip": {}},
    "+ LocCa": {"locca": {"of": "decoder", "text": "words"}},
    "+ self-distillation": {"self_distill": {"weight": 0.25, **HEADS}},
    "+ masked": {"masked_distill": {"weight": 0.0625, **HEADS}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--arms", type=int, default=len(ADDED), help="the first rows of the table")
    parser.add_argument("--markdown", action="store_true", help="print the table for README.md")
    args = parser.parse_args()
    rows: list[tuple[str, ...]] = []
    objectives: dict[str, dict[str, Any]] = {}
    for name, more in list(ADDED.items())[: args.arms]:
        objectives = objectives | more
        begun = time.perf_counter()
        found = [measure(objectives, args.steps, args.batch, seed) for seed in range(args.seeds)]
        minutes = (time.perf_counter() - begun) / 60 / args.seeds
        cells = ["" if np.isnan(v).any() else emoji.deviation(v) for v in zip(*found, strict=True)]
        rows.append((name, *cells, f"{minutes:.1f}"))
    title = f"Scenes, {args.steps} steps of {args.batch}, seeds {args.seeds}"
    show(title, ("loss", "mIoU %", "boxes %", "R@1 %", "minutes"), rows, args.markdown)


def measure(
    objectives: dict[str, dict[str, Any]], steps: int, batch: int, seed: int
) -> tuple[float, float, float]:
    """mIoU, box accuracy (NaN: there is no decoder) and R@1, in %, of a run."""
    test = Scenes(TEST, 1_000_000, (emoji.UNSEEN,))
    run = config(objectives, steps, batch, seed)
    train = Scenes(TRAIN, seed, tuple(emoji.SEEN))
    run.data.train.scenes = config_lib.entry("data.train", path=data.from_records(train, "scenes"))
    if "locca" in objectives:
        run.evals.where = config_lib.entry(
            "evals", kind="referring", path=data.from_records(test, "unseen"),
            every=steps,
        )  # fmt: skip
    trained, logged = emoji.train(run)
    boxes = [line["where/accuracy"] for line in logged if "where/accuracy" in line]
    probed = Scenes(PROBE, 2_000_000 + seed, tuple(emoji.SEEN))
    shares = mean_iou(trained, probed, test)
    return 100 * shares, 100 * boxes[-1] if boxes else np.nan, 100 * recall(trained, test)


def mean_iou(trained: Pretrained, seen: "Scenes", test: "Scenes") -> float:
    """Of a linear classifier of patches, fitted to `seen`, on the pixels of `test`."""
    classes = 1 + len(GROUPS)
    x, y = patches(trained, seen), np.concatenate([majority(seen.scene(i).mask) for i in seen.all])
    with jax.set_mesh(make_mesh()):
        weights = probe.fit(Labelled(x, y), classes, DECAY)
    said = probe.scores(patches(trained, test), weights).argmax(axis=1)
    side = SIZE // PATCH
    grids = said.reshape(-1, side, side).repeat(PATCH, axis=1).repeat(PATCH, axis=2)
    true = np.stack([test.scene(i).mask for i in test.all])
    shares = [
        ((grids == k) & (true == k)).sum() / ((grids == k) | (true == k)).sum()
        for k in range(classes)
    ]
    return float(np.mean(shares))


def patches(trained: Pretrained, scenes: "Scenes") -> np.ndarray:
    """The patches' tokens, float32 [scenes · patches, W]."""
    images = [scenes.scene(i).image for i in scenes.all]
    tokens = trained.outputs(("image/tokens",), images=images)["image/tokens"]
    return np.asarray(tokens, np.float32).reshape(-1, tokens.shape[-1])


def majority(mask: np.ndarray) -> np.ndarray:
    """The most frequent class in each patch of a mask, int32 [patches]."""
    side = SIZE // PATCH
    cells = mask.reshape(side, PATCH, side, PATCH).swapaxes(1, 2).reshape(side**2, -1)
    return np.array([np.bincount(cell).argmax() for cell in cells], np.int32)


def recall(trained: Pretrained, test: "Scenes") -> float:
    scenes = [test.scene(i) for i in test.all]
    captions = sorted({scene.caption for scene in scenes})
    images = trained.embed_images([scene.image for scene in scenes])
    nearest = (images @ trained.embed_texts(captions).T).argmax(axis=1)
    return float(np.mean([captions[n] == s.caption for n, s in zip(nearest, scenes, strict=True)]))


class Scene(NamedTuple):
    """uint8 [S, S, 3]; 0 for the ground, or 1 + the group's place in GROUPS, uint8 [S, S]; names
    and boxes (x, y, width, height) from left to right."""

    image: np.ndarray
    mask: np.ndarray
    names: list[str]
    boxes: list[tuple[int, int, int, int]]

    @property
    def caption(self) -> str:
        return ", ".join(self.names)


class Scenes(Sequence[dict[str, Any]]):
    """Scenes, number i drawn from (seed, i) alone."""

    def __init__(self, count: int, seed: int, styles: tuple[str, ...]):
        self._count, self._seed, self._styles = count, seed, styles
        self.all = range(count)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if index >= self._count:
            raise IndexError(index)
        scene = self.scene(index)
        boxes = [{"text": n, "bbox": b} for n, b in zip(scene.names, scene.boxes, strict=True)]
        return {"image": scene.image, "text": scene.caption, "boxes": boxes}

    def scene(self, index: int) -> Scene:
        rng = np.random.default_rng((self._seed, index))
        names, groups = vocabulary()
        shown = rng.choice(len(names), int(rng.integers(2, 6)), replace=False)
        image = np.empty((SIZE, SIZE, 3), np.uint8)
        image[:] = rng.integers(120, 256, 3)
        mask, places = np.zeros((SIZE, SIZE), np.uint8), places_of(len(shown), rng)
        for number, (x, y, side) in zip(shown, places, strict=True):
            style = self._styles[rng.integers(len(self._styles))]
            sprite = np.asarray(open_image(pictures(style)[number]).resize((side, side)))
            alpha = sprite[..., 3:] / 255
            part = image[y : y + side, x : x + side]
            part[:] = part * (1 - alpha) + sprite[..., :3] * alpha
            mask[y : y + side, x : x + side][alpha[..., 0] > 0.5] = 1 + groups[number]
        order = np.argsort([x + side / 2 for x, _, side in places])
        boxes = [(places[n][0], places[n][1], places[n][2], places[n][2]) for n in order]
        return Scene(image, mask, [names[shown[n]] for n in order], boxes)


def places_of(count: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """x, y and side of squares of which a later one covers little of an earlier one."""
    found: list[tuple[int, int, int]] = []
    while len(found) < count:
        side = int(rng.integers(SPRITE[0], SPRITE[1] + 1))
        x, y = (int(v) for v in rng.integers(0, SIZE - side + 1, 2))
        covers = [
            max(0, min(x + side, a + s) - max(x, a)) * max(0, min(y + side, b + s) - max(y, b))
            for a, b, s in found
        ]
        if all(area <= COVERED * s**2 for area, (_, _, s) in zip(covers, found, strict=True)):
            found.append((x, y, side))
    return found


@functools.cache
def vocabulary() -> tuple[list[str], list[int]]:
    """The names of the emoji that scenes show, and the place of their group in GROUPS."""
    styles = [labelled(style) for style in (*emoji.SEEN, emoji.UNSEEN)]
    names, groups = list[str](), list[int]()
    for place, group in enumerate(GROUPS):
        plain = [
            name
            for name, (label, _) in styles[0].items()
            if label == group and set(name) <= LETTERS and all(name in style for style in styles)
        ]
        chosen = np.linspace(0, len(plain) - 1, min(EACH, len(plain))).astype(int)
        names += [plain[number] for number in chosen]
        groups += [place] * len(chosen)
    return names, groups


def labelled(style: str) -> dict[str, tuple[int, bytes]]:
    """Name → group and picture of each emoji of a style."""
    source: Any = data.open_source({"path": str(emoji.FOLDER / style), "label": "json:label"})
    records = (source[i] for i in range(len(source)))
    return {record.captions[0]: (record.label, record.part("image")) for record in records}


@functools.cache
def pictures(style: str) -> list[np.ndarray]:
    """The emoji of `vocabulary` in one style, uint8 [h, w, 4]."""
    of = labelled(style)
    found = (open_image(of[name][1]) for name in vocabulary()[0])
    return [np.asarray(picture.convert("RGBA")) for picture in found]


def config(objectives: dict[str, dict[str, Any]], steps: int, batch: int, seed: int) -> ConfigDict:
    """An image tower of four layers, a text tower and a decoder of two."""
    result = emoji.config(steps, batch, seed)
    result.model.image.update(
        size=SIZE, patch_size=PATCH, depth=4, pool="map", norm_pre=False,
        mask_token="masked_distill" in objectives,
    )  # fmt: skip
    result.model.text.update(vocab_size=1024, depth=2, context_length=40, mlm_head=False)
    result.model.logit = config_lib.entry(
        "model", kind="scale", initial=math.log(10), max=0.0, bias=-10.0
    )
    del result.data.train.google, result.data.train.fluent, result.data.train.openmoji
    result.data.tokenizer = "captions:1000"
    result.data.augment = config_lib.default().data.augment  # boxes and left and right stay
    if "locca" in objectives:
        result.model.words = config_lib.entry(
            "model", kind="transformer", depth=0, width=128, heads=2, mlp_dim=512, vocab_size=1024,
            context_length=48, mlm_head=True, boxes=True,
        )  # fmt: skip
        result.model.decoder = config_lib.entry(
            "model", kind="cross", of=("image", "words"), depth=2
        )
    if "self_distill" in objectives:
        result.optim.ema = 0.99
        result.data.crops.update(count=4, size=32, local_scale=(0.1, 0.4), local_blur=0.0,
                                 global_blur=0.0)  # fmt: skip
    for name, keys in objectives.items():
        result.objectives[name] = config_lib.entry("objectives", **keys)
    return result


if __name__ == "__main__":
    main()
