"""Small generated data for the tests: pictures with captions, as tar shards."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from mmjax.data.augment import Augment, Crop
from mmjax.data.images import MAX_PIXELS

AS_IT_IS = Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))  # of an upright square picture


def picture(number: int, height: int = 40, width: int = 48, mode: str = "RGB") -> np.ndarray:
    """A smooth picture that only this number has, uint8."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 256, (4, 4, len(mode)), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


def encode(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1700000000.5  # a fraction, as img2dataset writes: it makes pax headers
            tar.addfile(info, io.BytesIO(content))


def pair(number: int, caption: str | None = None, **values) -> list[tuple[str, bytes]]:
    """The members of one img2dataset pair."""
    caption = f"picture number {number}" if caption is None else caption
    content = {"caption": caption, "label": number % 3, "group": number // 2, **values}
    return [
        (f"{number:05d}.png", encode(picture(number))),
        (f"{number:05d}.txt", caption.encode()),
        (f"{number:05d}.json", json.dumps(content).encode()),
    ]


def write_shards(folder: Path, shards: int = 3, pairs: int = 7) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        members = [m for n in range(pairs) for m in pair(shard * pairs + n)]
        write_tar(folder / f"{shard:05d}.tar", members)
    return folder


def train_transform(image, rng, size, augment, max_pixels=MAX_PIXELS):
    """A random crop at one size."""
    return Crop(image, rng, augment, max_pixels).at((size, size))
