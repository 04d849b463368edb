"""The options of the command line: what each command takes, with its help and examples.

Nothing heavy is imported, so that `--help` and a wrong flag answer at once.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

import mmjax
from mmjax.errors import UserError
from mmjax.examples import EXAMPLES
from mmjax.interop import FORMAT_NAMES
from mmjax.values import ANY, COUNT, COUNT_OR_0, NATURAL, POSITIVE, Range, argument

SHELLS = ("bash", "zsh", "fish", "tcsh")

_TOKENIZER = "folder or hub name of the tokenizer, where the weights come without one"


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What a command was given, and the arguments that no option of it takes.

    An option may be written with underscores for its dashes, as keys of a config are.
    """
    whole = parser()
    known = {option for action in actions(whole) for option in action.option_strings}
    spelled = []
    for arg in argv:
        name, equals, value = arg.partition("=")
        dashed = f"--{name[2:].replace('_', '-')}"
        spelled.append(f"{dashed}{equals}{value}" if dashed in known and name[:2] == "--" else arg)
    return whole.parse_known_args(spelled)


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The options and arguments of all commands of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from actions(command)
        else:
            yield action


def overrides(args: argparse.Namespace, rest: list[str], argv: list[str]) -> list[str]:
    """The --config.KEY=VALUE among the arguments that the parser left.

    --KEY=VALUE of a command that has --set is one of these. UserError: there is another argument,
    or one is given twice.
    """
    found = [arg for arg in rest if arg.startswith("--config.")]
    unknown = [arg for arg in rest if arg not in found]
    if hasattr(args, "set"):  # of eval and data
        keys = [arg for arg in unknown if arg.startswith("--") and "=" in arg]
        unknown = [arg for arg in unknown if arg not in keys]
        for arg in keys:
            key, _, value = arg.removeprefix("--").partition("=")
            args.set.append(f"{key.replace('-', '_')}={value}")
    configured = hasattr(args, "config")
    if unset := [arg for arg in found if "=" not in arg]:
        raise UserError(f"{unset[0]}: write {unset[0]}=VALUE.")
    if unknown or (found and not configured):
        wrong = (unknown or found)[0]
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
    return found


