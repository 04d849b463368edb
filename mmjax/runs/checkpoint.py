"""Checkpoints: written asynchronously by Orbax, the newest sound one wins.

A checkpoint has the items `params`, `ema` (where one is kept), `rest` (step, optimizer, counters)
and `sums` (a checksum of every array), so that evaluation and export read what they need and a bit
that flipped on the disk is noticed. What was written is read back before it counts as a checkpoint
(`readback.py`); until then no older one goes. There is no iterator state: the batch of a step is a
function of (seed, step). Teachers are not in it: they are read from their source again.
"""

import contextlib
import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as managers

from mmjax import machine
from mmjax.core.state import HEADS, TrainState, model_params
from mmjax.errors import UserError
from mmjax.runs import readback
from mmjax.values import COUNT, COUNT_OR_0

log = logging.getLogger("mmjax.runs")
FOLDER = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The keys of `config.checkpoint`.

    Attributes:
      every: Steps between checkpoints; 0: at the end only, where there always is one.
      keep: Newest checkpoints kept.
      keep_every: Those of multiples of this many steps are kept, too; 0: none.
      best: NAME/METRIC of an evaluation whose best checkpoint is kept, too.
      best_is: Which value of that metric is best.
    """

    every: Annotated[int, COUNT_OR_0] = 1_000
    keep: Annotated[int, COUNT] = 3
    keep_every: Annotated[int, COUNT_OR_0] = 0
    best: str = ""
    best_is: Literal["largest", "smallest"] = "largest"


class Checkpoints:
    """The checkpoints of one run, in WORKDIR/checkpoints/STEP; `config` is config.checkpoint."""

    def __init__(self, workdir: epath.Path, config: ConfigDict):
        self._folder = workdir / FOLDER
        self._best = config.best
        kept: list[Any] = [managers.LatestN(max(1, config.keep))]  # the newest, whatever it says
        if config.keep_every:
            kept.append(managers.EveryNSteps(config.keep_every, exact_interval=True))
        if config.best:
            best = managers.BestN(
                get_metric_fn=self._metric, reverse=config.best_is == "smallest", n=1,
                keep_checkpoints_without_metrics=False,
            )  # fmt: skip
            kept.append(best)
        # Called on the first host when all is written: what raises there is not committed, and the
        # older ones stay.
        check = ocp.options.AsyncOptions(post_finalization_callback=self._read_back)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(kept), create=True,
            best_fn=self._metric if config.best else None, async_options=check,
        )  # fmt: skip
        self._writing: tuple[int, Any, Any] | None = None  # step, shapes of the items, checksums
        self._unreadable = ""
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def _metric(self, found: Mapping[str, float]) -> float:
        return found[self._best]

    def save(self, step: int, state: TrainState, results: Mapping[str, float]) -> None:
        """Starts writing; the arrays are copied before it returns, so the state may be donated.

        `results` are those of the evaluators after this step. UserError: the checkpoint before this
        one could not be written, or config.checkpoint.best is none of them; this one is written.
        """
        items = _items(state)
        shapes, sums = jax.eval_shape(lambda: items), checksums(items)
        items["sums"] = sums
        args = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        metrics = {self._best: results[self._best]} if self._best in results else None
        with self._failures_named():
            self._manager.wait_until_finished()
            self._writing = step, shapes, sums
            self._manager.save(step, args=ocp.args.Composite(**args), metrics=metrics)
        evaluation = self._best.partition("/")[0] + "/"
        measured = [name for name in results if name.startswith(evaluation)]
        if self._best and measured and self._best not in results:  # said once nothing is lost
            raise UserError(
                f"config.checkpoint.best={self._best!r}: choose one of {', '.join(measured)}."
            )

    def check(self) -> None:
        """UserError: the last write failed, or what it wrote cannot be read. Cheap: for every step.

        Orbax would say so at the next save only.
        """
        if self._unreadable or (self._writing and not self._manager.is_saving_in_progress()):
            with self._failures_named():
                self._manager.wait_until_finished()
            self._writing = None

    def _read_back(self) -> None:
        assert self._writing is not None
        step, shapes, sums = self._writing
        written = (p for p in self._folder.iterdir() if p.name.partition(".")[0] == str(step))
        try:
            self._unreadable = readback.problem(next(written), shapes, sums)
        except Exception as error:  # Orbax raises many kinds
            self._unreadable = _first_line(error)
        if self._unreadable:
            raise OSError(self._unreadable)

    def restore_newest(self, abstract: Callable[[int], TrainState]) -> TrainState | None:
        """The newest sound checkpoint, laid out as `abstract` of its step; None if there is none.

        All hosts take the same one. A checkpoint that one of them cannot read, or in which an
        array is not what was saved, is moved aside to WORKDIR/checkpoints/unreadable, never
        deleted. UserError: there are checkpoints, and none is sound.
        """
        damaged: list[tuple[int, str]] = []
        for step in _first_hosts(sorted(self._manager.all_steps(), reverse=True)):
            found, problem = self._read(step, abstract(step))
            if found is not None:
                self._set_aside([step for step, _ in damaged])
                return _state(found)
            log.warning("checkpoint %d is damaged: %s", step, problem)
            damaged.append((step, problem))
        if damaged:
            step, problem = damaged[0]
            raise UserError(
                f"None of the checkpoints in {self._folder} can be read (the newest, {step}: "
                f"{problem}); restore them from a copy, or start in another --workdir."
            )
        return None

    def close(self) -> None:
        """Waits for the last write; UserError: it failed."""
        with self._failures_named():
            self._manager.wait_until_finished()
        self._manager.close()

    def _read(self, step: int, abstract: TrainState) -> tuple[dict[str, Any] | None, str]:
        """The items of a checkpoint that is sound on every host, or None and what is wrong."""
        found, problem = None, ""
        try:
            found = _restore(self._folder / str(step), _items(abstract), _items(abstract))
        except Exception as error:  # Orbax raises many kinds for damaged files
            problem = _first_line(error)
        if not _everywhere(found is not None):
            return None, problem or "another host cannot read it"
        assert found is not None
        problem = _changed(found)
        return (None, problem) if problem else (found, "")

    def _set_aside(self, steps: Sequence[int]) -> None:
        aside = self._folder / "unreadable"
        for step in steps if jax.process_index() == 0 else ():
            aside.mkdir(parents=True, exist_ok=True)
            numbered = (f"{step}-{again}" for again in itertools.count(2))
            names = itertools.chain([str(step)], numbered)
            free = next(name for name in names if not (aside / name).exists())
            (self._folder / str(step)).rename(aside / free)
        if steps:
            multihost_utils.sync_global_devices("damaged checkpoints are aside")
            self._manager.reload()

    @contextlib.contextmanager
    def _failures_named(self) -> Iterator[None]:
        """Orbax reports a failed write at the next call, as whatever the writing thread raised."""
        cause: Exception | None = None
        if not self._unreadable:  # else the other hosts still wait for this one, which saw it
            try:
                yield
                return
            except Exception as error:
                cause = error
        step = self._writing[0] if self._writing else 0
        before = [found for found in checkpoint_steps(self._folder.parent) if found != step]
        rest = "there is none before it."
        if before:
            rest = f"that of step {before[-1]} is intact, the same command goes on from it."
        if self._unreadable:
            raise UserError(
                f"The checkpoint of step {step} in {self._folder} cannot be read back "
                f"({self._unreadable}) and was not kept, is the disk sound? {rest.capitalize()}"
            ) from cause
        assert cause is not None
        reason = machine.problem(cause) or f"{_first_line(cause)}; is there space left?"
        raise UserError(
            f"A checkpoint could not be written to {self._folder} ({reason}); {rest}"
        ) from cause


def _items(state: TrainState) -> dict[str, Any]:
    """`params` and `ema` are the model's alone; what objectives declare is in `rest`, if any."""
    counters = ("step", "opt_state", "nonfinite", "skipped", "loss_mean")
    rest = {name: getattr(state, name) for name in counters}
    items = {"params": model_params(state.params), "rest": rest}
    if state.memory:
        rest["memory"] = state.memory
    if HEADS in state.params:
        rest["heads"] = state.params[HEADS]
    ema = state.ema or {}
    if average := model_params(ema):
        items["ema"] = average
    if HEADS in ema:
        rest["ema_heads"] = ema[HEADS]
    return items


