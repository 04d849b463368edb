"""`mmjax video summarize`: a cut of a video that stands for it within some seconds."""

from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from mmjax.data import BadRecord
from mmjax.data.images import WHITE, composite
from mmjax.datatools.cutting import write_cut
from mmjax.datatools.inspection import contact_sheet
from mmjax.errors import UserError
from mmjax.pretrained import Pretrained
from mmjax.video.features import open_features
from mmjax.video.opening import SHEET, clock, new_folder, open_file, read_parts

LONGEST = 5.0  # seconds of a part that is chosen whole; shorter for a short summary
CUT = "summary.mp4"


class Span(NamedTuple):
    """What a summary shows without a break.

    Attributes:
      start: seconds of the video.
      end: of the same.
      first: the number of its first frame.
      last: the number of the frame after its last one.
      seconds: of the video to which its frames are the nearest of all that are chosen.
      cosine: of its best part with the query; nan without one.
    """

    start: float
    end: float
    first: int
    last: int
    seconds: float
    cosine: float


class Summary(NamedTuple):
    """Spans in order, their seconds together, and whether there is sound in what was written."""

    spans: list[Span]
    seconds: float
    sound: bool


def summarize(
    file: str | Path,
    *,
    seconds: float = 30.0,
    query: str | None = None,
    model: str | Path | Pretrained | None = None,
    tokenizer: str | Path | None = None,
    output: str | Path | None = None,
) -> Summary:
    """The shots that stand best for a video and last no longer than some seconds together.

    Shots are cut into parts of 5 seconds, of a sixth of the summary where that is less, but not of
    less than one. Facility location, as of `keyframes`, chooses parts by what they add for each
    second that they last. The summary is shorter than `seconds` where the rest adds nothing.

    Args:
      file: a video that FFmpeg reads, or an animated WebP or GIF.
      seconds: how long the summary may be.
      query: what it shall show, in words.
      model: what compares frames: a source of `mmjax.load`, or what that gave. Without one,
        histograms of colours do.
      tokenizer: as for `mmjax.load`.
      output: the folder to write: summary.mp4 (H.264, with the sound, as AAC, of the first stream
        of sound) and sheet.png, a frame of each span with its times.

    Raises:
      UserError: there is no video, it is no longer than `seconds`, it cannot be decoded, or the
        folder is not empty.
    """
    if not seconds > 0:
        raise UserError(f"seconds={seconds:g} must be more than 0.")
    video = open_file(file)
    lasts = float(video.times[-1] - video.times[0])
    if lasts <= seconds:
        raise UserError(
            f"{file} lasts {lasts:.1f} seconds: a summary of {seconds:g} would be all of it; give "
            "fewer seconds."
        )
    folder = new_folder(output) if output is not None else None
    features = open_features(model, tokenizer, query)
    text = None if query is None else features.of_text(query)
    try:
        longest = min(LONGEST, seconds, max(seconds / 6, 1.0))
        found = read_parts(file, video, longest, features)
        costs = np.array([part.seconds for part in found.parts])
        chosen = found.chosen(seconds, costs, text)
        if not chosen:
            raise UserError(f"{file}: {seconds:g} seconds hold no frame; give more seconds.")
        spans = []
        for _, run in groupby(enumerate(chosen), key=lambda pair: pair[1] - pair[0]):
            numbers = [number for _, number in run]  # that follow each other
            parts = [found.parts[number] for number in numbers]
            cosine = max(found.cosine(number, text) for number in numbers)
            stands = sum(chosen[number] for number in numbers)
            spans.append(
                Span(parts[0].start, parts[-1].end, parts[0].first, parts[-1].last, stands, cosine)
            )
        sound = write_cut(file, video, spans, folder / CUT) if folder else False
        if folder:
            middles = [(span.first + span.last - 1) // 2 for span in spans]
            images = [composite(image, WHITE) for image in video.each(middles)]
            tiles = [(image, _written(span)) for image, span in zip(images, spans, strict=True)]
            contact_sheet(tiles).save(folder / SHEET)
    except BadRecord as error:
        raise UserError(f"{file} {error}.") from error
    return Summary(spans, sum(span.end - span.start for span in spans), sound)


def _written(span: Span) -> str:
    return f"{clock(span.start)} to {clock(span.end)}"


def show(console: Console, summary: Summary, query: str | None) -> None:
    """The spans as a table."""
    table = Table("shows", "seconds", "stands for", *(["cosine"] if query else []))
    for span in summary.spans:
        cosine = [f"{span.cosine:.3f}"] if query else []
        table.add_row(
            _written(span), f"{span.end - span.start:.2f}", f"{span.seconds:.1f} s", *cosine
        )
    console.print(table)
    sound = "with sound" if summary.sound else "without sound"
    console.print(f"{summary.seconds:.2f} seconds in {len(summary.spans)} spans, {sound}")
