"""`mmjax data inspect`: what is in a data set, before a run finds out.

Records are read at even distances over the whole source; everything that is read is decoded, so
what is bad is named. The contact sheet shows pictures as training decodes them, and spectrograms
of sounds, with a caption.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from json import dumps
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmjax.data import BadRecord, Record, Source, open_source
from mmjax.data.account import Account, account_of, unreported
from mmjax.data.classes import Class, classes_of, describe
from mmjax.data.images import MAX_PIXELS, WHITE, check_size, composite, decode
from mmjax.data.records import read_records
from mmjax.data.sampling import sample_frames
from mmjax.data.sounds import open_sound, resampled
from mmjax.data.videos import open_video
from mmjax.datatools.opening import spec_of
from mmjax.errors import UserError
from mmjax.models.spectrogram import log_mel
from mmjax.paths import check_file

TOGETHER = 64
SHEET, TILE, LINES = (8, 6), 160, 3  # pictures across and down, their side, lines of caption
FRAMES = 3  # of a video that are shown
RATE, SECONDS, BINS, RANGE = 16_000, 10, 80, 80  # of the spectrogram of a sound; dB
NAMED = 20


# What was read of a source, as JSON holds it.
Facts = TypedDict(
    "Facts",
    {
        "name": str,
        "records": int,
        "found": list[str],  # what was detected, a sentence each
        "left out": dict[str, int],  # why → how many
        "not read": dict[str, int],
        "first": dict[str, str],  # the same reasons → the first of them
        "read": int,
        "bad": int,
        "bad members": list[str],
        "formats": dict[str, int],
        "classes": list[str],
        "labels": list[int],  # least, most, how many
        "distributions": dict[str, dict[str, float]],
    },
)


def inspect(
    path: str | Path,
    *,
    samples: int = 2000,
    sheet: str | Path | None = None,
    json: str | Path | None = None,
    **keys: Any,
) -> Facts:
    """Counts what a source holds: records, sizes, captions, classes, and what cannot be used.

    >>> from mmjax import datatools
    >>> facts = datatools.inspect("generated:10")
    >>> facts["records"], facts["bad"], facts["distributions"]["width"]["median"]
    (10, 0, 64.0)

    Args:
      path: the data, as `config.data.train.NAME.path`.
      samples: records to read and decode, at even distances; 0 is all.
      sheet: a PNG file to write, a page of images with their captions.
      json: a file to write the result to.
      **keys: other keys of `config.data.train.NAME`: caption="json:tags".

    Raises:
      UserError: the source cannot be opened, or a file cannot be written.
    """
    for option, file in (("--sheet", sheet), ("--json", json)):
        if file:
            check_file(option, file)
    if sheet and Path(sheet).suffix.lower() != ".png":
        raise UserError(f"--sheet={sheet}: the contact sheet is a .png file.")
    with unreported():
        source = open_source(spec_of(path, keys))
    facts, tiles = examine(source, samples, SHEET[0] * SHEET[1] if sheet else 0)
    if sheet:
        contact_sheet(tiles).save(sheet)
    if json:
        Path(json).write_text(dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def examine(
    source: Source, samples: int, pictures: int
) -> tuple[Facts, list[tuple[np.ndarray, str]]]:
    """Facts of a source that JSON can hold, and some of its pictures with a caption each."""
    count = min(samples or len(source), len(source))
    picked = np.unique(np.linspace(0, len(source) - 1, count).astype(int))
    tile_at = set(picked[np.linspace(0, count - 1, min(pictures, count)).astype(int)].tolist())
    numbers: dict[str, list[float]] = {
        name: []
        for name in (
            "bytes", "width", "height", "aspect", "frames", "seconds", "sample rate", "captions",
            "caption length",
        )
    }  # fmt: skip
    formats: Counter[str] = Counter()
    labels: Counter[int] = Counter()
    bad: list[str] = []
    tiles = []
    for first in range(0, count, TOGETHER):
        indices = picked[first : first + TOGETHER].tolist()
        for index, record in zip(indices, read_records(source, indices), strict=True):
            try:
                if isinstance(record, BadRecord):
                    raise record
                shown = _shown(record)
            except BadRecord as error:
                bad.append(str(error))
                continue
            numbers["captions"].append(len(record.captions))
            numbers["caption length"] += [len(caption) for caption in record.captions]
            labels[record.label] += record.label >= 0
            if shown is None:
                formats[f"of {' and '.join(record.parts)} without an image"] += 1
                continue
            for name, value in shown.numbers.items():
                numbers[name].append(value)
            formats[shown.format] += 1
            if index in tile_at:
                tiles.append((shown.picture, (*record.captions, f"label {record.label}")[0]))
    classes = sorted(label for label, n in labels.items() if n)
    facts: Any = {
        "name": source.name,
        "records": len(source),
        **account_of(source).to_json(),
        "read": count,
        "bad": len(bad),
        "bad members": bad[:NAMED],
        "formats": dict(formats.most_common()),
        "classes": list(classes_of(source)),
        "labels": [classes[0], classes[-1], len(classes)] if classes else [],
        "distributions": {name: _quantiles(values) for name, values in numbers.items() if values},
    }
    return facts, tiles


def contact_sheet(tiles: Sequence[tuple[np.ndarray, str]]) -> Image.Image:
    """Pictures in rows, each with the first lines of its caption below."""
    font = ImageFont.load_default(11)
    line = 14
    across = min(SHEET[0], max(1, len(tiles)))
    down = -(-len(tiles) // across)
    high = TILE + LINES * line + 8
    sheet = Image.new("RGB", (across * (TILE + 8) + 8, down * high + 8), WHITE)
    draw = ImageDraw.Draw(sheet)
    for number, (pixels, caption) in enumerate(tiles):
        x, y = 8 + number % across * (TILE + 8), 8 + number // across * high
        image = ImageOps.contain(Image.fromarray(pixels), (TILE, TILE))
        sheet.paste(image, (x + (TILE - image.width) // 2, y + (TILE - image.height) // 2))
        for row, text in enumerate(_wrap(caption, draw, font)):
            draw.text((x, y + TILE + 2 + row * line), text, "black", font)
    return sheet


def _wrap(text: str, draw: ImageDraw.ImageDraw, font: Any) -> list[str]:
    lines = [""]
    for word in text[:400].split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= TILE or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], lines[LINES - 1] + "…"]
    return lines


class Shown(NamedTuple):
    """A picture of a record, uint8 [h, w, 3], what is measured of it, and what it is stored as."""

    picture: np.ndarray
    numbers: dict[str, float]
    format: str


def _shown(record: Record) -> Shown | None:
    """None: there is nothing to see, as in a record of texts alone."""
    medium = next((medium for medium in _READERS if medium in record.parts), "")
    if not medium:
        return None
    stored = record.parts[medium]
    try:
        found = _READERS[medium](stored)
    except BadRecord as error:
        raise BadRecord(f"{record.key} {error}") from error
    if isinstance(stored, bytes):
        found.numbers["bytes"] = len(stored)
    return found


def _of_video(stored: Any) -> Shown:
    """Some frames, side by side."""
    video = open_video(stored)
    numbers = sample_frames(video.times, FRAMES)
    shrink = max(1.0, max(video.shape) / TILE)
    frames = [composite(x, WHITE) for x in video.read(numbers, shrink)]
    seconds = float(video.times[-1] - video.times[0])
    about = {**_sides(*video.shape), "frames": len(video.times), "seconds": seconds}
    return Shown(np.concatenate(frames, axis=1), about, "video")


def _of_sound(stored: Any) -> Shown:
    """The spectrogram of its first seconds: low pitches below, and dark what is loud."""
    sound = open_sound(stored)
    heard = resampled(sound, RATE, RATE * SECONDS)
    heard = np.pad(heard, (0, -len(heard) % RATE))  # whole seconds: few shapes to compile
    found = log_mel(jnp.asarray(heard[None]), RATE, bins=BINS, window=512, hop=160, high=RATE / 2)
    found = np.asarray(found)[0].T[::-1]
    shade = (255 * np.clip((found.max() - found) / RANGE, 0, 1)).astype(np.uint8)
    about = {"seconds": sound.length / sound.rate, "sample rate": float(sound.rate)}
    return Shown(np.repeat(shade[:, :, None], 3, axis=2), about, "audio")


def _of_image(stored: Any) -> Shown:
    if not isinstance(stored, np.ndarray):
        check_size(stored, MAX_PIXELS)
    picture = composite(stored if isinstance(stored, np.ndarray) else decode(stored), WHITE)
    return Shown(picture, _sides(*picture.shape[:2]), _format(stored))


_READERS: dict[str, Callable[[Any], Shown]] = {
    "video": _of_video,
    "audio": _of_sound,
    "image": _of_image,
}


def _sides(height: int, width: int) -> dict[str, float]:
    return {"width": width, "height": height, "aspect": max(width, height) / min(width, height)}


def _format(image: bytes | np.ndarray) -> str:
    if isinstance(image, np.ndarray):
        return "decoded"
    kinds = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WebP", b"GIF8": "GIF"}
    return next((kind for start, kind in kinds.items() if image.startswith(start)), "other")


def _quantiles(values: list[float]) -> dict[str, float]:
    names, shares = ("least", "5 %", "median", "95 %", "most"), (0, 0.05, 0.5, 0.95, 1)
    found = np.quantile(values, shares)
    return {name: round(float(value), 3) for name, value in zip(names, found, strict=True)}


def show(console: Console, facts: Facts) -> None:
    """The facts as sentences and a table."""
    console.print(f"[bold]{escape(facts['name'])}[/]: {facts['records']:,} records")
    for line in Account.of_json(facts).lines():
        console.print(f"  {line}", markup=False)
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in facts["formats"].items())
    console.print(f"  read {facts['read']:,}: {kinds or 'nothing that can be used'}")
    if facts["labels"]:
        low, high, count = facts["labels"]
        console.print(f"  {count:,} classes among them, {low} to {high}")
    if facts["classes"]:
        rows = [Class(label, one, one) for label, one in enumerate(facts["classes"])]
        console.print(f"  {describe(rows)}", markup=False)
    if facts["bad"]:
        console.print(f"  [red]{facts['bad']:,} of them cannot be used:[/]")
        for problem in facts["bad members"]:
            console.print(f"    {problem}", markup=False)
    table = Table("", *(next(iter(facts["distributions"].values()), {})))
    for name, values in facts["distributions"].items():
        table.add_row(name, *(f"{value:,.10g}" for value in values.values()))
    if facts["distributions"]:
        console.print(table)
