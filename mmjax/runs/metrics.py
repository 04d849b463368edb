"""Where the numbers of a run go: metrics.jsonl always, TensorBoard, W&B, and a line for the eye."""

import dataclasses
import importlib.util
import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import jax
from etils import epath
from ml_collections import ConfigDict
from rich.console import Console
from rich.markup import escape

from mmjax.errors import UserError
from mmjax.parallel.hardware import peak_flops
from mmjax.runs.goodput import Clock
from mmjax.runs.observers import Observer
from mmjax.values import COUNT, POSITIVE_OR_0


@dataclasses.dataclass(frozen=True)
class Log:
    """The keys of `config.log`.

    Attributes:
      every: Steps between log lines.
      watchdog: Seconds without progress after which the log names host, step and phase; 0: never.
      gradient_norms: Log the gradient's norm of each objective, too: a backward pass each.
      tensorboard: Write TensorBoard events into the workdir.
      wandb: Weights & Biases project to log to; '': none. Its run is told by WANDB_ENTITY,
        WANDB_NAME, WANDB_TAGS and WANDB_RUN_GROUP.
    """

    every: Annotated[int, COUNT] = 50
    watchdog: Annotated[float, POSITIVE_OR_0] = 600.0
    gradient_norms: bool = False
    tensorboard: bool = True
    wandb: str = ""


def check_sinks(log: ConfigDict) -> None:
    """UserError: `config.log` asks for a library that is not installed."""
    if log.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"config.log.wandb={log.wandb!r} needs the library of W&B: pip install wandb, or set "
            "config.log.wandb=''."
        )


