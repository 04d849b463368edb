"""The command line of `mmjax data`; heavy imports happen inside the commands."""

import argparse
from typing import Any

from mmjax.errors import UserError
from mmjax.values import ANY, COUNT, COUNT_OR_0, Range, argument

EXAMPLES = """\
examples:
  mmjax data inspect cc3m --sheet=sheet.png
  mmjax data inspect 's3://bucket/laion/{00000..00099}.tar' --set filter='similarity > 0.3'
  mmjax data dedup cc3m --against=imagenet/val --output=cc3m.drop.json
  mmjax data convert cc3m cc3m_array_record --to=arrayrecord
  mmjax data convert 'imagenet/train-*-of-01024' imagenet_ar --to=arrayrecord --label_offset=-1

PATH is what config.data.train.NAME.path takes, --set KEY=VALUE sets its other keys
(mmjax train --keys: data.train.*).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands under `mmjax data`."""
    commands = parser.add_subparsers(required=True, metavar="inspect | dedup | convert")

    def command(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help, allow_abbrev=False)
        sub.add_argument("path", metavar="PATH", help="the data, as data.train.NAME.path")
        sub.add_argument(
            "--set", metavar="KEY=VALUE", action="append", default=[],
            help="a key of the source, e.g. --set caption=json:tags",
        )  # fmt: skip
        sub.set_defaults(data_run=run)
        return sub

    inspect = command("inspect", _inspect, "Counts, sizes, captions, and what cannot be used.")
    inspect.add_argument(
        "--samples", type=argument(int, COUNT_OR_0), default=2000, help="records to read; 0: all"
    )
    inspect.add_argument("--sheet", metavar="FILE.png", help="write a page of pictures there")
    inspect.add_argument("--json", metavar="FILE", help="write the numbers there, too")

    dedup = command("dedup", _dedup, "Find near-duplicates, and pictures of a test set.")
    dedup.add_argument("--against", metavar="PATH", action="append", default=[],
                       help="a test set whose pictures are to go (repeat for several)")  # fmt: skip
    dedup.add_argument("--distance", type=argument(int, Range(0, 64)), default=4,
                       help="bits of the 64 of a perceptual hash that may differ")  # fmt: skip
    dedup.add_argument(
        "--workers", type=argument(int, COUNT_OR_0), default=0, help="processes; 0: threads"
    )
    dedup.add_argument("--output", metavar="FILE.json", required=True,
                       help="what to leave out: config.data.train.NAME.drop=FILE.json")  # fmt: skip

    convert = command("convert", _convert, "Write a source as tar shards or as ArrayRecord files.")
    convert.add_argument("output", metavar="DIR", help="the folder to write")
    convert.add_argument("--to", choices=("tar", "arrayrecord"), required=True)
    convert.add_argument(
        "--shard_size", type=argument(int, COUNT), default=10_000, help="records of a file"
    )
    convert.add_argument("--label_offset", type=argument(int, ANY), default=0,
                         help="added to labels, as -1 where classes count from 1")  # fmt: skip


def run(args: argparse.Namespace, _: list[str]) -> None:
    args.data_run(args)


def read_spec(path: str, settings: list[str]) -> dict[str, Any]:
    """What `open_source` takes, of a path and KEY=VALUE texts. UserError: no such key or value."""
    from mmjax.data import sources
    from mmjax.schema import find

    spec: dict[str, Any] = {"path": path}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise UserError(f"--set {setting}: write KEY=VALUE.")
        where = f"data.train.data.{key}"
        spec[key] = find(sources.KEYS, where).parse(where, text)
    return spec


def _inspect(args: argparse.Namespace) -> None:
    from mmjax.datatools import inspect

    spec = read_spec(args.path, args.set)
    inspect.run(spec, samples=args.samples, sheet=args.sheet, json_file=args.json)


def _dedup(args: argparse.Namespace) -> None:
    from mmjax.datatools import dedup

    dedup.run(
        read_spec(args.path, args.set), args.against, args.output,
        distance=args.distance, workers=args.workers,
    )  # fmt: skip


def _convert(args: argparse.Namespace) -> None:
    from mmjax.datatools import convert

    convert.run(
        read_spec(args.path, args.set), args.output, args.to,
        shard_size=args.shard_size, label_offset=args.label_offset,
    )  # fmt: skip
