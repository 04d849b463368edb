"""ImageNet-1k and the sets made after it, in the layouts people have; labels are 0 … 999.

Labels follow the sorted WordNet ids (imagenet/wnids.txt). A layout that is not recognised is
refused, since a wrong order of classes would give a number and no error.
"""

import functools
import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data import BadRecord, Record, Source, open_source
from mmjax.data.account import report
from mmjax.data.classes import Relabelled, in_order, is_number
from mmjax.data.files import open_classes
from mmjax.data.sources import KEYS
from mmjax.data.tar import open_tar
from mmjax.data.tar_pair import Fields
from mmjax.data.tree import folders_in
from mmjax.errors import UserError
from mmjax.evaluation.words import class_words, wnids
from mmjax.schema import entry

VALIDATION_TAR = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
CLASSES = 1000
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


def open_imagenet(spec: Mapping[str, Any], name: str) -> tuple[Source, bool]:
    """Opens ImageNet-1k, -V2, -A, -R or -Sketch.

    Args:
      spec: as `open_source` takes it, with a path that may be
        - tfds://imagenet2012, imagenet_v2, imagenet_a, imagenet_r, imagenet_sketch, or the folder
          of one (split: validation, or the only one, test);
        - ILSVRC2012_img_val.tar or its folder, with the devkit beside it;
        - a folder of classes (or a parent of it: the subfolder `split`, by default val), named by
          WordNet id, by the class's name, or 0 … 999 as ImageNet-V2 has them;
        - webdataset shards and tables, whose labels `find_label` finds.
      name: of the evaluator, for messages.

    Returns:
      The source, whose labels are positions in its own classes where it knows these, and whether it
      is of fewer classes than the 1000: -A and -R have 200 each.

    Raises:
      UserError: nothing there, no known layout, or a devkit that is missing or does not fit.
    """
    whole = entry(KEYS, spec)
    given, path = whole.path, Path(whole.path)
    if path.name == VALIDATION_TAR or (path / VALIDATION_TAR).is_file():
        tar = path if path.name == VALIDATION_TAR else path / VALIDATION_TAR
        source = open_validation_tar(tar, name)
        report(source)
        return source, False
    if path.is_dir() and whole.kind == "auto":
        for folder in (path, path / (whole.split or "val")):
            found, known = _class_folders(folder)
            if known:
                classes = open_classes(folder, found, name)
                report(classes)
                return classes, known < CLASSES
        if not any(path.glob("*.tar")) and not (path / "dataset_info.json").is_file():
            raise UserError(
                f"{name}: the folder {path} holds none of: classes by WordNet id (n01440764, …) or "
                f"number (0 … 999), also in {whole.split or 'val'}/; {VALIDATION_TAR}; *.tar "
                "shards; a prepared TFDS data set."
            )
    few = bool(re.search(r"imagenet[-_][ar]\b", given))
    only_test = few or re.search(r"imagenet[-_](v2|sketch)\b", given)
    unset = "test" if only_test else "validation"
    return open_source(whole, name, unset=unset, labels=True), few


def open_validation_tar(tar: Path, name: str) -> Source:
    """The 50,000 validation images of 2012 as they are distributed.

    Their labels come from the devkit, which lies beside the tar packed
    (ILSVRC2012_devkit_t12.tar.gz), unpacked, or as its files meta.mat and
    ILSVRC2012_validation_ground_truth.txt.
    """
    if not tar.is_file():
        raise UserError(f"{name}: there is no file {tar}.")
    labels = _devkit_labels(tar.parent, name)
    return numbered(open_tar([str(tar)], Fields(captions=()), name), labels)


def open_real(source: Source, file: Path, name: str) -> tuple[Source, list[tuple[int, ...]]]:
    """ReaL labels (Beyer et al., 2020) for the validation images of 2012.

    Args:
      source: has the files' names in its keys (ILSVRC2012_val_00000001.JPEG, …).
      file: their real.json: a list of lists of labels, by the number of the image.

    Returns:
      The source with labels that say which image it is, 0 … 49999, and the right answers by that
      number; () where nothing is.
    """
    try:
        answers = [tuple(map(int, labels)) for labels in json.loads(file.read_bytes())]
    except OSError as error:
        raise UserError(f"evals.{name}.real: cannot read {file}: {error.strerror}.") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"evals.{name}.real: {file} is no list of lists of labels.") from error
    wrong = [label for labels in answers for label in labels if not 0 <= label < CLASSES]
    if wrong:
        raise UserError(
            f"evals.{name}.real: {file} has the label {wrong[0]}; labels are 0 to {CLASSES - 1}."
        )
    relabelled = numbered(source, np.arange(len(answers), dtype=np.int32))
    try:
        relabelled[0]
    except BadRecord as error:
        raise UserError(f"evals.{name}.real: {error}, as ReaL labels need.") from error
    return relabelled, answers


def numbered(source: Source, labels: np.ndarray) -> Source:
    """Validation images with labels looked up by the number in their file names."""
    return Relabelled(source, functools.partial(_by_number, labels))


def _by_number(labels: np.ndarray, record: Record) -> int:
    found = _NUMBER.search(record.key)
    if not found:
        raise BadRecord(f"{record.key} has no number as ILSVRC2012_val_00000001 has")
    number = int(found[1])
    if not 1 <= number <= len(labels):
        raise BadRecord(f"{record.key} is not one of {len(labels)} labelled images")
    return int(labels[number - 1])


def _class_folders(folder: Path) -> tuple[list[str], int]:
    """The subfolders in order, and how many of them are called as a class may be."""
    found = in_order(folders_in(folder)) if folder.is_dir() else []
    names, ids = class_words("imagenet", "")
    called = {*names, *ids}
    return found, sum(
        name in called or (is_number(name) and int(name) <= CLASSES) for name in found
    )


def _devkit_labels(folder: Path, name: str) -> np.ndarray:
    """Labels int32 [images] by number: the devkit has its own ids, meta.mat says whose they are."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(_devkit_file(folder, "meta.mat", name)), squeeze_me=True)
        ids = zip(synsets["synsets"]["ILSVRC2012_ID"], synsets["synsets"]["WNID"], strict=True)
        label = {wnid: number for number, wnid in enumerate(wnids())}
        label_of_id = {int(number): label[wnid] for number, wnid in ids if wnid in label}
        truth = _devkit_file(folder, TRUTH, name).split()
        return np.array([label_of_id[int(number)] for number in truth], np.int32)
    except UserError:
        raise
    except Exception as error:  # loadmat raises what it meets
        raise UserError(
            f"{name}: the devkit in {folder} is damaged ({error!r}); unpack it again."
        ) from error


def _devkit_file(folder: Path, file: str, name: str) -> bytes:
    for parent in (folder, folder / "data", folder / DEVKIT / "data", folder / DEVKIT):
        if (parent / file).is_file():
            return (parent / file).read_bytes()
    packed = folder / f"{DEVKIT}.tar.gz"
    if packed.is_file():
        with tarfile.open(packed) as tar:
            member = tar.extractfile(f"{DEVKIT}/data/{file}")
            if member:
                return member.read()
    raise UserError(
        f"{name}: labels of {VALIDATION_TAR} come from {file} of the devkit: put "
        f"{packed.name} (or its files) into {folder}."
    )
