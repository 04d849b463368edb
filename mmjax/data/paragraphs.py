"""ActivityNet Captions and DiDeMo: the sentences about a video, joined to one paragraph.

So retrieval is evaluated on them (Zhang et al., 2018): sentences are in order of the time that they
tell of, and one paragraph is the caption of the whole video.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmjax.data.account import Account
from mmjax.data.coco import read_annotations
from mmjax.data.files import WHOLE, FileSource, Row
from mmjax.data.splits import Split
from mmjax.data.texts import BadText, clean_captions
from mmjax.data.video_files import find_videos
from mmjax.errors import UserError

# Seconds from the beginning that DiDeMo's annotators saw (Hendricks et al., 2017).
DIDEMO_SECONDS = 30.0
_SPLIT = re.compile(r"(train|val|test)[-_]?(\d?)(?:[-_](?:data|captions))?")


class Sentence(NamedTuple):
    """What is said about a part of a video, which begins and ends at `time`."""

    video: str
    time: tuple[float, float]
    text: Any


Read = Callable[[Any], Iterator[Sentence]]


def open_activitynet(files: Sequence[Path], folder: str, split: Split, name: str) -> FileSource:
    """train.json, val_1.json, val_2.json: id → {duration, timestamps, sentences}.

    Args:
      files: one or more of them; their names are splits, train, val1 and val2.
      folder: that of the videos, as seen from the first file; "": its own, or its parent.
      split: which of several files are read.
      name: for messages.
    """
    return _open(files, folder, split, name, _activitynet, WHOLE)


def open_didemo(files: Sequence[Path], folder: str, split: Split, name: str) -> FileSource:
    """train_data.json, val_data.json, test_data.json: a list of {video, description, times, …}.

    The arguments are those of `open_activitynet`. Of each video the first 30 seconds are shown, as
    to those who described it.
    """
    return _open(files, folder, split, name, _didemo, (0.0, DIDEMO_SECONDS))


def _activitynet(content: Any) -> Iterator[Sentence]:
    for video, about in content.items():
        for (start, end), text in zip(about["timestamps"], about["sentences"], strict=True):
            yield Sentence(video, (float(start), float(end)), text)


def _didemo(content: Any) -> Iterator[Sentence]:
    """`times` are the first and last of the parts of 5 s that each annotator saw it in."""
    for about in content:
        starts, ends = zip(*about["times"], strict=True)
        time = sum(starts) / len(starts), sum(ends) / len(ends)
        yield Sentence(str(about["video"]), time, about["description"])


def _open(
    files: Sequence[Path],
    folder: str,
    split: Split,
    name: str,
    read: Read,
    span: tuple[float, float],
) -> FileSource:
    account = Account()
    found: dict[str, list[Sentence]] = {}
    chosen = _of_split(files, split)
    for file in chosen:
        try:
            for sentence in read(read_annotations(file, name)):
                found.setdefault(sentence.video, []).append(sentence)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(
                f"{name}: {file} holds something else than videos with sentences and their times "
                f"({error!r})."
            ) from error
    videos = find_videos(chosen[0], folder, list(found), name, account)
    rows = [_row(videos.path(video), video, said, span) for video, said in found.items()]
    account.found.append("the sentences of each video are one caption, in order of time")
    return FileSource(rows, name, account=account, media="video")


def _row(path: str, video: str, said: Sequence[Sentence], span: tuple[float, float]) -> Row:
    in_order = sorted(said, key=lambda sentence: sentence.time)
    try:
        texts = [text for sentence in in_order for text in clean_captions(sentence.text)]
    except BadText as error:
        return Row(video, (), unwanted=f"with a caption that {error}")
    return Row(path, (" ".join(texts),) if texts else (), span=span)


def _of_split(files: Sequence[Path], split: Split) -> list[Path]:
    """The files of the split, where all of several are called as splits."""
    names = {file: "".join(m.groups()) for file in files
             if (m := _SPLIT.fullmatch(file.stem.lower()))}  # fmt: skip
    if len(names) < len(files) or (len(files) == 1 and not split.wanted):
        return list(files)
    chosen = split.choose(names.values(), f"the names of {files[0]} and others")
    return [file for file in files if names[file] in chosen]
