"""What a run needs before its first step: parts, data, evaluators, the state to go on from.

Everything that can be known to be wrong is raised as UserError here.
"""

import contextlib
import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from rich.markup import escape

from mmjax import config_check, data, evaluation, models
from mmjax.core.state import TrainState, init_state, model_params, with_params
from mmjax.data import mixtures, vocabulary
from mmjax.data.buckets import buckets_of
from mmjax.data.doubt import doubts
from mmjax.errors import UserError
from mmjax.evaluation import Evaluator
from mmjax.evaluation.classes import of_evaluators
from mmjax.interop import registry, start
from mmjax.interop.formats import Weights
from mmjax.models.parts import vocabularies
from mmjax.parallel import mesh as mesh_lib
from mmjax.runs import same_data
from mmjax.runs.checkpoint import Checkpoints, checkpoint_steps
from mmjax.runs.local_path import shown
from mmjax.runs.metrics import ProgressLine
from mmjax.runs.workdir import open_workdir, workdir_lengths, workdir_tokenizer
from mmjax.schema import nearest
from mmjax.teachers.inherit import inherit
from mmjax.teachers.teacher import check_data, load_teachers
from mmjax.training import labels
from mmjax.training.assemble import Parts, assemble, readers

log = logging.getLogger("mmjax.training")
Batch = dict[str, np.ndarray]
WORKER_STARTS = 3  # in a row whose workers died before they gave a batch: then the run ends


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run that may start.

    Attributes:
      parts: model, objectives, teachers, optimizer.
      sources: the opened config.data.train, in order of their names.
      batches: of this host, from the step after that of `state` on.
      counts: of the loader, kept up to date.
      evaluators: by name.
      checkpoints: of the workdir.
      state: the newest checkpoint, or a fresh start.
      line: to tell the user.
    """

    parts: Parts
    sources: Sequence[data.Source]
    batches: Generator[Batch]
    counts: Counter[str]
    evaluators: Mapping[str, Evaluator]
    checkpoints: Checkpoints
    state: TrainState
    line: ProgressLine


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
    parts = assemble(config, mesh)  # model, objectives, teachers, optimizer: as shapes

    # Weights to start from: matched with the model by name and shape, not read yet.
    weights = None
    if config.init_from.source and not checkpoint_steps(folder):
        weights = start.renamed(registry.find(config.init_from.source), config.init_from.rename)
        start.plan(weights, config.model, config.init_from.parts)

    # Data and evaluators.
    sources = data.open_sources(config.data.train)
    inputs = models.inputs(config.model)
    without = mixtures.lacking(inputs, config.data.train)
    for part, modality in data.modalities.build(inputs).items():
        for name, source in zip(sorted(config.data.train), sources, strict=True):
            if name not in without.get(part, ()):
                modality.check(source, config.data.train[name], f"config.data.train.{name}")
    check_data(parts.teachers, config, sources)
    named = dict(zip(sorted(config.data.train), sources, strict=True))
    class_count = labels.count_classes(parts)
    classes, said = labels.check(named, class_count) if class_count else ({}, [])
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
        parts = parts.with_vocabulary(vocabulary.of_tokenizer(tokenizer, rows))
    modalities = readers(config, parts.teachers, load)
    trained = tuple(one.folder for one in next(iter(classes.values()), []))
    subject = evaluation.Subject.of(config, parts.model, tokenizer, trained)
    evaluators = {
        name: evaluation.build(name, spec, subject) for name, spec in sorted(config.evals.items())
    }
    check_best(config.checkpoint.best, evaluators)
    evaluated = of_evaluators(evaluators)
    labels.write(folder, classes | {f"evals.{name}": of.rows for name, of in evaluated.items()})
    said += [f"config.evals.{name}: {of.about}" for name, of in evaluated.items()]
    rows_of_batch = config.batch_size * (config.data.pack or 1)
    pairs = tokenizer is not None and len(modalities) > 1
    said += doubts(sources, rows_of_batch, pairs)

    # State: the newest checkpoint, or a fresh start.
    checkpoints = Checkpoints(folder, config.checkpoint)
    cleanup.callback(checkpoints.close)
    line = ProgressLine(config.total_steps)
    teachers = load_teachers(parts.teachers, mesh, folder)  # another one is refused here
    state = checkpoints.restore_newest(parts.state) or fresh_state(parts, weights, mesh, line)
    state = dataclasses.replace(state, teachers=teachers)
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
    for key, (before, after) in adjusted.items():
        said.append(f"config.{key}: {before!r} until step {first:,}, {after!r} from there on")
    for sentence in said:
        line.say(escape(sentence))
    lengths = workdir_lengths(folder, config, sources, tokenizer) if tokenizer else ()
    sizes, counts = {bucket.size for bucket in buckets_of(config).kinds}, Counter[str]()
    rows = {size: mesh_lib.local_rows(size) for size in sizes}
    batches = unfailing(
        lambda step: data.train_batches(
            sources, config, modalities, rows=rows, start_step=step, lengths=lengths,
            counts=counts, classes=class_count,
        ),
        first,
    )  # fmt: skip
    cleanup.callback(batches.close)
    return Prepared(parts, sources, batches, counts, evaluators, checkpoints, state, line)


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
