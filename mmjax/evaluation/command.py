"""`mmjax eval`: evaluates the newest checkpoint of a run and prints a table."""

import json as json_lib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import rich.table
from etils import epath
from ml_collections import ConfigDict

from mmjax import config as config_lib
from mmjax import config_check
from mmjax.errors import UserError
from mmjax.evaluation.tasks import build
from mmjax.parallel.mesh import make_mesh
from mmjax.training.workdir import restore_for_inference

Results = dict[str, dict[str, float]]


def run(
    workdir: str,
    *,
    task: str | None = None,
    data: str | None = None,
    options: Sequence[str] = (),
    json: str | None = None,
) -> Results:
    """Evaluates a run, by the evaluators of its own config or by one named here.

    The parameters are split over all devices (axis fsdp), so that what was trained fits.

    Args:
      workdir: of the run.
      task: one of the tasks; without `data`, the config's own evaluators of that task.
      data: path of the data, with `task`.
      options: "KEY=VALUE" of the keys `evals.*`, set on every evaluator that runs.
      json: a file for the results.

    Returns:
      Evaluator name → metric → value.

    Raises:
      UserError: no run there, nothing to evaluate, or an evaluator that cannot be built; all before
        the first is run.
    """
    with jax.set_mesh(make_mesh(data=1, fsdp=-1)):
        config, model, params, tokenizer = restore_for_inference(workdir)
        specs = choose(config.evals, task, data, options)
        evaluators = {
            name: build(name, spec, config=config, model=model, tokenizer=tokenizer)
            for name, spec in specs.items()
        }
        results = {name: evaluator(params) for name, evaluator in evaluators.items()}
    if jax.process_index() == 0:
        rich.print(table(results))
        if json:
            epath.Path(json).write_text(json_lib.dumps(results, indent=2) + "\n")
    return results


def choose(
    evals: Mapping[str, ConfigDict], task: str | None, data: str | None, options: Sequence[str]
) -> dict[str, ConfigDict]:
    """The evaluators to run: the config's (of one task, if named), or a new one on `data`."""
    if data and not task:
        raise UserError("--data needs --task, which says what to measure on it.")
    if task and data:
        specs = {task: config_lib.entry("evals", task=task, path=data)}
    else:
        specs = {name: spec for name, spec in evals.items() if task in (None, spec.task)}
    if not specs:
        what = f"no evaluator of task {task!r}" if task else "no evaluator"
        raise UserError(f"the run's config has {what}: give --task=TASK and --data=PATH.")
    for name, spec in specs.items():
        for option in options:
            key, separator, text = option.partition("=")
            if not separator:
                raise UserError(f"--set {option}: write KEY=VALUE.")
            spec[key] = _value(f"evals.{name}.{key}", text)
    return specs


def table(results: Results) -> rich.table.Table:
    """Shares as percentages to two digits, ranks and counts as they are."""
    grid = rich.table.Table("evaluator", "metric", rich.table.Column("value", justify="right"))
    for name, metrics in results.items():
        for metric, value in metrics.items():
            share = metric.rpartition("/")[2].startswith(("R@", "top", "mean_per_class"))
            grid.add_row(name, metric, f"{100 * value:.2f} %" if share else f"{value:,.6g}")
        grid.add_section()
    return grid


def _value(path: str, text: str) -> Any:
    kind = config_check.key_of(path).type()
    try:
        return kind(text)
    except ValueError as error:
        raise UserError(f"config.{path}={text!r}: a {kind.__name__} is wanted.") from error
