"""Where the videos are that annotations name by ids: files at any depth of a folder."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmjax.data.account import Account
from mmjax.data.media import MEDIA, shows
from mmjax.data.records import log
from mmjax.data.tree import walk
from mmjax.errors import UserError

Folders = Iterator[tuple[Path, Iterator[Path]]]


class VideoFiles:
    """Id → file, whatever its container is.

    An id with the suffix of a video is the same as without: DiDeMo's annotations say `x.avi` where
    people have `x.mp4`.
    """

    def __init__(self, folder: Path, paths: dict[str, str]):
        self._folder, self._paths = folder, paths

    def path(self, video: str) -> str:
        """The file of an id; of one that is missing, where it should be."""
        return self._paths.get(stem_of(video)) or str(self._folder / f"{stem_of(video)}.mp4")


def stem_of(video: str) -> str:
    """An id without the suffix that some annotations give it."""
    stem, suffix = os.path.splitext(video.strip())
    return stem if suffix.lower() in MEDIA["video"].suffixes() else video.strip()


def find_videos(
    file: Path, given: str, videos: Sequence[str], name: str, account: Account
) -> VideoFiles:
    """The files of some ids in the folder `given`, as seen from that of the annotations `file`; or,
    where it is "", in the annotations' folder, or its parent.

    UserError: none of the ids has a file there.
    """
    wanted = {stem_of(video) for video in videos}
    for folder, files in folders_of(file, given):
        found: dict[str, str] = {}
        several = Account()
        for path in files:
            if path.stem in wanted and found.setdefault(path.stem, str(path)) != str(path):
                several.pass_over("videos of an id that has another", path)
        if found or not wanted:
            account.add(several)
            say_folder(account, file, folder, given)
            return VideoFiles(folder, found)
    raise no_videos(file, given, min(wanted), len(wanted), name)


def folders_of(file: Path, given: str) -> Folders:
    """Each folder in which the videos of `file` may be, with all files of videos under it."""
    for folder in [file.parent / given] if given else [file.parent, file.parent.parent]:
        if folder.is_dir():
            log.info("looking for the videos of %s under %s", file, folder)
            yield folder, (path for path in walk(folder, Account()) if shows(path, "video"))


def say_folder(account: Account, file: Path, folder: Path, given: str) -> None:
    """Tells an account which folder was found, where nobody named it."""
    if not given:
        account.found.append(f"the videos of {file} are under {folder}; image says otherwise")


def no_videos(file: Path, given: str, first: str, count: int, name: str) -> UserError:
    """What to raise where no folder has any of the videos."""
    where = file.parent / given if given else f"{file.parent} or its parent"
    others = f" and {count - 1:,} others" if count > 1 else ""
    return UserError(
        f"{name}: no file of the video {first!r}{others} of {file} is under {where}; set image to "
        f"the folder of the videos, as seen from that file."
    )
