"""One picture of what the model has learned: unseen drawings named, and words looked up."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from demo.run import View

SHOWN = (
    "red apple", "hot dog", "rocket", "octopus", "cactus", "sailboat", "robot",
    "snowman", "guitar", "pizza",
)  # fmt: skip
QUERIES = (
    "a smiling face", "moon", "clock", "a red heart", "a bird", "fruit", "flower", "a vehicle",
)  # fmt: skip
RIGHT, OTHER, INK = "#2a9d5c", "#c9d3e0", "#22303f"


def draw(path: Path, view: "View") -> None:
    """Writes a PNG: on the left unseen pictures with their five most likely labels (the right one
    in green), on the right words with the six unseen pictures closest to them."""
    shown = [view.names.index(name) for name in SHOWN if name in view.names]
    figure = plt.figure(figsize=(17, 11.5), facecolor="white")
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1))
    left, right = halves
    figure.text(0.02, 0.965, "A drawing style it has never seen", size=20, weight="bold", color=INK)
    figure.text(
        0.02, 0.94, f"top five of {len(view.labels):,} labels, the right one in green", size=12,
        color=INK,
    )  # fmt: skip
    figure.text(0.56, 0.965, "Words it looks up", size=20, weight="bold", color=INK)
    figure.text(
        0.56, 0.94, f"the closest of {len(view.names):,} unseen pictures", size=12, color=INK
    )

    rows = -(-len(shown) // 2)
    axes = left.subplots(
        rows, 4, width_ratios=(1, 2.1, 1, 2.1), squeeze=False,
        gridspec_kw={"left": 0.03, "right": 0.97, "top": 0.91, "bottom": 0.03, "hspace": 0.25},
    )  # fmt: skip
    for axis in axes.flat:
        axis.axis("off")
    for place, index in enumerate(shown):
        picture, bars = axes[place // 2, 2 * (place % 2) : 2 * (place % 2) + 2]
        picture.imshow(_on_white(view.pictures[index]))
        _bars(bars, view, index)

    axes = right.subplots(
        len(QUERIES), 7, width_ratios=(3.3, *(1,) * 6),
        gridspec_kw={"left": 0.02, "right": 0.98, "top": 0.91, "bottom": 0.03},
    )  # fmt: skip
    found = view.clip.embed_texts(list(QUERIES)) @ view.image_embed.T
    for row, query, scores in zip(axes, QUERIES, found, strict=True):
        for axis in row:
            axis.axis("off")
        row[0].text(0, 0.5, f"“{query}”", size=13, va="center", color=INK)
        for axis, index in zip(row[1:], np.argsort(-scores)[:6], strict=True):
            axis.imshow(_on_white(view.pictures[index]))
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _bars(axis, view: "View", index: int) -> None:
    logits = view.scale * view.text_embed @ view.image_embed[index]
    share = np.exp(logits - logits.max())
    share /= share.sum()
    best = np.argsort(-logits)[:5]
    right = [view.labels[i] == view.names[index] for i in best]
    axis.barh(range(5), share[best], color=[RIGHT if r else OTHER for r in right], height=0.86)
    axis.set_xlim(0, max(share[best[0]] * 1.02, 0.2))
    axis.invert_yaxis()
    for place, (label, hit) in enumerate(zip(best, right, strict=True)):
        text = view.labels[label]
        text = text if len(text) < 27 else text[:25] + "…"
        weight = "bold" if hit else "normal"
        axis.text(0.02, place, text, size=10, va="center", weight=weight, color=INK,
                  transform=axis.get_yaxis_transform())  # fmt: skip


def _on_white(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return (
        Image.alpha_composite(white, image)
        .convert("RGB")
        .resize((128, 128), Image.Resampling.BICUBIC)
    )
