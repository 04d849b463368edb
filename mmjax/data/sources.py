"""Opens data by its path: what kind of data there is (`kinds.py` has those of this package).

`open_source` takes one entry of `data.train`; what is wrong with the data and can be
known without reading all of it is a `UserError` here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from ml_collections import ConfigDict

from mmjax import machine, paths
from mmjax.data import storage
from mmjax.data.account import account_of, report
from mmjax.data.classes import in_order
from mmjax.data.detect import detect, metadata_of
from mmjax.data.dropped import without
from mmjax.data.files import open_classes
from mmjax.data.filters import Filter
from mmjax.data.howto100m import SHORTEST
from mmjax.data.label_key import find_label
from mmjax.data.media import Medium
from mmjax.data.records import Source
from mmjax.data.repeats import united
from mmjax.data.splits import NoSplits, Split
from mmjax.data.tree import folders_in
from mmjax.errors import UserError
from mmjax.schema import RESUMABLE, SAME_RECORDS, checked, keys_of
from mmjax.values import COUNT, COUNT_OR_0, NAMES, NATURAL, POSITIVE, SHARE


@dataclass(frozen=True, kw_only=True)
class Records:
    """Where records are and what is read of them: keys of a source, and of an evaluator's.

    Attributes:
      path: Where the pairs are: a folder, file, glob, brace range (cc3m/{00000..00331}.tar), URL
        (gs://, s3://, https://: tar and Parquet), tfds://NAME[/CONFIG][?data_dir=…&split=…],
        generated:N, records:NAME (of mmjax.data.from_records).
      image: Column or feature of what is shown, or the folder of what a file of annotations
        names, as seen from that file; '' is the kind's usual one.
      caption: Where captions are, comma-separated: txt,json:FIELD (tar), columns, features; '' is
        the usual.
      tags: Where names of the objects in an image are: json:FIELD (tar); '' is none.
      boxes: Where regions of the image and what is said of them are: json:FIELD (tar), or a file of
        COCO's instances, as seen from path (coco, refcoco); '' is none, or the kind's usual file.
      media: What a record shows, beside its texts: an image, a video, a sound (or that of a film),
        or the region features [n, F] of an image (KEY.npy of a tar).
      label: Field, column or feature of the class number, or of the class's name (tables and
        Parquet); '' is none.
      group: Field or column of the group id; equal ids are positives; '' is none.
      split: What to read of data that is divided (TFDS, Karpathy's JSON, a column split, folders
        train/ and test/, files train-… and test-…), e.g. val or train+val; '' is train.
      filter: Records that are wanted, e.g. width >= 256 and similarity > 0.28; '' is all.
      bad_shards: Share of missing or damaged tar shards to go on without.
      drop: A file of mmjax data dedup: records to leave out.
      timeout: Seconds that a remote read may take; it is tried three times.
      bag: Captions of a record of HowTo100M: its own and those nearest to it in time, for mil_nce.
      min_seconds: Seconds that a clip of HowTo100M has at least, around its caption.
    """

    path: Annotated[str, SAME_RECORDS]
    image: Annotated[str, SAME_RECORDS] = ""
    caption: Annotated[str, NAMES] = ""
    tags: str = ""
    boxes: str = ""
    media: Medium = "image"
    label: str = ""
    group: str = ""
    split: str = ""
    filter: str = ""
    bad_shards: Annotated[float, SAME_RECORDS, SHARE] = 0.0
    drop: Annotated[str, SAME_RECORDS] = ""
    timeout: Annotated[float, RESUMABLE, POSITIVE] = 60.0
    bag: Annotated[int, COUNT] = 1
    min_seconds: Annotated[float, NATURAL] = SHORTEST


@dataclass(frozen=True, kw_only=True)
class TrainSource(Records):
    """The keys of `config.data.train.NAME`.

    Attributes:
      kind: What the records are stored as (tar, csv, jsonl, coco, karpathy, parquet, folder, tfds,
        arrayrecord, text, generated, records; with boxes refcoco, visualgenome; of videos kinetics,
        msrvtt, activitynet, didemo, webvid, howto100m; or one that was registered); auto finds it
        from the path.
      weight: Share in the mixture of sources.
      without: Parts of the model that its records have nothing for, though their media may: texts
        of images without captions, sounds of silent videos.
      caption_weights: How often to take a caption of each part of caption, e.g. (0.3, 0.7); ():
        any of them.
      block: Neighbouring records visited together, in one request where they are remote; 0: what
        the kind reads at once (one, or a row group).
    """

    kind: Annotated[str, SAME_RECORDS] = "auto"
    weight: Annotated[float, POSITIVE] = 1.0
    without: tuple[str, ...] = ()
    caption_weights: Annotated[tuple[float, ...], NATURAL] = ()
    block: Annotated[int, COUNT_OR_0] = 0


KEYS = keys_of(TrainSource)
Open = Callable[..., Source]
# Keys that any kind honours.
ALL_HAVE = frozenset({"path", "kind", "weight", "without", "block", "drop"})


class Kind(NamedTuple):
    """A way in which records are stored: how it is opened, and which keys it can honour."""

    open: Open
    remote: bool
    keys: frozenset[str]


KINDS: dict[str, Kind] = {}


def register(kind: str, *, remote: bool = False, keys: str = "") -> Callable[[Open], Open]:
    """Adds a kind of source: the decorated (spec, name) → `Source`.

    Args:
      kind: what `config.data.train.NAME.kind` calls it.
      remote: reads URLs.
      keys: those that it honours beside `ALL_HAVE`, separated by spaces; the others are refused.
        One that honours `split` is called with a third argument, the `Split`.
    """

    def add(open: Open) -> Open:
        KINDS[kind] = Kind(open, remote, frozenset(keys.split()))
        return open

    return add


def open_source(
    spec: Mapping[str, Any], name: str = "", *, unset: str = "train", labels: bool = False
) -> Source:
    """Opens one source of records, without those that it is to drop.

    Args:
      spec: some of the keys of `config.data.train.NAME`, the others at their defaults.
      name: what messages call it; the last part of the path by default.
      unset: the split that is read of data that is divided where `split` is ''.
      labels: class numbers are wanted: where the key `label` is '', `find_label` finds them.

    Raises:
      UserError: there is nothing there, it cannot be read, or its kind has no such key or value.
    """
    section = f"data.train.{name or Path(spec.get('path') or 'data').name}"
    whole = checked(KEYS, section, spec)
    whole.path = paths.typed(whole.path)
    try:
        source = _open(whole, name, unset, labels)
    except OSError as error:
        machine.raise_problem(f"{name or 'data'}: {whole.path} cannot be read", error)
        raise
    source = without(source, whole.drop) if whole.drop else source
    report(source)
    return source


def open_sources(specs: Mapping[str, Mapping[str, Any]]) -> list[Source]:
    """The named sources of `data.train`, sorted by name: the order that `train_batches` expects."""
    return [open_source(specs[name], name) for name in sorted(specs)]


def _open(spec: ConfigDict, name: str, unset: str, labels: bool) -> Source:
    name = name or Path(spec.path).name
    if not spec.path:
        raise UserError(f"{name or 'data'}: no path is given; set path to a folder or file.")
    if spec.kind not in ("auto", *KINDS):
        raise UserError(f"{name}: no kind {spec.kind!r}; use auto, {', '.join(KINDS)}.")
    _weights(spec, name)
    Filter(spec.filter, name)  # one that cannot be read is said before a path that is not there
    split = Split(spec.split, unset, name)
    if spec.kind in ("auto", *_IN_FOLDERS) and _is_divided(Path(spec.path), name, labels):
        spec.path = str(split.folder(Path(spec.path)))
    detected = detect(spec.path, KINDS, name, labels) if spec.kind == "auto" else None
    kind = detected.kind if detected else spec.kind
    able = KINDS[kind]
    _check_keys(spec, kind, able, name)
    if storage.is_url(spec.path) and not able.remote:
        raise UserError(
            f"{name}: {kind} is read from this machine only; copy {spec.path} here first."
        )
    if labels and not spec.label and "label" in able.keys:
        spec.label = find_label(kind, spec.path, name)
    if labels and kind == "folder" and folders_in(Path(spec.path)):  # texts are not asked for
        classes = in_order(folders_in(Path(spec.path)))
        source: Source = open_classes(Path(spec.path), classes, name, spec.media)
    else:
        source = able.open(spec, name, *([split] if "split" in able.keys else []))
    if spec.split and not split.known:
        raise NoSplits(
            f"{name}: split={spec.split}: {spec.path} is not divided: it has no column split, no "
            "folders train/ and test/, and no files named train-… and test-…."
        )
    account = account_of(source)
    account.found += split.found
    if detected:
        account.found.insert(0, f"read as {kind}, since {detected.by}; kind=… says otherwise")
    return source if labels else united(source)  # each image of a class counts


def _check_keys(spec: ConfigDict, kind: str, able: Kind, name: str) -> None:
    """UserError: a key is set that the kind cannot honour."""
    for key in KEYS:
        if key.name in ALL_HAVE | able.keys or spec[key.name] == key.default:
            continue
        having = ", ".join(other for other, able in KINDS.items() if key.name in able.keys)
        raise UserError(
            f"{name}: {key.name}={spec[key.name]!r} works on {having}, and not on {kind}, which "
            f"{spec.path} is: leave it out."
        )


_IN_FOLDERS = ("tar", "folder", "parquet", "arrayrecord")  # kinds whose path may be a folder


def _is_divided(path: Path, name: str, labels: bool) -> bool:
    """Whether the subfolders of a path may be splits: nothing else says what it holds."""
    if not path.is_dir() or (path / "dataset_info.json").exists():
        return False
    if metadata_of(path, name, labels):
        return False
    return not any(any(path.glob(p)) for p in ("*.tar", "*.parquet", "*.array_record*"))


def _weights(spec: ConfigDict, name: str) -> None:
    fields, weights = spec.caption.split(","), spec.caption_weights
    if weights and (len(weights) != len(fields) or min(weights) < 0 or not sum(weights)):
        raise UserError(
            f"{name}: caption_weights={tuple(weights)} should have a share for each of the "
            f"{len(fields)} parts of caption={spec.caption!r}."
        )
