"""Several views of a video for evaluation: other frames of it and other crops of these."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmjax.data.draw import Draw
from mmjax.data.images import eval_crops, eval_transform, open_image
from mmjax.data.modalities.base import Column, Modality
from mmjax.data.modalities.video import Frames
from mmjax.data.records import BadRecord, Record
from mmjax.data.sampling import segment_views
from mmjax.data.workers import Batch
from mmjax.errors import UserError

POSITIONS = {1: (0.5,), 3: (0.0, 0.5, 1.0)}  # of crops along the longer side


@dataclass(frozen=True)
class Views(Modality):
    """Views of what `Frames` shows, all from one decode: NAME uint8 [views · crops, frames, size,
    size, 3] and NAME_mask bool [views · crops, frames], the crops of the first view first.

    Attributes:
      of_frames: the frames and their size.
      views: of `segment_views`, each over the whole video.
      crops: 1, the centre; or 3: left, centre and right (of an upright video top, centre, bottom).

    Raises:
      UserError: `data.sampling` is not segments, or `data.resize` leaves nothing to crop.
    """

    of_frames: Frames
    views: int
    crops: int

    def __post_init__(self) -> None:
        if self.views > 1 and self.of_frames.sampling != "segments":
            raise UserError(
                f"views={self.views} are of the segments of a video, and config.data.sampling="
                f"{self.of_frames.sampling!r}: set it to 'segments', or views=1."
            )
        if self.crops > 1 and self.of_frames.resize == "squash":
            raise UserError(
                f"crops={self.crops} need config.data.resize='shortest': 'squash' shows all of a "
                "frame; set crops=1."
            )

    @property
    def count(self) -> int:
        """Views of a video in all."""
        return self.views * self.crops

    @property
    def columns(self) -> Mapping[str, Column]:
        return {
            name: Column((self.count, *column.shape), column.dtype)
            for name, column in self.of_frames.columns.items()
        }

    def read(self, record: Record, draw: Draw | None) -> tuple[np.ndarray, np.ndarray]:
        of = self.of_frames
        try:
            video = of.open(record)
            if self.views > 1:
                numbers = segment_views(video.times, of.frames, self.views)
            else:
                numbers = of.numbers(video, None)[None]
            every, position = np.unique(numbers, return_inverse=True)
            shown = np.stack([self._crops(frame) for frame in video.read(every)])
        except BadRecord as error:
            raise BadRecord(f"{record.key} {error}") from error
        taken = shown[position.reshape(numbers.shape)]  # [views, n, crops, size, size, 3]
        length = numbers.shape[1]
        frames = np.zeros((self.views, self.crops, of.frames, of.size, of.size, 3), np.uint8)
        frames[:, :, :length] = taken.swapaxes(1, 2)
        mask = np.tile(np.arange(of.frames) < length, (self.count, 1))
        return frames.reshape(self.count, *frames.shape[2:]), mask

    def apart(self, batch: Batch) -> Batch:
        """A batch in which each view is a row: columns [b, views · crops, …] -> [b · …, …], and the
        others once for each view."""
        return {
            name: column.reshape(-1, *column.shape[2:])
            if name in self.columns
            else np.repeat(column, self.count, axis=0)
            for name, column in batch.items()
        }

    def together(self, rows: Batch, output: str) -> Batch:
        """Such rows by record: `output` as [N, views · crops, …], the other columns once."""
        apart = {name: x.reshape(-1, self.count, *x.shape[1:]) for name, x in rows.items()}
        return {name: x if name == output else x[:, 0] for name, x in apart.items()}

    def _crops(self, frame: np.ndarray) -> np.ndarray:
        image, of = open_image(frame), self.of_frames
        if self.crops == 1:
            one = eval_transform(image, of.size, resize=of.resize, interpolation=of.interpolation)
            return one[None]
        return eval_crops(image, of.size, POSITIONS[self.crops], of.interpolation)
