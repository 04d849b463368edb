"""Opens data by its path: tar shards, tables, Parquet, folders, TFDS, ArrayRecord, text lines.

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
from mmjax.data.account import Account, account_of, report
from mmjax.data.array_record import open_array_record, open_tfds
from mmjax.data.coco import open_coco, open_karpathy
from mmjax.data.detect import check_contents, detect, files_of, metadata_of, shards_of
from mmjax.data.dropped import without
from mmjax.data.files import open_folder
from mmjax.data.filters import Filter
from mmjax.data.generated import open_generated
from mmjax.data.in_memory import open_records
from mmjax.data.label_key import find_label
from mmjax.data.lines import LineSource
from mmjax.data.parquet import open_parquet
from mmjax.data.records import Source
from mmjax.data.repeats import united
from mmjax.data.splits import NoSplits, Split
from mmjax.data.tables import open_table
from mmjax.data.tar import open_tar
from mmjax.data.tar_pair import Fields
from mmjax.errors import UserError
from mmjax.schema import RESUMABLE, SAME_RECORDS, checked, keys_of
from mmjax.values import COUNT_OR_0, NAMES, NATURAL, POSITIVE, SHARE


@dataclass(frozen=True, kw_only=True)
class Records:
    """Where records are and what is read of them: keys of a source, and of an evaluator's.

    Attributes:
      path: Where the pairs are: a folder, file, glob, brace range (cc3m/{00000..00331}.tar), URL
        (gs://, s3://, https://: tar and Parquet), tfds://NAME[/CONFIG][?data_dir=…&split=…],
        generated:N, records:NAME (of mmjax.data.from_records).
      image: Column or feature of the image, or the folder of a coco or karpathy file as seen from
        the file; '' is the kind's usual one.
      caption: Where captions are, comma-separated: txt,json:FIELD (tar), columns, features; '' is
        the usual.
      tags: Where names of the objects in an image are: json:FIELD (tar); '' is none.
      regions: A pair of a tar is KEY.npy, region features [n, F], instead of an image.
      label: Field, column or feature of the class number, or of the class's name (tables and
        Parquet); '' is none.
      group: Field or column of the group id; equal ids are positives; '' is none.
      split: What to read of data that is divided (TFDS, Karpathy's JSON, a column split, folders
        train/ and test/, files train-… and test-…), e.g. val or train+val; '' is train.
      filter: Records that are wanted, e.g. width >= 256 and similarity > 0.28; '' is all.
      bad_shards: Share of missing or damaged tar shards to go on without.
      drop: A file of mmjax data dedup: records to leave out.
      timeout: Seconds that a remote read may take; it is tried three times.
    """

    path: Annotated[str, SAME_RECORDS]
    image: Annotated[str, SAME_RECORDS] = ""
    caption: Annotated[str, NAMES] = ""
    tags: str = ""
    regions: bool = False
    label: str = ""
    group: str = ""
    split: str = ""
    filter: str = ""
    bad_shards: Annotated[float, SAME_RECORDS, SHARE] = 0.0
    drop: Annotated[str, SAME_RECORDS] = ""
    timeout: Annotated[float, RESUMABLE, POSITIVE] = 60.0


@dataclass(frozen=True, kw_only=True)
class TrainSource(Records):
    """The keys of `config.data.train.NAME`.

    Attributes:
      kind: What the records are stored as (tar, csv, jsonl, coco, karpathy, parquet, folder, tfds,
        arrayrecord, text, generated, records, or one that was registered); auto finds it from the
        path.
      weight: Share in the mixture of sources.
      caption_weights: How often to take a caption of each part of caption, e.g. (0.3, 0.7); ():
        any of them.
      block: Neighbouring records visited together, in one request where they are remote; 0: what
        the kind reads at once (one, or a row group).
    """

    kind: Annotated[str, SAME_RECORDS] = "auto"
    weight: Annotated[float, POSITIVE] = 1.0
    caption_weights: Annotated[tuple[float, ...], NATURAL] = ()
    block: Annotated[int, COUNT_OR_0] = 0


KEYS = keys_of(TrainSource)
Open = Callable[..., Source]
ALL_HAVE = frozenset({"path", "kind", "weight", "block", "drop"})  # keys that any kind honours


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
    if spec.kind in ("auto", *_IN_FOLDERS) and _is_divided(Path(spec.path)):
        spec.path = str(split.folder(Path(spec.path)))
    detected = detect(spec.path, KINDS, name) if spec.kind == "auto" else None
    kind = detected.kind if detected else spec.kind
    able = KINDS[kind]
    _check_keys(spec, kind, able, name)
    if storage.is_url(spec.path) and not able.remote:
        raise UserError(
            f"{name}: {kind} is read from this machine only; copy {spec.path} here first."
        )
    if labels and not spec.label and "label" in able.keys:
        spec.label = find_label(kind, spec.path, name)
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


def _is_divided(path: Path) -> bool:
    """Whether the subfolders of a path may be splits: nothing else says what it holds."""
    tables = ("dataset_info.json", "metadata.csv", "metadata.jsonl")
    if not path.is_dir() or any((path / file).exists() for file in tables):
        return False
    return not any(any(path.glob(p)) for p in ("*.tar", "*.parquet", "*.array_record*"))


@register("tar", remote=True, keys="caption caption_weights tags regions label group split filter "
          "bad_shards timeout")  # fmt: skip
def _tar(spec: ConfigDict, name: str, split: Split) -> Source:
    captions, wanted = _tar_captions(spec.caption, name), Filter(spec.filter, name)
    fields = Fields(
        captions, spec.label, spec.group, wanted, _tar_tags(spec.tags, name), spec.regions
    )
    account = Account()
    source = open_tar(
        split.files(shards_of(spec.path, "tar", name, account)), fields, name,
        weights=tuple(spec.caption_weights), bad_shards=spec.bad_shards, timeout=spec.timeout,
    )  # fmt: skip
    source.account.add(account)
    return source


_COLUMNS = "image caption caption_weights label group split"


@register("jsonl", keys=f"{_COLUMNS} filter")
@register("csv", keys=f"{_COLUMNS} filter")
def _table(spec: ConfigDict, name: str, split: Split) -> Source:
    folder = Path(spec.path) if Path(spec.path).is_dir() else None
    if folder:
        table = metadata_of(folder, name)
        if not table:
            raise UserError(f"{name}: the folder {folder} has no metadata.csv: name the table.")
        tables = [table]
    else:
        tables = [Path(file) for file in split.files(files_of(spec.path, name))]
    check_contents(tables, "csv", name)
    return open_table(
        tables, spec.caption, spec.image, spec.label, spec.group, name,
        Filter(spec.filter, name), split, tuple(spec.caption_weights), folder,
    )  # fmt: skip


@register("coco", keys="image")
def _coco(spec: ConfigDict, name: str) -> Source:
    return open_coco(_json(spec, name), spec.image, name)


@register("karpathy", keys="image split")
def _karpathy(spec: ConfigDict, name: str, split: Split) -> Source:
    return open_karpathy(_json(spec, name), spec.image, split, name)


@register("parquet", remote=True, keys=f"{_COLUMNS} filter")
def _parquet(spec: ConfigDict, name: str, split: Split) -> Source:
    account = Account()
    files = split.files(shards_of(spec.path, "parquet", name, account))
    check_contents(files, "parquet", name)
    source = open_parquet(
        files, spec.caption, spec.image, spec.label, spec.group, name,
        Filter(spec.filter, name), split, tuple(spec.caption_weights),
    )  # fmt: skip
    source.account.add(account)
    return source


@register("folder", keys="split")
def _folder(spec: ConfigDict, name: str, split: Split) -> Source:
    del split  # _open has chosen the folder
    return open_folder(_one(spec, name), name)


@register("tfds", remote=True, keys=_COLUMNS)
def _tfds(spec: ConfigDict, name: str, split: Split) -> Source:
    path = spec.path.removeprefix("tfds://")
    return open_tfds(
        path, split, spec.caption, spec.image, spec.label, spec.group, name,
        tuple(spec.caption_weights),
    )  # fmt: skip


@register("arrayrecord", keys=_COLUMNS)
def _array_record(spec: ConfigDict, name: str, split: Split) -> Source:
    account = Account()
    files = split.files(shards_of(spec.path, "arrayrecord", name, account))
    check_contents(files, "arrayrecord", name)
    source = open_array_record(
        files, spec.caption, spec.image, spec.label, spec.group, name, tuple(spec.caption_weights)
    )
    source.account.add(account)
    return source


@register("text", keys="split")
def _text(spec: ConfigDict, name: str, split: Split) -> Source:
    files = [Path(file) for file in split.files(files_of(spec.path, name))]
    check_contents(files, "text", name)
    return LineSource(files, name)


@register("generated", keys="tags regions")
def _generated(spec: ConfigDict, name: str) -> Source:
    return open_generated(spec.path, name, tags=bool(spec.tags), regions=spec.regions)


@register("records")
def _records(spec: ConfigDict, name: str) -> Source:
    return open_records(spec.path, name)


def _one(spec: ConfigDict, name: str) -> Path:
    """The file or folder of a kind that has one."""
    files = files_of(spec.path, name)
    if len(files) > 1:
        raise UserError(
            f"{name}: {spec.path} names {len(files)} files, {files[0]} and others: make each a "
            "source of its own."
        )
    return Path(files[0])


def _json(spec: ConfigDict, name: str) -> Path:
    file = _one(spec, name)
    check_contents([file], "json", name)
    return file


def _weights(spec: ConfigDict, name: str) -> None:
    fields, weights = spec.caption.split(","), spec.caption_weights
    if weights and (len(weights) != len(fields) or min(weights) < 0 or not sum(weights)):
        raise UserError(
            f"{name}: caption_weights={tuple(weights)} should have a share for each of the "
            f"{len(fields)} parts of caption={spec.caption!r}."
        )


def _tar_captions(caption: str, name: str) -> tuple[str, ...]:
    fields = tuple(field.strip() for field in (caption or "txt").split(","))
    for field in fields:
        if field != "txt" and not field.startswith("json:"):
            raise UserError(
                f'{name}: caption={field!r} of tar shards must be "txt" or "json:FIELD".'
            )
    return fields


def _tar_tags(tags: str, name: str) -> str:
    if tags and not tags.startswith("json:"):
        raise UserError(f'{name}: tags={tags!r} of tar shards must be "json:FIELD".')
    return tags.removeprefix("json:")
