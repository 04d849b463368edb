"""`mmjax train | plan | eval | …`: thin doors to the modules.

Heavy imports happen inside the commands, so that `--help` and a wrong flag answer at once.
"""

import argparse
import logging
import os
import shlex
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

from mmjax import machine, options, paths, shipped
from mmjax.config_file import load_config
from mmjax.datatools import command as data_command
from mmjax.errors import Preempted, UserError


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; a UserError is printed as its sentence, exit status 2.

    A run that was asked to end and has saved leaves with `Preempted.status`.
    """
    machine.prepare()
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = options.parser()
    # What was found in the data, and what of it is not read, is said at the start.
    logging.getLogger("mmjax.data").setLevel(logging.INFO)
    try:
        args, rest = parser.parse_known_args(argv)
        for name, value in vars(args).items():
            setattr(args, name, paths.typed_values(value))
        args.command = shlex.join(["mmjax", *argv])
        _DOORS[args.door](args, _overrides(args, rest, argv))
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


def _overrides(args: argparse.Namespace, rest: list[str], argv: list[str]) -> list[str]:
    """The --config.KEY=VALUE among the arguments that the parser left.

    --KEY=VALUE of a command that has --set is one of these. UserError: there is another argument,
    or one is given twice.
    """
    overrides = [arg for arg in rest if arg.startswith("--config.")]
    unknown = [arg for arg in rest if arg not in overrides]
    if hasattr(args, "set"):  # of eval and data
        keys = [arg for arg in unknown if arg.startswith("--") and "=" in arg]
        unknown = [arg for arg in unknown if arg not in keys]
        for arg in keys:
            key, _, value = arg.removeprefix("--").partition("=")
            args.set.append(f"{key.replace('-', '_')}={value}")
    configured = hasattr(args, "config")
    if unset := [arg for arg in overrides if "=" not in arg]:
        raise UserError(f"{unset[0]}: write {unset[0]}=VALUE.")
    if unknown or (overrides and not configured):
        wrong = (unknown or overrides)[0]
        is_key = configured and wrong.startswith("--") and "=" in wrong
        raise UserError(
            f"unrecognized argument {wrong}"
            + (f"; a key of the config is set by --config.{wrong[2:]}" if is_key else "")
            + ": mmjax --help and mmjax COMMAND --help list what there is."
        )
    given = Counter(arg.partition("=")[0] for arg in argv if arg.startswith("--"))
    given += Counter(f"--set {key.partition('=')[0]}" for key in getattr(args, "set", ()))
    for name, times in given.items():
        several = isinstance(getattr(args, name[2:], None), list)  # it may be repeated
        if times > 1 and not several:
            raise UserError(
                f"{name} is given {times} times: give it once, in quotes if the shell would expand "
                "its braces or wildcards."
            )
    return overrides


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


def _join(args: argparse.Namespace) -> None:
    given = (args.coordinator, args.processes, args.process)
    if args.distributed:
        from mmjax.parallel import distributed

        distributed.initialize(*given)
    elif any(value is not None for value in given):
        raise UserError("--coordinator, --processes and --process need --distributed.")


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
    _join(args)
    from mmjax.training import loop

    loop.train(config, args.workdir, command=args.command, adjust=args.adjust)


def _doctor(args: argparse.Namespace, _: list[str]) -> None:
    _join(args)
    from mmjax import doctor

    if not doctor.run(args.workdir, args.json):
        sys.exit(1)


def _plan(args: argparse.Namespace, overrides: list[str]) -> None:
    files = [args.config] + ([args.compare] if args.compare else [])
    configs = {file: load_config(file, overrides) for file in files}
    from mmjax.planning import command

    fits = command.run(
        configs, args.topology, sweep=args.sweep, json_file=args.json,
        print_shardings=args.print_shardings,
    )  # fmt: skip
    if not fits:
        sys.exit(1)


def _embed(args: argparse.Namespace, overrides: list[str]) -> None:
    config = load_config(args.config, overrides)
    if args.distributed:
        from mmjax.parallel import distributed

        distributed.initialize()
    from mmjax import config_check
    from mmjax.parallel import mesh
    from mmjax.teachers import command

    config_check.validate(config)
    config_check.validate_on_mesh(config, dict(mesh.make_mesh(**config.mesh).shape))
    command.embed(config, args.output)


def _eval(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax import evaluation
    from mmjax.evaluation import report

    if args.distributed:
        from mmjax.parallel import distributed

        distributed.initialize()
    keys = {}
    for option in args.set:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--set {option}: write KEY=VALUE.")
        keys[key] = value
    if args.allow_skips:
        keys["allow_skips"] = "true"
    results = evaluation.evaluate(
        args.workdir, weights=args.weights, task=args.task, data=args.data, output=args.output,
        tokenizer=args.tokenizer, **keys,
    )  # fmt: skip
    import jax

    if jax.process_index() == 0:
        import rich

        rich.print(report.table(results))
        for file in args.output:
            print(f"wrote {file}")


def _export(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax import pretrained

    pretrained.export(args.workdir, args.output, args.format)
    print(f"wrote {args.output}")


def _convert(args: argparse.Namespace, _: list[str]) -> None:
    from mmjax import pretrained

    pretrained.convert(args.source, args.target, args.format, tokenizer=args.tokenizer)
    print(f"wrote {args.target}")


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
    try:
        from mmjax.reporting import page
    except ImportError as error:
        raise UserError("mmjax report needs its libraries: pip install 'mmjax[report]'.") from error
    print(f"wrote {page.run(args.workdir, args.output)}")


_DOORS = {
    "train": _train,
    "doctor": _doctor,
    "plan": _plan,
    "embed": _embed,
    "eval": _eval,
    "export": _export,
    "convert": _convert,
    "data": data_command.run,
    "models": _models,
    "launch": _launch,
    "report": _report,
}


if __name__ == "__main__":
    main()
