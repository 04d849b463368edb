"""`mmjax.evaluate`, `mmjax eval`: evaluates the newest checkpoint of a run, or other weights."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import yaml
from ml_collections import ConfigDict

from mmjax.data.detect import detect
from mmjax.data.sources import KINDS
from mmjax.errors import UserError
from mmjax.evaluation import classes, progress, report
from mmjax.evaluation.parts import media
from mmjax.evaluation.spec import Subject
from mmjax.evaluation.tasks import build, keys_at
from mmjax.inputs import with_defaults
from mmjax.loading import load
from mmjax.models import Graph
from mmjax.parallel.mesh import make_mesh
from mmjax.runs.checkpoint import checkpoint_steps
from mmjax.runs.local_path import workdir_path
from mmjax.runs.workdir import at_step, restore_for_inference, workdir_classes
from mmjax.schema import entry, find, kind_of

log = logging.getLogger("mmjax.evaluation")
SUITE = "suite"  # a task of the command, not of a config: `data` is a YAML file of evaluators


def evaluate(
    workdir: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    task: str | None = None,
    data: str | None = None,
    output: str | Path | Sequence[str | Path] = (),
    tokenizer: str | Path | None = None,
    frames: int | None = None,
    **keys: Any,
) -> report.Results:
    """Evaluates a model, by the evaluators of its own run's config or by those named here.

    The parameters are split over all devices (axis fsdp), so that what was trained fits.

    Args:
      workdir: of a run, whose newest checkpoint is evaluated, or WORKDIR/checkpoints/STEP; or
      weights: whatever `mmjax.load` takes: other libraries' weights, a hub name.
      task: a kind of evaluators; without `data`, the config's own of that kind. "suite" takes a
        YAML file as data.
      data: path of the data, with `task`.
      output: a file or files for the results, .json, .csv or .md; beside each, NAME.classes.tsv
        says which label is which class, where there are classes.
      tokenizer: folder or hub name of the tokenizer, where `weights` come without one.
      frames: with `weights` of images, evaluates them on videos, by the mean of so many frames:
        see `mmjax.load`.
      **keys: keys of `config.evals.NAME`, set on every evaluator that runs: batch_size=64,
        classes="names.txt", allow_skips=True.

    Returns:
      Evaluator name → metric → value.

    Raises:
      UserError: no run or weights there, nothing to evaluate, or an evaluator that cannot be
        built; all before the first is run.
    """
    files = [output] if isinstance(output, str | Path) else output
    for file in files:
        report.check(str(file))
    workdir = None if workdir is None else str(workdir)
    with jax.set_mesh(make_mesh(data=1, fsdp=-1)), progress.shown():
        config, model, params, words = _model(workdir, weights, tokenizer, frames)
        specs = choose(config.evals, task, data, keys, media(model))
        known: tuple[str, ...] = ()
        if workdir:
            folder, step = at_step(workdir)
            known = workdir_classes(folder)
            newest = max(checkpoint_steps(workdir_path(folder)), default=0)
            progress.say(f"evaluating step {step or newest:,} of {folder}")
        subject = Subject.of(config, model, words, known)
        evaluators = {name: build(name, spec, subject) for name, spec in specs.items()}
        found = classes.of_evaluators(evaluators)
        for name, of in found.items():
            progress.say(f"{name}: {of.about}")
        results = {name: evaluator(params) for name, evaluator in evaluators.items()}
    if jax.process_index() == 0:
        for file in files:
            report.write(results, str(file))
            classes.write(found, str(file))
    return results


def choose(
    evals: Mapping[str, ConfigDict],
    task: str | None,
    data: str | None,
    keys: Mapping[str, Any],
    media: str = "image",
) -> dict[str, ConfigDict]:
    """The evaluators to run: the config's (of one task, if named), or new ones on `data`, which
    shows `media` unless they say another."""
    if data and not task:
        raise UserError("--data needs --task, which says what to measure on it.")
    if task == SUITE:
        specs = read_suite(data, media)
    elif task and data:
        specs = {task: _entry(task, {"kind": task, "path": data})}
    else:
        chosen = {n: spec for n, spec in evals.items() if task in (None, kind_of(n, spec))}
        specs = {name: _entry(name, spec) for name, spec in chosen.items()}
    if not specs:
        what = f"no evaluator of task {task!r}" if task else "no evaluator"
        raise UserError(f"the config has {what}: give --task=TASK and --data=PATH.")
    for name, spec in specs.items():
        for key, value in keys.items():
            path = f"evals.{name}.{key}"
            spec[key] = find(keys_at(name, spec), path).parse(path, value)
    if task and data and task != SUITE and "media" not in keys:
        _show(specs[task], task, media)
    return specs


def read_suite(file: str | None, media: str = "image") -> dict[str, ConfigDict]:
    """The evaluators of a YAML file: name → keys `evals.*`. Paths are relative to its folder."""
    if not file:
        raise UserError("--task=suite needs --data=FILE.yaml, a mapping of names to evals.* keys.")
    try:
        entries = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--data={file}: cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--data={file} is no YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise UserError(f"--data={file}: write NAME: {{kind: …, path: …}} for each data set.")
    specs = {}
    for name, keys in entries.items():
        spec = specs[str(name)] = _entry(str(name), {"kind": keys.get("kind", "")})
        for key, value in keys.items():
            path = f"evals.{name}.{key}"
            value = find(keys_at(name, spec), path).parse(path, value)
            beside = Path(file).parent / str(value)
            spec[key] = str(beside) if key in _FILES and value and beside.exists() else value
        if "media" not in keys:
            _show(spec, str(name), media)
    return specs


def _show(spec: ConfigDict, name: str, media: str) -> None:
    """Sets what the records of an evaluator show, where they may show several media."""
    try:
        kind = spec.format if spec.format != "auto" else detect(spec.path, KINDS, name).kind
    except UserError:  # said again, and better, when the source is opened
        kind = ""
    if kind not in KINDS or "media" in KINDS[kind].keys:
        spec.media = media


def _model(
    workdir: str | None,
    weights: str | Path | None,
    tokenizer: str | Path | None,
    frames: int | None,
) -> tuple[ConfigDict, Graph, Any, Any]:
    """(config, model, parameters, tokenizer or None). What embeds no texts needs no tokenizer:
    why there is none is a warning."""
    if (workdir is None) == (weights is None):
        raise UserError("mmjax eval needs either --workdir=DIR of a run or --weights=PATH.")
    if weights is None:
        assert workdir is not None
        if frames is not None:
            raise UserError("--frames is of weights: give the run as --weights=DIR.")
        return restore_for_inference(workdir)
    loaded = load(weights, tokenizer=tokenizer, frames=frames)
    config = ConfigDict({"seed": 0, "evals": {}, "objectives": {}, **loaded.config})
    config.data = with_defaults(config.data)
    try:
        words = loaded.tokenizer
    except UserError as error:
        log.warning("no texts are evaluated: %s", error)
        words = None
    return config, loaded.model, loaded.params, words


_FILES = ("path", "train", "image", "classes", "templates", "subset", "real", "candidates")


def _entry(name: str, values: Mapping[str, Any] | ConfigDict) -> ConfigDict:
    return entry(keys_at(name, values), values)
