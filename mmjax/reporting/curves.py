"""Curves as SVG text, by matplotlib."""

import io

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from mmjax.reporting.history import Series


def draw(title: str, lines: dict[str, Series]) -> str:
    """One plot of several metrics over steps: `<svg>…</svg>`.

    A loss is drawn on a logarithmic scale where it falls by more than a factor of five.
    """
    figure, axis = plt.subplots(figsize=(5.2, 2.9), layout="constrained")
    for name, (steps, values) in lines.items():
        marker = "o" if len(steps) < 30 else None
        axis.plot(steps, values, label=name.removeprefix(f"{title}/"), marker=marker, ms=3, lw=1.4)
    positive = [v for _, values in lines.values() for v in values if v > 0]
    if title == "loss" and positive and max(positive) > 5 * min(positive):
        axis.set_yscale("log")
    axis.set_title(title, loc="left", size=10, weight="bold")
    axis.set_xlabel("step", size=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        axis.legend(fontsize=7, frameon=False)
    text = io.StringIO()
    # The same metrics give the same page: no date, and no random names inside the drawing.
    with matplotlib.rc_context({"svg.hashsalt": title, "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
