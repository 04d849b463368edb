"""A run of mmjax as a source of weights: its workdir, or one checkpoint of it."""

import functools
import json
from pathlib import Path
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from mmjax.core.optim import averages_model
from mmjax.interop.formats import Training, Weights, shapes
from mmjax.runs import checkpoint
from mmjax.runs.local_path import workdir_path
from mmjax.runs.workdir import COMMAND, config_at, saved_tokenizer


def detect(path: Path) -> bool:
    """WORKDIR, or WORKDIR/checkpoints/STEP."""
    workdir = _workdir(path)
    return (workdir / checkpoint.FOLDER).is_dir() and (workdir / "config.json").is_file()


def read(path: Path) -> Weights:
    """The newest checkpoint of the run (averaged parameters, if it keeps them), or the named one.

    Raises:
      UserError: its config cannot be read, or it has no checkpoint.
    """
    workdir = workdir_path(str(_workdir(path)))
    step = int(path.name) if Path(workdir) != path.absolute() else None
    config = config_at(workdir, step)
    read = functools.partial(
        _read, workdir, shapes(config.model), averages_model(config.optim), step
    )
    last = step or max(checkpoint.checkpoint_steps(workdir), default=0)
    command = workdir / COMMAND
    typed = command.read_text().strip() if command.exists() else ""
    training = Training(last, typed, _metrics(workdir, config, last))
    return Weights(str(path), config, read, saved_tokenizer(workdir, config), training)


def _workdir(path: Path) -> Path:
    path = path.absolute()
    is_step = path.name.isdigit() and path.parent.name == checkpoint.FOLDER
    return path.parent.parent if is_step else path


def _read(workdir: epath.Path, whole: Any, ema: bool, step: int | None, like: Any) -> Any:
    """Orbax restores whole trees: what is not wanted of it is read and dropped."""
    found = checkpoint.restore_params(workdir, _over(whole, like), ema=ema, step=step)
    return _pick(found, like)


def _over(whole: Any, like: Any) -> Any:
    """`whole` with the leaves of `like`, which may lack some."""
    if not isinstance(whole, dict):
        return whole if like is None else like
    return {name: _over(leaf, (like or {}).get(name)) for name, leaf in whole.items()}


def _pick(found: Any, like: Any) -> Any:
    return {k: _pick(found[k], v) for k, v in like.items()} if isinstance(like, dict) else found


def _metrics(workdir: epath.Path, config: ConfigDict, step: int) -> dict[str, float]:
    """The last loss and results of evaluators up to `step`, from metrics.jsonl."""
    file, wanted = workdir / "metrics.jsonl", ("loss", *(f"{name}/" for name in config.evals))
    result: dict[str, float] = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            values = json.loads(line)
        except json.JSONDecodeError:  # the run was killed while it wrote
            continue
        if values.pop("step", 0) <= step:
            result |= {name: x for name, x in values.items() if name.startswith(wanted)}
    return result
