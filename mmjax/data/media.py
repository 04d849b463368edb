"""The media: what a record shows beside its texts. A medium is one entry of the table here, a kind
of modality that reads it (`data/modalities`) and, for generated:N, what draws it."""

import os
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

from mmjax.data.contents import image_suffixes, suffix_of

Medium = Literal["image", "video", "audio", "regions"]

# What FFmpeg reads is told by contents; these are suffixes by which people call it.
_FILMS = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg",
     ".wmv", ".flv", ".3gp", ".ogv", ".vob")
)  # fmt: skip
_ANIMATIONS = frozenset((".gif", ".webp"))
_SOUNDS = frozenset(
    (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".au",
     ".caf", ".wma", ".ac3", ".mka", ".mp2", ".w64", ".rf64")
)  # fmt: skip
_FILES = ("filepath", "path", "filename", "file_name", "file")  # columns of any medium


class About(NamedTuple):
    """What sources know of a medium.

    Attributes:
      called: one of them, for messages.
      plural: several.
      suffixes: those of its files, lower-case, with their dots.
      columns: usual names of the column of a table that has it, the likeliest first.
      clips: a file is read where it lies, since little of it may be shown; rows of a table may name
        the seconds at which that starts and ends.
      plain: it may be a file of its own, outside of tars.
      member: what the index of a tar calls it.
    """

    called: str
    plural: str
    suffixes: Callable[[], frozenset[str]]
    columns: tuple[str, ...]
    clips: bool
    plain: bool
    member: str


MEDIA: dict[str, About] = {
    "image": About(
        "an image", "images", image_suffixes,
        ("filepath", "image", "path", "filename", "file_name", "file", "image_path", "jpg", "jpeg",
         "png", "webp", "img"),
        clips=False, plain=True, member="image",
    ),
    "video": About(
        "a video", "videos", lambda: _FILMS | _ANIMATIONS,
        ("video", "video_path", "clip", *_FILES, "mp4"), clips=True, plain=True, member="video",
    ),
    "audio": About(  # of a film, its sound
        "a sound", "sounds", lambda: _SOUNDS | _FILMS,
        ("audio", "audio_path", "sound", "clip", *_FILES, "wav", "flac", "mp3"),
        clips=True, plain=True, member="audio",
    ),
    "regions": About(
        "a region file (.npy)", "region files", lambda: frozenset((".npy",)), (),
        clips=False, plain=False, member="npy",
    ),
}  # fmt: skip


def shows(path: str | os.PathLike, media: str) -> bool:
    """Whether a path has the suffix of one of the media, in any case."""
    return suffix_of(path) in MEDIA[media].suffixes()


def medium_of(path: str | os.PathLike, but: str = "") -> str:
    """The first medium but `but` whose files have the suffix of a path and may lie alone, or ""."""
    return next(
        (m for m, about in MEDIA.items() if m != but and about.plain and shows(path, m)), ""
    )


def other_media(paths: Iterable[str | os.PathLike], media: str) -> tuple[str, str]:
    """Of paths that do not show `media`: which other media one of them shows, and that path.

    ("", "") where none does.
    """
    found = ((medium_of(path, but=media), str(path)) for path in paths)
    return next((each for each in found if each[0]), ("", ""))
