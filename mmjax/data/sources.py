"""Opens data by its path: tar shards, tables, Parquet, folders, TFDS, ArrayRecord, text lines.

`open_source` takes one entry of `data.train`; what is wrong with the data and can be
known without reading all of it is a `UserError` here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from ml_collections import ConfigDict

from mmjax.data import storage
from mmjax.data.account import Account, account_of, report
from mmjax.data.array_record import open_array_record, open_tfds
from mmjax.data.detect import check_contents, detect, files_of, shards_of
from mmjax.data.dropped import without
from mmjax.data.files import open_folder
from mmjax.data.filters import Filter
from mmjax.data.generated import open_generated
from mmjax.data.lines import LineSource
from mmjax.data.parquet import open_parquet
from mmjax.data.records import Source
from mmjax.data.tables import open_coco, open_karpathy, open_table
from mmjax.data.tar import open_tar
from mmjax.data.tar_index import Fields
from mmjax.errors import UserError
from mmjax.schema import RESUMABLE, SAME_RECORDS, entry, keys_of


@dataclass(frozen=True, kw_only=True)
class Records:
    """Where records are and what is read of them: keys of a source, and of an evaluator's.

    Attributes:
      path: Where the pairs are: a folder, file, glob, brace range (cc3m/{00000..00331}.tar), URL
        (gs://, s3://, https://: tar and Parquet), tfds://NAME[/CONFIG][?data_dir=…&split=…],
        generated:N.
      image: Column or feature of the image, or the folder of a coco or karpathy file; '' is the
        kind's usual one.
      caption: Where captions are, comma-separated: txt,json:FIELD (tar), columns, features; '' is
        the usual.
      tags: Where names of the objects in an image are: json:FIELD (tar); '' is none.
      regions: A pair of a tar is KEY.npy, region features [n, F], instead of an image.
      label: Field, column or feature of the class number; '' is none.
      group: Field or column of the group id; equal ids are positives; '' is none.
      split: Split of a TFDS data set; '' is train.
      filter: Records that are wanted, e.g. width >= 256 and similarity > 0.28; '' is all.
      bad_shards: Share of missing or damaged tar shards to go on without.
      drop: A file of mmjax data dedup: records to leave out.
      timeout: Seconds that a remote read may take; it is tried three times.
    """

    path: Annotated[str, SAME_RECORDS]
    image: Annotated[str, SAME_RECORDS] = ""
    caption: str = ""
    tags: str = ""
    regions: bool = False
    label: str = ""
    group: str = ""
    split: str = ""
    filter: str = ""
    bad_shards: Annotated[float, SAME_RECORDS] = 0.0
    drop: Annotated[str, SAME_RECORDS] = ""
    timeout: Annotated[float, RESUMABLE] = 60.0


@dataclass(frozen=True, kw_only=True)
class TrainSource(Records):
    """The keys of `config.data.train.NAME`.

    Attributes:
      kind: What the records are stored as (tar, csv, coco, karpathy, parquet, folder, tfds,
        arrayrecord, text, generated, or one that was registered); auto finds it from the path.
      weight: Share in the mixture of sources.
      caption_weights: How often to take a caption of each part of caption, e.g. (0.3, 0.7); ():
        any of them.
      block: Neighbouring records visited together, in one request where they are remote; 0: what
        the kind reads at once (one, or a row group).
    """

    kind: Annotated[str, SAME_RECORDS] = "auto"
    weight: float = 1.0
    caption_weights: tuple[float, ...] = ()
    block: int = 0


KEYS = keys_of(TrainSource)
Open = Callable[[ConfigDict, str], Source]


class Kind(NamedTuple):
    """A way in which records are stored: how it is opened, and which keys it can honour."""

    open: Open
    remote: bool
    filtered: bool
    regions: bool


KINDS: dict[str, Kind] = {}


def register(
    kind: str, *, remote: bool = False, filtered: bool = False, regions: bool = False
) -> Callable[[Open], Open]:
    """Adds a kind of source: the decorated (spec, name) → `Source`.

    Args:
      kind: what `config.data.train.NAME.kind` calls it.
      remote: reads URLs.
      filtered: honours the key `filter`.
      regions: honours the keys `regions` and `tags`.
    """

    def add(open: Open) -> Open:
        KINDS[kind] = Kind(open, remote, filtered, regions)
        return open

    return add


def open_source(spec: Mapping[str, Any], name: str = "") -> Source:
    """Opens one source of records, without those that it is to drop.

    Args:
      spec: some of the keys of `config.data.train.NAME`, the others at their defaults.
      name: what messages call it; the last part of the path by default.

    Raises:
      UserError: there is nothing there, or it cannot be read.
    """
    whole = entry(KEYS, spec)
    source = _open(whole, name)
    source = without(source, whole.drop) if whole.drop else source
    report(source)
    return source


def open_sources(specs: Mapping[str, Mapping[str, Any]]) -> list[Source]:
    """The named sources of `data.train`, sorted by name: the order that `train_batches` expects."""
    return [open_source(specs[name], name) for name in sorted(specs)]


def _open(spec: ConfigDict, name: str) -> Source:
    name = name or Path(spec.path).name
    if not spec.path:
        raise UserError(f"{name or 'data'}: no path is given; set path to a folder or file.")
    if spec.kind not in ("auto", *KINDS):
        raise UserError(f"{name}: no kind {spec.kind!r}; use auto, {', '.join(KINDS)}.")
    _weights(spec, name)
    Filter(spec.filter, name)  # one that cannot be read is said before a path that is not there
    detected = detect(spec.path, KINDS, name) if spec.kind == "auto" else None
    kind = detected.kind if detected else spec.kind
    able = KINDS[kind]
    if storage.is_url(spec.path) and not able.remote:
        raise UserError(
            f"{name}: {kind} is read from this machine only; copy {spec.path} here first."
        )
    if spec.filter and not able.filtered:
        filtered = ", ".join(kind for kind, able in KINDS.items() if able.filtered)
        raise UserError(f"{name}: filter works on {filtered}, not on {kind}.")
    if (spec.tags or spec.regions) and not able.regions:
        raise UserError(f"{name}: regions and tags are read from tar shards, not from {kind}.")
    source = able.open(spec, name)
    if detected:
        said = f"read as {kind}, since {detected.by}; kind=… says otherwise"
        account_of(source).found.insert(0, said)
    return source


@register("tar", remote=True, filtered=True, regions=True)
def _tar(spec: ConfigDict, name: str) -> Source:
    captions, wanted = _tar_captions(spec.caption, name), Filter(spec.filter, name)
    fields = Fields(
        captions, spec.label, spec.group, wanted, _tar_tags(spec.tags, name), spec.regions
    )
    account = Account()
    source = open_tar(
        shards_of(spec.path, "tar", name, account), fields, name,
        weights=tuple(spec.caption_weights), bad_shards=spec.bad_shards, timeout=spec.timeout,
    )  # fmt: skip
    source.account.add(account)
    return source


@register("csv", filtered=True)
def _csv(spec: ConfigDict, name: str) -> Source:
    tables = [Path(file) for file in files_of(spec.path, name)]
    check_contents(tables, "csv", name)
    return open_table(
        tables, spec.caption, spec.image, spec.label, spec.group, name,
        Filter(spec.filter, name), tuple(spec.caption_weights),
    )  # fmt: skip


@register("coco")
def _coco(spec: ConfigDict, name: str) -> Source:
    files = files_of(spec.path, name)
    check_contents(files, "json", name)
    return open_coco(Path(files[0]), spec.image, name)


@register("karpathy")
def _karpathy(spec: ConfigDict, name: str) -> Source:
    files = files_of(spec.path, name)
    check_contents(files, "json", name)
    return open_karpathy(Path(files[0]), spec.image, spec.split, name)


@register("parquet", remote=True, filtered=True)
def _parquet(spec: ConfigDict, name: str) -> Source:
    account = Account()
    files = shards_of(spec.path, "parquet", name, account)
    check_contents(files, "parquet", name)
    source = open_parquet(
        files, spec.caption, spec.image, spec.label, spec.group, name,
        Filter(spec.filter, name), tuple(spec.caption_weights),
    )  # fmt: skip
    source.account.add(account)
    return source


@register("folder")
def _folder(spec: ConfigDict, name: str) -> Source:
    return open_folder(Path(files_of(spec.path, name)[0]), name)


@register("tfds", remote=True)
def _tfds(spec: ConfigDict, name: str) -> Source:
    path = spec.path.removeprefix("tfds://")
    return open_tfds(
        path, spec.split, spec.caption, spec.image, spec.label, spec.group, name,
        tuple(spec.caption_weights),
    )  # fmt: skip


@register("arrayrecord")
def _array_record(spec: ConfigDict, name: str) -> Source:
    account = Account()
    files = shards_of(spec.path, "arrayrecord", name, account)
    check_contents(files, "arrayrecord", name)
    source = open_array_record(files, spec.caption, name, tuple(spec.caption_weights))
    source.account.add(account)
    return source


@register("text")
def _text(spec: ConfigDict, name: str) -> Source:
    files = [Path(file) for file in files_of(spec.path, name)]
    check_contents(files, "text", name)
    return LineSource(files, name)


@register("generated", filtered=True, regions=True)
def _generated(spec: ConfigDict, name: str) -> Source:
    return open_generated(spec.path, name, tags=bool(spec.tags), regions=spec.regions)


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
