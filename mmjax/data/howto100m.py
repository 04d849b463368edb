"""HowTo100M: narrated videos, and clips of them around the captions of their speech.

caption.json has 136 million captions of 1.2 million videos, too many for memory. It is read once to
learn where the captions of each video lie; that is kept beside it, about 30 bytes a video. A record
then reads the captions of its own video.
"""

import csv
import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data.account import Account, Accounted
from mmjax.data.howto100m_index import Spoken, index_of, usable
from mmjax.data.identity import digest
from mmjax.data.json_entries import of_bytes
from mmjax.data.records import BadRecord, Record, Texts, pair, unreadable
from mmjax.data.texts import BadText, clean
from mmjax.data.video_files import folders_of, no_videos, say_folder, stem_of
from mmjax.data.videos import Clip
from mmjax.errors import UserError

CAPTIONS = "caption.json"  # beside the CSV of the videos
SHORTEST = 4.0  # seconds of a clip (Miech et al., 2020)
_TOGETHER = 1 << 16  # files that are looked up at once
_ID_COLUMNS = ("video_id", "video_path", "videoid")


_NOTHING = (-1, Spoken(np.zeros(0), np.zeros(0), []))  # what was read last, and of which video


class Narrated(Accounted):
    """A record for each caption: a clip around it, and the `bag` captions that are nearest to it in
    time, its own first. Not constructed directly: see `open_howto100m`.

    A text that is drawn is the clip's own: it has all the weight.
    """

    captions_alone = True

    def __init__(
        self,
        file: Path,
        index_file: Path,
        kept: np.ndarray,
        place: np.ndarray,
        places: list[tuple[str, str]],
        bag: int,
        min_seconds: float,
        name: str,
        account: Account,
    ):
        self.name, self.account = name, account
        self._file, self._index_file = file, index_file
        self._index = np.load(index_file, mmap_mode="r")
        self._kept, self._place = kept, place  # rows of the index; of each, the number of its place
        self._places = places  # (folder, suffix) of files, which are called by their ids
        self._first = np.concatenate([[0], np.cumsum(self._index["count"][kept], dtype=np.int64)])
        self.bag, self._min_seconds = bag, min_seconds
        self._last = _NOTHING

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Record:
        video, number = self._locate(index)
        spoken = self._spoken(video)
        folder, suffix = self._places[self._place[video]]
        path = os.path.join(folder, os.fsdecode(self._row(video)["id"]) + suffix)
        start, end = window(spoken.starts[number], spoken.ends[number], self._min_seconds)
        captions = self._captions(spoken, number, path)
        texts = Texts(captions, (1.0, *[0.0] * (len(captions) - 1)))
        clip = Clip(path, start, end)
        return pair(f"{path} ({start:g} to {end:g} s)", clip, texts, media="video")

    def captions(self, index: int) -> tuple[str, ...]:
        video, number = self._locate(index)
        return self._captions(self._spoken(video), number, os.fsdecode(self._row(video)["id"]))

    def identity(self) -> str:
        """See `data/identity.py`."""
        columns = [
            self._index[column][self._kept].tobytes() for column in ("id", "length", "count")
        ]
        return digest([*columns, self.bag, self._min_seconds])

    def _locate(self, index: int) -> tuple[int, int]:
        """The number of a record's video among those kept, and of its caption there."""
        video = int(np.searchsorted(self._first, index, side="right")) - 1
        return video, int(index - self._first[video])

    def _row(self, video: int) -> Any:
        return self._index[self._kept[video]]

    def _spoken(self, video: int) -> Spoken:
        """What is said in a video. Raises BadRecord."""
        last = self._last  # neighbouring records are of one video
        if last[0] == video:
            return last[1]
        row = self._row(video)
        try:
            with open(self._file, "rb") as file:
                file.seek(int(row["at"]))
                spoken = usable(of_bytes(file.read(int(row["length"]))))
        except (OSError, ValueError) as error:
            raise unreadable(f"{self._file}: {os.fsdecode(row['id'])}", error) from error
        if len(spoken.texts) != row["count"]:
            raise BadRecord(f"{self._file}: {os.fsdecode(row['id'])}: the file changed")
        self._last = video, spoken
        return spoken

    def _captions(self, spoken: Spoken, number: int, which: str) -> tuple[str, ...]:
        try:
            found = [clean(spoken.texts[n]) for n in nearest(spoken, number, self.bag)]
        except BadText as error:
            raise BadRecord(f"{which} has a caption that {error}") from error
        if not found[0]:
            raise BadRecord(f"{which} is without a caption at {spoken.starts[number]:g} s")
        return tuple(filter(None, found))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None, "_last": _NOTHING}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._index = np.load(self._index_file, mmap_mode="r")


