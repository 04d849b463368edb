"""Videos: a few frames of each, all with one crop and one change of colours."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mmjax.data.augment import LINEAR_UP_TO, Augment, Augmentation
from mmjax.data.draw import Draw
from mmjax.data.images import (
    MAX_PIXELS,
    Interpolation,
    Resize,
    check_size,
    decode,
    eval_transform,
    open_image,
)
from mmjax.data.modalities.base import Column, LoadTokenizer, Modality, register
from mmjax.data.records import BadRecord, Record
from mmjax.data.sampling import Sampling, sample_frames
from mmjax.data.videos import MAX_HOURS, Array, Video, open_video


@register("video")
@dataclass(frozen=True)
class Frames(Modality):
    """The field "video" of a record (`videos.Clip`) as NAME, uint8 [frames, size, size, 3], and
    NAME_mask, bool [frames]: False on what a shorter video lacks, which is black.

    An image is a video of one frame.
    """

    name: str = field(compare=False)
    size: int
    frames: int
    sampling: Sampling = "segments"
    fps: float = 1.0
    resize: Resize = "shortest"
    interpolation: Interpolation = "bicubic"
    augment: Augment = field(default_factory=Augment)
    max_pixels: int = MAX_PIXELS
    max_hours: float = MAX_HOURS

    media_otherwise = ("image",)

    @classmethod
    def of(
        cls, name: str, spec: Any, data: ConfigDict | None, tokenizer: LoadTokenizer | None
    ) -> "Frames":
        if data is None:
            return cls(name, spec.size, spec.frames)
        return cls(
            name, spec.size, spec.frames, data.sampling, data.fps, data.resize,
            data.interpolation, Augment(**data.augment), data.max_pixels,
            data.max_hours,
        )  # fmt: skip

    @property
    def columns(self) -> Mapping[str, Column]:
        shape = (self.frames, self.size, self.size, 3)
        return {
            self.name: Column(shape, np.uint8),
            f"{self.name}_mask": Column((self.frames,), np.bool_),
        }

    def read(self, record: Record, draw: Draw | None) -> tuple[np.ndarray, np.ndarray]:
        try:
            found = self._seen(record) if draw is None else self._drawn(record, draw)
        except BadRecord as error:
            raise BadRecord(f"{record.key} {error}") from error
        frames = np.zeros((self.frames, self.size, self.size, 3), np.uint8)
        frames[: len(found)] = found
        return frames, np.arange(self.frames) < len(found)

    def _seen(self, record: Record) -> list[np.ndarray]:
        video = self.open(record)
        return [
            eval_transform(
                open_image(frame), self.size, resize=self.resize, interpolation=self.interpolation
            )
            for frame in video.read(self.numbers(video, None))
        ]

    def _drawn(self, record: Record, draw: Draw) -> list[np.ndarray]:
        """Readers of other sizes (a teacher's) show the same frames and the same crop."""
        video = draw.once("video", lambda: self.open(record))
        key = f"video of {self.frames} frames"
        numbers = draw.once(key, lambda: self.numbers(video, draw.rng(key)))
        augmentation = draw.once(
            "crop of a video", lambda: Augmentation(video.shape, draw.rng("video"), self.augment)
        )
        size = (self.size, self.size)
        shrink = max(1.0, augmentation.shrink(size) / LINEAR_UP_TO)
        found = video.read(numbers, shrink)
        return [augmentation.show(augmentation.laid(frame), size) for frame in found]

    def numbers(self, video: Video, rng: np.random.Generator | None) -> np.ndarray:
        """Of the frames that are shown, ascending; without `rng` nothing is random."""
        return sample_frames(video.times, self.frames, rng, sampling=self.sampling, fps=self.fps)

    def open(self, record: Record) -> Video:
        """The video of a record, or its image as one. BadRecord, without the record's key."""
        if "video" in record.parts or "image" not in record.parts:
            return open_video(record.part("video"), self.max_pixels, self.max_hours)
        image = record.part("image")
        if isinstance(image, bytes):
            check_size(image, self.max_pixels)
            image = decode(image)
        return Array(image[None])
