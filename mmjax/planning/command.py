"""`mmjax plan`: one plan, a sweep of them, or two configs side by side."""

import copy
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmjax import config as config_lib
from mmjax import config_check, terminal
from mmjax.errors import UserError
from mmjax.models import parts
from mmjax.paths import check_file
from mmjax.planning.plan import Plan, make_plan
from mmjax.runs.stages import phases

GIB = 2**30


def run(
    configs: dict[str, ConfigDict],
    topology: str,
    *,
    sweep: str | None = None,
    json_file: str | None = None,
    print_shardings: bool = False,
) -> bool:
    """Plans every config (name → config) on `topology` and prints it; whether all fit.

    A run with stages has a plan for each of its phases.
    `sweep` is KEY=VALUE,VALUE,…: a plan for each value of a config key, or of the whole mesh
    (mesh=256x1x1,32x8x1: data × fsdp × tensor); in model.*.KEY the star is every part with that
    key. Of several plans the best is marked.

    Raises:
      UserError: what cannot be planned, in a sentence.
    """
    if json_file:
        check_file("--json", json_file)
    for config in configs.values():
        check(config)
    if sweep:
        if len(configs) > 1:
            raise UserError("mmjax plan takes --sweep or --compare, not both.")
        configs = variants(next(iter(configs.values())), sweep)
    configs = {f"{name}{of_phase}": config for name, whole in configs.items()
               for of_phase, config in by_phase(whole).items()}  # fmt: skip
    console = terminal.console()
    plans: dict[str, Plan] = {}
    for name, config in configs.items():
        with console.status(f"compiling {name} for {topology} (a minute or two)"):
            plans[name] = make_plan(config, topology)
    if len(plans) == 1:
        (plan,) = plans.values()
        describe(console, plan)
    else:
        console.print(comparison(plans))
    if print_shardings:
        console.print(sharding_table(next(iter(plans.values()))))
    if json_file:
        found = {name: plan.to_json() for name, plan in plans.items()}
        content = found if len(found) > 1 else next(iter(found.values()))
        Path(json_file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return all(plan.fits for plan in plans.values())


def by_phase(config: ConfigDict) -> dict[str, ConfigDict]:
    """ " from step N" → the config of that phase; of most runs "" → the config itself."""
    found = phases(config)
    if len(found) == 1:
        return {"": config}
    return {f" from step {phase.start:,}": phase.config for phase in found}


def plan(config: ConfigDict, topology: str) -> Plan:
    """Compiles the train step of a config for hardware that is not there: will it fit, how fast?

    Args:
      config: of a run; its sources may lack their paths. Of one with stages the last is compiled;
        for others give their own (`mmjax.runs.stages.phases`).
      topology: "v5e:16x16", "v5p:4x4x8", "4*v5e:16x16" (slices), "h100:32x8" (hosts × GPUs).

    Raises:
      UserError: the config is wrong, or there is no such topology or its compiler is not installed.
    """
    check(config)
    return make_plan(phases(config)[-1].config, topology)


def check(config: ConfigDict) -> None:
    """Checks a config for planning, which needs no data: sources and evaluators may still lack
    their path."""
    config = ConfigDict(copy.deepcopy(config.to_dict()))
    for source in [*config.data.train.values(), *config.evals.values()]:
        source.path = source.path or "unknown"
    config_check.validate(config)


def variants(config: ConfigDict, sweep: str) -> dict[str, ConfigDict]:
    """A config for each value of a sweep "KEY=VALUE,…"."""
    key, equals, values = sweep.partition("=")
    if not equals or not values:
        raise UserError(f"--sweep={sweep}: write KEY=VALUE,VALUE, like batch_size=16384,32768.")
    result = {}
    for value in values.split(","):
        changed = ConfigDict(copy.deepcopy(config.to_dict()))
        if key == "mesh":
            sizes = value.split("x")
            if len(sizes) != 3 or not all(size.lstrip("-").isdigit() for size in sizes):
                raise UserError(f"--sweep={sweep}: a mesh is DATAxFSDPxTENSOR, like 32x8x1.")
            axes = zip(("data", "fsdp", "tensor"), map(int, sizes), strict=True)
            changed.mesh.update(dict(axes))
        else:
            leaf = key.rpartition(".")[2]
            every = [part for part, spec in parts.sections(config.model).items() if leaf in spec]
            for path in [key.replace("*", part) for part in every] if "*" in key else [key]:
                config_lib.set_key(changed, path, value)
        check(changed)
        result[f"{key}={value}"] = changed
    return result


def describe(console: Console, plan: Plan) -> None:
    """One plan, as sentences and two tables."""
    mesh = " × ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    many = plan.loaded_examples
    chosen = f" of {many:,} that are loaded" if many > plan.batch_size else ""
    console.print(
        f"[bold]{plan.topology}[/], {plan.devices} devices, {mesh}, "
        f"batch {plan.batch_size:,}{chosen}; "
        f"compiled in {plan.compile_seconds:.0f} s. Of one device and one step:\n"
    )
    memory = Table("memory", "GiB", box=None)
    memory.columns[1].justify = "right"
    other = plan.argument_bytes - plan.parameter_bytes - plan.optimizer_bytes
    temporaries = plan.peak_bytes - plan.argument_bytes
    # Counted from the shapes; of a small program the compiler keeps some on the chip, uncounted.
    kept = min(plan.activation_bytes, temporaries)
    for name, size in (
        ("parameters", plan.parameter_bytes),
        ("optimizer, averages", plan.optimizer_bytes),
        ("batch", max(other, 0.0)),
        ("activations kept for the backward pass", kept),
        ("other temporaries", temporaries - kept),
        ("[bold]peak[/]", plan.peak_bytes),
        ("capacity", plan.capacity_bytes),
    ):
        memory.add_row(name, f"{size / GIB:,.3f}")
    console.print(memory)
    if plan.fits:
        share = plan.peak_bytes / plan.capacity_bytes
        console.print(f"\n[green bold]It fits[/], {share:.0%} of the capacity.\n")
    else:
        console.print("\n[red bold]It does not fit.[/] The largest arrays:")
        for buffer in plan.largest_buffers:
            console.print(
                f"  {buffer['bytes'] / GIB:,.2f} GiB  {buffer['shape']}  {buffer['operation']}"
            )
        console.print("Try: " + "; ".join(plan.advice) + ".\n")
    if plan.roofline is None or plan.hardware_flops is None or plan.collectives is None:
        return
    console.print(
        f"{plan.model_flops / 1e12:,.2f} TFLOP of the model, {plan.hardware_flops / 1e12:,.2f} "
        f"computed, {(plan.float32_flops or 0) / 1e12:,.2f} of them in exact float32; "
        f"{(plan.hbm_bytes or 0) / 1e9:,.1f} GB to and from memory"
    )
    if plan.collectives:
        network = Table("sent over the network", "along", "times", "MB", box=None)
        for column in network.columns[2:]:
            column.justify = "right"
        for c in plan.collectives:
            network.add_row(
                c["kind"], " ".join(c["axes"]), f"{c['count']:,}", f"{c['bytes'] / 1e6:,.1f}"
            )
        console.print(network)
    times = ", ".join(f"{name} {seconds * 1e3:,.1f}" for name, seconds in plan.roofline.items())
    console.print(
        f"\nAt published peaks (ms): {times}. Bound by [bold]{plan.bound_by}[/]: no step is faster "
        f"than {(plan.roofline_seconds or 0) * 1e3:,.1f} ms, {plan.examples_per_second or 0:,.0f} "
        f"examples/s over all devices, MFU {plan.mfu_bound or 0:.0%}."
    )
    seconds = plan.total_steps * (plan.roofline_seconds or 0)
    flops = plan.total_steps * plan.devices * plan.hardware_flops
    console.print(
        f"The whole run, {plan.total_steps:,} steps: {flops:.1e} FLOP, at least "
        f"{_long(seconds)} on these {plan.devices:,} devices ({_long(seconds * plan.devices)} of "
        "one)."
    )


def _long(seconds: float) -> str:
    """A time as people say it: minutes, hours or days."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"


def comparison(plans: dict[str, Plan]) -> Table:
    """Plans as rows, the fastest that fits in bold."""
    table = Table(
        "", "peak GiB", "fits", "temp. GiB", "TFLOP", "HBM GB", "sent MB", "bound by", "step ms",
        "examples/s", "MFU bound", box=None,
    )  # fmt: skip
    table.columns[0].no_wrap = True
    rates = {n: p.examples_per_second or 0.0 for n, p in plans.items() if p.fits}
    best = max(rates, key=lambda name: rates[name], default=None)
    for name, plan in plans.items():
        cells: list[Any] = [
            f"{plan.peak_bytes / GIB:.2f}", "yes" if plan.fits else "no",
            f"{plan.temp_bytes / GIB:.2f}",
        ]  # fmt: skip
        if plan.roofline_seconds and plan.hardware_flops:
            sent = sum(c["bytes"] for c in plan.collectives or ())
            cells += [
                f"{plan.hardware_flops / 1e12:.1f}", f"{(plan.hbm_bytes or 0) / 1e9:.1f}",
                f"{sent / 1e6:.0f}", plan.bound_by, f"{plan.roofline_seconds * 1e3:.1f}",
                f"{plan.examples_per_second:,.0f}", f"{plan.mfu_bound:.1%}",
            ]  # fmt: skip
        table.add_row(escape(name), *cells, style="bold" if name == best else None)
    return table


def sharding_table(plan: Plan) -> Table:
    table = Table("parameter", "shape", "split over")
    for path, layout in plan.shardings.items():
        shape, _, axes = layout.partition(" ")
        table.add_row(path, shape or "scalar", axes)
    return table
