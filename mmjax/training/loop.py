"""A run from its config to its last checkpoint; read it from top to bottom."""

import contextlib
import json
import multiprocessing
import signal
from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict
from rich.markup import escape

from mmjax import config_check, data, machine
from mmjax.core.state import TrainState
from mmjax.data.buckets import buckets_of
from mmjax.errors import Preempted, UserError
from mmjax.parallel import mesh as mesh_lib
from mmjax.runs.goodput import Clock, read_rows
from mmjax.runs.local_path import shown, workdir_path
from mmjax.runs.metrics import Meter, MetricWriter, check_sinks
from mmjax.runs.observers import Observers
from mmjax.runs.preemption import Preemption
from mmjax.runs.profile import Profiler
from mmjax.runs.stages import phases
from mmjax.runs.watchdog import Watchdog
from mmjax.training.prepare import Prepared, prepare

AHEAD = 2  # steps sent to the devices beside the one they compute


def train(
    config: ConfigDict, workdir: str, *, command: str = "", adjust: bool = False
) -> TrainState:
    """Trains until `config.total_steps`, going on from the newest checkpoint in `workdir`.

    A fresh run starts from random parameters, or from those of `config.init_from`. `command` is
    what the user typed, for the model card. With `adjust` a run goes on with other values of keys
    such as total_steps and optim.lr than it had (`schema.ADJUSTABLE`), and is no longer the run
    that was started with them.

    Everything that can be known to be wrong is raised as UserError before the first step.
    Preempted: SIGTERM or Ctrl-C came; the step it came in is saved.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as Process.start asks
        raise UserError(
            "A data worker that imported your script would train, too: put the call of train() "
            'under `if __name__ == "__main__":`.'
        )
    clock = Clock()
    config_check.validate(config)
    check_sinks(config.log)
    use_compilation_cache()
    folder = workdir_path(workdir)
    mesh = mesh_lib.make_mesh(**config.mesh)
    for phase in phases(config):
        config_check.validate_on_mesh(phase.config, dict(mesh.shape))
    preemption = Preemption()
    with jax.set_mesh(mesh), preemption.watch(), contextlib.ExitStack() as cleanup:
        run = prepare(config, folder, cleanup, command, adjust)
        if jax.process_index() == 0:
            clock.resume(read_rows(folder))
        meter = Meter(run.parts.flops, run.parts.trained, clock)
        watch = Observers(
            Watchdog(config.log.watchdog),
            clock,
            Profiler(config.profile.steps, folder, clock),
            meter,
            MetricWriter(folder, config.log, config),
            run.line,
        )
        cleanup.callback(watch.close)
        before = int(run.state.step)
        state = steps(run, watch, clock, preemption, folder)
        while run.phase.stop < config.total_steps:
            run = run.go_on(state)
            meter.count_by(run.parts.flops, run.parts.trained)
            state = steps(run, watch, clock, preemption, folder)
        if int(state.step) > before:  # of a finished run it was said at the start
            run.line.say(f"finished at step {int(state.step):,}; all is in {escape(shown(folder))}")
        return state


def steps(
    run: Prepared, watch: Observers, clock: Clock, preemption: Preemption, folder: epath.Path
) -> TrainState:
    """Trains the phase step by step, and logs, evaluates and saves on the way."""
    config, state, buckets = run.parts.config, run.state, buckets_of(run.parts.config)
    first, begun = int(state.step), run.phase.start
    train_step: Any = None if first >= run.phase.stop else run.parts.compiled_step(state)
    sent = deque[jax.Array]()  # losses of steps that may not be done yet
    for step in range(first + 1, run.phase.stop + 1):
        with watch.phase("data", step):
            local = next(run.batches)
        with watch.phase("step", step) as result:
            batch = mesh_lib.put_batch(local, buckets(step - 1 - begun)[1].size)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                state, metrics = train_step(state, batch)
            sent.append(metrics["loss"])
            if len(sent) > AHEAD:  # who asks the run to end waits for what was sent
                sent.popleft().block_until_ready()
            result.append((metrics, batch))

        last = step == config.total_steps
        if step == first + 1 or step % config.log.every == 0 or last:
            values = {name: float(value) for name, value in metrics.items()}  # waits for it
            watch.log(step, values | run.counts | watch.read(step))
            most = config.optim.max_nonfinite
            if last:  # a shorter run has failed, too, if no step of it was any good
                most = min(most, step - first)
            if values["nonfinite"] >= most:
                raise diverged(run, step, int(values["nonfinite"]), folder)

        results: dict[str, float] = {}
        due = [name for name, spec in config.evals.items() if last or is_due(spec.every, step)]
        if config.checkpoint.best:  # what the evaluators say decides which checkpoints stay
            results, due = evaluate(run, watch, state, step, due), []
        run.checkpoints.check()
        stop = preemption.reached(step)
        if last or stop or is_due(config.checkpoint.every, step):
            jax.block_until_ready(state)
            with watch.phase("save", step):
                run.checkpoints.save(step, state, results)
        if stop and not last:
            watch.log(step, clock.read(step))
            by = preemption.by or signal.SIGTERM
            raise Preempted(
                f"Stopped by {by.name}; saved step {step} in {folder}. Run the same command to "
                "resume.",
                Preempted.INTERRUPTED if by == signal.SIGINT else Preempted.STATUS,
            )
        evaluate(run, watch, state, step, due)
        if last:
            watch.log(step, clock.read(step))
    return state


def evaluate(
    run: Prepared, watch: Observers, state: TrainState, step: int, names: Sequence[str]
) -> dict[str, float]:
    """ "NAME/METRIC" of the named evaluators, logged."""
    results: dict[str, float] = {}
    for name in names:
        jax.block_until_ready(state)
        with watch.phase(f"eval {name}", step):
            found = run.evaluators[name](state.eval_params())
        run.line.evaluation(name, found)
        results |= {f"{name}/{metric}": value for metric, value in found.items()}
    if results:
        watch.log(step, results)
    return results


def is_due(every: int, step: int) -> bool:
    """Whether something done `every` steps (0: never on the way) is due after `step`."""
    return every > 0 and step % every == 0


def diverged(run: Prepared, step: int, count: int, workdir: epath.Path) -> UserError:
    """Why a run stops whose last `count` losses were not finite or jumped.

    WORKDIR/skipped_batches.json then names the records of those batches, as far as they are of this
    phase.
    """
    config, phase = run.parts.config, run.phase
    order, buckets = data.train_order(run.sources, config), buckets_of(config)
    pack = config.data.pack or 1
    batches = {}
    for bad in range(max(step - count, phase.start), step):  # `state.step` at the step's start
        start, (_, size) = buckets(bad - phase.start)
        start += phase.seen
        positions = [order(start * pack + n) for n in range(size * pack)]
        batches[bad + 1] = [
            f"{run.sources[p.source].name}: {p.index} (epoch {p.epoch})" for p in positions
        ]
    path = workdir / "skipped_batches.json"
    if jax.process_index() == 0:
        path.write_text(json.dumps(batches, indent=1) + "\n")
    what = "not finite" + (" or jumped" if config.optim.max_spike else "")
    return UserError(
        f"The loss was {what} in the {count} steps up to {step}, which changed no parameter (their "
        f"records: {path}); the checkpoints in {workdir} are intact: continue with a lower "
        "config.optim.lr or config.optim.grad_clip=1.0 in a new --workdir."
    )


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that the second launch starts at once."""
    if getattr(jax.config, "jax_compilation_cache_dir", None):  # newer stubs alone know it
        return
    if folder := machine.cache_folder("xla"):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
