"""Boxes of COCO's images: instances_train2017.json, and RefCOCO, RefCOCO+ and RefCOCOg, whose
referring expressions are of such instances."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmjax.data.account import Account
from mmjax.data.boxes import UNNAMED, Boxes, parse_boxes
from mmjax.data.coco import find_folder, read_annotations
from mmjax.data.files import FileSource, Row
from mmjax.data.image_paths import image_path
from mmjax.data.splits import Split
from mmjax.data.texts import BadText, read_json
from mmjax.errors import UserError


class Instances(NamedTuple):
    """What a file of instances holds.

    Attributes:
      files: number of an image → its file's name.
      names: number of a category → its name.
      annotations: as they stand in the file, each with id, image_id, category_id and bbox.
    """

    files: Mapping[Any, str]
    names: Mapping[Any, str]
    annotations: list[Any]


def read_instances(file: Path, name: str) -> Instances:
    """UserError: it is no file of COCO's instances."""
    content = read_annotations(file, name)
    try:
        files = {image["id"]: str(image["file_name"]) for image in content["images"]}
        names = {category["id"]: category["name"] for category in content.get("categories", ())}
        annotations = list(content["annotations"])
        for annotation in annotations:
            annotation["image_id"], annotation["bbox"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name}: {file} is not JSON as COCO's instances ({error!r}): it should hold images "
            "(id, file_name), categories (id, name) and annotations (image_id, category_id, bbox)."
        ) from error
    return Instances(files, names, annotations)


def boxes_by_image(file: Path, name: str, account: Account) -> dict[Any, Boxes]:
    """Number of an image → its instances, each called as its category is.

    UserError: it is no such file, or a box is none.
    """
    instances = read_instances(file, name)
    regions: dict[Any, list[Any]] = {}
    for annotation in instances.annotations:
        said = instances.names.get(annotation.get("category_id"))
        region = {"text": said, "bbox": annotation["bbox"]}
        regions.setdefault(annotation["image_id"], []).append(region)
    found: dict[Any, Boxes] = {}
    for number, some in regions.items():
        where = f"{file}: image {number}"
        try:
            boxes = parse_boxes(some)
        except BadText as error:
            raise UserError(f"{name}: {where} has regions that {error}.") from error
        if boxes.unnamed:
            account.pass_over(UNNAMED, where, boxes.unnamed)
        if boxes.texts:
            found[number] = boxes
    account.found.append(f"regions are the instances of {file}, called by their categories")
    return found


def open_refcoco(file: Path, images: str, boxes: str, split: Split, name: str) -> FileSource:
    """RefCOCO, RefCOCO+ or RefCOCOg as published: refs(unc).p, refs(google).p or refs(umd).p, with
    instances.json beside it. A record an image, with a region for each sentence and no captions.

    Args:
      file: the references, pickled or as the same in JSON.
      images: the folder that holds COCO's train2014 images, relative to the file's.
      boxes: the file of the instances, relative to the file's; "" is instances.json.
      split: of train, val, testA, testB and test, as the references have them.
      name: for messages.

    Raises:
      UserError: a file is missing or of another kind, or there is no such split.
    """
    references = _references(file, name)
    instances = read_instances(file.parent / (boxes or "instances.json"), name)
    account = Account()
    try:
        chosen = split.choose([reference["split"] for reference in references], file)
        box_of = {annotation["id"]: annotation["bbox"] for annotation in instances.annotations}
        regions: dict[str, list[Any]] = {}
        for reference in references:
            if reference["split"] in chosen:
                said = [sentence.get("raw") or sentence["sent"]
                        for sentence in reference["sentences"]]  # fmt: skip
                region = {"text": said, "bbox": box_of.get(reference["ann_id"])}
                path = instances.files[reference["image_id"]]
                regions.setdefault(path, []).append(region)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name}: {file} holds no references of RefCOCO ({error!r}): each should have split, "
            "image_id, ann_id and sentences, and its image be one of the instances."
        ) from error
    usual = ("train2014", "../train2014", "images/train2014", "../images/train2014",
             "../images/mscoco/images/train2014", ".")  # fmt: skip
    root = find_folder(file, list(regions), images, usual, name, account)
    rows = []
    for path, some in regions.items():
        try:
            found: Boxes | None = parse_boxes(some)
            rows.append(Row(str(image_path(root, path)), (), boxes=found))
        except BadText as error:
            rows.append(Row(f"{file}: {path}", (), unwanted=f"with regions that {error}"))
    return FileSource(rows, name, account=account)


class _Plain(pickle.Unpickler):
    """Reads numbers, texts, lists and dicts; a pickle that asks for code is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _references(file: Path, name: str) -> list[Any]:
    try:
        if file.suffix == ".json":
            found = read_json(file.read_bytes())
        else:
            with open(file, "rb") as stream:  # of Python 2, whose strings are bytes
                found = _Plain(stream, encoding="utf-8").load()
    except OSError as error:
        raise UserError(f"{name}: {file} cannot be read: {error.strerror}.") from error
    except Exception as error:  # what a damaged pickle raises is anything
        raise UserError(f"{name}: {file} is no pickle of plain values ({error}).") from error
    if not isinstance(found, list) or not found:
        raise UserError(f"{name}: {file} holds no list of references.")
    return found
