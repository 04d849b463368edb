"""Frames of a video that are images of their own: KEY.0000.jpg, KEY.0001.jpg, … of a tar.

webdataset reads them as the fields 0000.jpg, 0001.jpg, … of one sample; here they are one video.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mmjax.data.account import Account
from mmjax.data.images import check_size, decode
from mmjax.data.records import BadRecord
from mmjax.data.tar_members import BLOCK, BadShard, members

Numbers = Sequence[int] | np.ndarray
_NAME = re.compile(r"(?P<key>.+)\.(?P<number>\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


class Stills(NamedTuple):
    """The files of the frames of a video, in order: JPEG or PNG."""

    files: tuple[bytes, ...]


def still_of(member: str) -> str:
    """The key of the video that a member of a tar is a frame of; "" if its name does not say so.

    >>> still_of("shard/000012.0003.jpg"), still_of("000012.jpg")
    ('shard/000012', '')
    """
    found = _NAME.fullmatch(member)
    return found["key"] if found else ""


def is_still(data: bytes) -> bool:
    """Whether a file, told by its beginning, is a frame and no video."""
    return data.startswith(_STARTS)


def stills_in(part: bytes, key: str) -> Stills:
    """The frames in a part of a tar: headers and members from the first of them to the last.

    Raises BadRecord, which calls them `key`.
    """
    padding = bytes(-len(part) % BLOCK + 2 * BLOCK)  # how a tar ends
    try:
        found = []
        for place, (name, at, length) in enumerate(members(part + padding, Account(), key)):
            match = _NAME.fullmatch(name)
            if match or place == 0:  # whose name may have been too long for its header
                number = int(match["number"]) if match else -1
                found.append((number, part[at : at + length]))
    except (BadShard, ValueError) as error:
        raise BadRecord(f"{key}: the frames cannot be read, the shard changed") from error
    return Stills(tuple(data for _, data in sorted(found, key=lambda numbered: numbered[0])))


class Slides:
    """`Stills` as a video of one frame a second: see `videos.Video`. BadRecord: they are of several
    sizes, or the first is too large."""

    def __init__(self, stills: Stills, max_pixels: int):
        self._files = stills.files
        self.times = np.arange(len(self._files), dtype=np.float64)
        self.shape = (0, 0)
        if self._files:
            check_size(self._files[0], max_pixels)
            height, width = decode(self._files[0]).shape[:2]
            self.shape = height, width

    def read(self, numbers: Numbers, shrink: float = 1.0) -> list[np.ndarray]:
        return list(self.each(numbers, shrink))

    def each(self, numbers: Numbers, shrink: float = 1.0) -> Iterator[np.ndarray]:
        height, width = (max(1, round(side / shrink)) for side in self.shape)
        for number in numbers:
            frame = decode(self._files[int(number)])
            if frame.shape[:2] != self.shape:
                raise BadRecord(
                    f"has frames of {self.shape[1]} × {self.shape[0]} pixels and of "
                    f"{frame.shape[1]} × {frame.shape[0]}"
                )
            if (height, width) != self.shape:
                frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
            yield frame
