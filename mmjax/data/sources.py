"""Opens data by its path: tar shards, tables, Parquet, folders, TFDS, ArrayRecord, text lines.

`open_source` takes one entry of `data.train` or of `evals`; what is wrong with the data and can be
known without reading all of it is a `UserError` here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.data import storage
from mmjax.data.array_record import open_array_record, open_tfds
from mmjax.data.dropped import without
from mmjax.data.files import open_folder
from mmjax.data.filters import Filter
from mmjax.data.generated import open_generated
from mmjax.data.lines import LineSource
from mmjax.data.parquet import open_parquet
from mmjax.data.records import IMAGE_SUFFIXES, Source
from mmjax.data.tables import open_coco, open_karpathy, open_table
from mmjax.data.tar import open_tar
from mmjax.data.tar_index import Fields
from mmjax.errors import UserError

FORMATS = (
    "tar", "csv", "coco", "karpathy", "parquet", "folder", "tfds", "arrayrecord", "text",
    "generated",
)  # fmt: skip
FILTERED = ("tar", "csv", "parquet")
REMOTE = ("tar", "parquet")
_BY_SUFFIX = {".tar": "tar", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet",
              ".txt": "text"}  # fmt: skip


def open_source(spec: Mapping[str, Any], name: str = "") -> Source:
    """Opens one source of records, without those that it is to drop.

    Args:
      spec: a ConfigDict or dict with
        path: a folder, file, glob or brace range (`cc3m/{00000..00331}.tar`), also as a URL
          (`gs://…`, `s3://…`, `https://…`: tar and Parquet), or
          `tfds://name[/config][?data_dir=…&split=…]`, or `generated:COUNT`.
        format: one of FORMATS, or "auto" (default): found from the path.
        caption: where captions come from, comma-separated. Tar: "txt" (default) and "json:FIELD";
          csv (or tsv) and Parquet: columns; TFDS and ArrayRecord: features; folder: always the
          .txt beside; coco, karpathy: their own; text: one text a line, no images.
        caption_weights: how often to take a caption of each of these; () for any caption.
        image: column or feature of the image ("" finds it); coco, karpathy: their folder.
        tags: where words for the objects in a picture are: "json:FIELD" of tar.
        regions: a pair of a tar is KEY.npy, float [n, F], in place of an image.
        label, group: JSON field, column or feature holding an integer ("" for none).
        filter: which records are wanted (see filters.py): tar, csv, Parquet.
        split: of a TFDS dataset, "train" by default; karpathy: "test".
        bad_shards: share of missing or damaged tar shards to go on without.
        timeout: seconds for one read of a remote file.
        drop: a file of `mmjax data dedup` with the records to leave out.
      name: what messages call it; the last part of the path by default.

    Raises:
      UserError: there is nothing there, or it cannot be read.
    """
    source = _open(spec, name)
    return without(source, spec["drop"]) if spec.get("drop") else source


def open_sources(specs: Mapping[str, Mapping[str, Any]]) -> list[Source]:
    """The named sources of `data.train`, sorted by name: the order that `train_batches` expects."""
    return [open_source(specs[name], name) for name in sorted(specs)]


def _open(spec: Mapping[str, Any], name: str) -> Source:
    path = str(spec.get("path") or "")
    name = name or Path(path).name
    if not path:
        raise UserError(f"{name or 'data'}: no path is given; set path to a folder or file.")
    kind = spec.get("format") or "auto"
    if kind not in ("auto", *FORMATS):
        raise UserError(f"{name}: no format {kind!r}; use auto, {', '.join(FORMATS)}.")
    label, group = spec.get("label") or "", spec.get("group") or ""
    caption, image = spec.get("caption") or "", spec.get("image") or ""
    weights = _weights(spec.get("caption_weights") or (), caption, name)
    wanted = Filter(spec.get("filter") or "", name)
    split = spec.get("split") or ""
    tags, regions = spec.get("tags") or "", bool(spec.get("regions"))
    if path.startswith("generated:"):
        return open_generated(path, name, tags=bool(tags), regions=regions)
    if path.startswith("tfds://") or (kind == "tfds" and not Path(path).exists()):
        _no_segments(tags, regions, "tfds", name)
        path = path.removeprefix("tfds://")
        return open_tfds(path, split, caption, image, label, group, name, weights)
    files = _files(path, name)
    kind = _format(files, path, name) if kind == "auto" else kind
    if storage.is_url(path) and kind not in REMOTE:
        raise UserError(f"{name}: {kind} is read from this machine only; copy {path} here first.")
    if wanted and kind not in FILTERED:
        raise UserError(f"{name}: filter works on {', '.join(FILTERED)}, not on {kind}.")
    _no_segments(tags, regions, kind, name)
    match kind:
        case "tar":
            captions = _tar_captions(caption, name)
            fields = Fields(captions, label, group, wanted, _tar_tags(tags, name), regions)
            return open_tar(
                _inside(files, "*.tar", name), fields, name, weights=weights,
                bad_shards=spec.get("bad_shards") or 0.0, timeout=spec.get("timeout") or 60.0,
            )  # fmt: skip
        case "tfds":
            return open_tfds(path, split, caption, image, label, group, name, weights)
        case "arrayrecord":
            return open_array_record(
                _inside(files, "*.array_record*", name), caption, name, weights
            )
        case "csv":
            tables = [Path(file) for file in files]
            return open_table(tables, caption, image, label, group, name, wanted, weights)
        case "coco":
            return open_coco(Path(files[0]), image, name)
        case "karpathy":
            return open_karpathy(Path(files[0]), image, split, name)
        case "text":
            return LineSource([Path(file) for file in files], name)
        case "parquet":
            files = _inside(files, "*.parquet", name)
            return open_parquet(files, caption, image, label, group, name, wanted, weights)
    return open_folder(Path(files[0]), name)


def _files(path: str, name: str) -> list[str]:
    """The files (or the one folder) that a path, glob or brace range names."""
    if storage.is_url(path):
        return storage.expand(path, name)
    if Path(path).exists():
        return [path]
    if not any(c in path for c in "*?[{"):
        raise UserError(f"{name}: the path {path} does not exist.")
    files = storage.expand(path, name)
    if not any(Path(file).exists() for file in files):
        raise UserError(f"{name}: nothing at {files[0]} (from the path {path}).")
    return files


def _format(files: list[str], path: str, name: str) -> str:
    first = Path(next((f for f in files if storage.is_url(f) or Path(f).exists()), files[0]))
    if first.is_dir():
        return _format_of_folder(first, path, name)
    if ".array_record" in first.name:
        return "arrayrecord"
    if ".tfrecord" in first.name:
        raise UserError(
            f"{name}: TFRecord is no random access: run mmjax data convert {path} DIR "
            "--to=arrayrecord once, and give DIR."
        )
    if first.suffix == ".json" and first.is_file():
        with open(first, "rb") as file:  # Karpathy's images have their split, COCO's not
            karpathy = first.name.startswith("dataset") or b'"split"' in file.read(1 << 16)
        return "karpathy" if karpathy else "coco"
    suffix = Path(first.name.partition("?")[0]).suffix
    if suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]
    if storage.is_url(path):
        raise UserError(
            f"{name}: cannot tell the format of {path}; name its shards, as {path}/*.tar."
        )
    raise UserError(f"{name}: cannot tell the format of {path}; set format to one of {FORMATS}.")


def _format_of_folder(folder: Path, path: str, name: str) -> str:
    if any(folder.glob("*.tar")):
        return "tar"
    if (folder / "dataset_info.json").exists():
        return "tfds"
    for pattern, kind in (("*.array_record*", "arrayrecord"), ("*.parquet", "parquet")):
        if any(folder.glob(pattern)):
            return kind
    if any(p.suffix.lower() in IMAGE_SUFFIXES for p in folder.rglob("*")):
        return "folder"
    raise UserError(
        f"{name}: the folder {path} holds no *.tar, no *.array_record, no *.parquet, no prepared "
        "TFDS dataset and no images."
    )


def _inside(files: list[str], pattern: str, name: str) -> list[str]:
    if len(files) > 1 or not Path(files[0]).is_dir():
        return files
    found = sorted(str(file) for file in Path(files[0]).glob(pattern))
    if not found:
        raise UserError(f"{name}: the folder {files[0]} holds no {pattern}.")
    return found


def _weights(weights: Any, caption: str, name: str) -> tuple[float, ...]:
    fields = caption.split(",")
    if weights and (len(weights) != len(fields) or min(weights) < 0 or not sum(weights)):
        raise UserError(
            f"{name}: caption_weights={tuple(weights)} should have a share for each of the "
            f"{len(fields)} parts of caption={caption!r}."
        )
    return tuple(weights)


def _tar_captions(caption: str, name: str) -> tuple[str, ...]:
    fields = tuple(field.strip() for field in (caption or "txt").split(","))
    for field in fields:
        if field != "txt" and not field.startswith("json:"):
            raise UserError(
                f'{name}: caption={field!r} of tar shards must be "txt" or "json:FIELD".'
            )
    return fields


def _no_segments(tags: str, regions: bool, kind: str, name: str) -> None:
    if (tags or regions) and kind != "tar":
        raise UserError(f"{name}: regions and tags are read from tar shards, not from {kind}.")


def _tar_tags(tags: str, name: str) -> str:
    if tags and not tags.startswith("json:"):
        raise UserError(f'{name}: tags={tags!r} of tar shards must be "json:FIELD".')
    return tags.removeprefix("json:")
