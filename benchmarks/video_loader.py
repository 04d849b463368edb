"""The video loader beside a PyAV Dataset in torch's DataLoader, and beside decoding every frame.

    pip install -e '.[benchmarks,video]' && python benchmarks/video_loader.py --markdown

All read the same H.264 files of 640 × 360 at 25 frames a second (a window that moves over noise
with the spectrum of photographs, made once): clips of 10 s with a key frame every 12 frames, as
cameras and short-video sites write them; clips of 10 s with one key frame; and files of 200 s with
x264's own key frames, at most 250 apart. They take 8 frames of each, one in every eighth of the
file, and make random crops of 224 of them, with two worker processes. Programs take turns, each
turn in a new process, timed after its first batches.

The peer decodes from the beginning to the last frame that it wants, as the documentation of
transformers and most Datasets do; "every frame" is what torchvision.io.read_video did. Its crop is
what torchvision computes (antialiased bilinear, ToTensor, Normalize). In the last column, frames of
mmjax are compared with those of a decoder that starts at the beginning of the file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from data_loader import CORES, MEAN, STD, photograph
from ml_collections import ConfigDict
from tables import show

from mmjax import config as config_lib
from mmjax import data, models
from mmjax.data import modalities
from mmjax.data.videos import open_video

FRAMES, SIZE = 8, 224
BATCH, AHEAD = 4, 2  # clips of a batch; batches that a process reads ahead, and first ones
HEIGHT, WIDTH, RATE = 360, 640, 25


# Name → files, seconds of each, options of x264.
FILES: dict[str, tuple[int, int, dict[str, str]]] = {
    "short GOPs": (8, 10, {"g": "12"}),
    "one key frame": (8, 10, {"g": "100000", "sc_threshold": "0"}),
    "200 seconds": (2, 200, {"preset": "veryfast"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program")
    parser.add_argument("--seconds", type=float, default=10.0, help="timed in a turn")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mmjax-films")
    parser.add_argument("--markdown", action="store_true", help="print the table for the docs")
    parser.add_argument("--turn", choices=list(PROGRAMS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if args.turn:
        print(json.dumps(turn(PROGRAMS[args.turn], args.folder, args.seconds)))
        return
    rows = []
    for kind in FILES:
        folder = args.folder / kind
        make_films(folder, kind)
        rows += compare(kind, folder, args.rounds, args.seconds)
    header = ("files", "program", "clips/s", "frames/s", "× peer", "round by round", "equal frames")
    show(f"Loading {FRAMES} frames a clip on {CORES} cores", header, rows, args.markdown)


def compare(kind: str, folder: Path, rounds: int, seconds: float) -> list[tuple[str, ...]]:
    """The rows of the table about files of one kind."""
    turns: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name in PROGRAMS:
            command = [sys.executable, __file__, f"--turn={name}", f"--folder={folder}"]
            command.append(f"--seconds={seconds}")
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            turns[name].append(json.loads(done.stdout.splitlines()[-1]))
    rows: list[tuple[str, ...]] = []
    for name, rates in turns.items():
        ratios, clips = np.array(rates) / np.array(turns[PEER]), np.median(rates)
        rows.append((
            kind, name, f"{clips:.1f}", f"{FRAMES * clips:.0f}", f"{np.median(ratios):.2f}×",
            f"{ratios.min():.2f}–{ratios.max():.2f}", equal(folder) if "mmjax" in name else "",
        ))  # fmt: skip
    return rows


def turn(program: Callable[[Path], Iterator[int]], folder: Path, seconds: float) -> float:
    """Clips a second, after the first batches of each process."""
    counts = program(folder)
    for _ in range(AHEAD * CORES):
        next(counts)
    clips, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        clips += next(counts)
    return clips / passed


def mmjax_loader(folder: Path, workers: int = 0) -> Iterator[int]:
    source = data.open_source({"path": str(folder), "media": "video"}, "films")
    config = settings(workers)
    read = modalities.build(models.inputs(config.model), data=config.data).values()
    rows = np.arange(BATCH)
    for batch in data.train_batches([source], config, read, rows=rows, start_step=0):
        yield len(batch["video"])


def settings(workers: int) -> ConfigDict:
    config = config_lib.default()
    config.batch_size = BATCH
    config.model = ConfigDict({"name": "loader", "embed_dim": 512, "dtype": "auto"})
    config.model.video = config_lib.entry("model", kind="video_vit", size=SIZE, frames=FRAMES)
    config.data.train.films = config_lib.entry("data.train", media="video")
    config.data.augment.update(crop_scale=(0.9, 1.0), crop_ratio=(3 / 4, 4 / 3))
    config.data.workers = workers
    return config


def torch_loader(folder: Path, every: bool = False) -> Iterator[int]:
    from torch.utils.data import DataLoader

    paths = sorted(str(path) for path in folder.glob("*.mp4"))
    films: Any = _Films(paths * 10_000, read_every if every else read_until)
    loader: Any = DataLoader(films, BATCH, shuffle=True, num_workers=CORES, prefetch_factor=AHEAD)
    for batch in loader:
        yield len(batch)


class _Films:
    """A Dataset of videos, as people write it."""

    def __init__(self, paths: list[str], read: Callable[..., np.ndarray]):
        self._paths, self._read = paths, read

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        import torch

        rng = np.random.default_rng(index)
        frames = torch.from_numpy(self._read(self._paths[index], rng))
        video = frames.permute(0, 3, 1, 2).float() / 255
        side = int(rng.uniform(0.95, 1) * HEIGHT)
        x, y = rng.integers(WIDTH - side + 1), rng.integers(HEIGHT - side + 1)
        video = torch.nn.functional.interpolate(
            video[:, :, y : y + side, x : x + side], (SIZE, SIZE), mode="bilinear", antialias=True
        )
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        return (video - mean) / std


def read_until(path: str, rng: np.random.Generator) -> np.ndarray:
    """Decodes as far as the last frame that is wanted, and converts those that are."""
    with av.open(path) as container:
        wanted = segments(container.streams.video[0].frames, rng)
        frames = []
        for number, frame in enumerate(container.decode(video=0)):
            if number > wanted[-1]:
                break
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
    return np.stack(frames)


def read_every(path: str, rng: np.random.Generator) -> np.ndarray:
    """Decodes and converts the whole file."""
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([frames[number] for number in segments(len(frames), rng)])


def segments(count: int, rng: np.random.Generator) -> np.ndarray:
    bounds = np.arange(FRAMES + 1) * count // FRAMES
    return rng.integers(bounds[:-1], bounds[1:])


def equal(folder: Path, draws: int = 150) -> str:
    """How many frames at random are, in all their bits, those of a decoder that skips nothing."""
    path = str(min(folder.glob("*.mp4")))
    rng = np.random.default_rng(0)
    numbers = rng.choice(len(open_video(path).times), draws, replace=False)
    with av.open(path) as container:
        shown = {
            number: frame.to_ndarray(format="rgb24")
            for number, frame in enumerate(container.decode(video=0))
            if number in set(numbers.tolist())
        }
    alike = [np.array_equal(open_video(path).read([n])[0], shown[n]) for n in numbers.tolist()]
    return f"{sum(alike)} of {draws}"


PEER = "PyAV Dataset + DataLoader"
PROGRAMS: dict[str, Callable[[Path], Iterator[int]]] = {
    PEER: torch_loader,
    "every frame + DataLoader": partial(torch_loader, every=True),
    "mmjax, threads": mmjax_loader,
    "mmjax, processes": partial(mmjax_loader, workers=CORES),
}


def make_films(folder: Path, kind: str) -> None:
    count, seconds, options = FILES[kind]
    if folder.exists():
        return
    print(f"encoding {count} films of {seconds} s in {folder}", file=sys.stderr)
    part = folder.with_suffix(".part")
    part.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        ground = photograph(number, 2 * HEIGHT, 2 * WIDTH)
        with av.open(str(part / f"{number}.mp4"), "w") as out:
            stream: Any = out.add_stream("libx264", rate=RATE, options=options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for time in range(seconds * RATE):
                x, y = (int(side * (1 + np.sin(time / period)) / 2)
                        for side, period in ((WIDTH, 41), (HEIGHT, 67)))  # fmt: skip
                window = np.ascontiguousarray(ground[y : y + HEIGHT, x : x + WIDTH])
                out.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="rgb24")))
            out.mux(stream.encode(None))
        (part / f"{number}.txt").write_text(f"film {number}\n")
    part.rename(folder)


if __name__ == "__main__":
    main()
