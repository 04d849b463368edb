"""`mmjax train | plan | eval | …`: thin doors to the modules.

Heavy imports happen inside the commands, so that `--help` and a wrong flag answer at once.
"""

import argparse
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from mmjax import machine, options, paths, shipped, terminal
from mmjax.config_file import load_config
from mmjax.errors import Preempted, UserError


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; a UserError is printed as its sentence, exit status 2.

    A run that was asked to end and has saved leaves with `Preempted.status`.
    """
    machine.prepare()
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args, rest = options.parse(argv)
        for name, value in vars(args).items():
            setattr(args, name, paths.typed_values(value))
        args.command = shlex.join(["mmjax", *argv])
        overrides = options.overrides(args, rest, argv)
        with terminal.sentences() as args.log:
            _DOORS[args.door](args, overrides)
        sys.stdout.flush()  # a closed pipe is found here, and not when Python ends
    except Preempted as error:
        print(f"mmjax: {error}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        print("mmjax: interrupted", file=sys.stderr)
        _quit(Preempted.INTERRUPTED)
    except UserError as error:
        print(f"mmjax: {error}", file=sys.stderr)
        _leave(2)
    except BrokenPipeError:  # whoever read what we print has enough, as head does
        os._exit(1)
    except Exception as error:
        if lacking := machine.problem(error):
            print(f"mmjax: {lacking}.", file=sys.stderr)
            _leave(2)
        traceback.print_exc()
        _leave(1)


def _leave(status: int) -> NoReturn:
    """Ends a failed process, at once where there are others: JAX's way out would wait for them."""
    if (jax := sys.modules.get("jax")) and jax.distributed.is_initialized():
        _quit(status)
    sys.exit(status)


def _quit(status: int) -> NoReturn:
    """Ends the process at once, and its workers, which it would wait for otherwise."""
    if (workers := sys.modules.get("multiprocessing")) is not None:
        for worker in workers.active_children():
            worker.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _join(args: argparse.Namespace) -> bool:
    """Joins the other processes, if there are any; whether this one prints for all."""
    given = (args.coordinator, args.processes, args.process)
    if not args.distributed:
        if any(value is not None for value in given):
            raise UserError("--coordinator, --processes and --process need --distributed.")
        return True
    if not machine.accelerators() or os.environ.get("JAX_PLATFORMS") == "cpu":
        terminal.keep_stdout()
    from mmjax.parallel import distributed

    job = distributed.initialize(*given)
    if job.process:
        args.log.setLevel(logging.WARNING)  # process 0 says what is the same on all
    return job.process == 0


def _wrote(*files: object) -> None:
    for file in files:
        if file:
            print(f"wrote {file}")


def _train(args: argparse.Namespace, overrides: list[str]) -> None:
    if args.keys:
        from mmjax import config as config_lib

        if args.config:
            print(config_lib.resolved(load_config(args.config, overrides)))
        else:
            print(config_lib.describe())
        return
    if not args.config or not args.workdir:
        raise UserError(
            "mmjax train needs --config=FILE and --workdir=DIR (see mmjax train --help)."
        )
    config = load_config(args.config, overrides)
    from mmjax.parallel import xla_flags

    xla_flags.apply(deterministic=config.deterministic)
    prints = _join(args)
    from mmjax.training import loop

    state = loop.train(config, args.workdir, command=args.command, adjust=args.adjust)
    if prints:
        run = shlex.quote(args.workdir)
        what = "" if config.evals else " --task=TASK --data=PATH"
        print(f"newest checkpoint: {args.workdir}/checkpoints/{int(state.step)}")
        print(f"next: mmjax eval --workdir={run}{what}")
        print(f"      mmjax report --workdir={run}")


def _doctor(args: argparse.Namespace, _: list[str]) -> None:
    prints = _join(args)
    from mmjax import checkup

    report = checkup.doctor(args.workdir, json=args.json)
    if prints:
        checkup.show(terminal.console(), report)
        _wrote(args.json)
    if report["warnings"]:
        sys.exit(1)


def _plan(args: argparse.Namespace, overrides: list[str]) -> None:
    files = [args.config] + ([args.compare] if args.compare else [])
    configs = {file: load_config(file, overrides) for file in files}
    from mmjax.planning import command

    fits = command.run(
        configs, args.topology, sweep=args.sweep, json_file=args.json,
        print_shardings=args.print_shardings,
    )  # fmt: skip
    _wrote(args.json)
    if not fits:
        sys.exit(1)


def _embed(args: argparse.Namespace, overrides: list[str]) -> None:
    config = load_config(args.config, overrides)
    prints = _join(args)
    from mmjax import embedding

    folders = embedding.embed(config, args.output)
    if prints:
        _wrote(*folders)
        of_teachers = [f"--config.teachers.{folder.name}.cached={folder}" for folder in folders]
        command = ["mmjax", "train", f"--config={args.config}", *overrides, *of_teachers]
        print(f"next: {shlex.join(command)} --workdir=DIR")


