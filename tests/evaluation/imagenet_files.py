"""ImageNet's own files, small: pictures, the validation tar, the devkit, folders of classes."""

import io
import tarfile

import numpy as np
from PIL import Image
from scipy.io import savemat

from mmjax.evaluation.words import wnids


def jpeg(number, width=60, height=48):
    """A smooth picture that only this number has, as a JPEG."""
    small = np.random.default_rng(number).integers(0, 256, (3, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR).save(buffer, "JPEG")
    return buffer.getvalue()


def validation_name(number):
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def write_tar(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def devkit(labels):
    """(file name, content) of the devkit's two files. Its ids are not in the order of the wnids,
    and it also lists the inner nodes of the tree."""
    order = np.random.default_rng(0).permutation(1000)  # id - 1 → label
    ids = np.arange(1, 1003)
    names = [wnids()[label] for label in order] + ["n00001740", "n00001930"]
    synsets = np.zeros((1002, 1), [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    synsets["ILSVRC2012_ID"][:, 0] = [np.uint16(number) for number in ids]
    synsets["WNID"][:, 0], synsets["words"][:, 0] = names, "a word"
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    truth = "".join(f"{np.flatnonzero(order == label)[0] + 1}\n" for label in labels)
    return [
        ("meta.mat", meta.getvalue()),
        ("ILSVRC2012_validation_ground_truth.txt", truth.encode()),
    ]


def write_validation(folder, labels):
    """ILSVRC2012_img_val.tar, members in no order, and the packed devkit beside it."""
    numbers = np.random.default_rng(1).permutation(len(labels)) + 1
    write_tar(
        folder / "ILSVRC2012_img_val.tar",
        [(validation_name(number), jpeg(number)) for number in numbers],
    )
    files = [(f"ILSVRC2012_devkit_t12/data/{name}", content) for name, content in devkit(labels)]
    write_tar(folder / "ILSVRC2012_devkit_t12.tar.gz", files, "w:gz")


def write_folders(folder, labels, names, prefix=""):
    """One subfolder a class; picture n is `jpeg(n + 1)`."""
    for number, label in enumerate(labels, start=1):
        place = folder / names[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{prefix}{validation_name(number)}").write_bytes(jpeg(number))
