"""What a run needs before its first step: parts, data, evaluators, the state to go on from.

Everything that can be known to be wrong is raised as UserError here.
"""

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from rich.markup import escape

from mmjax import config_check, data, evaluation, models
from mmjax.core.state import TrainState, init_state, model_params, with_params
from mmjax.data import mixtures, vocabulary
from mmjax.data.buckets import buckets_of, loaded
from mmjax.data.doubt import doubts
from mmjax.errors import UserError
from mmjax.evaluation import Evaluator
from mmjax.evaluation.classes import of_evaluators
from mmjax.interop import registry, start
from mmjax.interop.formats import Weights
from mmjax.models.parts import vocabularies
from mmjax.parallel import mesh as mesh_lib
from mmjax.runs import same_data, stages
from mmjax.runs.checkpoint import Checkpoints, checkpoint_steps
from mmjax.runs.local_path import shown
from mmjax.runs.metrics import ProgressLine
from mmjax.runs.stages import Phase
from mmjax.runs.workdir import open_workdir, workdir_lengths, workdir_tokenizer
from mmjax.schema import nearest
from mmjax.teachers.inherit import inherit
from mmjax.teachers.teacher import check_data, load_teachers
from mmjax.training import carry, labels
from mmjax.training.assemble import Parts, assemble, readers