def _eval(args: argparse.Namespace, _: list[str]) -> None:
    prints = _join(args)
    from mmjax import evaluation
    from mmjax.evaluation import report

    keys = options.keys(args.set) | ({"allow_skips": "true"} if args.allow_skips else {})
    results = evaluation.evaluate(
        args.workdir, weights=args.weights, task=args.task, data=args.data, output=args.output,
        tokenizer=args.tokenizer, frames=args.frames, **keys,
    )  # fmt: skip
    if prints:
        terminal.console().print(report.table(results))
        _wrote(*args.output)


def _export(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax import loading

    loading.export(args.workdir, args.output, args.format, parts=args.parts)
    _wrote(args.output)


def _convert(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax import loading

    loading.convert(
        args.source, args.target, args.format, image_size=args.image_size,
        patch_size=args.patch_size, tokenizer=args.tokenizer,
    )  # fmt: skip
    _wrote(args.target)


def _inspect(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax.datatools import inspection

    facts = inspection.inspect(
        args.path, samples=args.samples, sheet=args.sheet, json=args.json, **options.keys(args.set)
    )
    inspection.show(terminal.console(), facts)
    _wrote(args.sheet, args.json)


def _dedup(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax import datatools

    found = datatools.dedup(
        args.path, output=args.output, against=args.against, distance=args.distance,
        workers=args.workers, **options.keys(args.set),
    )  # fmt: skip
    print(
        f"{len(found['drop']):,} of {found['records']:,} records repeat another, "
        f"{found['from_tests']:,} of them images of the test sets; {found['unreadable']:,} could "
        "not be read"
    )
    _wrote(args.output)
    print(f"next: mmjax train with --config.data.train.NAME.drop={shlex.quote(args.output)}")


def _data_convert(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax.datatools import conversion

    done = conversion.convert(
        args.path, args.output, to=args.to, shard_size=args.shard_size,
        label_offset=args.label_offset, cut=args.cut, frames=args.frames, **options.keys(args.set),
    )  # fmt: skip
    print(f"{done.records:,} records; {done.bad:,} could not be used")
    _wrote(args.output)
    if done.classes:
        names = os.path.join(args.output, conversion.CLASSES)
        print(f"the names of its {done.classes:,} classes are in {names}, by label")
    if args.to == "tar":
        print("caption=json:captions reads all captions of a record")


def _keyframes(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax.video import keyframing, opening

    frames = keyframing.keyframes(
        args.file, count=args.count, query=args.query, model=args.model, tokenizer=args.tokenizer,
        output=args.output,
    )  # fmt: skip
    keyframing.show(terminal.console(), frames, args.query)
    _wrote(os.path.join(args.output, opening.SHEET))


def _summarize(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax.video import opening, summarizing

    summary = summarizing.summarize(
        args.file, seconds=args.seconds, query=args.query, model=args.model,
        tokenizer=args.tokenizer, output=args.output,
    )  # fmt: skip
    summarizing.show(terminal.console(), summary, args.query)
    _wrote(*(os.path.join(args.output, name) for name in (summarizing.CUT, opening.SHEET)))


def _search(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax.video import searching

    hits = searching.search(
        args.folder, query=args.query, model=args.model, tokenizer=args.tokenizer, top=args.top,
        index=args.index,
    )  # fmt: skip
    searching.show(terminal.console(), hits)


def _benchmark(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax.video import benchmarking

    rows = benchmarking.benchmark(args.file, protocol=args.protocol, scores=args.scores)
    benchmarking.show(terminal.console(), rows)


def _models(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax.models import page

    page.run(args.name)


def _launch(args: argparse.Namespace, _: list[str]) -> None:
    if args.list:
        print("\n".join(shipped.launch_files()))
        return
    written = shipped.copy_launch(args.copy)
    print(f"wrote {len(written)} files into {args.copy}; start with {args.copy}/README.md")


def _report(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax.reporting import command

    _wrote(command.report(args.workdir, args.output))


def _completion(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax import completion

    print(completion.script(args.shell))


_DOORS = {
    "train": _train,
    "doctor": _doctor,
    "plan": _plan,
    "embed": _embed,
    "eval": _eval,
    "export": _export,
    "convert": _convert,
    "data inspect": _inspect,
    "data dedup": _dedup,
    "data convert": _data_convert,
    "video keyframes": _keyframes,
    "video summarize": _summarize,
    "video search": _search,
    "video benchmark": _benchmark,
    "models": _models,
    "launch": _launch,
    "report": _report,
    "completion": _completion,
}


if __name__ == "__main__":
    main()
