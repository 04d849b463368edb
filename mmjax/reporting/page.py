"""The page of a run: latest numbers, curves, sample retrievals, and its config."""

from pathlib import Path
from typing import Any

import jinja2
from etils import epath
from ml_collections import ConfigDict

from mmjax import config as config_lib
from mmjax.errors import UserError
from mmjax.paths import check_file
from mmjax.reporting import curves, pictures
from mmjax.reporting.history import Series, groups, read_history, read_times
from mmjax.runs.checkpoint import checkpoint_steps
from mmjax.runs.local_path import workdir_path
from mmjax.runs.workdir import read_config
from mmjax.schema import REQUIRED, leaves


def write(workdir: str, output: str | None = None) -> epath.Path:
    """Writes the page; see `mmjax.report`."""
    if output:
        check_file("--output", output)
    folder = workdir_path(workdir)
    config, history = read_config(folder), read_history(folder)
    evaluator, samples = "", list[pictures.Sample]()
    warnings: list[str] = []
    if checkpoint_steps(folder):
        try:
            evaluator, samples = pictures.retrievals(workdir)
        except UserError as error:
            warnings.append(f"No sample retrievals: {error}")
    else:
        warnings.append("No sample retrievals: the run has no checkpoint yet.")
    template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(
        Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    )
    page = template.render(
        title=f"{config.model.name}: {folder.name}",
        subtitle=_subtitle(config, history),
        warnings=warnings,
        latest=latest(history),
        times=[(cause, duration(s), share) for cause, s, share in read_times(folder)],
        plots=[
            curves.draw(title, {name: history[name] for name in names})
            for title, names in groups(history).items()
        ],
        evaluator=evaluator,
        samples=samples,
        candidates=pictures.CANDIDATES,
        config=differences(config),
    )
    path = epath.Path(output) if output else folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def latest(history: dict[str, Series]) -> list[tuple[str, str, str]]:
    """(metric, step, value) of each metric's last value; the step is "" if it is the run's last."""
    last = max(steps[-1] for steps, _ in history.values())
    return [
        (name, "" if steps[-1] == last else f"at step {steps[-1]:,}", f"{values[-1]:,.6g}")
        for name, (steps, values) in history.items()
    ]


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: "1:02:03", "4:05", "0.7 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def differences(config: ConfigDict) -> list[tuple[str, Any, Any]]:
    """(key, value, default) of the keys whose value is not the default.

    The default is "" of what has none, or is of a kind that only the run's own code registers.
    """
    rows = []
    for path, value in leaves(config):
        try:
            default = config_lib.key_of(path, config).default
        except UserError:
            default = REQUIRED
        default = "" if default is REQUIRED else default
        if value != default:
            rows.append((path, value, default))
    return rows


def _subtitle(config: ConfigDict, history: dict[str, Series]) -> str:
    steps = max(steps[-1] for steps, _ in history.values())
    return (
        f"step {steps:,} of {config.total_steps:,}, batch {config.batch_size:,}, objectives "
        f"{', '.join(sorted(config.objectives))}"
    )
