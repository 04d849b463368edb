"""Which video towers know the order of frames? Emoji that move in two legs, and their captions.

    python benchmarks/motion.py --markdown          (needs the data of `make demo`)

A sprite goes one way and then another, across a plain ground: "the rocket goes left, then up". Of
eight sprites and eight motions, every clip has its own place, speed and colour of the ground.
Played backwards a clip has the same frames and another caption ("the rocket goes down, then
right"): a reversal pair is right if a clip is closer to its own caption than to that of its
reversal. R@1 is among all 64 captions. Clips of the test are drawn anew.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import emoji
import numpy as np
from ml_collections import ConfigDict
from tables import show

from mmjax import config as config_lib
from mmjax import data
from mmjax.data.images import open_image

SPRITES = ("rocket", "dog face", "pizza", "snail", "bicycle", "red heart", "sun", "mushroom")
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # x, y
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
MOTIONS = [(a, b) for a in WAYS for b in WAYS if a not in (b, OPPOSITE[b])]
KINDS = len(SPRITES) * len(MOTIONS)
SIZE, SIDE, FRAMES = 32, 12, 8  # of a frame, of a sprite, in pixels; of a clip

# Row of the table → keys of the tower.
TOWERS: dict[str, dict[str, Any]] = {
    "mean of frames": {"over_time": "mean"},
    "transformer over frames": {"over_time": "transformer", "time_depth": 2, "time_heads": 2},
    "divided attention": {"over_time": "divided"},
    "divided attention, tubelets": {"over_time": "divided", "tubelet": 2},
    "joint attention, tubelets": {"over_time": "joint", "tubelet": 2},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", default="", help="the rows of the table that contain this")
    parser.add_argument("--markdown", action="store_true", help="print the table for the docs")
    args = parser.parse_args()
    rows = []
    for name, keys in TOWERS.items():
        if args.only in name:
            results = [measure(keys, args.steps, args.batch, seed) for seed in range(args.seeds)]
            parameters, *found = zip(*results, strict=True)
            rows.append((name, f"{parameters[0]:,}", *(emoji.spread(list(f)) for f in found)))
    title = f"Motion, {args.steps} steps of {args.batch} clips of {FRAMES} frames"
    header = ("tower", "parameters", "reversal pairs %", "R@1 %", "minutes")
    show(f"{title}, seeds {args.seeds}", header, rows, args.markdown)


class Moving(Sequence[dict[str, Any]]):
    """Clips of moving sprites, number i drawn from (seed, i) alone."""

    def __init__(self, count: int, seed: int):
        self._count, self._seed, self._sprites = count, seed, sprites()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if index >= self._count:
            raise IndexError(index)
        kind = index % KINDS
        return {"video": self.clip(index), "text": caption(kind), "group": kind}

    def clip(self, index: int) -> np.ndarray:
        """uint8 [FRAMES, SIZE, SIZE, 3]."""
        rng = np.random.default_rng((self._seed, index))
        sprite, motion = divmod(index % KINDS, len(MOTIONS))
        legs = np.array([WAYS[way] for way in MOTIONS[motion]]) * rng.uniform(12, 18, (2, 1))
        corners = np.concatenate([[[0, 0]], np.cumsum(legs, axis=0)])
        corners -= corners.min(axis=0)
        corners += rng.uniform(0, SIZE - SIDE - corners.max(axis=0))
        at = np.linspace(0, 2, FRAMES)
        frames = np.empty((FRAMES, SIZE, SIZE, 3), np.uint8)
        frames[:] = rng.integers(120, 256, 3)
        for frame, where in zip(frames, at, strict=True):
            x, y = (round(float(np.interp(where, (0, 1, 2), corners[:, i]))) for i in (0, 1))
            pixels = self._sprites[sprite]
            shown = pixels[..., 3:] / 255
            part = frame[y : y + SIDE, x : x + SIDE]
            part[:] = part * (1 - shown) + pixels[..., :3] * shown
        return frames


def caption(kind: int) -> str:
    sprite, motion = divmod(kind, len(MOTIONS))
    first, then = MOTIONS[motion]
    return f"the {SPRITES[sprite]} goes {first}, then {then}"


def reversal(kind: int) -> int:
    """The kind of clips of a kind that are played backwards."""
    sprite, motion = divmod(kind, len(MOTIONS))
    first, then = MOTIONS[motion]
    return sprite * len(MOTIONS) + MOTIONS.index((OPPOSITE[then], OPPOSITE[first]))


def sprites() -> np.ndarray:
    """uint8 [sprites, SIDE, SIDE, 4], of Google's emoji."""
    source: Any = data.open_source({"path": str(emoji.FOLDER / "google")})
    number = {source.captions(i)[0]: i for i in range(len(source))}
    pictures = (open_image(source[number[name]].part("image")) for name in SPRITES)
    return np.stack([np.asarray(p.convert("RGBA").resize((SIDE, SIDE))) for p in pictures])


def config(keys: dict[str, Any], steps: int, batch_size: int, seed: int) -> ConfigDict:
    """A tower of two layers on frames of 32 pixels, and a text tower of two layers."""
    result = config_lib.default()
    result.update(seed=seed, total_steps=steps, batch_size=batch_size)
    tower = {"width": 64, "depth": 2, "heads": 2, "mlp_dim": 256}
    result.model = ConfigDict({"name": "motion", "embed_dim": 64, "dtype": "auto"})
    result.model.video = config_lib.entry(
        "model", kind="video_vit", size=SIZE, patch_size=8, frames=FRAMES, **tower, **keys
    )
    result.model.text = config_lib.entry(
        "model", kind="transformer", vocab_size=601, context_length=16, **tower
    )
    result.model.logit = config_lib.entry("model", kind="scale")
    result.objectives.infonce = config_lib.entry(
        "objectives", kind="infonce", of=("video", "text"), direction="both", positives="group"
    )
    result.optim.update(lr=1e-3, warmup_steps=100, weight_decay=0.05, grad_clip=1.0)
    path = data.from_records(Moving(KINDS * 100, seed), "motion")
    result.data.train.motion = config_lib.entry("data.train", path=path)
    result.data.tokenizer = "captions:600"
    result.data.sampling = "endpoints"
    result.data.augment.crop_scale = (1.0, 1.0)  # a mirror image would need another caption
    result.log.update(every=100, tensorboard=False)
    result.checkpoint.every = steps
    return result


def measure(
    keys: dict[str, Any], steps: int, batch: int, seed: int
) -> tuple[int, float, float, float]:
    """(parameters, reversal pairs in %, R@1 in %, minutes of training) of one run."""
    start = time.perf_counter()
    trained, _ = emoji.train(config(keys, steps, batch, seed))
    minutes = (time.perf_counter() - start) / 60
    test = Moving(4 * KINDS, seed + 1000)
    kinds = np.arange(len(test)) % KINDS
    texts = trained.embed_texts([caption(kind) for kind in range(KINDS)])
    forward = np.stack([test.clip(i) for i in range(len(test))])
    right, first = [], []
    for clips, own in ((forward, kinds), (forward[:, ::-1], np.vectorize(reversal)(kinds))):
        scores = trained.embed_videos(list(clips)) @ texts.T
        other = np.vectorize(reversal)(own)
        rows = np.arange(len(own))
        right.append(scores[rows, own] > scores[rows, other])
        first.append(scores.argmax(axis=1) == own)
    return emoji.count(trained), 100 * float(np.mean(right)), 100 * float(np.mean(first)), minutes


if __name__ == "__main__":
    main()