def _state(found: dict[str, Any]) -> TrainState:
    """The state that `_items` took apart, still without its teachers."""
    rest = dict(found["rest"])
    heads, ema_heads = ({HEADS: rest.pop(n)} if n in rest else {} for n in ("heads", "ema_heads"))
    ema = found.get("ema", {}) | ema_heads
    return TrainState(params=found["params"] | heads, ema=ema or None, **rest)


def _restore(folder: epath.Path, items: Mapping[str, Any], saved: Iterable[str]) -> dict[str, Any]:
    """Reads this host's shards of `items`, and the checksums of all that were `saved`.

    No host waits for another one, which may have failed to read its own.
    """
    alone = ocp.options.MultiprocessingOptions(
        primary_host=None, active_processes={jax.process_index()}
    )
    args: dict[str, Any] = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    args["sums"] = ocp.args.PyTreeRestore(
        item=dict.fromkeys(saved, 0), restore_args=dict.fromkeys(saved, as_numpy)
    )
    handler = ocp.CompositeCheckpointHandler()
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        return dict(reader.restore(folder, args=ocp.args.Composite(**args)).items())


def _changed(found: dict[str, Any]) -> str:
    """Takes the checksums out, and says which array is not what was saved; "" if all are."""
    expected = found.pop("sums")
    for name, sums in checksums(found).items():
        different = np.flatnonzero(np.asarray(sums) != expected[name])
        if different.size:
            path, _ = jax.tree.leaves_with_path(found[name])[different[0]]
            where = jax.tree_util.keystr(path, simple=True, separator="/")
            return f"{name}/{where} is not what was saved"
    return ""


