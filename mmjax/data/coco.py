"""COCO's JSON of captions, and Karpathy's splits of COCO, Flickr30k and Flickr8k."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.data.account import Account
from mmjax.data.boxes import Boxes, joined
from mmjax.data.files import FileSource, Row
from mmjax.data.image_paths import how_many, image_path, sample
from mmjax.data.splits import Split
from mmjax.data.texts import NULLS, BadText, clean_captions, is_null, read_json, written_nulls
from mmjax.errors import UserError


def open_coco(
    file: Path,
    folder: str,
    name: str,
    boxes: Mapping[Any, Boxes] | None = None,
    account: Account | None = None,
) -> FileSource:
    """COCO's captions_train2017.json: a record an image, with all its captions.

    The images are in `folder` (relative to the file's), or where COCO unpacks them: train2017
    beside the folder of the annotations. `boxes`: number of an image → its regions; the file may
    then be one of instances, whose images have no captions. `account` knows of the boxes.
    """
    content = read_annotations(file, name)
    try:
        images = [(image["id"], image["file_name"]) for image in content["images"]]
        annotations = [(a["image_id"], a["caption"]) for a in content["annotations"]
                       if boxes is None or "caption" in a]  # fmt: skip
        files: dict[Any, Any] = dict(images)
        {number for number, _ in annotations}  # each must be something that a dict can hold
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{name}: {file} is not JSON as COCO's captions, with images (id, file_name) and "
            f"annotations (image_id, caption), {_what(content)}."
        ) from error
    for number, path in images:
        if files[number] != path:
            raise UserError(
                f"{name}: {file} gives two images the id {number}: {path} and {files[number]}."
            )
    usual = (".", "images", f"../{file.stem.rpartition('_')[2]}")
    account = account or Account()
    paths = [path for path in files.values() if isinstance(path, str) and not is_null(path)]
    root = find_folder(file, paths, folder, usual, name, account)
    rows: dict[Any, Row] = {}
    left_out: list[Row] = []
    for number, path in files.items():
        where = f"{file}: image {number}"
        if is_null(path) or not isinstance(path, str):
            left_out.append(Row(where, (), unwanted="without a file name"))
        else:
            own = (boxes or {}).get(number)
            rows[number] = Row(str(image_path(root, path)), (), boxes=own)
    for number, caption in annotations:
        row, why = rows.get(number), ""
        try:
            captions = clean_captions(caption)
        except BadText as error:
            captions, why = (), f"with a caption that {error}"
        if row is None:
            why = "captions of no image in the file"
        if why:
            left_out.append(Row(f"{file}: caption of image {number}", (), unwanted=why))
        elif row is not None and not captions:
            account.pass_over(NULLS, f"{file}: image {number}")
        elif row is not None:
            rows[number] = row._replace(captions=(row.captions or ()) + captions)
    return FileSource([*_by_path(rows.values()), *left_out], name, account=account)


def open_karpathy(file: Path, images: str, split: Split, name: str) -> FileSource:
    """Karpathy's splits of COCO, Flickr30k or Flickr8k: dataset_coco.json, dataset_flickr30k.json.

    Args:
      file: the JSON file.
      images: the folder that holds the images (for COCO train2014 and val2014), relative to the
        file's; "" is the file's.
      split: of train, restval, val and test; train means train and restval where nothing is said.
      name: for messages.
    """
    content = read_annotations(file, name)
    try:
        entries = content["images"]
        chosen = split.choose([entry["split"] for entry in entries], file)
        entries = [entry for entry in entries if entry["split"] in chosen]
        paths = [_path_of(entry) for entry in entries]
        texts = [[sentence["raw"] for sentence in entry["sentences"]] for entry in entries]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name}: {file} is no JSON of Karpathy's splits ({error!r}): it should hold images "
            "with split, filename and sentences."
        ) from error
    account = Account()
    root = find_folder(file, [path for path in paths if path], images, (".",), name, account)
    rows: list[Row] = []
    for number, (path, sentences) in enumerate(zip(paths, texts, strict=True)):
        where = f"{file}: image {number} of the split"
        try:
            captions = clean_captions(sentences)
        except BadText as error:
            rows.append(Row(where, (), unwanted=f"with a caption that {error}"))
            continue
        nulls = written_nulls(sentences) if captions else 0
        if nulls:
            account.pass_over(NULLS, where, nulls)
        rows.append(
            Row(str(image_path(root, path)), captions)
            if path
            else Row(where, (), unwanted="without a file name")
        )
    return FileSource(_by_path(rows), name, account=account)


def _what(content: Any) -> str:
    """What JSON holds that is no COCO's captions."""
    if not isinstance(content, dict):
        return f"but holds a {type(content).__name__}"
    has = f"but has {', '.join(map(str, content))}"[:200]
    listed = content.get("annotations")
    first = listed[0] if isinstance(listed, list) and listed else None
    if isinstance(first, dict) and "caption" not in first:  # instances_, person_keypoints_
        has += f", and in annotations {', '.join(map(str, first))}"[:200]
    if isinstance(first, dict) and "bbox" in first:
        return f"{has}; for its boxes set boxes to the name of this file"
    return f"{has}; for a list of objects with image and caption, write these alone, as [{{…}}, …]"


def _path_of(entry: dict[str, Any]) -> str:
    if is_null(entry["filename"]):
        return ""
    return str(Path(entry.get("filepath") or "", entry["filename"]))


def read_annotations(file: Path, name: str) -> Any:
    """The JSON of annotations. UserError: it cannot be read, or is none."""
    try:
        return read_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{name}: {file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{name}: {file} is no JSON ({error}).") from error


def find_folder(
    file: Path,
    paths: Sequence[str],
    given: str,
    usual: Sequence[str],
    name: str,
    account: Account,
    media: str = "image",
) -> Path:
    """Where most of the images are, of a sample: one or the other may be missing.

    UserError: none of the sample is in the folder that is `given`, or in one of the `usual` ones.
    """
    folders = [file.parent / part for part in ((given,) if given else usual)]
    some = sample(paths)
    found = {folder: how_many(folder, some) for folder in folders}
    best = max(folders, key=lambda folder: found[folder])
    if some and not found[best]:
        raise UserError(
            f"{name}: {some[0]} and {len(some) - 1} others of {file} are not in "
            f"{' or '.join(map(str, folders))}; set image to the folder of the "
            f"{media}s, as seen from that file."
        )
    if len(folders) > 1:
        account.found.append(f"the {media}s of {file} are in {best}; image says otherwise")
    return best


def _by_path(rows: Iterable[Row]) -> Iterable[Row]:
    """Entries of one image united, as in tables."""
    found: dict[str, Row] = {}
    for row in rows:
        first = found.get(row.path)
        found[row.path] = (
            row
            if first is None
            else first._replace(
                captions=(first.captions or ()) + (row.captions or ()),
                rows=first.rows + row.rows,
                boxes=joined(first.boxes, row.boxes),
            )
        )
    return found.values()
