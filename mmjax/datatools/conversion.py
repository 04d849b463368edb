"""`mmjax data convert`: any source, and TFRecord files, as tar shards or ArrayRecord files.

Written under a temporary name and renamed, so that a file with the final name is complete. Encoded
images are copied byte by byte; members are named by number, so that no name of the source reaches
the disk.
"""

import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from mmjax.data import BadRecord, Record, open_source, sources
from mmjax.data.array_record import write_array_record
from mmjax.data.classes import classes_of
from mmjax.data.records import log, read_records
from mmjax.data.storage import expand
from mmjax.datatools.opening import spec_of, track
from mmjax.datatools.tfrecord import read_tfrecords
from mmjax.errors import UserError
from mmjax.schema import entry

_SUFFIXES = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"), (b"GIF8", "gif"))
TOGETHER = 64
CLASSES = "classes.txt"  # a name a line, in order of label


class Converted(NamedTuple):
    """How many records were written, how many could not be used, and how many classes have a name
    in `classes.txt`."""

    records: int
    bad: int
    classes: int


def convert(
    path: str | Path,
    output: str | Path,
    *,
    to: Literal["tar", "arrayrecord"],
    shard_size: int = 10_000,
    label_offset: int = 0,
    **keys: Any,
) -> Converted:
    """Writes the records of a source into a new folder, as tar shards or ArrayRecord files.

    >>> import tempfile
    >>> from mmjax import datatools
    >>> folder = tempfile.mkdtemp() + "/pairs"
    >>> datatools.convert("generated:10", folder, to="arrayrecord", shard_size=5).records
    10

    Args:
      path: the data, as `config.data.train.NAME.path`; or TFRecord files.
      output: the folder to write; it must not exist.
      to: "tar" (key.jpg, key.txt with the first caption, key.json with all) or "arrayrecord".
      shard_size: records of a file.
      label_offset: added to labels, as -1 where classes count from 1.
      **keys: other keys of `config.data.train.NAME`: caption="json:tags"; of TFRecord files
        caption, image and label name features of their examples.

    Raises:
      UserError: the source cannot be opened, the folder exists, or no record can be used.
    """
    spec = spec_of(path, keys)
    folder = Path(output)
    part = folder.with_name(f"{folder.name}.part")
    if folder.exists():
        raise UserError(f"{output} exists; name a folder that does not.")
    if shard_size < 1:
        raise UserError(f"--shard-size={shard_size}: 1 at least.")
    bad: list[str] = []
    classes: list[str] = []
    records = _labelled(_records(spec, bad, classes), label_offset)
    shutil.rmtree(part, ignore_errors=True)  # of an earlier conversion that was interrupted
    part.mkdir(parents=True)
    count = 0
    for number, shard in enumerate(iter(lambda: list(islice(records, shard_size)), [])):
        if to == "tar":
            write_tar(part / f"{number:05d}.tar", shard, count)
        else:
            write_array_record(part / f"{number:05d}.array_record", map(_encoded, shard))
        count += len(shard)
    if not count:
        shutil.rmtree(part)
        raise UserError(f"{spec['path']}: no record can be used ({'; '.join(bad[:3])}).")
    if label_offset:
        classes = []  # their numbers are others now
    if classes:  # nothing else would say which number is which class
        (part / CLASSES).write_text("".join(f"{one}\n" for one in classes), encoding="utf-8")
    part.rename(folder)
    return Converted(count, len(bad), len(classes))


def write_tar(path: Path, records: Iterable[Record], first: int) -> None:
    """A tar shard as img2dataset writes it; keys count from `first`."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, record in enumerate(map(_encoded, records), start=first):
            image = record.parts["image"]
            suffix = _suffix(image)
            about: dict[str, Any] = {"captions": list(record.captions), "source": record.key}
            about |= {"label": record.label} if record.label >= 0 else {}
            about |= {"group": record.group} if record.group >= 0 else {}
            members = {suffix: image, "json": json.dumps(about).encode()}
            if record.captions:
                # A caption is one line there, whatever line breaks it had; JSON keeps them.
                members["txt"] = " ".join(record.captions[0].split("\n")).encode()
            for name, content in members.items():
                info = tarfile.TarInfo(f"{key:09d}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def _suffix(image: bytes) -> str:
    """What a file of an image is called: as other programs, too, tell what is in it."""
    known = next((suffix for start, suffix in _SUFFIXES if image.startswith(start)), "")
    if known:
        return known
    try:
        kind = Image.open(io.BytesIO(image)).format
    except Exception:  # it is bad, and stays so
        return "png"
    suffixes = sorted(s[1:] for s, of in Image.registered_extensions().items() if of == kind)
    usual = str(kind).lower()
    return usual if usual in suffixes else (suffixes or ["png"])[0]


def _records(spec: Mapping[str, Any], bad: list[str], classes: list[str]) -> Iterator[Record]:
    """Those that can be read; why the others cannot goes to `bad` and the log, what the source
    calls its classes to `classes`."""
    path = str(spec["path"])
    name = path.rpartition("/")[2]
    if (".tfrecord" in name or re.search(r"-of-\d+$", name)) and not Path(path).is_dir():
        files = expand(path, "TFRecord")
        whole = entry(sources.KEYS, spec)
        features = (whole.image, whole.caption, whole.label)
        found: Iterable[Record | BadRecord] = read_tfrecords(files, *features)
    else:
        source = open_source(spec)
        classes += classes_of(source)
        starts = range(0, len(source), TOGETHER)
        found = (
            record
            for start in track(starts, f"converting {source.name}")
            for record in read_records(source, range(len(source))[start : start + TOGETHER])
        )
    for record in found:
        if not isinstance(record, BadRecord) and "image" not in record.parts:
            record = BadRecord(f"{record.key} is without image")
        if isinstance(record, BadRecord):
            bad.append(str(record))
            log.warning("%s; left out", record)
        else:
            yield record


def _labelled(records: Iterable[Record], offset: int) -> Iterator[Record]:
    for record in records:
        yield replace(record, label=record.label + offset) if record.label >= 0 else record


def _encoded(record: Record) -> Record:
    image = record.parts["image"]
    if not isinstance(image, np.ndarray):
        return record
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return replace(record, parts={**record.parts, "image": buffer.getvalue()})
