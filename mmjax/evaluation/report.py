"""Results as a table for the eye, and as JSON, CSV and Markdown files."""

import csv
import io
import json
from collections.abc import Mapping

import rich.table
from etils import epath
from rich.markup import escape

from mmjax.errors import UserError
from mmjax.evaluation.bootstrap import Estimate

Results = Mapping[str, Mapping[str, float]]  # evaluator → metric → value
NOTE = "In brackets: 95 % confidence intervals by the bootstrap over records (1,000 resamples)."


def table(results: Results) -> rich.table.Table:
    """Shares as percentages to two digits, ranks and counts as they are."""
    columns = (rich.table.Column(name, justify="right") for name in ("value", "95 % interval"))
    grid = rich.table.Table("evaluator", "metric", *columns)
    for name, metrics in results.items():
        for metric, number in metrics.items():
            grid.add_row(
                escape(name), escape(metric), _text(metric, number), _interval(metric, number)
            )
        grid.add_section()
    return grid


def write(results: Results, path: str) -> None:
    """Writes the results in the format that the file's suffix names; `check` says which."""
    writers = {".json": to_json, ".csv": to_csv, ".md": to_markdown}
    epath.Path(path).write_text(writers[epath.Path(path).suffix](results))


def check(path: str) -> None:
    """UserError unless the suffix is .json, .csv or .md and the folder is there."""
    if epath.Path(path).suffix not in (".json", ".csv", ".md"):
        raise UserError(f"--output={path}: name a file that ends in .json, .csv or .md.")
    if not epath.Path(path).parent.exists():
        raise UserError(f"--output={path}: there is no folder {epath.Path(path).parent}.")


def to_json(results: Results) -> str:
    """evaluator → metric → value, with METRIC/low95 and METRIC/high95 beside it."""
    flat = {
        name: {key: number for metric in metrics.items() for key, number in _with_interval(*metric)}
        for name, metrics in results.items()
    }
    return json.dumps(flat, indent=2) + "\n"


def to_csv(results: Results) -> str:
    """A line a metric: evaluator, metric, value, low95, high95 (empty where there is none)."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["evaluator", "metric", "value", "low95", "high95"])
    for name, metrics in results.items():
        for metric, number in metrics.items():
            bounds = [number.low, number.high] if isinstance(number, Estimate) else ["", ""]
            rows.writerow([name, metric, float(number), *bounds])
    return file.getvalue()


def to_markdown(results: Results) -> str:
    """A line an evaluator; those with the same metrics share a table."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, metrics in results.items():
        groups.setdefault(tuple(metrics), []).append(name)
    blocks = []
    for columns, names in groups.items():
        lines = [["", *columns], ["---", *["---:"] * len(columns)]]
        for name in names:
            cells = results[name].items()
            lines.append([name, *(f"{_text(*c)} {_interval(*c)}".strip() for c in cells)])
        blocks.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join([*blocks, NOTE]) + "\n"


def _with_interval(metric: str, number: float) -> list[tuple[str, float]]:
    if not isinstance(number, Estimate):
        return [(metric, number)]
    bounds = [(f"{metric}/low95", number.low), (f"{metric}/high95", number.high)]
    return [(metric, float(number)), *bounds]


def _text(metric: str, number: float) -> str:
    return f"{100 * number:.2f} %" if _is_share(metric) else f"{number:,.6g}"


def _interval(metric: str, number: float) -> str:
    if not isinstance(number, Estimate):
        return ""
    scale = 100 if _is_share(metric) else 1
    return f"({scale * number.low:.2f}–{scale * number.high:.2f})"


def _is_share(metric: str) -> bool:
    return metric.rpartition("/")[2].startswith(("R@", "top", "mean_per_class"))
