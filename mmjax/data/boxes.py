"""Regions of images: what is said of each and where it is; how boxes move with a crop; as text.

A box is (left, top, right, bottom), counted from the top left corner of the image, in pixels of the
stored image or as shares of its width and height.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmjax.data.records import BadRecord
from mmjax.data.texts import BadText, clean_captions

BINS = 500  # of a side, as LocCa and SigLIP 2 have them
VISIBLE = 0.5  # a region of which a crop shows less than this share of its area is dropped
SLACK = 0.01  # of a side: annotators draw boxes that reach so far beyond the image; they are cut
UNNAMED = "regions without a text"  # how they are counted
_TEXTS = ("text", "caption", "phrase")
_WRITTEN = re.compile(r"\[(\d+),(\d+),(\d+),(\d+)\]")


class Boxes(NamedTuple):
    """The regions of one image.

    Attributes:
      texts: what is said of each.
      boxes: float64 [n, 4].
      shares: the boxes are shares of the image's width and height, not pixels.
      unnamed: regions that had no text and are not among these.
    """

    texts: tuple[str, ...]
    boxes: np.ndarray
    shares: bool = False
    unnamed: int = 0

    def to_json(self) -> list[dict[str, Any]]:
        """As `parse_boxes` reads them."""
        found = []
        for text, (left, top, right, bottom) in zip(self.texts, self.boxes.tolist(), strict=True):
            pixels = [left, top, right - left, bottom - top]
            where = {"box": [left, top, right, bottom]} if self.shares else {"bbox": pixels}
            found.append({"text": text, **where})
        return found

    def facts(self) -> tuple[object, ...]:
        """What tells them from others."""
        return self.texts, self.boxes.tobytes(), self.shares


def parse_boxes(value: Any, caption: str = "") -> Boxes:
    """Regions as JSON has them, a list of

    - {"text": …, "box": [left, top, right, bottom]} in shares of the image's sides;
    - {"text": …, "bbox": [x, y, width, height]} in pixels, as COCO's;
    - {"phrase": …, "x": …, "y": …, "width": …, "height": …} in pixels, as Visual Genome's;
    - [start, end, left, top, right, bottom, …], in shares, of caption[start:end], as GRIT's
      (Peng et al., 2023, Kosmos-2).

    Also "caption" or "phrase" in place of "text", and a list of texts, each a region of its own.

    Raises:
      BadText: it is none of these, a region has no box, or some are in pixels and some in shares.
    """
    if isinstance(value, Boxes):
        return value
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise BadText(f"are no list of regions but {type(value).__name__}")
    texts: list[str] = []
    boxes: list[tuple[float, ...]] = []
    units: set[bool] = set()
    unnamed = 0
    for region in value:
        said, box, shares = _region(region, caption)
        unnamed += not said
        texts += said
        boxes += [box] * len(said)
        units.add(shares)
    if len(units) > 1:
        raise BadText("are in pixels (bbox) and in shares (box): write all of one kind")
    return Boxes(tuple(texts), np.array(boxes, float).reshape(-1, 4), units == {True}, unnamed)


def _region(region: Any, caption: str) -> tuple[tuple[str, ...], tuple[float, ...], bool]:
    """Texts, box, and whether it is in shares. BadText."""
    if isinstance(region, Mapping):
        said = clean_captions(next((region[key] for key in _TEXTS if key in region), None))
        shares, box = region.get("box") is not None, region.get("box")
        if not shares:
            corner = region.get("bbox")
            if corner is None and {"x", "y", "width", "height"} <= region.keys():
                corner = [region[key] for key in ("x", "y", "width", "height")]
            if corner is None:
                raise BadText(f"have no box for the text {_named(said)}")
            x, y, width, height = _four(corner, said)
            box = (x, y, x + width, y + height)
        return said, _four(box, said), shares
    if isinstance(region, Sequence) and not isinstance(region, str | bytes) and len(region) >= 6:
        try:
            start, end = (int(number) for number in region[:2])
        except (TypeError, ValueError) as error:
            raise BadText(f"have a region {region!r:.60} without a start and end") from error
        said = clean_captions(caption[start:end])
        return said, _four(region[2:6], said), True
    raise BadText(f"have a region {region!r:.60} that is neither an object nor a list of numbers")


def _four(box: Any, said: tuple[str, ...]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in box)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise BadText(f"have {box!r:.60} as the box of {_named(said)}: write four numbers")
    return numbers


def _named(said: tuple[str, ...]) -> str:
    return repr(said[0])[:60] if said else "''"


def joined(first: Boxes | None, second: Boxes | None) -> Boxes | None:
    """The regions of both, which are in one unit."""
    if first is None or second is None:
        return second if first is None else first
    boxes = np.concatenate([first.boxes, second.boxes])
    unnamed = first.unnamed + second.unnamed
    return Boxes(first.texts + second.texts, boxes, first.shares, unnamed)


def in_pixels(boxes: Boxes, height: int, width: int) -> np.ndarray:
    """The boxes in an image of this size, float64 [n, 4], cut at its edges.

    Raises:
      BadRecord: one has no area, or reaches more than SLACK of a side beyond the image; the message
        is to be put after the record's key.
    """
    side = np.array([width, height, width, height], float)
    found = boxes.boxes * side if boxes.shares else boxes.boxes
    inside = np.clip(found, 0, side)
    # A box that is thinner than a pixel is one of rounded corners.
    empty = (found[:, 2:] <= found[:, :2]).any(axis=1)
    outside = (np.abs(found - inside) > np.maximum(1.0, SLACK * side)).any(axis=1)
    outside |= (inside[:, 2:] <= inside[:, :2]).any(axis=1)
    for bad, what in ((empty, "without an area"), (outside, "outside of the image")):
        if bad.any():
            number = int(np.argmax(bad))
            corners = ", ".join(f"{x:g}" for x in found[number])
            raise BadRecord(
                f"has a box {what}: {boxes.texts[number]!r:.60} at [{corners}] of "
                f"{width} × {height} pixels"
            )
    return inside


def seen_in(boxes: np.ndarray, to_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where boxes of an image are in a crop of it.

    Args:
      boxes: [n, 4] in pixels.
      to_image: 3 × 3, from the crop, [-0.5, 0.5]², to pixels, as in `augment.py`.

    Returns:
      float64 [n, 4], in shares of the crop and cut at its edges, of a turned box the upright one
      around it; and [n], the share of its area that is in the crop.
    """
    x, y = boxes[:, [0, 2, 2, 0]], boxes[:, [1, 1, 3, 3]]
    corners = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(to_image).T + 0.5
    around = np.concatenate([corners.min(axis=1)[:, :2], corners.max(axis=1)[:, :2]], axis=1)
    inside = np.clip(around, 0, 1)
    return inside, areas(inside) / areas(around)


