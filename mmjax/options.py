"""The options of the command line: what each command takes, with its help and examples.

Nothing heavy is imported, so that `--help` and a wrong flag answer at once.
"""

import argparse

import mmjax
from mmjax.datatools import command as data_command
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


def parser() -> argparse.ArgumentParser:
    """The parser of `mmjax COMMAND …`; `door` of what it parses is the command's name."""
    whole = argparse.ArgumentParser(
        prog="mmjax", description="Pretrain, evaluate and export multimodal models in JAX."
    )
    whole.add_argument("--version", action="version", version=f"mmjax {mmjax.__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help: str, epilog: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=help, description=help, epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        sub.set_defaults(door=name)
        return sub

    train = command("train", "Train from a config; resumes automatically.", _TRAIN_EXAMPLE)
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
        "doctor", "Measure this machine or job: devices, network, storage, clocks.",
        _DOCTOR_EXAMPLE,
    )  # fmt: skip
    doctor.add_argument(
        "--workdir", metavar="DIR", help="folder whose storage is tested (default: none)"
    )
    doctor.add_argument("--json", metavar="FILE", help="write the report there, too")
    _add_joining(doctor)

    plan = command(
        "plan", "Compile a config for hardware that is not there: will it fit, how fast?",
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
        "embed", "Precompute teacher embeddings of the training data.",
        _EMBED_EXAMPLE,
    )  # fmt: skip
    embed.add_argument("--config", metavar="NAME[:ARG]", required=True, help="as for train")
    embed.add_argument("--output", metavar="DIR", required=True, help="a folder for each teacher")
    embed.add_argument(
        "--distributed", action="store_true", help="one process of several: join the others first"
    )

    evaluate = command("eval", "Evaluate a run, or other libraries' weights.", _EVAL_EXAMPLE)
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

    export = command("export", "Write the weights for other libraries.", _EXPORT_EXAMPLE)
    export.add_argument(
        "--workdir", metavar="DIR", required=True,
        help="of the run (its newest checkpoint), or DIR/checkpoints/STEP",
    )  # fmt: skip
    export.add_argument("--format", metavar="NAME", default="huggingface", help=_FORMATS)
    export.add_argument("--output", metavar="DIR", required=True, help="the folder to write")

    convert = command("convert", "Write weights of any format in another.", _CONVERT_EXAMPLE)
    convert.add_argument("source", metavar="SRC", help="folder, file, workdir or hub name")
    convert.add_argument("target", metavar="DST", help="the folder to write")
    convert.add_argument("--format", metavar="NAME", required=True, help=_FORMATS)
    convert.add_argument("--tokenizer", metavar="PATH", help=_TOKENIZER)

    data = command("data", "Look at data, clean it, convert it.",
                   data_command.EXAMPLES)  # fmt: skip
    data_command.add_arguments(data)

    zoo = command("models", "List the named architectures, or show one.", _MODELS_EXAMPLE)
    zoo.add_argument("name", nargs="?", help="one of them, as a tree of parameters")

    launch = command(
        "launch", "Scripts that start a run on TPU VMs, GKE, SLURM or several processes.",
        _LAUNCH_EXAMPLE,
    )  # fmt: skip
    what = launch.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="print their names")
    what.add_argument("--copy", metavar="DIR", help="write them into a new folder")

    report = command("report", "A run as one HTML page.", _REPORT_EXAMPLE)
    report.add_argument("--workdir", metavar="DIR", required=True, help="of the run")
    report.add_argument("--output", metavar="FILE", help="default: report.html in the workdir")
    return whole


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
