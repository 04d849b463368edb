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
from typing import Any, NoReturn

import mmjax
from mmjax import machine, paths, shipped
from mmjax.config_file import load_config
from mmjax.datatools import command as data_command
from mmjax.errors import Preempted, UserError
from mmjax.values import COUNT, NATURAL, argument

_TRAIN_EXAMPLE = """\
examples:
  mmjax train --config=pairs:smoke --workdir=/tmp/smoke
  mmjax train --config=pairs --config.data.train.pairs.path=captions.csv --workdir=runs/a
  mmjax train --config=my/config.py --workdir=runs/b

pairs is a recipe (mmjax.list_recipes(), configs/ in the repository); NAME:smoke runs a few steps of
it on generated data. Any key is set by --config.KEY=VALUE (mmjax train --keys lists them all, with
their ranges; with --config=NAME, its values). A tuple
is written a,b or (a,b) or ["a","b"], and a alone is a tuple of one; true and false are written so.
Run the same command again to resume from the newest checkpoint in the workdir.
"""
_PLAN_EXAMPLE = """\
examples:
  mmjax plan --config=clip_vit_b16 --topology=v5e:16x16
  mmjax plan --config=clip_vit_b16 --topology=h100:4x8 --sweep=mesh=32x1x1,4x8x1
  mmjax plan --config=clip_vit_b16 --compare=siglip_b16 --topology=v5e:8x8

No accelerator is needed: libtpu (pip install 'mmjax[tpu]') or the CUDA wheels (pip install
'mmjax[gpu]') bring the compiler. Any key is set by --config.KEY=VALUE. The exit status is 1 when
something does not fit.
"""
_DOCTOR_EXAMPLE = """\
examples:
  mmjax doctor --workdir=runs/a
  srun mmjax doctor --distributed --workdir=/shared/runs/a --json=doctor.json

The exit status is 1 when something looks wrong. Put the report into a bug report.
"""
_EMBED_EXAMPLE = """\
example:
  mmjax embed --config=mobileclip_reinforced --output=runs/embeddings
  mmjax train --config=mobileclip_reinforced --workdir=runs/student \\
      --config.teachers.teacher.cached=runs/embeddings/teacher

Every teacher of the config (config.teachers.NAME.source) sees config.data.copies augmented copies
of each training example. Training with the same seed, augmentation and number of copies reads them.
Any key is set by --config.KEY=VALUE. Run the same command again after an interruption.
"""
_EVAL_EXAMPLE = """\
examples:
  mmjax eval --workdir=runs/demo
  mmjax eval --workdir=runs/demo --task=retrieval --data=my/captions.csv
  mmjax eval --weights=openai/clip-vit-base-patch32 --task=imagenet --data=tfds://imagenet2012
  mmjax eval --workdir=runs/demo/checkpoints/500 --task=classification --data=photos \\
      --classes=names.txt --batch_size=64
  mmjax eval --workdir=runs/demo --task=suite --data=suite.yaml --output=robustness.md
"""
_EXPORT_EXAMPLE = """\
example:
  mmjax export --workdir=runs/demo --format=huggingface --output=runs/demo/huggingface
  python -c "from transformers import CLIPModel; CLIPModel.from_pretrained('runs/demo/huggingface')"
"""
_MODELS_EXAMPLE = """\
examples:
  mmjax models
  mmjax models ViT-B/16
"""
_LAUNCH_EXAMPLE = """\
example:
  mmjax launch --copy launch
  launch/slurm/submit.sh --help
"""
_REPORT_EXAMPLE = """\
example:
  mmjax report --workdir=runs/demo
"""