def in_image(boxes: np.ndarray, to_image: np.ndarray) -> np.ndarray:
    """The inverse of `seen_in` for an upright crop: shares of it [n, 4] to pixels [n, 4]."""
    corners = boxes.reshape(-1, 2, 2) - 0.5
    corners = np.concatenate([corners, np.ones((*corners.shape[:2], 1))], axis=2) @ to_image.T
    return np.concatenate([corners.min(axis=1)[:, :2], corners.max(axis=1)[:, :2]], axis=1)


def areas(boxes: np.ndarray) -> np.ndarray:
    """[n, 4] -> [n]; 0 where right is not right of left, or bottom not below top."""
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1)


def overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [n, 4] and [n, 4], [n]; 0 of boxes without an area."""
    corners = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    common = areas(np.concatenate(corners, axis=1))
    union = areas(first) + areas(second) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def spell(box: Sequence[float]) -> str:
    """A box in shares of the image as text, the number of the bin of each side."""
    bins = np.clip(np.floor(np.asarray(box) * BINS), 0, BINS - 1).astype(int)
    return f"[{', '.join(map(str, bins.tolist()))}]"


def read_box(text: str) -> tuple[float, ...] | None:
    """The first box that a text spells, in shares: the middles of its bins; None: there is none."""
    found = _WRITTEN.search(re.sub(r"\s", "", text))
    bins = [int(number) for number in found.groups()] if found else []
    if not bins or max(bins) >= BINS:
        return None
    return tuple((number + 0.5) / BINS for number in bins)
