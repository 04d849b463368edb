"""MSR-VTT: one JSON of videos and sentences, and the CSV of the 1k-A test.

What people call its splits, by the videos that they hold:

- `train`, `val` (`validate` in the file), `test`: Microsoft's 6,513, 497 and 2,990;
- `1k-A`: the 1,000 pairs of MSRVTT_JSFUSION_test.csv (Yu et al., 2018), one sentence a video;
- `train-7k`: `train` and `val`, 7,010 videos (Miech et al., 2019);
- `train-9k`: all but `1k-A`, 9,000 videos (Gabeur et al., 2020).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.data import delimited
from mmjax.data.account import Account
from mmjax.data.coco import read_annotations
from mmjax.data.files import FileSource, Row
from mmjax.data.splits import Split
from mmjax.data.texts import NULLS, BadText, clean_captions, written_nulls
from mmjax.data.video_files import VideoFiles, find_videos
from mmjax.errors import UserError

TEST_1KA = "MSRVTT_JSFUSION_test.csv"
COLUMNS = ("key", "vid_key", "video_id", "sentence")  # of it
_OF_1KA = ("1k-A", "train-9k")  # splits that it says
_7K = ("train", "validate", "val")

Captions = dict[str, list[Any]]  # video → what is said about it


def open_msrvtt(file: Path, folder: str, split: Split, name: str) -> FileSource:
    """A record a video, with all its captions.

    Args:
      file: MSRVTT_data.json, another JSON with `videos` and `sentences`, or the CSV of 1k-A.
      folder: that of the videos, as seen from the file; "": its own, or its parent.
      split: one of those above, or several, joined by +.
      name: for messages.
    """
    account = Account()
    if file.suffix.lower() == ".csv":
        return _source(file, _read_1ka(file, name, account), folder, name, account)
    splits, captions = _read(file, name, account)
    pairs: Captions = {}
    beside = file.parent / TEST_1KA
    if beside.is_file():
        pairs = _read_1ka(beside, name, Account())
    elif set(split.wanted.split("+")) & set(_OF_1KA):
        raise UserError(
            f"{name}: split={split.wanted} is said by {TEST_1KA}, which is not beside {file}: put "
            "it there."
        )
    groups = _groups(splits, pairs)
    chosen = split.choose(groups, file) if groups else set()
    wanted = {video for part in chosen for video in groups[part]} if groups else set(splits)
    texts: Captions = {video: captions[video] for video in splits if video in wanted}
    if "1k-A" in chosen:
        texts |= pairs
    return _source(file, texts, folder, name, account)


def _groups(splits: Mapping[str, str], pairs: Captions) -> dict[str, list[str]]:
    """Split → its videos; {} where nothing says which there are."""
    groups: dict[str, list[str]] = {}
    for video, of in splits.items():
        if of:
            groups.setdefault(of, []).append(video)
    if "train" in groups and len(groups.keys() & set(_7K)) > 1:
        groups["train-7k"] = [v for v, of in splits.items() if of in _7K]
    if pairs:
        groups["1k-A"] = list(pairs)
        groups["train-9k"] = [video for video in splits if video not in pairs]
    return groups


def _read(file: Path, name: str, account: Account) -> tuple[dict[str, str], Captions]:
    """The split of each video, "" where there is none, and its captions."""
    content = read_annotations(file, name)
    try:
        splits = {str(v["video_id"]): str(v.get("split") or "") for v in content["videos"]}
        captions: Captions = {video: [] for video in splits}
        for sentence in content["sentences"]:
            video = str(sentence["video_id"])
            if video in captions:
                captions[video].append(sentence["caption"])
            else:
                account.leave_out("captions of no video in the file", f"{file}: {video}")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{name}: {file} is no JSON as MSR-VTT's ({error!r}): it should hold videos with "
            "video_id, and sentences with video_id and caption."
        ) from error
    return splits, captions


def _read_1ka(file: Path, name: str, account: Account) -> Captions:
    columns, rows = delimited.read_table(file, name, account)
    if not set(COLUMNS) <= set(columns):
        raise UserError(
            f"{name}: {file} is not the table of the 1k-A test: it has the columns "
            f"{', '.join(columns)}, in place of {', '.join(COLUMNS)}."
        )
    captions: Captions = {}
    for _, values in rows:
        captions.setdefault(values["video_id"].strip(), []).append(values["sentence"])
    return captions


def _source(file: Path, captions: Captions, folder: str, name: str, account: Account) -> FileSource:
    videos = find_videos(file, folder, list(captions), name, account)
    rows = [_row(file, video, said, videos, account) for video, said in captions.items()]
    return FileSource(rows, name, account=account, media="video")


def _row(file: Path, video: str, said: Sequence[Any], videos: VideoFiles, account: Account) -> Row:
    try:
        found = clean_captions(list(said))
        if nulls := written_nulls(list(said)) if found else 0:
            account.pass_over(NULLS, f"{file}: {video}", nulls)
    except BadText as error:
        return Row(f"{file}: {video}", (), unwanted=f"with a caption that {error}")
    return Row(videos.path(video), found)