def window(start: float, end: float, shortest: float) -> tuple[float, float]:
    """The clip of a caption: its seconds, and around its middle where they are too few."""
    lack = max(0.0, shortest - (end - start)) / 2
    first = max(0.0, float(start) - lack)
    return first, max(float(end), first + shortest)


def nearest(spoken: Spoken, number: int, count: int) -> np.ndarray:
    """The numbers of the captions whose middles are nearest to that of caption `number`, int [n],
    itself first; n is `count`, or all that there are."""
    middles = spoken.starts + spoken.ends
    distances = np.abs(middles - middles[number])
    distances[number] = -1.0
    return np.argsort(distances, kind="stable")[:count]


def open_howto100m(
    file: Path, captions: str, folder: str, bag: int, min_seconds: float, name: str
) -> Narrated:
    """Clips of narrated videos, whose order is that of caption.json.

    Args:
      file: caption.json (id → {text, start, end}), or a CSV with the column video_id or video_path:
        the videos that are wanted.
      captions: beside a CSV, the JSON of captions; "": caption.json.
      folder: that of the videos, as seen from `file`; "": its own, or its parent.
      bag: captions of a record.
      min_seconds: length of a clip at least.
      name: for messages.

    Raises:
      UserError: the captions cannot be read, or none has a video.
    """
    listed = None if file.suffix.lower() == ".json" else _listed(file, name)
    said = file if listed is None else file.parent / (captions or CAPTIONS)
    index_file = index_of(said, name)
    about = json.loads(index_file.with_suffix(".json").read_text(encoding="utf-8"))
    account = Account.of_json(about)
    index = np.load(index_file, mmap_mode="r")
    kept = np.flatnonzero(index["count"])
    if listed is not None:
        lacking = np.setdiff1d(listed, index["id"][kept])
        if len(lacking):
            first = f"{file}: {os.fsdecode(lacking[0])}"
            account.leave_out(f"videos without captions in {said}", first, len(lacking))
        kept = kept[np.isin(index["id"][kept], listed)]
    if not len(kept):
        raise UserError(f"{name}: {said} has no caption of a video in {file}.")
    ids = index["id"][kept]
    place, places = _places(ids, file, folder, name, account)
    gone = np.flatnonzero(place < 0)
    if len(gone):
        lost = int(index["count"][kept[gone]].sum())
        which = f"{os.fsdecode(ids[gone[0]])}, one of {len(gone):,} videos"
        account.leave_out("captions whose video file is missing", which, lost)
    there = place >= 0
    kept, place = kept[there].astype(np.uint32), place[there]
    return Narrated(said, index_file, kept, place, places, bag, min_seconds, name, account)


def _listed(file: Path, name: str) -> np.ndarray:
    """The ids in a CSV, bytes [n], sorted: a row at a time, since there are a million."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            column = next((c for c in _ID_COLUMNS if c in (rows.fieldnames or ())), "")
            if not column:
                raise UserError(f"{name}: {file} has no column {' or '.join(_ID_COLUMNS)}.")
            found = {os.fsencode(stem_of(Path(row[column] or "").name)) for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name}: {file} cannot be read as CSV ({error}).") from error
    return np.array(sorted(found))


def _places(
    ids: np.ndarray, file: Path, given: str, name: str, account: Account
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """For each id the number of the folder and suffix of its file, int32 [n], -1 where there is
    none; and these. Files are looked up some at a time, so that their names are not all in memory.
    """
    order = np.argsort(ids)
    in_order = ids[order]
    for folder, files in folders_of(file, given):
        place = np.full(len(ids), -1, np.int32)
        places: dict[tuple[str, str], int] = {}
        several = Account()
        for some in iter(lambda: list(islice(files, _TOGETHER)), []):  # noqa: B023
            stems = np.array([os.fsencode(path.stem) for path in some])
            at = np.minimum(np.searchsorted(in_order, stems), len(ids) - 1)
            for number in np.flatnonzero(in_order[at] == stems).tolist():
                path, video = some[number], order[at[number]]
                if place[video] >= 0:
                    several.pass_over("videos of an id that has another", path)
                else:
                    key = str(path.parent), path.suffix
                    place[video] = places.setdefault(key, len(places))
        if places:
            account.add(several)
            say_folder(account, file, folder, given)
            return place, list(places)
    raise no_videos(file, given, os.fsdecode(ids[0]), len(ids), name)