_CONVERT_EXAMPLE = """\
examples:
  mmjax convert openai/clip-vit-base-patch32 clip-b32 --format=open_clip
  mmjax convert runs/demo demo-openai --format=openai
"""
_FORMATS = "huggingface, open_clip, openai or big_vision"
_TOKENIZER = "folder or hub name of the tokenizer, where the weights come without one"


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; a UserError is printed as its sentence, exit status 2.

    A run that was asked to end and has saved leaves with `Preempted.status`.
    """
    machine.prepare()
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    # What was found in the data, and what of it is not read, is said at the start.
    logging.getLogger("mmjax.data").setLevel(logging.INFO)
    try:
        args, rest = parser.parse_known_args(argv)
        for name, value in vars(args).items():
            setattr(args, name, paths.typed_values(value))
        args.command = shlex.join(["mmjax", *argv])
        args.run(args, _overrides(args, rest, argv))
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
    configured = args.run in (_train, _plan, _embed)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mmjax", description="Pretrain, evaluate and export multimodal models in JAX."
    )
    parser.add_argument("--version", action="version", version=f"mmjax {mmjax.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, help: str, epilog: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=help, description=help, epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        sub.set_defaults(run=run)
        return sub

    train = command("train", _train, "Train from a config; resumes automatically.", _TRAIN_EXAMPLE)
    train.add_argument(
        "--config",
        metavar="NAME[:ARG]",
        help="a recipe of mmjax, or a Python file with get_config(arg)",
    )
    train.add_argument("--workdir", metavar="DIR", help="checkpoints, metrics, tokenizer go here")
    _add_joining(train)
    train.add_argument(
        "--adjust", action="store_true",
        help="resume with other values of total_steps, optim.lr and the like than the run had",
    )  # fmt: skip
    train.add_argument(
        "--keys",
        action="store_true",
        help="list every config key (with --config: its values) and stop",
    )

    doctor = command(
        "doctor", _doctor, "Measure this machine or job: devices, network, storage, clocks.",
        _DOCTOR_EXAMPLE,
    )  # fmt: skip
    doctor.add_argument(
        "--workdir", metavar="DIR", help="folder whose storage is tested (default: none)"
    )
    doctor.add_argument("--json", metavar="FILE", help="write the report there, too")
    _add_joining(doctor)

    plan = command(
        "plan", _plan, "Compile a config for hardware that is not there: will it fit, how fast?",
        _PLAN_EXAMPLE,
    )  # fmt: skip
    plan.add_argument("--config", metavar="NAME[:ARG]", required=True, help="as for train")
    plan.add_argument(
        "--topology", metavar="NAME", required=True,
        help="v5e:16x16, v5p:4x4x8, v6e:8x8, 4*v5e:16x16 (slices), h100:32x8 (hosts × GPUs)",
    )  # fmt: skip
    plan.add_argument("--compare", metavar="NAME[:ARG]", help="another config, side by side")
    plan.add_argument(
        "--sweep",
        metavar="KEY=A,B,…",
        help="a plan for each; mesh=32x8x1 is the whole mesh, model.*.remat=… both towers",
    )
    plan.add_argument("--print-shardings", action="store_true", help="how each parameter lies")
    plan.add_argument("--json", metavar="FILE", help="write the numbers there, too")

    embed = command(
        "embed", _embed, "Precompute teacher embeddings of the training data.",
        _EMBED_EXAMPLE,
    )  # fmt: skip
    embed.add_argument("--config", metavar="NAME[:ARG]", required=True, help="as for train")
    embed.add_argument("--output", metavar="DIR", required=True, help="a folder for each teacher")
    embed.add_argument(
        "--distributed", action="store_true", help="one process of several: join the others first"
    )

    evaluate = command("eval", _eval, "Evaluate a run, or other libraries' weights.", _EVAL_EXAMPLE)
    evaluate.add_argument(
        "--workdir", metavar="DIR", help="of a run (its newest checkpoint), or DIR/checkpoints/STEP"
    )
    evaluate.add_argument(
        "--weights",
        metavar="PATH",
        help="weights in any format that mmjax convert reads, or a hub name",
    )
    evaluate.add_argument("--tokenizer", metavar="PATH", help=_TOKENIZER)
    evaluate.add_argument(
        "--task",
        help="what to measure (see mmjax train --keys); default: the evals of the run",
    )
    evaluate.add_argument("--data", metavar="PATH", help="what to evaluate on, with --task")
    evaluate.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[],
        help="a key of the evaluator, e.g. --set classes=names.txt (mmjax train --keys: evals.*)",
    )  # fmt: skip
    evaluate.add_argument(
        "--allow-skips", action="store_true", help="leave out images that cannot be read"
    )
    evaluate.add_argument(
        "--output", metavar="FILE", action="append", default=[],
        help="write the results there, too: .json, .csv or .md (may be repeated)",
    )  # fmt: skip
    evaluate.add_argument("--distributed", action="store_true", help="as for train")

    export = command("export", _export, "Write the weights for other libraries.", _EXPORT_EXAMPLE)
    export.add_argument(
        "--workdir", metavar="DIR", required=True,
        help="of the run (its newest checkpoint), or DIR/checkpoints/STEP",
    )  # fmt: skip
    export.add_argument("--format", metavar="NAME", default="huggingface", help=_FORMATS)
    export.add_argument("--output", metavar="DIR", required=True, help="the folder to write")

    convert = command(
        "convert", _convert, "Write weights of any format in another.", _CONVERT_EXAMPLE
    )
    convert.add_argument("source", metavar="SRC", help="folder, file, workdir or hub name")
    convert.add_argument("target", metavar="DST", help="the folder to write")
    convert.add_argument("--format", metavar="NAME", required=True, help=_FORMATS)
    convert.add_argument("--tokenizer", metavar="PATH", help=_TOKENIZER)

    data = command("data", data_command.run, "Look at data, clean it, convert it.",
                   data_command.EXAMPLES)  # fmt: skip
    data_command.add_arguments(data)

    zoo = command("models", _models, "List the named architectures, or show one.", _MODELS_EXAMPLE)
    zoo.add_argument("name", nargs="?", help="one of them, as a tree of parameters")

    launch = command(
        "launch", _launch, "Scripts that start a run on TPU VMs, GKE, SLURM or several processes.",
        _LAUNCH_EXAMPLE,
    )  # fmt: skip
    what = launch.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="print their names")
    what.add_argument("--copy", metavar="DIR", help="write them into a new folder")

    report = command("report", _report, "A run as one HTML page.", _REPORT_EXAMPLE)
    report.add_argument("--workdir", metavar="DIR", required=True, help="of the run")
    report.add_argument("--output", metavar="FILE", help="default: report.html in the workdir")
    return parser


def _add_joining(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--distributed", action="store_true",
        help="one process of several (TPU pod, SLURM, Kubernetes, Open MPI): join the others first",
    )  # fmt: skip
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, if "
                        "the cluster does not provide it")  # fmt: skip
    parser.add_argument(
        "--processes", type=argument(int, COUNT), metavar="N", help="number of processes"
    )
    parser.add_argument(
        "--process", type=argument(int, NATURAL), metavar="I", help="index of this process, from 0"
    )


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


if __name__ == "__main__":
    main()