@jax.jit
def checksums(items: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The checksum of every array of each item, uint32 [arrays]."""
    return {
        name: jnp.stack([checksum(leaf) for leaf in jax.tree.leaves(tree)])
        for name, tree in items.items()
    }


def checksum(x: jax.Array) -> jax.Array:
    """A uint32 that any one flipped bit changes, the same however `x` is laid out.

    Σ bits·(2i + 1) modulo 2³² over the elements i in order: sums of integers are exact in any
    order, and an odd factor keeps every bit and tells elements apart.
    """
    bits = x.view(f"uint{8 * x.dtype.itemsize}")
    index = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        index = index * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum(bits.astype(jnp.uint32) * (2 * index + 1), dtype=jnp.uint32)


def _first_hosts(steps: Sequence[int]) -> list[int]:
    """The list of the first host: a network folder may show it to others later."""
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(steps))))
    mine = np.zeros(count, np.int32)
    mine[: len(steps)] = steps[:count]
    return multihost_utils.broadcast_one_to_all(mine).tolist() if count else []


def _everywhere(sound: bool) -> bool:
    """Whether it is so on all hosts."""
    return bool(np.all(multihost_utils.process_allgather(np.array(sound))))


def checkpoint_steps(workdir: epath.Path) -> list[int]:
    """The steps of a run's checkpoints, oldest first."""
    folder = workdir / FOLDER
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def restore_params(
    workdir: epath.Path, abstract: Any, *, ema: bool, step: int | None = None
) -> Any:
    """The parameters of a run's checkpoint (of `step`; None is the newest), laid out as `abstract`.

    UserError: there is no checkpoint in the workdir or none of `step`, or it cannot be read.
    """
    folder, steps = workdir / FOLDER, checkpoint_steps(workdir)
    if not steps:
        raise UserError(f"There is no checkpoint in {folder}: train first, or name another one.")
    step = steps[-1] if step is None else step
    if step not in steps:
        raise UserError(
            f"There is no checkpoint of step {step:,} in {folder}: choose one of "
            f"{', '.join(map(str, steps))}."
        )
    path, item = folder / str(step), "ema" if ema else "params"
    try:
        found = _restore(path, {item: abstract}, ("params", "rest", "ema")[: 3 if ema else 2])
        problem = _changed(found)
    except Exception as error:
        problem = _first_line(error)
    if problem:
        raise UserError(
            f"The checkpoint {path} cannot be read ({problem}); move the folder away to use the "
            "one before it."
        )
    return found[item]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