class MetricWriter(Observer):
    """Writes scalars of a step to every sink that the config asks for; on the first host only."""

    def __init__(self, workdir: epath.Path, log: ConfigDict, config: ConfigDict):
        """`log` has the keys of `Log`; `config` is the run's, which W&B shows."""
        self._file = self._board = self._wandb = None
        if jax.process_index() != 0:
            return
        path = workdir / "metrics.jsonl"
        torn = path.exists() and not path.read_text().endswith("\n")
        self._file = path.open("a")
        if torn:  # a killed process left half a line, which must not swallow the next one
            self._file.write("\n")
        if log.tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(workdir / "tensorboard"))
        if log.wandb:
            import wandb

            try:
                self._wandb = wandb.init(
                    project=log.wandb, dir=str(workdir), id=_run_id(workdir), resume="allow",
                    config=json.loads(config.to_json_best_effort()),
                )  # fmt: skip
            except wandb.Error as error:  # no login, no network, no such project
                raise UserError(
                    f"config.log.wandb={log.wandb!r}: W&B cannot start ({error}): run `wandb "
                    "login`, or set WANDB_MODE=offline to keep its files in the workdir."
                ) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Records `values` at `step`; a line of metrics.jsonl is complete once this returns."""
        if self._file:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(dict(values), step=step)

    def close(self) -> None:
        for sink, end in ((self._file, "close"), (self._board, "close"), (self._wandb, "finish")):
            if sink:
                getattr(sink, end)()


def _run_id(workdir: epath.Path) -> str:
    """One W&B run a workdir, also after a restart."""
    path = workdir / "wandb_id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex)
    return path.read_text()


class Meter(Observer):
    """Throughput between two log lines: time, and the part of it spent waiting for data.

    Of a batch, `flops` gives the model FLOPs over all devices, `trained` how many of its examples
    are trained on; `clock` says how long its data was waited for.
    """

    def __init__(
        self, flops: Callable[[Any], int], trained: Callable[[Any], int], clock: Clock
    ) -> None:
        self._clock = clock
        self.count_by(flops, trained)
        self.reset()

    def count_by(self, flops: Callable[[Any], int], trained: Callable[[Any], int]) -> None:
        """Takes other counts of a batch: the run does something else from here on."""
        self._flops_of, self._trained_of = flops, trained
        self._known: dict[Any, int] = {}  # by the batch's shapes

    def leave(self, phase: str, step: int, result: Any) -> None:
        if phase == "step":
            _, batch = result
            shapes = tuple(column.shape for column in batch.values())
            self._known[shapes] = self._known.get(shapes) or self._flops_of(batch)
            self.step(self._clock.idle, self._trained_of(batch), self._known[shapes])
            self._loaded += shapes[0][0]
        elif phase.startswith("eval"):
            self.reset()

    def reset(self) -> None:
        """Starts a new interval: after a log line, and after what should not be counted."""
        self._start, self._wait = time.perf_counter(), 0.0
        self._examples, self._loaded, self._flops = 0, 0, 0.0

    def step(self, data_wait: float, examples: int, flops: float) -> None:
        """Counts one step: seconds that the devices waited for its batch, its examples, and its
        model FLOPs over all devices."""
        self._wait += data_wait
        self._examples += examples
        self._flops += flops

    def read(self, step: int) -> dict[str, float]:
        """The interval's speed; call it after the device has finished the interval's last step."""
        if not self._examples:
            return {}
        seconds = time.perf_counter() - self._start
        devices = jax.device_count()
        flops = self._flops / seconds / devices
        speed = {
            "examples_per_second": self._examples / seconds,
            "examples_per_second_per_device": self._examples / seconds / devices,
            "tflops_per_second_per_device": flops / 1e12,
            "data_wait_share": self._wait / seconds,
        }
        if self._loaded > self._examples:
            speed["loaded_examples_per_second"] = self._loaded / seconds
        peak = peak_flops(jax.devices()[0].device_kind)
        if peak:
            speed["mfu"] = flops / peak
        memory = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in memory:
            speed["memory_gib"] = memory["peak_bytes_in_use"] / 2**30
        self.reset()
        return speed


class ProgressLine(Observer):
    """One line a log interval: what a person watching the run wants to know."""

    def __init__(self, total_steps: int):
        self._total = total_steps
        self._console = Console(highlight=False, soft_wrap=True)
        self._started: tuple[float, int] | None = None

    def say(self, text: str) -> None:
        if jax.process_index() == 0:
            self._console.print(text)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Prints the metrics of a step; of evaluations see `evaluation`."""
        if "loss" not in values:
            return
        now = time.perf_counter()
        self._started = self._started or (now, step)
        parts = [f"[bold]step {step:>{len(f'{self._total:,}')},}/{self._total:,}[/]"]
        losses = {k.removeprefix("loss/"): v for k, v in values.items() if k.startswith("loss/")}
        parts.append(f"[cyan]loss {values['loss']:.4f}[/]")
        if len(losses) > 1:
            parts[-1] += " (" + ", ".join(f"{k} {v:.4f}" for k, v in losses.items()) + ")"
        if "logit_scale" in values:
            parts.append(f"scale {values['logit_scale']:.2f}")
        parts += [f"grad {values['grad_norm']:.3f}", f"lr {values['lr']:.2e}"]
        if "examples_per_second" in values:
            parts.append(f"{values['examples_per_second']:,.0f} ex/s")
            parts.append(f"data wait {values['data_wait_share']:.0%}")
        if "mfu" in values:
            parts.append(f"MFU {values['mfu']:.1%}")
        if "memory_gib" in values:
            parts.append(f"{values['memory_gib']:.2f} GiB")
        if values.get("nonfinite"):
            parts.append(f"[red]{values['nonfinite']:.0f} non-finite[/]")
        begun, first = self._started
        if step > first:
            left = (now - begun) / (step - first) * (self._total - step)
            parts.append(f"[dim]{_clock(left)} left[/]")
        self.say("  ".join(parts))

    def evaluation(self, name: str, values: Mapping[str, float]) -> None:
        """Prints an evaluator's result."""
        shown = "  ".join(f"{key} {value:.4g}" for key, value in values.items())
        self.say(f"[green]eval {escape(name)}[/]  {escape(shown)}")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
