"""Stages of a run: keys that change on the way, objectives that start late or stop early.

A run with stages is a sequence of phases, each a run of its own kind: a config without stages, and
the steps that it is for. Where one ends and the next begins follows from the config alone, so a run
goes on inside a phase or between two from the same checkpoints as any other.
"""

import ast
import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

from ml_collections import ConfigDict

from mmjax.data.buckets import buckets_of
from mmjax.errors import UserError
from mmjax.values import Range


@dataclasses.dataclass(frozen=True)
class Stage:
    """The keys of `config.stages.NAME`.

    Attributes:
      start: Share of the run's steps after which the stage begins.
      changes: Keys of the config and their values from there to the end of the run, as
        'model.image.size=384'.
      fresh: The optimizer begins with new moments, and its schedule with a new warm-up; the
        schedule before it ends here.
    """

    start: Annotated[float, Range(above=0, below=1)] = 0.5
    changes: tuple[str, ...] = ()
    fresh: bool = False


@dataclasses.dataclass(frozen=True)
class Phase:
    """The steps start … stop - 1 of a run, in which no stage and no objective begins or ends.

    Attributes:
      start, stop: steps are counted from 0 as `TrainState.step` counts them.
      config: of a run without stages that is trained in these steps.
      seen: positions of the run's order (rows of batches) that the phases before it took.
      schedule: the steps over which the learning rate is scheduled, first and one behind the last.
      fresh: the optimizer begins anew at `start`.
      late: the objectives that begin after the start of the run, whose parameters have moments of
        their own; one that is not on yet is among them, too.
      begins: those objectives that begin at `start`, and not with the run.
      news: what is new at `start`, to tell the user.
    """

    start: int
    stop: int
    config: ConfigDict
    seen: int
    schedule: tuple[int, int]
    fresh: bool = False
    late: frozenset[str] = frozenset()
    begins: frozenset[str] = frozenset()
    news: tuple[str, ...] = ()


def phases(config: ConfigDict) -> tuple[Phase, ...]:
    """The phases of a run. Most runs have no stages, and one phase, whose config is their own.

    UserError: a change that is none, or a phase in which nothing is trained.
    """
    total = config.total_steps
    stages = sorted((_step(s.start, total), name) for name, s in config.stages.items())
    spans = {name: (_step(o.start, total), _step(o.stop, total))
             for name, o in config.objectives.items()}  # fmt: skip
    edges = {0, total, *(step for step, _ in stages)}.union(*spans.values())
    starts = sorted(step for step in edges if step < total)
    plain = not stages and len(starts) == 1
    late = frozenset(name for name, (start, _) in spans.items() if start)
    fresh = [step for step, name in stages if config.stages[name].fresh]
    found, seen = list[Phase](), 0
    for start, stop in zip(starts, [*starts[1:], total], strict=True):
        on = {name for name, (first, last) in spans.items() if first <= start < last}
        changes = [name for step, name in stages if step <= start]
        changed = config if plain else _changed(config, changes, on)
        restarts = [0, *(step for step in fresh if step <= start)]
        ends = [*(step for step in fresh if step > start), total]
        begins = frozenset(name for name in late & on if spans[name][0] == start)
        ends_here = sorted(name for name, (_, last) in spans.items() if last == start)
        news = [f"config.stages.{name}: {', '.join(config.stages[name].changes) or 'no change'}"
                + (", fresh moments" if config.stages[name].fresh else "")
                for step, name in stages if step == start]  # fmt: skip
        news += [f"config.objectives.{name} begins" for name in sorted(begins)]
        news += [f"config.objectives.{name} ends" for name in ends_here]
        schedule = restarts[-1], ends[0]
        found.append(
            Phase(start, stop, changed, seen, schedule, start in fresh, late, begins, tuple(news))
        )
        seen += buckets_of(changed)(stop - start)[0]
    return tuple(found)


def phase_of(config: ConfigDict, step: int) -> Phase:
    """The phase that a checkpoint of `step` is of: at the end of one, that one."""
    found = phases(config)
    return next((phase for phase in found if step <= phase.stop), found[-1])


def _step(share: float, total: int) -> int:
    return math.floor(share * total + 1e-6)  # 0.29 · 100 is 28.999…


def _changed(config: ConfigDict, stages: list[str], on: set[str]) -> ConfigDict:
    """The config of a run whose stages have been made, without objectives that are not on."""
    result = ConfigDict(config.to_dict())
    with result.unlocked():
        for name in stages:
            for path, value in changes_of(name, config.stages[name].changes).items():
                *sections, key = path.split(".")
                node: Any = result
                for section in sections:
                    node = node[section]
                node[key] = value
        result.stages = ConfigDict()
        for name in {*result.objectives} - on:
            del result.objectives[name]
        read = set[str]()
        for spec in result.objectives.values():
            spec.update(start=0.0, stop=1.0)
            read.update(spec.get("teachers", ()))
        if result.data.curation.keep < 1:
            read.add(result.data.curation.teacher)
        for name in [n for n, teacher in result.teachers.items() if not teacher.start]:
            if name not in read:
                del result.teachers[name]
    return result


CHANGEABLE = ("model.", "optim.", "data.", "objectives.", "evals.", "batch_size")
_FIXED = ("data.tokenizer", "data.pack")  # a run has one vocabulary, and its texts one form


def changes_of(stage: str, changes: tuple[str, ...]) -> Mapping[str, Any]:
    """Path → value of `config.stages.STAGE.changes`; UserError: one is no change."""
    found: dict[str, Any] = {}
    key = f"config.stages.{stage}.changes"
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals:
            raise UserError(f"{key}: {change!r} should be KEY=VALUE, as 'optim.lr=1e-4'.")
        last = path.rpartition(".")[2]
        source = path.startswith("data.train.") and last != "weight"
        fixed = path in _FIXED or source or last in ("start", "stop", "kind")
        if fixed or not path.startswith(CHANGEABLE):
            raise UserError(
                f"{key}: {path} is the same in the whole run; what may change are other keys of "
                "model, optim, data, objectives and evals, the weights of sources, and batch_size."
            )
        try:
            found[path] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[path] = {"true": True, "false": False}.get(text, text)
    return found
