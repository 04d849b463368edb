"""A run from its config to its last checkpoint; read it from top to bottom."""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from mmjax import config_check, data, evaluation, models
from mmjax.core.state import TrainState, init_state, model_params, with_params
from mmjax.data import vocabulary
from mmjax.errors import Preempted, UserError
from mmjax.interop import registry, start
from mmjax.interop.formats import Weights
from mmjax.models.parts import vocabularies
from mmjax.parallel import mesh as mesh_lib
from mmjax.runs.checkpoint import Checkpoints, checkpoint_steps
from mmjax.runs.goodput import Account, Clock, read_rows
from mmjax.runs.metrics import Meter, MetricWriter, ProgressLine
from mmjax.runs.preemption import Preemption
from mmjax.runs.profile import Profiler
from mmjax.runs.watchdog import Watchdog
from mmjax.runs.workdir import (
    open_workdir,
    workdir_lengths,
    workdir_path,
    workdir_tokenizer,
)
from mmjax.teachers.inherit import inherit
from mmjax.teachers.teacher import check_data, load_teachers
from mmjax.training.assemble import Parts, assemble, readers

Batch = dict[str, np.ndarray]
WORKER_STARTS = 3  # in a row whose workers died before they gave a batch: then the run ends


def train(config: ConfigDict, workdir: str, *, command: str = "") -> TrainState:
    """Trains until `config.total_steps`, going on from the newest checkpoint in `workdir`.

    A fresh run starts from random parameters, or from those of `config.init_from`. `command` is
    what the user typed, for the model card.

    Everything that can be known to be wrong is raised as UserError before the first step.
    Preempted: SIGTERM came; the step it came in is saved.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as Process.start asks
        raise UserError(
            "A data worker that imported your script would train, too: put the call of train() "
            'under `if __name__ == "__main__":`.'
        )
    clock = Clock()
    config_check.validate(config)
    use_compilation_cache()
    folder = workdir_path(workdir)
    mesh = mesh_lib.make_mesh(**config.mesh)
    config_check.validate_on_mesh(config, dict(mesh.shape))

    preemption = Preemption()
    with jax.set_mesh(mesh), preemption.watch(), contextlib.ExitStack() as cleanup:
        parts = assemble(config, mesh)  # model, objectives, teachers, optimizer: as shapes

        # Weights to start from: matched with the model by name and shape, not read yet.
        weights = None
        if config.init_from.source and not checkpoint_steps(folder):
            weights = registry.find(config.init_from.source)
            start.plan(weights, config.model, config.init_from.parts)

        # Data and evaluators.
        sources = data.open_sources(config.data.train)
        for modality in data.modalities.build(models.inputs(config.model)).values():
            for name, source in zip(sorted(config.data.train), sources, strict=True):
                modality.check(source, config.data.train[name], f"config.data.train.{name}")
        check_data(parts.teachers, config, sources)
        check_resume = functools.partial(config_check.validate_resume, new=config, workdir=folder)
        open_workdir(folder, config, cleanup, check_resume, command)
        of_weights = weights.tokenizer if weights else None
        load = functools.cache(lambda: workdir_tokenizer(folder, config, sources, of_weights))
        tokenizer = load() if vocabularies(config.model) else None
        if tokenizer is not None:
            config_check.validate_vocabulary(config, tokenizer.vocab_size)
            rows = min(part.vocab_size for part in vocabularies(config.model).values())
            parts = parts.with_vocabulary(vocabulary.of_tokenizer(tokenizer, rows))
        modalities = readers(config, parts.teachers, load)
        evaluators = {
            name: evaluation.build(
                name, spec, config=config, model=parts.model, tokenizer=tokenizer
            )
            for name, spec in sorted(config.evals.items())
        }

        # State: the newest checkpoint, or a fresh start.
        checkpoints = Checkpoints(folder, config.checkpoint)
        cleanup.callback(checkpoints.close)
        line = ProgressLine(config.total_steps)
        teachers = load_teachers(parts.teachers, mesh, folder)  # another one is refused here
        state = checkpoints.restore_newest(parts.state) or fresh_state(parts, weights, mesh, line)
        state = dataclasses.replace(state, teachers=teachers)
        first = int(state.step)

        parameters = sum(x.size for x in jax.tree.leaves(model_params(state.params)))
        line.say(
            f"[bold]{config.model.name}[/]  {parameters:,} parameters  "
            f"{jax.device_count()} × {jax.devices()[0].device_kind}  mesh {dict(mesh.shape)}  "
            f"{sum(map(len, sources)):,} examples  → {folder}"
            + (f"  [bold]resuming at step {first:,}[/]" if first else "")
        )
        account = Account(read_rows(folder) if jax.process_index() == 0 else ())
        writer = MetricWriter(folder, config)
        cleanup.callback(writer.close)
        cleanup.callback(clock.close)
        profiler = Profiler(config.profile.steps, folder, clock)
        cleanup.callback(profiler.close)

        def times(step: int) -> dict[str, float]:
            found = clock.read()
            account.add({"step": step, **found})
            return {**found, "goodput": account.goodput()}

        train_step = parts.step()
        lengths = workdir_lengths(folder, config, sources, tokenizer) if tokenizer else ()
        rows, counts = mesh_lib.local_rows(config.batch_size), Counter[str]()
        batches = unfailing(
            lambda step: data.train_batches(
                sources, config, modalities, rows=rows, start_step=step, lengths=lengths,
                counts=counts,
            ),
            first,
        )  # fmt: skip
        cleanup.callback(batches.close)
        meter, flops = Meter(config.batch_size), dict[Any, int]()  # by the batch's shapes
        watchdog = Watchdog(config.log.watchdog)
        cleanup.callback(watchdog.close)

        def evaluate(names: Sequence[str]) -> dict[str, float]:
            results: dict[str, float] = {}
            if not names:
                return results
            jax.block_until_ready(state)
            with clock.spend("eval"):
                for name in names:
                    watchdog.enter(f"eval {name}", step)
                    result = evaluators[name](state.eval_params())
                    line.evaluation(name, result)
                    results |= {f"{name}/{k}": v for k, v in result.items()}
            writer.write(step, results)
            meter.reset()
            return results

        for step in range(first + 1, config.total_steps + 1):
            watchdog.enter("data", step)
            began = time.perf_counter()
            local = next(batches)
            waited = clock.waited(began)
            watchdog.enter("step", step)
            batch = mesh_lib.put_batch(local, config.batch_size)
            profiler.before(step)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, metrics = train_step(state, batch)
            clock.sent(metrics["loss"])
            profiler.after(step, metrics["loss"])
            shapes = tuple(column.shape for column in batch.values())
            flops[shapes] = flops.get(shapes) or parts.flops(batch)
            meter.step(waited, flops[shapes])

            last = step == config.total_steps
            if step == first + 1 or step % config.log.every == 0 or last:
                values = {name: float(value) for name, value in metrics.items()}  # waits for it
                values |= meter.read() | counts | times(step)
                writer.write(step, values)
                line.step(step, values)
                if values["nonfinite"] >= config.optim.max_nonfinite:
                    raise diverged(config, sources, step, int(values["nonfinite"]), folder)
                meter.reset()

            results: dict[str, float] = {}
            due = [name for name, spec in config.evals.items() if last or is_due(spec.every, step)]
            if config.checkpoint.best:  # what the evaluators say decides which checkpoints stay
                results, due = evaluate(due), []
            stop = preemption.reached(step)
            if last or stop or is_due(config.checkpoint.every, step):
                watchdog.enter("save", step)
                jax.block_until_ready(state)
                with clock.spend("save"):
                    checkpoints.save(step, state, results)
            if stop and not last:
                writer.write(step, times(step))
                raise Preempted(
                    f"asked to end, saving step {step} to {folder}; the same command goes on."
                )
            evaluate(due)
            if last:
                writer.write(step, times(step))
    return state


def fresh_state(
    parts: Parts, weights: Weights | None, mesh: jax.sharding.Mesh, line: ProgressLine
) -> TrainState:
    """The state before the first step: random, then what there is in `weights`, or the part of a
    teacher that the student starts from; says which."""
    config = parts.config
    state = init_state(
        parts.model, parts.optimizer, seed=config.seed, ema=config.optim.ema > 0, mesh=mesh,
        declared=parts.declared,
    )  # fmt: skip
    params, like = model_params(state.params), model_params(parts.state.params)
    if weights is not None:
        params, report = start.start_from(weights, config.model, params, config.init_from.parts)
        line.say(f"from {weights.source}: {report}")
    for teacher in parts.teachers:
        if config.teachers[teacher.name].start:
            params = inherit(teacher, config, like)
            line.say(f"from config.teachers.{teacher.name}: a part of every parameter")
    return with_params(state, state.params | params)


def is_due(every: int, step: int) -> bool:
    """Whether something done `every` steps (0: never on the way) is due after `step`."""
    return every > 0 and step % every == 0


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
                logging.warning("step %d: %s. Starting new ones.", step + 1, said)


def diverged(
    config: ConfigDict, sources: Sequence[data.Source], step: int, count: int, workdir: epath.Path
) -> UserError:
    """Why a run stops whose last `count` losses were not finite or jumped.

    WORKDIR/skipped_batches.json then names the records of those batches.
    """
    order = data.train_order(sources, config)
    batches = {}
    for bad in range(step - count, step):  # `state.step` at the start of the step
        size = config.batch_size * (config.data.pack or 1)
        places = [order(bad * size + number) for number in range(size)]
        batches[bad + 1] = [
            f"{sources[p.source].name}: {p.index} (epoch {p.epoch})" for p in places
        ]
    path = workdir / "skipped_batches.json"
    if jax.process_index() == 0:
        path.write_text(json.dumps(batches, indent=1) + "\n")
    what = "not finite" + (" or jumped" if config.optim.max_spike else "")
    return UserError(
        f"The loss was {what} in the {count} steps up to {step}, which changed no parameter (their "
        f"records: {path}); the checkpoints in {workdir} are intact: go on with a lower "
        "config.optim.lr or config.optim.grad_clip=1.0 in a new --workdir."
    )


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that the second launch starts at once."""
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "mmjax", "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
