"""`mmjax video benchmark`: TVSum and SumMe, as papers report them, beside random scores.

The files that people share (eccv16_dataset_tvsum_google_pool5.h5, Zhou et al., 2018) hold, for each
video, features of some frames (`picks`), segments by KTS (`change_points`, first and last frame),
and what people chose (`user_summary`, 0 or 1 for each frame). A score for each pick becomes a
summary: its mean in each segment is what the segment is worth, and the segments worth most within
15 % of the frames are chosen, exactly (knapsack). F1 of that and each person's choice is averaged
over the people of TVSum; of SumMe the best is taken.

Random scores do nearly as well in F1, as the segments decide most of it (Otani et al., 2019): the
table has them beside each result, and Kendall's tau with the mean score that people gave
(`gtscore`), which is 0 for random scores.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from mmjax.errors import UserError
from mmjax.video.selection import choose, knapsack

SHARE = 0.15  # of the frames that a summary has
DRAWS = 100  # of random scores
Protocol = Literal["tvsum", "summe"]
NEEDED = ("change_points", "n_frames", "picks", "user_summary", "gtscore")
Fields = Mapping[str, np.ndarray]


class Row(NamedTuple):
    """A method's means over videos, F1 and Kendall's tau, in percent and from -1 to 1; tau is nan
    for what has no scores, as people."""

    method: str
    f1: float
    tau: float


def benchmark(
    file: str | Path,
    *,
    protocol: Protocol,
    scores: str | Path | Mapping[str, np.ndarray] | None = None,
) -> list[Row]:
    """F1 and Kendall's tau of scores, of random scores, and F1 of people with each other.

    Args:
      file: .h5 (needs h5py) with a group for each video, or .npz with arrays VIDEO/FIELD.
      protocol: "tvsum" takes the mean over people, "summe" the best.
      scores: of each video by name, float [picks], or an .npz of them. Without it, facility
        location, as of `keyframes`, ranks the picks by the file's features; a pick's score is its
        gain.

    Raises:
      UserError: a file cannot be read, or lacks a field or a video.
    """
    if protocol not in ("tvsum", "summe"):
        raise UserError(f"protocol={protocol!r} is neither 'tvsum' nor 'summe'.")
    videos = read_videos(file)
    if scores is None:
        given = {name: _facility_location(file, name, fields) for name, fields in videos.items()}
        method = "facility location"
    else:
        given, method = _given(scores, videos), "scores"
    best = protocol == "summe"  # of a video's people, instead of their mean
    rng = np.random.default_rng(0)
    results = np.array(
        [_results(fields, given[name], best, rng) for name, fields in videos.items()]
    )
    f1, tau, random_f1, random_tau, people = results.mean(axis=0).tolist()
    return [
        Row(method, f1, tau),
        Row(f"random scores, {DRAWS} draws", random_f1, random_tau),
        Row("people, each against the others", people, float("nan")),
    ]


def _results(
    fields: Fields, scores: np.ndarray, best: bool, rng: np.random.Generator
) -> tuple[float, ...]:
    users, truth = fields["user_summary"] > 0, fields["gtscore"]
    draws = [rng.random(len(scores)) for _ in range(DRAWS)]
    by_chance = [
        (_f1(summary(x, fields), users, best), kendalltau(x, truth).statistic) for x in draws
    ]
    people = [
        _f1(user, np.delete(users, number, axis=0), best) for number, user in enumerate(users)
    ]
    return (
        _f1(summary(scores, fields), users, best),
        kendalltau(scores, truth).statistic,
        *np.mean(by_chance, axis=0),
        np.mean(people),
    )


def summary(scores: np.ndarray, fields: Fields) -> np.ndarray:
    """bool [n_frames]: the segments that are worth most within 15 % of the frames.

    A pick's score holds for the frames up to the next pick.
    """
    frames, picks = int(fields["n_frames"]), fields["picks"].astype(int)
    until = np.append(picks, frames)[1:]
    of_frame = np.zeros(frames)
    for pick, after, score in zip(picks, until, scores, strict=True):
        of_frame[pick:after] = score
    segments = fields["change_points"].astype(int)
    values = np.array([of_frame[first : last + 1].mean() for first, last in segments])
    lengths = (segments[:, 1] - segments[:, 0] + 1).tolist()
    chosen = np.zeros(frames, bool)
    for number in knapsack(values, lengths, int(frames * SHARE)):
        chosen[segments[number, 0] : segments[number, 1] + 1] = True
    return chosen


def _f1(chosen: np.ndarray, users: np.ndarray, best: bool) -> float:
    """In percent, of bool [frames] with the choice of each user, bool [users, frames]."""
    both = (users & chosen).sum(axis=1)
    f1 = 200 * both / np.maximum(users.sum(axis=1) + chosen.sum(), 1)
    return float(f1.max() if best else f1.mean())


def _facility_location(file: str | Path, name: str, fields: Fields) -> np.ndarray:
    if "features" not in fields:
        raise UserError(f"{file}: {name} has no features: give scores.")
    rows = fields["features"].astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    scores = np.zeros(len(rows))
    for choice in choose(rows, len(rows)):
        scores[choice.number] = choice.gain
    return scores


def _given(scores: str | Path | Mapping[str, np.ndarray], videos: Mapping[str, Fields]) -> Any:
    found = scores if isinstance(scores, Mapping) else _load(Path(scores))
    for name, fields in videos.items():
        if name not in found:
            raise UserError(f"there are no scores of {name}.")
        if np.shape(found[name]) != fields["picks"].shape:
            raise UserError(
                f"the scores of {name} are {list(np.shape(found[name]))}: it has "
                f"{len(fields['picks']):,} picks."
            )
    return found


def read_videos(file: str | Path) -> dict[str, Fields]:
    """Video → field → array. UserError: the file cannot be read, or a field is missing."""
    path = Path(file)
    if path.suffix.lower() == ".npz":
        videos: dict[str, dict[str, np.ndarray]] = {}
        for name, array in _load(path).items():
            video, _, field = name.rpartition("/")
            videos.setdefault(video, {})[field] = array
    else:
        videos = _load_h5(path)
    for name, fields in videos.items():
        if missing := [field for field in NEEDED if field not in fields]:
            raise UserError(f"{file}: {name or 'an array'} has no {missing[0]}.")
    if not videos:
        raise UserError(f"{file} holds no videos.")
    return dict(videos)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as stored:
            return dict(stored)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as .npz ({error}).") from error


def _load_h5(path: Path) -> dict[str, dict[str, np.ndarray]]:
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"reading {path} needs h5py: pip install h5py.") from error
    try:
        with h5py.File(path, "r") as file:
            return {
                name: {field: np.asarray(group[field]) for field in (*NEEDED, "features")
                       if field in group}
                for name, group in file.items()
            }  # fmt: skip
    except OSError as error:
        raise UserError(f"{path} cannot be read as .h5 ({error}).") from error


def show(console: Console, rows: list[Row]) -> None:
    """The rows as a table."""
    table = Table("method", "F1, %", "Kendall's tau")
    for row in rows:
        table.add_row(row.method, f"{row.f1:.1f}", "" if np.isnan(row.tau) else f"{row.tau:.3f}")
    console.print(table)
