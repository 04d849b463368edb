"""Checkpoints: written asynchronously by Orbax, the newest readable one wins.

A checkpoint has three items: `params`, `ema` (where one is kept) and `rest` (step, optimizer,
counter), so that evaluation and export read what they need. There is no iterator state: the batch
of a step is a function of (seed, step).
"""

import itertools
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from mmjax.errors import UserError
from mmjax.training.state import TrainState

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of one run, in WORKDIR/checkpoints/STEP."""

    def __init__(self, workdir: epath.Path, config: ConfigDict):
        self._folder = workdir / FOLDER
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=config.keep, create=True, enable_async_checkpointing=True
            ),
        )

    def save(self, step: int, state: TrainState) -> None:
        """Starts writing; the arrays are copied before it returns, so the state may be donated."""
        items = {"params": state.params, "rest": _rest(state)}
        if state.ema is not None:
            items["ema"] = state.ema
        args = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        self._manager.save(step, args=ocp.args.Composite(**args))

    def restore_newest(self, abstract: TrainState) -> TrainState | None:
        """The newest checkpoint that can be read, laid out as `abstract`; None if there is none.

        A checkpoint that cannot be read is moved aside to WORKDIR/checkpoints/unreadable, never
        deleted. UserError: there are checkpoints, and none can be read.
        """
        items = {"params": abstract.params, "rest": _rest(abstract)}
        if abstract.ema is not None:
            items["ema"] = abstract.ema
        args = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
        unreadable = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._manager.restore(step, args=ocp.args.Composite(**args))
            except Exception as error:  # Orbax raises many kinds for damaged files
                logging.warning("checkpoint %d cannot be read: %s", step, error)
                unreadable.append((step, error))
                continue
            self._set_aside(step for step, _ in unreadable)
            return TrainState(params=found.params, ema=found.get("ema"), **found.rest)
        if unreadable:
            step, why = unreadable[0]
            raise UserError(
                f"None of the checkpoints in {self._folder} can be read (the newest, {step}: "
                f"{str(why).splitlines()[0]}); restore them from a copy, or start in another "
                "--workdir."
            )
        return None

    def close(self) -> None:
        """Waits for the last write."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _set_aside(self, steps) -> None:
        aside = self._folder / "unreadable"
        for step in steps:
            if jax.process_index() == 0:
                aside.mkdir(parents=True, exist_ok=True)
                numbered = (f"{step}-{again}" for again in itertools.count(2))
                names = itertools.chain([str(step)], numbered)
                free = next(name for name in names if not (aside / name).exists())
                (self._folder / str(step)).rename(aside / free)
        self._manager.reload()


def _rest(state: TrainState) -> dict[str, Any]:
    return {
        "step": state.step,
        "opt_state": state.opt_state,
        "nonfinite": state.nonfinite,
    }


def checkpoint_steps(workdir: epath.Path) -> list[int]:
    """The steps of a run's checkpoints, oldest first."""
    folder = workdir / FOLDER
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def restore_params(
    workdir: epath.Path, abstract: Any, *, ema: bool, step: int | None = None
) -> Any:
    """The parameters of a run's checkpoint (of `step`; None is the newest), laid out as `abstract`.

    UserError: there is no checkpoint in the workdir, or it cannot be read.
    """
    folder, steps = workdir / FOLDER, checkpoint_steps(workdir)
    if not steps:
        raise UserError(f"There is no checkpoint in {folder}: train first, or name another one.")
    step = steps[-1] if step is None else step
    path = folder / str(step) / ("ema" if ema else "params")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path, abstract)
    except Exception as error:
        raise UserError(
            f"The checkpoint {path} cannot be read ({str(error).splitlines()[0]}); move the folder "
            f"{folder / str(step)} away to use the one before it."
        ) from error
