"""The kinds of sources: tar shards, tables, Parquet, folders, TFDS, ArrayRecord, text lines."""

from pathlib import Path

from ml_collections import ConfigDict

from mmjax.data.account import Account
from mmjax.data.array_record import open_array_record, open_tfds
from mmjax.data.coco import open_coco, open_karpathy
from mmjax.data.coco_boxes import boxes_by_image, open_refcoco
from mmjax.data.columns import Asked
from mmjax.data.detect import check_contents, files_of, metadata_of, shards_of
from mmjax.data.files import open_folder
from mmjax.data.filters import Filter
from mmjax.data.generated import open_generated
from mmjax.data.in_memory import open_records
from mmjax.data.lines import LineSource
from mmjax.data.media import MEDIA
from mmjax.data.parquet import open_parquet
from mmjax.data.records import Source
from mmjax.data.sources import register
from mmjax.data.splits import Split
from mmjax.data.tables import open_table
from mmjax.data.tar import open_tar
from mmjax.data.tar_pair import Fields
from mmjax.data.visual_genome import open_visual_genome
from mmjax.errors import UserError


@register("tar", remote=True, keys="caption caption_weights tags boxes media label group split "
          "filter bad_shards timeout")  # fmt: skip
def _tar(spec: ConfigDict, name: str, split: Split) -> Source:
    captions, wanted = _tar_captions(spec.caption, name), Filter(spec.filter, name)
    fields = Fields(
        captions, spec.label, spec.group, wanted, _in_json("tags", spec.tags, name), spec.media,
        _in_json("boxes", spec.boxes, name),
    )  # fmt: skip
    account = Account()
    source = open_tar(
        split.files(shards_of(spec.path, "tar", name, account)), fields, name,
        weights=tuple(spec.caption_weights), bad_shards=spec.bad_shards, timeout=spec.timeout,
    )  # fmt: skip
    source.account.add(account)
    return source


_COLUMNS = "image caption caption_weights label group split"


@register("jsonl", keys=f"{_COLUMNS} filter media")
@register("csv", keys=f"{_COLUMNS} filter media")
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
    wanted = Filter(spec.filter, name)
    return open_table(tables, _asked(spec, name), name, wanted, split, folder)


@register("coco", keys="image boxes")
def _coco(spec: ConfigDict, name: str) -> Source:
    file, account = _json(spec, name), Account()
    boxes = boxes_by_image(file.parent / spec.boxes, name, account) if spec.boxes else None
    return open_coco(file, spec.image, name, boxes, account)


@register("refcoco", keys="image boxes split")
def _refcoco(spec: ConfigDict, name: str, split: Split) -> Source:
    return open_refcoco(_one(spec, name), spec.image, spec.boxes, split, name)


@register("visualgenome", keys="image")
def _visual_genome(spec: ConfigDict, name: str) -> Source:
    return open_visual_genome(_json(spec, name), spec.image, name)


@register("karpathy", keys="image split")
def _karpathy(spec: ConfigDict, name: str, split: Split) -> Source:
    return open_karpathy(_json(spec, name), spec.image, split, name)


@register("parquet", remote=True, keys=f"{_COLUMNS} filter media")
def _parquet(spec: ConfigDict, name: str, split: Split) -> Source:
    account = Account()
    files = split.files(shards_of(spec.path, "parquet", name, account))
    check_contents(files, "parquet", name)
    source = open_parquet(files, _asked(spec, name), name, Filter(spec.filter, name), split)
    source.account.add(account)
    return source


@register("folder", keys="split media")
def _folder(spec: ConfigDict, name: str, split: Split) -> Source:
    del split  # _open has chosen the folder
    return open_folder(_one(spec, name), name, _of_files(spec, name))


@register("tfds", remote=True, keys=_COLUMNS)
def _tfds(spec: ConfigDict, name: str, split: Split) -> Source:
    path = spec.path.removeprefix("tfds://")
    return open_tfds(path, split, _asked(spec, name), name)


@register("arrayrecord", keys=f"{_COLUMNS} media")
def _array_record(spec: ConfigDict, name: str, split: Split) -> Source:
    account = Account()
    files = split.files(shards_of(spec.path, "arrayrecord", name, account))
    check_contents(files, "arrayrecord", name)
    source = open_array_record(files, _asked(spec, name), name)
    source.account.add(account)
    return source


@register("text", keys="split")
def _text(spec: ConfigDict, name: str, split: Split) -> Source:
    files = [Path(file) for file in split.files(files_of(spec.path, name))]
    check_contents(files, "text", name)
    return LineSource(files, name)


@register("generated", keys="tags boxes media")
def _generated(spec: ConfigDict, name: str) -> Source:
    return open_generated(
        spec.path, name, tags=bool(spec.tags), media=spec.media, boxes=bool(spec.boxes)
    )


@register("records")
def _records(spec: ConfigDict, name: str) -> Source:
    return open_records(spec.path, name)


def _of_files(spec: ConfigDict, name: str) -> str:
    """What files show. UserError: it is in no files of its own."""
    if not MEDIA[spec.media].plain:
        raise UserError(
            f"{name}: media={spec.media!r} works on tar and generated, not on plain files."
        )
    return str(spec.media)


def _asked(spec: ConfigDict, name: str) -> Asked:
    weights = tuple(spec.caption_weights)
    return Asked(spec.caption, spec.image, spec.label, spec.group, weights, _of_files(spec, name))


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


def _tar_captions(caption: str, name: str) -> tuple[str, ...]:
    fields = tuple(field.strip() for field in (caption or "txt").split(","))
    for field in fields:
        if field != "txt" and not field.startswith("json:"):
            raise UserError(
                f'{name}: caption={field!r} of tar shards must be "txt" or "json:FIELD".'
            )
    return fields


def _in_json(key: str, field: str, name: str) -> str:
    if field and not field.startswith("json:"):
        raise UserError(f'{name}: {key}={field!r} of tar shards must be "json:FIELD".')
    return field.removeprefix("json:")