log = logging.getLogger("mmjax.training")
Batch = dict[str, np.ndarray]
WORKER_STARTS = 3  # in a row whose workers died before they gave a batch: then the run ends


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that may start.

    Attributes:
      phase: the steps that it is for.
      parts: model, objectives, teachers, optimizer.
      sources: the opened config.data.train, in order of their names.
      batches: of this host, from the step after that of `state` on.
      counts: of the loader, kept up to date.
      evaluators: by name.
      checkpoints: of the workdir.
      state: the newest checkpoint, or a fresh start.
      line: to tell the user.
      go_on: prepares the next phase, from the state in which this one ends.
    """

    phase: Phase
    parts: Parts
    sources: Sequence[data.Source]
    batches: Generator[Batch]
    counts: Counter[str]
    evaluators: Mapping[str, Evaluator]
    checkpoints: Checkpoints
    state: TrainState
    line: ProgressLine
    go_on: Callable[[TrainState], "Prepared"]


def prepare(
    config: ConfigDict,
    folder: epath.Path,
    cleanup: contextlib.ExitStack,
    command: str,
    adjust: bool = False,
) -> Prepared:
    """Prepares the run of a valid config in a workdir, under its mesh; `cleanup` closes what was
    opened, `command` is what the user typed, `adjust` takes other values of ADJUSTABLE keys."""
    mesh = jax.sharding.get_mesh()
    phases = stages.phases(config)
    # Model, objectives, teachers, optimizer: as shapes.
    every = [assemble(p.config, mesh, p if len(phases) > 1 else None) for p in phases]
    for before, after in itertools.pairwise(every):
        carry.check(before, after)

    # Weights to start from: matched with the model by name and shape, not read yet.
    weights, began = None, phases[0].config
    if config.init_from.source and not checkpoint_steps(folder):
        weights = start.renamed(registry.find(config.init_from.source), config.init_from.rename)
        start.plan(weights, began.model, config.init_from.parts)

    # Data and evaluators.
    sources = data.open_sources(config.data.train)
    inputs = models.inputs(config.model)
    without = mixtures.lacking(inputs, config.data.train)
    for part, modality in data.modalities.build(inputs).items():
        for name, source in zip(sorted(config.data.train), sources, strict=True):
            if name not in without.get(part, ()):
                modality.check(source, config.data.train[name], f"config.data.train.{name}")
    for parts in every:
        check_data(parts.teachers, config, sources)
    named = dict(zip(sorted(config.data.train), sources, strict=True))
    class_counts = [labels.count_classes(parts) for parts in every]
    known = [labels.check(named, count) for count in class_counts if count]
    classes, said = known[0] if known else ({}, [])
    marks = same_data.marks(sorted(config.data.train), sources)

    adjusted: dict[str, tuple] = {}

    def check_resume(old: ConfigDict) -> None:
        adjusted.update(config_check.validate_resume(old, config, folder, adjust))
        same_data.check(folder, marks, old, config)

    open_workdir(folder, config, cleanup, check_resume, command)
    same_data.keep(folder, marks)
    of_weights = weights.tokenizer if weights else None
    load = functools.cache(lambda: workdir_tokenizer(folder, config, sources, of_weights))
    tokenizer = load() if vocabularies(config.model) else None
    if tokenizer is not None:
        config_check.validate_vocabulary(config, tokenizer.vocab_size)
        rows = min(part.vocab_size for part in vocabularies(config.model).values())
        words = vocabulary.of_tokenizer(tokenizer, rows)
        every = [parts.with_vocabulary(words) for parts in every]
    trained = tuple(one.folder for one in next(iter(classes.values()), []))
    line, counts = ProgressLine(config.total_steps), Counter[str]()

    def evaluators_of(parts: Parts) -> dict[str, Evaluator]:
        subject = evaluation.Subject.of(parts.config, parts.model, tokenizer, trained)
        return {
            name: evaluation.build(name, spec, subject)
            for name, spec in sorted(parts.config.evals.items())
        }

    evaluators = evaluators_of(every[0])
    check_best(config.checkpoint.best, evaluators)
    evaluated = of_evaluators(evaluators)
    labels.write(folder, classes | {f"evals.{name}": of.rows for name, of in evaluated.items()})
    said += [f"config.evals.{name}: {of.about}" for name, of in evaluated.items()]
    rows_of_batch = loaded(config, config.batch_size) * (config.data.pack or 1)
    pairs = tokenizer is not None and len(readers(began, every[0].teachers, load)) > 1
    said += doubts(sources, rows_of_batch, pairs)

    # State: the newest checkpoint, or a fresh start.
    checkpoints = Checkpoints(folder, config.checkpoint)
    cleanup.callback(checkpoints.close)

    def number_of(step: int) -> int:
        return phases.index(stages.phase_of(config, step))

    def teachers_of(number: int) -> dict[str, Any]:
        return load_teachers(every[number].teachers, mesh, folder)

    def begin(number: int, state: TrainState, teachers: dict[str, Any]) -> Prepared:
        phase, parts = phases[number], every[number]
        state = dataclasses.replace(state, teachers=teachers)
        lengths = workdir_lengths(folder, parts.config, sources, tokenizer) if tokenizer else ()
        sizes = {bucket.size for bucket in buckets_of(parts.config).kinds}
        rows = {size: mesh_lib.local_rows(size) for size in sizes}
        modalities = readers(parts.config, parts.teachers, load)
        batches = unfailing(
            lambda step: data.train_batches(
                sources, parts.config, modalities, rows=rows, start_step=step - phase.start,
                seen=phase.seen, lengths=lengths, counts=counts, classes=class_counts[number],
            ),
            int(state.step),
        )  # fmt: skip
        cleanup.callback(batches.close)

        def go_on(ended: TrainState) -> Prepared:
            batches.close()
            after, next_phase = every[number + 1], phases[number + 1]
            line.say(f"from step {next_phase.start:,} on: {escape('; '.join(next_phase.news))}")
            state = carry.carried(ended, parts, after, next_phase, mesh)
            return begin(number + 1, state, teachers_of(number + 1))

        measured = evaluators if number == 0 else evaluators_of(parts)
        return Prepared(
            phase, parts, sources, batches, counts, measured, checkpoints, state, line, go_on
        )

    # Another teacher than the run began with is refused here, before its heads are read.
    newest = number_of(max(checkpoint_steps(folder), default=0))
    teachers = teachers_of(newest)
    state = checkpoints.restore_newest(lambda step: every[number_of(step)].state)
    state = state or fresh_state(every[0], weights, mesh, line)
    first = int(state.step)
    finished = first >= config.total_steps
    resumes = f"finished at step {first:,}" if finished else f"resuming at step {first:,}"
    parameters = sum(x.size for x in jax.tree.leaves(model_params(state.params)))
    line.say(
        f"[bold]{escape(config.model.name)}[/]  {parameters:,} parameters  "
        f"{jax.device_count()} × {jax.devices()[0].device_kind}  mesh {dict(mesh.shape)}  "
        f"{sum(map(len, sources)):,} examples  → {escape(shown(folder))}"
        + (f"  [bold]{resumes}[/]" if first else "")
    )
    for key, (old, new) in adjusted.items():
        said.append(f"config.{key}: {old!r} until step {first:,}, {new!r} from there on")
    for sentence in said:
        line.say(escape(sentence))
    number = number_of(first)
    return begin(number, state, teachers if number == newest else teachers_of(number))


def check_best(best: str, evaluators: Mapping[str, Evaluator]) -> None:
    """UserError: config.checkpoint.best is no metric of its evaluator."""
    name, _, metric = best.partition("/")
    known = getattr(evaluators.get(name), "metrics", None)
    if known is not None and metric not in known:
        raise UserError(
            f"config.checkpoint.best={best!r}: config.evals.{name} does not measure {metric!r}; "
            f"choose one of {', '.join(f'{name}/{other}' for other in known)} (nearest: "
            f"{name}/{nearest(metric, known)})."
        )


def fresh_state(
    parts: Parts, weights: Weights | None, mesh: jax.sharding.Mesh, line: ProgressLine
) -> TrainState:
    """The state before the first step: random, then what there is in `weights`, or the part of a
    teacher that the student starts from; says which."""
    config = parts.config
    state = init_state(
        parts.model, parts.optimizer, seed=config.seed, ema=config.optim.ema > 0,
        ema_of=config.optim.ema_of, mesh=mesh, declared=parts.declared,
    )  # fmt: skip
    params, like = model_params(state.params), model_params(parts.state.params)
    if weights is not None:
        params, report = start.start_from(weights, config.model, params, config.init_from.parts)
        line.say(f"from {escape(str(weights.source))}: {escape(str(report))}")
    for teacher in parts.teachers:
        if config.teachers[teacher.name].start:
            params = inherit(teacher, config, like)
            line.say(f"from config.teachers.{escape(teacher.name)}: a part of every parameter")
    return with_params(state, state.params | params)


def unfailing(make: Callable[[int], Generator[Batch]], first: int) -> Generator[Batch]:
    """The batches of `make(first)`, gone on with by new worker processes where one has died.

    The system kills them when memory is short; a batch is a function of its step, so nothing is
    lost. Workers that died WORKER_STARTS times in a row before they gave one stop the run.
    """
    step, failures = first, 0
    while True:
        with contextlib.closing(make(step)) as batches:
            try:
                for number, batch in enumerate(batches):
                    if number:  # the first is this process's own, whatever becomes of the workers
                        failures = 0
                    yield batch
                    step += 1
            except RuntimeError as error:  # grain's, of a dead worker
                if "terminated unexpectedly" not in str(error):
                    raise
                failures += 1
                said = str(error).split(".")[0]
                if failures == WORKER_STARTS:
                    raise UserError(
                        f"step {step + 1}: no batch from the data's workers, {failures} times in a "
                        f"row ({said}): what they printed says why; if nothing, then memory was "
                        "short: set config.data.workers to less, or to 0 for threads."
                    ) from error
                log.warning("step %d: %s. Starting new ones.", step + 1, said)
