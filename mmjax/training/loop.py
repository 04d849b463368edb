"""A run from its config to its last checkpoint; read it from top to bottom."""

import contextlib
import os
import time

import jax
import optax
from etils import epath
from ml_collections import ConfigDict

from mmjax import config_check, data, evaluation, models, objectives
from mmjax.data import vocabulary
from mmjax.errors import UserError
from mmjax.interop import pretrained, start
from mmjax.interop.formats import Weights
from mmjax.models import Multimodal
from mmjax.models.flops import forward_flops
from mmjax.parallel import mesh as mesh_lib
from mmjax.training import optim
from mmjax.training.checkpoint import Checkpoints, checkpoint_steps
from mmjax.training.metrics import Meter, MetricWriter, ProgressLine
from mmjax.training.state import TrainState, abstract_state, init_state, with_params
from mmjax.training.step import make_train_step
from mmjax.training.workdir import open_workdir, workdir_path, workdir_tokenizer


def train(config: ConfigDict, workdir: str, *, command: str = "") -> TrainState:
    """Trains until `config.total_steps`, going on from the newest checkpoint in `workdir`.

    A fresh run starts from random parameters, or from those of `config.init_from`. `command` is
    what the user typed, for the model card.

    Everything that can be known to be wrong is raised as UserError before the first step.
    """
    config_check.validate(config)
    use_compilation_cache()
    folder = workdir_path(workdir)
    mesh = mesh_lib.make_mesh(**config.mesh)
    config_check.validate_on_mesh(config, dict(mesh.shape))

    with jax.set_mesh(mesh), contextlib.ExitStack() as cleanup:
        # Model, loss and optimizer, as shapes.
        model = models.from_config(config.model)
        config_check.validate_on_platform(config, mesh_lib.platform())
        goals = objectives.build(config.objectives, config.model)
        config_check.validate_outputs(goals, model.outputs())
        shapes = jax.eval_shape(lambda key: models.init(model, key), jax.random.key(0))
        rate_tree = optim.rates(config.optim, shapes)
        optimizer = optim.optimizer(config.optim, rate_tree)

        # Weights to start from: matched with the model by name and shape, not read yet.
        weights = None
        if config.init_from.source and not checkpoint_steps(folder):
            weights = pretrained.find(config.init_from.source)
            start.plan(weights, config.model, config.init_from.parts)

        # Data and evaluators.
        sources = data.open_sources(config.data.train)
        open_workdir(folder, config, command)
        of_weights = weights.tokenizer if weights else None
        tokenizer = workdir_tokenizer(folder, config, sources, of_weights)
        config_check.validate_vocabulary(config, tokenizer.vocab_size)
        words = vocabulary.of_tokenizer(tokenizer, config.model.text.vocab_size)
        goals = objectives.build(config.objectives, config.model, words)
        evaluators = {
            name: evaluation.build(name, spec, config=config, model=model, tokenizer=tokenizer)
            for name, spec in sorted(config.evals.items())
        }

        # State: the newest checkpoint, or a fresh start.
        checkpoints = Checkpoints(folder, config.checkpoint)
        cleanup.callback(checkpoints.close)
        ema = config.optim.ema > 0
        abstract = abstract_state(model, optimizer, ema=ema, mesh=mesh)
        line = ProgressLine(config.total_steps)
        state = checkpoints.restore_newest(abstract) or fresh_state(
            model, optimizer, weights, config=config, mesh=mesh, line=line
        )
        first = int(state.step)

        parameters = sum(x.size for x in jax.tree.leaves(shapes))
        line.say(
            f"[bold]{config.model.name}[/]  {parameters:,} parameters  "
            f"{jax.device_count()} × {jax.devices()[0].device_kind}  mesh {dict(mesh.shape)}  "
            f"{sum(map(len, sources)):,} examples  → {folder}"
            + (f"  [bold]resuming at step {first:,}[/]" if first else "")
        )
        writer = MetricWriter(folder, config)
        cleanup.callback(writer.close)
        train_step = jax.jit(
            make_train_step(model, goals, optimizer, rate_tree, config), donate_argnums=0
        )
        batches = data.train_batches(
            sources, config, tokenizer, rows=mesh_lib.local_rows(config.batch_size),
            start_step=first,
        )  # fmt: skip
        cleanup.callback(batches.close)
        meter = Meter(config.batch_size)

        def evaluate(due) -> None:
            for name, evaluator in evaluators.items():
                if due(config.evals[name].every):
                    result = evaluator(state.eval_params())
                    writer.write(step, {f"{name}/{k}": v for k, v in result.items()})
                    line.evaluation(name, result)

        for step in range(first + 1, config.total_steps + 1):
            waited = time.perf_counter()
            local = next(batches)
            waited = time.perf_counter() - waited
            batch = mesh_lib.put_batch(local, config.batch_size)
            state, metrics = train_step(state, batch)
            forward = forward_flops(config.model, batch["text"].shape[1])
            meter.step(waited, 3 * forward * config.batch_size)

            last = step == config.total_steps
            if step == first + 1 or step % config.log.every == 0 or last:
                values = {name: float(value) for name, value in metrics.items()}  # waits for it
                values |= meter.read()
                writer.write(step, values)
                line.step(step, values)
                stop_if_diverged(config, values["nonfinite"], step, folder)
                meter.reset()
            if step % config.checkpoint.every == 0 or last:
                checkpoints.save(step, state)
            if not last and any(is_due(spec.every, step) for spec in config.evals.values()):
                jax.block_until_ready(state)
                evaluate(lambda every, step=step: is_due(every, step))
                meter.reset()

        step = config.total_steps
        if first < config.total_steps:
            evaluate(lambda every: True)
    return state


def fresh_state(
    model: Multimodal,
    optimizer: optax.GradientTransformation,
    weights: Weights | None,
    *,
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    line: ProgressLine,
) -> TrainState:
    """The state before the first step: random, then what there is in `weights`; says which."""
    ema = config.optim.ema > 0
    state = init_state(model, optimizer, seed=config.seed, ema=ema, mesh=mesh)
    if weights is None:
        return state
    parts = config.init_from.parts
    params, report = start.start_from(weights, config.model, state.params, parts)
    line.say(f"from {weights.source}: {report}")
    return with_params(state, params)


def is_due(every: int, step: int) -> bool:
    """Whether something done `every` steps (0: never on the way) is due after `step`."""
    return every > 0 and step % every == 0


def stop_if_diverged(config: ConfigDict, nonfinite: float, step: int, workdir: epath.Path) -> None:
    """Stops a run whose loss has not been finite for too long; its parameters are untouched."""
    if nonfinite >= config.optim.max_nonfinite:
        raise UserError(
            f"The loss was not finite in the {nonfinite:.0f} steps up to {step}, which changed no "
            f"parameter; the checkpoints in {workdir} are intact: go on with a lower "
            "config.optim.lr or config.optim.grad_clip=1.0 in a new --workdir."
        )


def use_compilation_cache() -> None:
    """Keeps compiled programs on disk, so that the second launch starts at once."""
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        cache = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "mmjax", "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
