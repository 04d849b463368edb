"""Tables of images as plain files: CSV, TSV, COCO's JSON of captions, Karpathy's splits."""

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.data.files import FileSource, Row
from mmjax.data.filters import Filter, Lacking
from mmjax.data.records import weigh
from mmjax.data.texts import clean_captions
from mmjax.errors import UserError

IMAGE_COLUMNS = ("filepath", "image", "path", "filename", "file_name", "file", "image_path",
                 "jpg", "jpeg", "png", "webp", "img")  # fmt: skip
CAPTION_COLUMNS = ("caption", "captions", "title", "text")


def open_table(
    files: Sequence[Path],
    caption: str,
    image: str,
    label: str,
    group: str,
    name: str,
    wanted: Filter,
    weights: tuple[float, ...] = (),
) -> FileSource:
    """CSV or TSV files with a header line; image paths are relative to the table's folder.

    Several rows with the same image are one record with several captions. `caption` may name
    several columns, separated by commas, with `weights` for them; "" finds the columns by their
    usual names. `wanted` sees all columns of a row.
    """
    rows: dict[str, Row] = {}
    for file in files:
        for number, values in enumerate(_read_table(file, name), start=2):
            columns = values.keys()
            image_column = column_of(columns, image, IMAGE_COLUMNS, "image", file, name)
            path = str(file.parent / (values[image_column] or ""))
            fields = []
            # A table of class numbers needs no captions.
            if caption or not label or any(c in columns for c in CAPTION_COLUMNS):
                for field in caption.split(","):
                    found = column_of(columns, field, CAPTION_COLUMNS, "caption", file, name)
                    fields.append(clean_captions(values[found]))
            captions, shares = weigh(fields, weights)
            try:
                unwanted = "" if wanted.keep(values, captions) else "that the filter leaves out"
            except Lacking as error:
                unwanted = str(error)
            if path in rows:
                captions = (rows[path].captions or ()) + captions
                shares, unwanted = rows[path].weights + shares, rows[path].unwanted or unwanted
            numbers = [_integer(values, column, file, number) for column in (label, group)]
            rows[path] = Row(path, captions, numbers[0], numbers[1], shares, unwanted)
    return FileSource(rows.values(), name)


def open_coco(file: Path, folder: str, name: str) -> FileSource:
    """COCO's captions_train2017.json: a record an image, with all its captions.

    The images are in `folder` (relative to the file's), or where COCO unpacks them: train2017
    beside the folder of the annotations.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        images = {image["id"]: image["file_name"] for image in content["images"]}
        captions: dict[int, list[str]] = {}
        for annotation in content["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    except OSError as error:
        raise UserError(f"{name}: {file} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{name}: {file} is not JSON as COCO's captions, with images (id, file_name) and "
            f"annotations (image_id, caption): {type(error).__name__} {error}."
        ) from error
    first = next(iter(images.values()), "")
    usual = (".", "images", f"../{file.stem.rpartition('_')[2]}")
    folders = [file.parent / part for part in ((folder,) if folder else usual)]
    found = next((f for f in folders if (f / first).is_file()), None)
    if found is None:
        raise UserError(
            f"{name}: {first or 'no image'} of {file} is not in {' or '.join(map(str, folders))}; "
            "set image to the folder of the images."
        )
    rows = (
        Row(str(found / path), clean_captions(captions.get(number)))
        for number, path in images.items()
    )
    return FileSource(rows, name)


def open_karpathy(file: Path, images: str, split: str, name: str) -> FileSource:
    """Karpathy's splits of COCO, Flickr30k or Flickr8k: dataset_coco.json, dataset_flickr30k.json.

    Args:
      file: the JSON file.
      images: the folder that holds the images (for COCO train2014 and val2014); "" is the file's.
      split: train, restval, val or test, several joined by +; "" is test.
      name: for messages.
    """
    wanted = (split or "test").split("+")
    try:
        entries = json.loads(file.read_bytes())["images"]
        found = {entry["split"] for entry in entries}
        if not found.intersection(wanted):
            raise UserError(
                f"{name}: {file} has no split {split or 'test'!r}, but {', '.join(sorted(found))}."
            )
        root = Path(images) if images else file.parent
        rows = [
            Row(
                str(root / entry.get("filepath", "") / entry["filename"]),
                clean_captions([sentence["raw"] for sentence in entry["sentences"]]),
            )
            for entry in entries
            if entry["split"] in wanted
        ]
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{name}: {file} is no JSON of Karpathy's splits ({error!r}): it should hold images "
            "with split, filename and sentences."
        ) from error
    return FileSource(rows, name)


def column_of(
    columns: Collection[str], wanted: str, usual: tuple[str, ...], what: str, file: Any, name: str
) -> str:
    """The column of that name, or the first of the usual names. UserError: there is none."""
    by_lower = {str(column).strip().lower(): column for column in columns}
    names = (wanted.strip().lower(),) if wanted else usual
    for column in names:
        if column in by_lower:
            return by_lower[column]
    raise UserError(
        f"{name}: {file} has no {what} column {' or '.join(names)}; it has "
        f"{', '.join(str(c) for c in columns)}. Name it with {what}=COLUMN."
    )


def _read_table(file: Path, name: str) -> list[dict[str, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: {file} is not UTF-8; save the table as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{name}: {file} cannot be read: {error.strerror}.") from error
    if not text.strip():
        raise UserError(f"{name}: {file} is empty; it needs a header line and rows.")
    header = text.partition("\n")[0]
    delimiter = "\t" if "\t" in header else ","
    if any(cell.strip().startswith(("http://", "https://")) for cell in header.split(delimiter)):
        caption_first = not header.startswith("http")
        columns = "caption\\turl" if caption_first else "url\\tcaption"
        raise UserError(
            f"{name}: {file} holds addresses of images (as CC3M and CC12M do), not images: put the "
            f"line {columns} above it, run img2dataset --input_format=tsv --url_list={file} "
            "--url_col=url --caption_col=caption --output_format=webdataset --output_folder=DIR, "
            "and give DIR."
        )
    try:
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise UserError(f"{name}: {file} is no CSV ({error}).") from error


def _integer(row: Mapping[str, str], column: str, file: Path, number: int) -> int:
    if not column:
        return -1
    try:
        return int(row[column])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}, line {number}: no integer in column {column!r}.") from error
