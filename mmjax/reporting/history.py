"""What a run wrote down of itself: its metrics, step by step."""

import collections

from etils import epath

from mmjax.errors import UserError
from mmjax.runs.goodput import CAUSES, Account, read_rows

Series = tuple[list[int], list[float]]  # steps ascending, values
# A multiple of the step, and of examples_per_second: their curves would show nothing more.
MULTIPLES = {"data/examples", "examples_per_second_per_device", "loaded_examples_per_second",
             "tflops_per_second_per_device"}  # fmt: skip


def read_history(workdir: epath.Path) -> dict[str, Series]:
    """Every metric of WORKDIR/metrics.jsonl as steps and values.

    Where a restarted run went over the same steps again, the later values count. Times are left to
    `read_times`.

    Raises:
      UserError: there are no metrics.
    """
    path = workdir / "metrics.jsonl"
    if not path.exists():
        raise UserError(f"{workdir} is not a workdir of a run: {path} is missing.")
    found: dict[str, dict[int, float]] = collections.defaultdict(dict)
    for row in read_rows(workdir):
        for name, value in row.items():
            if name not in ("step", "time") and not name.startswith("seconds/"):
                found[name][row["step"]] = value
    if not found:
        raise UserError(f"{path} is empty: the run has not logged a step yet.")
    return {
        name: (sorted(values), [values[step] for step in sorted(values)])
        for name, values in found.items()
    }


def read_times(workdir: epath.Path) -> list[tuple[str, float, float]]:
    """(cause, seconds, share of all) of the run's wall time over all its restarts, the largest
    first, without what took none; [] of a run that wrote down no times."""
    seconds = Account(read_rows(workdir)).seconds
    total = sum(seconds.values())
    rows = [(CAUSES[cause], spent, spent / total) for cause, spent in seconds.items() if spent > 0]
    return sorted(rows, key=lambda row: -row[1])


def groups(history: dict[str, Series]) -> dict[str, list[str]]:
    """The metrics that belong into one plot, by its title: what is read together is drawn together.

    The parts of the loss share a plot, which comes first, and so do the shares of an evaluator
    ("coco/image_to_text/R@1" and "…/R@5"); all else has its own. What never changed, was measured
    once, or is a multiple of another, makes no curve.
    """
    plots: dict[str, list[str]] = {"loss": []}
    for name, (_, values) in history.items():
        if len(set(values)) == 1 or name in MULTIPLES:
            continue
        title, _, metric = name.rpartition("/")
        if name == "loss" or title == "loss":
            key = "loss"
        elif not title:
            key = metric.replace("_", " ")
        else:
            share = metric.startswith(("R@", "top", "mean_per_class", "accuracy"))
            key = title if share else name
        plots.setdefault(key, []).append(name)
    parts = plots["loss"]
    if len(parts) == 2:  # the total of a single objective is that objective
        parts.remove("loss")
    return {title: names for title, names in plots.items() if names}
