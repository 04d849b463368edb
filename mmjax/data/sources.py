"""Opens data by its path: tar shards, a CSV, a folder of images, TFDS, ArrayRecord, text lines.

`open_source` takes one entry of `data.train` or of `evals`; what is wrong with the data and can be
known without reading all of it is a `UserError` here.
"""

import glob
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.data.array_record import open_array_record, open_tfds
from mmjax.data.files import open_folder, open_karpathy, open_table
from mmjax.data.generated import open_generated
from mmjax.data.lines import LineSource
from mmjax.data.records import IMAGE_SUFFIXES, Source
from mmjax.data.tar import open_tar
from mmjax.data.tar_index import Fields
from mmjax.errors import UserError

FORMATS = ("tar", "csv", "karpathy", "folder", "tfds", "arrayrecord", "text", "generated")


def open_source(spec: Mapping[str, Any], name: str = "") -> Source:
    """Opens one source of records.

    Args:
      spec: a ConfigDict or dict with
        path: a folder, file, glob or brace range (`cc3m/{00000..00331}.tar`), or
          `tfds://name[/config][?data_dir=…&split=…]`, or `generated:COUNT`.
        format: one of FORMATS, or "auto" (default): found from the path.
        caption: where captions come from. Tar: "txt" (default) and "json:FIELD", comma-separated;
          csv (or tsv): columns; TFDS and ArrayRecord: features; folder: always the .txt beside;
          text: files of one text a line, without images.
        image: column or feature of the image ("" finds it); karpathy: the folder of the images.
        label, group: JSON field, column or feature holding an integer ("" for none).
        split: of a TFDS dataset, "train" by default; karpathy: "test".
      name: what messages call it; the last part of the path by default.

    Raises:
      UserError: there is nothing there, or it cannot be read.
    """
    path = str(spec.get("path") or "")
    name = name or Path(path).name
    if not path:
        raise UserError(f"{name or 'data'}: no path is given; set path to a folder or file.")
    kind = spec.get("format") or "auto"
    if kind not in ("auto", *FORMATS):
        raise UserError(f"{name}: no format {kind!r}; use auto, {', '.join(FORMATS)}.")
    label, group = spec.get("label") or "", spec.get("group") or ""
    caption, image = spec.get("caption") or "", spec.get("image") or ""
    if path.startswith("generated:"):
        return open_generated(path, name)
    if path.startswith("tfds://") or (kind == "tfds" and not Path(path).exists()):
        split = spec.get("split") or ""
        return open_tfds(path.removeprefix("tfds://"), split, caption, image, label, group, name)
    files = _files(path, name)
    kind = _format(files, path, name) if kind == "auto" else kind
    if kind == "tar":
        fields = Fields(_tar_captions(caption, name), label, group)
        return open_tar(_inside(files, "*.tar", name), fields, name)
    if kind == "tfds":
        split = spec.get("split") or ""
        return open_tfds(path, split, caption, image, label, group, name)
    if kind == "arrayrecord":
        return open_array_record(_inside(files, "*.array_record*", name), caption, name)
    if kind == "karpathy":
        return open_karpathy(files[0], image, spec.get("split") or "", name)
    if kind == "text":
        return LineSource(files, name)
    if kind == "csv":
        return open_table(files, caption, image, label, group, name)
    return open_folder(files[0], name)


def open_sources(specs: Mapping[str, Mapping[str, Any]]) -> list[Source]:
    """The named sources of `data.train`, sorted by name: the order that `train_batches` expects."""
    return [open_source(specs[name], name) for name in sorted(specs)]


def _files(path: str, name: str) -> list[Path]:
    """The files (or the one folder) that a path, glob or brace range names."""
    if "://" in path:
        raise UserError(f"{name}: {path} is not on this machine; mount it or copy it first.")
    if Path(path).exists():
        return [Path(path)]
    if not any(c in path for c in "*?[{"):
        raise UserError(f"{name}: the path {path} does not exist.")
    files: list[Path] = []
    for pattern in _expand(path):
        matches = sorted(glob.glob(pattern)) if any(c in pattern for c in "*?[") else [pattern]
        if not matches or not Path(matches[0]).exists():
            raise UserError(f"{name}: nothing at {pattern} (from the path {path}).")
        files += [Path(match) for match in matches]
    return files


def _expand(pattern: str) -> list[str]:
    """Braces as in a shell: {000..127} and {a,b}."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if not match:
        return [pattern]
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", match[1])
    if bounds:
        low, high = bounds.groups()
        width = len(low) if low.startswith("0") else 0
        choices = [f"{number:0{width}d}" for number in range(int(low), int(high) + 1)]
    else:
        choices = match[1].split(",")
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return list(itertools.chain(*(_expand(head + choice + tail) for choice in choices)))


def _format(files: list[Path], path: str, name: str) -> str:
    first = files[0]
    if first.is_dir():
        if any(first.glob("*.tar")):
            return "tar"
        if (first / "dataset_info.json").exists():
            return "tfds"
        if any(first.glob("*.array_record*")):
            return "arrayrecord"
        if any(p.suffix.lower() in IMAGE_SUFFIXES for p in first.rglob("*")):
            return "folder"
        raise UserError(
            f"{name}: the folder {path} holds no *.tar, no *.array_record, no prepared TFDS "
            "dataset and no images."
        )
    if first.suffix == ".tar":
        return "tar"
    if first.suffix in (".csv", ".tsv"):
        return "csv"
    if first.suffix == ".json":
        return "karpathy"
    if ".array_record" in first.name:
        return "arrayrecord"
    if first.suffix == ".txt":
        return "text"
    raise UserError(f"{name}: cannot tell the format of {path}; set format to one of {FORMATS}.")


def _inside(files: list[Path], pattern: str, name: str) -> list[str]:
    if not files[0].is_dir():
        return [str(file) for file in files]
    found = sorted(str(file) for file in files[0].glob(pattern))
    if not found:
        raise UserError(f"{name}: the folder {files[0]} holds no {pattern}.")
    return found


def _tar_captions(caption: str, name: str) -> tuple[str, ...]:
    fields = tuple(field.strip() for field in (caption or "txt").split(","))
    for field in fields:
        if field != "txt" and not field.startswith("json:"):
            raise UserError(
                f'{name}: caption={field!r} of tar shards must be "txt" or "json:FIELD".'
            )
    return fields
