"""Generated pictures and videos of coloured shapes with captions, for smoke runs and tests."""

from typing import Any

import cv2
import numpy as np

from mmjax.data.account import Account, Accounted
from mmjax.data.boxes import Boxes
from mmjax.data.generated_sounds import GeneratedSounds
from mmjax.data.identity import digest
from mmjax.data.records import Record, Source, Texts, pair
from mmjax.errors import UserError

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 210, 40),
    "purple": (140, 50, 170),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "cross")
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}  # x, y
SIDE, FRAMES = 64, 8
BOX = 6  # left, top, right, bottom, width and height of a region, as shares of the image
REGION_WIDTH = len(COLOURS) + len(SHAPES) + BOX


class GeneratedSource(Accounted):
    """Record i is drawn from i alone; its label is the number of its (colour, shape)."""

    captions_alone = True

    def __init__(
        self,
        count: int,
        name: str,
        tags: bool = False,
        media: str = "image",
        boxes: bool = False,
    ):
        self.name = name
        self._tags, self._media, self._boxes = tags, media, boxes
        self.account = Account()
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        rng = np.random.default_rng(index)
        colour, shape = self._kind(index)
        image = np.full((SIDE, SIDE, 3), rng.integers(200, 256, 3), np.uint8)
        radius = int(rng.integers(SIDE // 6, SIDE // 3))
        centre = rng.integers(radius, SIDE - radius, 2)
        label = index % (len(COLOURS) * len(SHAPES))
        key, texts = f"{self.name}: record {index}", Texts(self.captions(index))
        if self._media == "video":
            way = np.array(WAYS[self._way(index)])
            ends = SIDE // 2 + np.outer(np.linspace(-1, 1, FRAMES) * (SIDE // 2 - radius), way)
            video = np.repeat(image[None], FRAMES, axis=0)
            for frame, at in zip(video, ends.astype(int), strict=True):
                _draw(frame, shape, at, radius, COLOURS[colour])
            return pair(key, video, texts, label, media="video")
        _draw(image, shape, centre, radius, COLOURS[colour])
        others: dict[str, Any] = {}
        if self._tags:
            others["tags"] = f"{colour} {shape}"
        if self._boxes:
            corners = np.concatenate([centre - radius, centre + radius + 1], dtype=float)
            others["boxes"] = Boxes((f"{colour} {shape}",), corners[None])
        if self._media == "regions":
            others["regions"] = _regions(colour, shape, centre, radius, rng)
        return pair(key, image, texts, label, **others)

    def identity(self) -> str:
        """See `data/identity.py`."""
        what: list[object] = [self._count, self._tags, self._media == "regions"]
        what += ["boxes"] if self._boxes else []
        return digest([*what, self._media] if self._media == "video" else what)

    def captions(self, index: int) -> tuple[str, ...]:
        colour, shape = self._kind(index)
        if self._media == "video":
            return (f"a {colour} {shape} that moves {self._way(index)}",)
        return (f"a {colour} {shape}", f"a picture of a {shape} that is {colour}")

    def _way(self, index: int) -> str:
        return list(WAYS)[index // (len(COLOURS) * len(SHAPES)) % len(WAYS)]

    def _kind(self, index: int) -> tuple[str, str]:
        colour, shape = divmod(index % (len(COLOURS) * len(SHAPES)), len(SHAPES))
        return list(COLOURS)[colour], SHAPES[shape]


def open_generated(
    path: str, name: str, *, tags: bool = False, media: str = "image", boxes: bool = False
) -> Source:
    """`generated:COUNT`."""
    count = path.removeprefix("generated:")
    if not count.isdigit() or not int(count):
        raise UserError(f"{name}: {path!r} should be generated:COUNT, as generated:256.")
    if boxes and media not in ("image", "regions"):
        raise UserError(f"{name}: boxes are of images, not of generated {media}: leave them out.")
    if media == "audio":
        if tags:
            raise UserError(f"{name}: tags are of images, not of generated sounds: leave them out.")
        return GeneratedSounds(int(count), name)
    return GeneratedSource(int(count), name, tags, media, boxes)


def _regions(
    colour: str, shape: str, centre: np.ndarray, radius: int, rng: np.random.Generator
) -> np.ndarray:
    """float32 [2, REGION_WIDTH]: what a detector might tell of the shape, and of it all."""
    kind = [float(colour == c) for c in COLOURS] + [float(shape == s) for s in SHAPES]
    low, high = (centre - radius) / SIDE, (centre + radius) / SIDE
    boxes = [np.concatenate([low, high, high - low]), np.array([0, 0, 1, 1, 1, 1])]
    features = np.array([kind, np.zeros(len(kind))]) + rng.normal(0, 0.1, (2, len(kind)))
    return np.concatenate([features, boxes], axis=1).astype(np.float32)


def _draw(
    image: np.ndarray, shape: str, centre: np.ndarray, radius: int, colour: tuple[int, int, int]
) -> None:
    x, y = centre.tolist()
    if shape == "circle":
        cv2.circle(image, (x, y), radius, colour, cv2.FILLED, cv2.LINE_AA)
    elif shape == "square":
        cv2.rectangle(image, (x - radius, y - radius), (x + radius, y + radius), colour, cv2.FILLED)
    elif shape == "triangle":
        corners = np.array([[x, y - radius], [x + radius, y + radius], [x - radius, y + radius]])
        cv2.fillPoly(image, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    else:
        arm = max(2, radius // 3)
        cv2.rectangle(image, (x - radius, y - arm), (x + radius, y + arm), colour, cv2.FILLED)
        cv2.rectangle(image, (x - arm, y - radius), (x + arm, y + radius), colour, cv2.FILLED)
