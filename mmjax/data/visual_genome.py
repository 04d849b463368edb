"""Visual Genome's region descriptions: region_descriptions.json and the folders VG_100K, VG_100K_2
(Krishna et al., 2017)."""

import os
from pathlib import Path
from typing import Any

from mmjax.data.account import Account
from mmjax.data.boxes import UNNAMED, parse_boxes
from mmjax.data.files import FileSource, Row
from mmjax.data.texts import BadText, decode, read_json_list
from mmjax.errors import UserError

FOLDERS = ("VG_100K", "VG_100K_2")


def open_visual_genome(file: Path, images: str, name: str) -> FileSource:
    """A record an image, with its regions and no captions.

    Args:
      file: the JSON of the region descriptions.
      images: the folder of the images, 1.jpg …, relative to the file's; "" is VG_100K and
        VG_100K_2 beside the file, in images/ or one level up.
      name: for messages.

    Raises:
      UserError: it is no such file, or there are no images.
    """
    account = Account()
    files = _files(file, images, name, account)
    rows: list[Row] = []
    try:
        for _, entry in read_json_list(decode(file.read_bytes())):
            rows.append(_row(entry, files, file, account))
    except OSError as error:
        raise UserError(f"{name}: {file} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name}: {file} is not JSON as Visual Genome's region descriptions ({error!r}): a "
            "list of objects with regions, each of these with phrase, x, y, width and height."
        ) from error
    return FileSource(rows, name, account=account)


def _row(entry: dict[str, Any], files: dict[str, str], file: Path, account: Account) -> Row:
    regions = entry["regions"]
    number = entry.get("id", entry.get("image_id"))
    number = regions[0]["image_id"] if number is None and regions else number
    where = f"{file}: image {number}"
    try:
        boxes = parse_boxes(regions)
    except BadText as error:
        return Row(where, (), unwanted=f"with regions that {error}")
    if boxes.unnamed:
        account.pass_over(UNNAMED, where, boxes.unnamed)
    if not boxes.texts:
        return Row(where, (), unwanted="without regions")
    path = files.get(f"{number}.jpg")
    return Row(path, (), boxes=boxes) if path else Row(where, (), unwanted="whose image is missing")


def _files(file: Path, images: str, name: str, account: Account) -> dict[str, str]:
    """Name of an image → its path."""
    near = (file.parent, file.parent / "images", file.parent.parent)
    folders = [file.parent / images] if images else [one / sub for one in near for sub in FOLDERS]
    there = [folder for folder in folders if folder.is_dir()]
    found = {name: str(folder / name) for folder in there for name in os.listdir(folder)}
    if not found:
        raise UserError(
            f"{name}: there are no images in {' or '.join(map(str, folders))}; set image to their "
            f"folder, as seen from {file}."
        )
    account.found.append(f"images are in {' and '.join(map(str, there))}; image says otherwise")
    return found
