"""`mmjax data convert`: any source, and TFRecord files, as tar shards or ArrayRecord files.

Written under a temporary name and renamed, so that a file with the final name is complete. Encoded
images and whole videos are copied byte by byte, parts of videos cut out (`clips.py`); members are
named by number, so that no name of the source reaches the disk.
"""

import io
import itertools
import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from mmjax.data import BadRecord, Record, open_source, sources
from mmjax.data.array_record import write_array_record
from mmjax.data.classes import classes_of
from mmjax.data.records import log, read_records
from mmjax.data.storage import expand
from mmjax.datatools.clips import Cut, Made, make_clip, make_frames
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
    cut: Cut = "exact",
    frames: int = 0,
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
        Videos are key.mp4 there, as video2dataset writes them.
      shard_size: records of a file.
      label_offset: added to labels, as -1 where classes count from 1.
      cut: how a part of a video is cut out: "exact" encodes it again where no copy has these very
        frames; "keyframes" copies from the key frame before it, which is faster and shows more.
      frames: of each video write that many as JPEG, key.0000.jpg …, in place of the video; 0: write
        the video.
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
    if frames and to != "tar":
        raise UserError(f"--frames={frames} is of tar shards: give --to=tar.")
    bad: list[str] = []
    classes: list[str] = []
    make = partial(make_frames, count=frames) if frames else partial(make_clip, cut=cut)
    records = _labelled(_records(spec, make, bad, classes), label_offset)
    shutil.rmtree(part, ignore_errors=True)  # of an earlier conversion that was interrupted
    part.mkdir(parents=True)
    write, suffix = (write_tar, "tar") if to == "tar" else (_write_array_record, "array_record")
    count = 0
    for number, shard in enumerate(_shards(records, shard_size)):
        count += write(part / f"{number:05d}.{suffix}", shard, count)
    if not count:
        shutil.rmtree(part)
        raise UserError(f"{spec['path']}: no record can be used ({'; '.join(bad[:3])}).")
    if label_offset:
        classes = []  # their numbers are others now
    if classes:  # nothing else would say which number is which class
        (part / CLASSES).write_text("".join(f"{one}\n" for one in classes), encoding="utf-8")
    part.rename(folder)
    return Converted(count, len(bad), len(classes))


def _shards(records: Iterator[Record], size: int) -> Iterator[Iterator[Record]]:
    """The records in parts of `size`, each to be used up before the next: none are held."""
    for first in records:
        yield chain([first], islice(records, size - 1))


def write_tar(path: Path, records: Iterable[Record], first: int) -> int:
    """A tar shard as img2dataset and video2dataset write it, of records that `_made` has made; keys
    count from `first`. Returns how many there are."""
    count = 0
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for count, record in enumerate(records, start=1):
            _, made = _shown(record)
            about: dict[str, Any] = {"captions": list(record.captions), "source": record.key}
            about |= made.about
            about |= {"label": record.label} if record.label >= 0 else {}
            about |= {"group": record.group} if record.group >= 0 else {}
            if "boxes" in record.parts:
                about["boxes"] = record.parts["boxes"].to_json()
            members = [*made.files, ("json", json.dumps(about).encode())]
            if record.captions:
                # A caption is one line there, whatever line breaks it had; JSON keeps them.
                members.append(("txt", " ".join(record.captions[0].split("\n")).encode()))
            for name, content in members:
                info = tarfile.TarInfo(f"{first + count - 1:09d}.{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return count


def _write_array_record(path: Path, records: Iterable[Record], first: int) -> int:
    """An ArrayRecord file of records that `_made` has made; how many there are."""
    del first  # their keys are those of the source
    count = itertools.count()

    def encoded() -> Iterator[Record]:
        for record in records:
            if "boxes" in record.parts:
                raise UserError(
                    f"{record.key} has regions, which ArrayRecord files do not hold: give --to=tar."
                )
            media, made = _shown(record)
            yield replace(record, parts={**record.parts, media: made.files[0][1]})
            next(count)

    write_array_record(path, encoded())
    return next(count)


def _made(record: Record, make: Callable[[Any], Made]) -> Record:
    """The record with the files that are to be written in place of what it shows; `make` makes
    those of a video. Raises BadRecord."""
    if "video" in record.parts:
        try:
            parts = {"video": make(record.parts["video"])}
        except BadRecord as error:
            raise BadRecord(f"{record.key} {error}") from error
    elif "image" in record.parts:
        image = _encoded(record.parts["image"])
        parts = {"image": Made([(_suffix(image), image)], {})}
    else:
        raise BadRecord(f"{record.key} is without an image or a video")
    return replace(record, parts={**record.parts, **parts})


def _shown(record: Record) -> tuple[str, Made]:
    """Which field `_made` has made, and its files."""
    return next((field, part) for field, part in record.parts.items() if isinstance(part, Made))


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


def _records(
    spec: Mapping[str, Any], make: Callable[[Any], Made], bad: list[str], classes: list[str]
) -> Iterator[Record]:
    """Those that can be read, as `_made` makes them; why the others cannot goes to `bad` and the
    log, what the source calls its classes to `classes`."""
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
        try:
            if isinstance(record, BadRecord):
                raise record
            made = _made(record, make)
        except BadRecord as error:
            bad.append(str(error))
            log.warning("%s; left out", error)
            continue
        yield made


def _labelled(records: Iterable[Record], offset: int) -> Iterator[Record]:
    for record in records:
        yield replace(record, label=record.label + offset) if record.label >= 0 else record


def _encoded(image: bytes | np.ndarray) -> bytes:
    if not isinstance(image, np.ndarray):
        return image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()