def keys(settings: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE texts as a mapping. UserError: one is none."""
    found = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: write KEY=VALUE.")
        found[key] = value
    return found


def parser() -> argparse.ArgumentParser:
    """The parser of `mmjax COMMAND …`; `door` of what it parses is the command's name."""
    whole = argparse.ArgumentParser(
        prog="mmjax",
        description="Pretrain, evaluate and export multimodal models in JAX.",
        epilog="mmjax COMMAND --help shows examples.",
    )
    whole.add_argument("--version", action="version", version=f"mmjax {mmjax.__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return _command(commands, name, name, help)

    train = command("train", "Train from a config; resumes automatically.")
    _add_config(train, required=False)
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

    doctor = command("doctor", "Measure this machine or job: devices, network, storage, clocks.")
    doctor.add_argument(
        "--workdir", metavar="DIR", help="folder whose storage is tested (default: none)"
    )
    _add_json(doctor)
    _add_joining(doctor)

    plan = command(
        "plan", "Compile a config for hardware that is not there: will it fit, how fast?"
    )
    _add_config(plan)
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
    _add_json(plan)

    embed = command(
        "embed", "Precompute teacher embeddings of the training data.")  # fmt: skip
    _add_config(embed)
    embed.add_argument(
        "--output", metavar="DIR", required=True, help="the folder to write, one in it per teacher"
    )
    _add_joining(embed)

    evaluate = command("eval", "Evaluate a run, or other libraries' weights.")
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
        "--frames", metavar="T", type=argument(int, COUNT),
        help="frames of each video, by whose mean weights of images are evaluated on videos",
    )  # fmt: skip
    evaluate.add_argument(
        "--task",
        metavar="KIND",
        help="what to measure (see mmjax train --keys); default: the evals of the run",
    )
    evaluate.add_argument("--data", metavar="PATH", help="what to evaluate on, with --task")
    evaluate.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[],
        help="a key of the evaluator, e.g. --set classes=names.txt (mmjax train --keys: evals.*)",
    )  # fmt: skip
    evaluate.add_argument(
        "--allow-skips", action="store_true", help="leave out records that cannot be read"
    )
    evaluate.add_argument(
        "--output", metavar="FILE", action="append", default=[],
        help="the file to write the results to, too: .json, .csv or .md (may be repeated)",
    )  # fmt: skip
    _add_joining(evaluate)

    export = command("export", "Write the weights for other libraries.")
    export.add_argument(
        "--workdir", metavar="DIR", required=True,
        help="of the run (its newest checkpoint), or DIR/checkpoints/STEP",
    )  # fmt: skip
    _add_format(export, default="huggingface")
    export.add_argument("--output", metavar="DIR", required=True, help="the folder to write")
    export.add_argument(
        "--parts", metavar="NAME,NAME", type=lambda text: tuple(text.split(",")), default=(),
        help="parts of the model to write, such as image,text,logit of one that has a decoder, too",
    )  # fmt: skip

    convert = command("convert", "Write weights of any format in another.")
    convert.add_argument("source", metavar="SRC", help="folder, file, workdir or hub name")
    convert.add_argument("target", metavar="DST", help="the folder to write")
    _add_format(convert)
    convert.add_argument(
        "--image-size", type=argument(int, COUNT), metavar="PIXELS",
        help="side of the images, if another: positions are resized",
    )  # fmt: skip
    convert.add_argument(
        "--patch-size", type=argument(int, COUNT), metavar="PIXELS",
        help="side of the patches, if another: their kernel is resized as FlexiViT does",
    )  # fmt: skip
    convert.add_argument("--tokenizer", metavar="PATH", help=_TOKENIZER)

    _add_data(command("data", "Look at data, clean it, convert it."))

    _add_video(command("video", "Key frames, summaries and search."))

    zoo = command("models", "List the named architectures, or show one.")
    zoo.add_argument("name", nargs="?", help="one of them, as a tree of parameters")

    launch = command(
        "launch", "Scripts that start a run on TPU VMs, GKE, SLURM or several processes."
    )
    what = launch.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="print their names")
    what.add_argument("--copy", metavar="DIR", help="write them into a new folder")

    report = command("report", "A run as one HTML page.")
    report.add_argument("--workdir", metavar="DIR", required=True, help="of the run")
    report.add_argument(
        "--output", metavar="FILE", help="the file to write; default: report.html in the workdir"
    )

    completion = command(
        "completion", "Print a script that completes commands and options in your shell."
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell to print it for")
    return whole


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    door: str,
    help: str,
) -> argparse.ArgumentParser:
    sub = commands.add_parser(
        name, help=help, description=help, epilog=EXAMPLES[door],
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    sub.set_defaults(door=door)
    return sub


def _add_data(data: argparse.ArgumentParser) -> None:
    """The commands under `mmjax data`."""
    commands = data.add_subparsers(required=True, metavar="inspect | dedup | convert")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        sub = _command(commands, name, f"data {name}", help)
        sub.add_argument("path", metavar="PATH", help="the data, as config.data.train.NAME.path")
        sub.add_argument(
            "--set", metavar="KEY=VALUE", action="append", default=[],
            help="a key of the source, e.g. --set caption=json:tags, which --caption=json:tags "
            "does, too",
        )  # fmt: skip
        return sub

    inspect = command("inspect", "Counts, sizes, captions, and what cannot be used.")
    inspect.add_argument(
        "--samples", metavar="N", type=argument(int, COUNT_OR_0), default=2000,
        help="records to read; 0: all",
    )  # fmt: skip
    inspect.add_argument("--sheet", metavar="FILE.png", help="write a page of images there")
    _add_json(inspect)

    dedup = command("dedup", "Find near-duplicates, and images of a test set.")
    dedup.add_argument("--against", metavar="PATH", action="append", default=[],
                       help="a test set whose images are to go (repeat for several)")  # fmt: skip
    dedup.add_argument("--distance", metavar="BITS", type=argument(int, Range(0, 64)), default=4,
                       help="how many of the 64 of a perceptual hash may differ")  # fmt: skip
    dedup.add_argument(
        "--workers", metavar="N", type=argument(int, COUNT_OR_0), default=0,
        help="processes; 0: threads",
    )  # fmt: skip
    dedup.add_argument(
        "--output", metavar="FILE.json", required=True,
        help="the file to write: what to leave out, for config.data.train.NAME.drop",
    )  # fmt: skip

    convert = command("convert", "Write a source as tar shards or as ArrayRecord files.")
    convert.add_argument("output", metavar="DIR", help="the folder to write")
    convert.add_argument(
        "--to", choices=("tar", "arrayrecord"), required=True, help="what to write"
    )
    convert.add_argument(
        "--shard-size", metavar="N", type=argument(int, COUNT), default=10_000,
        help="records of a file",
    )  # fmt: skip
    convert.add_argument(
        "--label-offset", metavar="N", type=argument(int, ANY), default=0,
        help="added to labels, as -1 where classes count from 1",
    )  # fmt: skip
    convert.add_argument(
        "--cut", choices=("exact", "keyframes"), default="exact",
        help="how parts of videos are cut out: exact encodes what cannot be copied, keyframes "
        "copies from the key frame before",
    )  # fmt: skip
    convert.add_argument(
        "--frames", metavar="N", type=argument(int, COUNT_OR_0), default=0,
        help="frames of each video to write as JPEG in its place",
    )  # fmt: skip


def _add_video(video: argparse.ArgumentParser) -> None:
    """The commands under `mmjax video`."""
    names = "keyframes | summarize | search | benchmark"
    commands = video.add_subparsers(required=True, metavar=names)

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return _command(commands, name, f"video {name}", help)

    def comparing(sub: argparse.ArgumentParser, required: bool = False) -> None:
        sub.add_argument("--query", metavar="TEXT", required=required, help="what to look for")
        sub.add_argument(
            "--model", metavar="PATH", required=required,
            help="what compares frames: whatever mmjax.load takes",
        )  # fmt: skip
        sub.add_argument("--tokenizer", metavar="PATH", help=_TOKENIZER)

    keyframes = command("keyframes", "A few frames that stand for a video.")
    keyframes.add_argument("file", metavar="FILE", help="the video")
    keyframes.add_argument(
        "--count", metavar="N", type=argument(int, COUNT), default=8, help="how many frames"
    )
    comparing(keyframes)
    keyframes.add_argument(
        "--output", metavar="DIR", required=True,
        help="the folder to write: JPEGs named by time, and sheet.png",
    )  # fmt: skip

    summarize = command("summarize", "A cut of a video that stands for it.")
    summarize.add_argument("file", metavar="FILE", help="the video")
    summarize.add_argument(
        "--seconds", metavar="N", type=argument(float, POSITIVE), default=30.0,
        help="how long the summary may be",
    )  # fmt: skip
    comparing(summarize)
    summarize.add_argument(
        "--output", metavar="DIR", required=True,
        help="the folder to write: summary.mp4 and sheet.png",
    )  # fmt: skip

    search = command("search", "Where in the videos of a folder something is shown.")
    search.add_argument("folder", metavar="DIR", help="videos at any depth")
    comparing(search, required=True)
    search.add_argument(
        "--top", metavar="N", type=argument(int, COUNT), default=5, help="how many shots"
    )
    search.add_argument(
        "--index", metavar="DIR",
        help="where embeddings are kept for the next query; default: .mmjax in the folder",
    )  # fmt: skip

    benchmark = command("benchmark", "F1 and Kendall's tau on TVSum or SumMe.")
    benchmark.add_argument(
        "file", metavar="FILE", help="eccv16_dataset_tvsum_google_pool5.h5, or its like as .npz"
    )
    benchmark.add_argument(
        "--protocol", choices=("tvsum", "summe"), required=True,
        help="tvsum: the mean over people; summe: the best of them",
    )  # fmt: skip
    benchmark.add_argument(
        "--scores", metavar="FILE.npz",
        help="of each video by name, one a pick; default: facility location on its features",
    )  # fmt: skip


def _add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument(
        "--config", metavar="NAME[:ARG]", required=required,
        help="a recipe of mmjax, or a Python file with get_config(arg); --config.KEY=VALUE sets a "
        "key of it",
    )  # fmt: skip


def _add_format(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "--format", metavar="NAME", default=default, required=default is None,
        help=f"of the files to write: {', '.join(FORMAT_NAMES)}"
        + (f" (default: {default})" if default else ""),
    )  # fmt: skip


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", metavar="FILE", help="write the numbers there, too")


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
