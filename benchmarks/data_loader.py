"""The data loader beside webdataset + torch's DataLoader, and beside decoding alone, on two cores.

    pip install -e '.[benchmarks]' && python benchmarks/data_loader.py --markdown

All read the same tar shards of 2,048 JPEGs (about 500 × 375, quality 90, 90 kB: noise with the
spectrum of photographs, made once), make random-resized-crops of 224 (area 0.9 to 1.0), mirror half
of them and encode the caption to 77 tokens, in batches of 64, with two worker processes. Programs
take turns, each turn in a new process, timed after its first batches.

The peer is the pipeline of open_clip 3.3 (src/open_clip_train/data.py, get_wds_dataset). Its
transform is written out with Pillow and torch here, as torchvision computes it
(RandomResizedCrop with Pillow's bicubic, ToTensor, Normalize), because torchvision and torch
must match to the patch version and are not needed for more. Its tokenizer is ours, which is faster
than open_clip's. Decoding alone is OpenCV's libjpeg-turbo at full size, from memory, one process a
core. CPU ms are those of all processes of a program: on a shared machine they vary less than time.
"""

import argparse
import io
import json
import math
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from tables import show

from mmjax import config as config_lib
from mmjax import data, models
from mmjax.data import modalities, tar_index, tar_pair
from mmjax.data.augment import Crop
from mmjax.data.modalities import Modality

SHARDS, PAIRS = 8, 256
SHAPES = ((375, 500), (333, 500), (500, 375), (375, 500))
SIZE, LENGTH, BATCH, CORES = 224, 77, 64, 2
MILLION = 64 * 15_625
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WORDS = ("a", "the", "of", "photo", "red", "small", "old", "house", "with", "in", "tree", "sky")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns of each program")
    parser.add_argument("--seconds", type=float, default=10.0, help="timed in a turn")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "mmjax-loader")
    parser.add_argument("--markdown", action="store_true", help="print the tables for README.md")
    parser.add_argument("--turn", choices=list(PROGRAMS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    if args.turn:
        print(json.dumps(turn(PROGRAMS[args.turn], args.folder, args.seconds)))
        return
    make_shards(args.folder)
    speed(args.folder, args.rounds, args.seconds, args.markdown)
    quality(args.markdown)
    million(args.folder, args.markdown)


# Images a second.


def speed(folder: Path, rounds: int, seconds: float, markdown: bool) -> None:
    turns: dict[str, list[dict]] = {name: [] for name in PROGRAMS}
    for _ in range(rounds):
        for name in PROGRAMS:
            command = [sys.executable, __file__, f"--turn={name}", f"--folder={folder}"]
            command.append(f"--seconds={seconds}")
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            turns[name].append(json.loads(done.stdout.splitlines()[-1]))
    rate = {name: np.array([t["rate"] for t in taken]) for name, taken in turns.items()}
    cpu = {name: np.median([t["cpu_ms"] for t in taken]) for name, taken in turns.items()}
    rows = []
    for name in PROGRAMS:
        ratios, shares = rate[name] / rate[PEER], rate[name] / rate[DECODE]
        rows.append((name, f"{np.median(rate[name]):,.0f}", f"{np.median(ratios):.2f}×",
                     f"{ratios.min():.2f}–{ratios.max():.2f}", f"{np.median(shares):.0%}",
                     f"{cpu[name]:.2f}"))  # fmt: skip
    header = (
        "program",
        "images/s",
        "× webdataset",
        "round by round",
        "of decoding",
        "CPU ms/image",
    )
    show(f"Loading on {CORES} cores, batches of {BATCH}", header, rows, markdown)


def turn(program: Callable[[Path], Iterator[int]], folder: Path, seconds: float) -> dict:
    """Runs a program for some seconds; it yields the number of images each time it has some."""
    counts = program(folder)
    for _ in range(8):  # what was read ahead while the processes started
        next(counts)
    images, start, cpu = 0, time.perf_counter(), cpu_seconds()
    while (passed := time.perf_counter() - start) < seconds:
        images += next(counts)
    cpu = cpu_seconds() - cpu
    return {"rate": images / passed, "cpu_ms": cpu / images * 1e3}


def cpu_seconds() -> float:
    """User and system time of this process and its children so far (proc(5))."""
    total, group = 0, os.getpid()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
        except OSError:  # it has ended
            continue
        if int(stat.parent.name) == group or int(fields[1]) == group:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def mmjax_loader(folder: Path, workers: int = 0) -> Iterator[int]:
    source = data.open_source({"path": str(folder / "photographs")}, "photographs")
    settings = config(workers)
    for batch in data.train_batches([source], settings, read(settings), rows=ROWS, start_step=0):
        yield len(batch["image"])


def webdataset_loader(folder: Path) -> Iterator[int]:
    import webdataset as wds

    encode = tokenizer()
    shards = sorted(str(path) for path in (folder / "photographs").glob("*.tar"))
    pipeline = wds.DataPipeline(
        wds.ResampledShards(shards),
        wds.tarfile_to_samples(),
        wds.shuffle(5000, initial=1000),
        wds.select(lambda sample: "txt" in sample and "jpg" in sample),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(image=torchvision_transform, text=lambda text: tokens(encode, text)),
        wds.to_tuple("image", "text"),
        wds.batched(BATCH, partial=False),
    )
    loader = wds.WebLoader(
        pipeline, batch_size=None, shuffle=False, num_workers=CORES, persistent_workers=True
    )
    for images, _ in loader:
        yield len(images)


def torchvision_transform(image: Image.Image) -> Any:
    """RandomResizedCrop(224, (0.9, 1), bicubic), a mirror image, ToTensor, Normalize."""
    import torch

    width, height = image.size
    for _ in range(10):
        area = height * width * random.uniform(0.9, 1.0)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            break
    else:  # the largest centred crop of an allowed aspect
        aspect = min(max(width / height, 3 / 4), 4 / 3)
        w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
    x, y = random.randint(0, width - w), random.randint(0, height - h)
    image = image.crop((x, y, x + w, y + h)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return pixels.sub_(mean).div_(std)


def tokens(encode: data.Tokenizer, text: str) -> Any:
    import torch

    return torch.from_numpy(encode.encode([text], LENGTH)[0][0]).long()


def decode_alone(folder: Path) -> Iterator[int]:
    with tarfile.open(folder / "photographs" / "00000.tar") as tar:
        images = [tar.extractfile(m).read() for m in tar if m.name.endswith("jpg")]  # type: ignore[union-attr]
    with ProcessPoolExecutor(CORES, initializer=_keep, initargs=(images,)) as pool:
        waiting = [pool.submit(_decode) for _ in range(2 * CORES)]
        while True:
            waiting.append(pool.submit(_decode))
            yield waiting.pop(0).result()


def _keep(images: list[bytes]) -> None:
    global _images
    cv2.setNumThreads(1)
    _images = images


def _decode() -> int:
    for image in random.choices(_images, k=BATCH):
        cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
    return BATCH


_images: list[bytes]
PEER, DECODE = "webdataset + DataLoader", "decoding alone"
PROGRAMS: dict[str, Callable[[Path], Iterator[int]]] = {
    PEER: webdataset_loader,
    "mmjax, threads": mmjax_loader,
    "mmjax, processes": partial(mmjax_loader, workers=CORES),
    DECODE: decode_alone,
}
ROWS = np.arange(BATCH)


def config(workers: int) -> ConfigDict:
    config = config_lib.default()
    config.batch_size = BATCH
    config.model = models.zoo.config("ViT-B/32")
    config.model.image.size, config.model.text.context_length = SIZE, LENGTH
    config.data.train.photographs = config_lib.entry("data.train")
    config.data.augment.update(crop_scale=(0.9, 1.0), crop_ratio=(3 / 4, 4 / 3), flip=0.5)
    config.data.workers = workers
    return config


def read(config: ConfigDict) -> Collection[Modality]:
    inputs = models.inputs(config.model)
    return modalities.build(inputs, data=config.data, tokenizer=tokenizer).values()


def tokenizer() -> data.Tokenizer:
    return data.train_tokenizer((" ".join(WORDS) for _ in range(2)), 600)


# Quality of the cheaper resize.


def quality(markdown: bool) -> None:
    rows = []
    for shrink in (1.0, 1.1, 1.25, 1.3, 1.5, 1.75, 1.95, 2.5, 3.0, 4.0, 6.0):
        found = np.mean([psnrs(seed, shrink) for seed in range(8)], axis=0)
        rows.append((f"{shrink:g}", *(f"{value:.1f}" for value in found)))
    header = ("picture / view", "mmjax", "Pillow bilinear", "Pillow box", "OpenCV linear")
    show("PSNR in dB against Pillow's bicubic, of JPEGs at 224", header, rows, markdown)


def psnrs(seed: int, shrink: float) -> tuple[float, ...]:
    """Of whole pictures resized from the same JPEG; ours decodes it smaller where it can."""
    side = round(SIZE * shrink)
    encoded = jpeg(photograph(seed, side, side))
    image = Image.open(io.BytesIO(encoded))
    exact = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC), float)
    whole = data.Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    ours = Crop(encoded, np.random.default_rng(0), whole).at((SIZE, SIZE))
    kinds = (Image.Resampling.BILINEAR, Image.Resampling.BOX)
    others = [np.asarray(image.resize((SIZE, SIZE), kind)) for kind in kinds]
    linear = cv2.resize(np.asarray(image), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    views = (ours, *others, linear)
    return tuple(10 * np.log10(255**2 / max(np.mean((v - exact) ** 2), 1e-9)) for v in views)


# A million pairs.


def million(folder: Path, markdown: bool) -> None:
    """64 shards of 15,625 pairs of tiny pictures, which are one file under 64 names."""
    many = folder / "million"
    many.mkdir(exist_ok=True)
    shards = [many / f"{number:05d}.tar" for number in range(64)]
    if not shards[-1].exists():
        write_tar(shards[0], [jpeg(photograph(0, 16, 16))] * (MILLION // 64))
        for shard in shards[1:]:
            shard.hardlink_to(shards[0])
    stamp, fields = (shards[0].stat().st_size, ""), tar_pair.Fields()
    cpu = time.process_time()
    for _ in range(3):
        tar_index.scan_shard(0, str(shards[0]), fields, stamp)
    members = 3 * 2 * (MILLION // 64) / (time.process_time() - cpu)

    spec = {"path": str(many)}
    data.open_source(spec, "million")  # makes the index
    rates = [("index, members/s/core", f"{members:,.0f}")]
    for workers in (0, CORES):
        settings = config(workers)
        pair = read(settings)
        start = time.perf_counter()
        source = data.open_source(spec, "million")
        middle = MILLION // 2 // BATCH
        batches = data.train_batches([source], settings, pair, rows=ROWS, start_step=middle)
        next(batches)
        rates.append((f"resume in its middle, {workers} workers, s",
                      f"{time.perf_counter() - start:.2f}"))  # fmt: skip
        batches.close()
    show(f"An index of {MILLION:,} pairs", ("", ""), rates, markdown)


# Pictures.


def make_shards(folder: Path) -> None:
    target = folder / "photographs"
    if target.exists():
        return
    print(f"making {SHARDS * PAIRS:,} photographs in {target}", file=sys.stderr)
    part = folder / "photographs.part"
    part.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(CORES) as pool:
        list(pool.map(_make_shard, [part] * SHARDS, range(SHARDS)))
    part.rename(target)


def _make_shard(folder: Path, shard: int) -> None:
    numbers = range(shard * PAIRS, (shard + 1) * PAIRS)
    pictures = [jpeg(photograph(n, *SHAPES[n % len(SHAPES)])) for n in numbers]
    write_tar(folder / f"{shard:05d}.tar", pictures)


def write_tar(path: Path, pictures: list[bytes]) -> None:
    rng = random.Random(str(path.name))
    with tarfile.open(path, "w") as tar:
        for number, picture in enumerate(pictures):
            caption = " ".join(rng.choices(WORDS, k=rng.randint(4, 16))).encode()
            for suffix, content in (("jpg", picture), ("txt", caption)):
                info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def photograph(seed: int, height: int, width: int) -> np.ndarray:
    """Noise with the spectrum of photographs: amplitude 1/f^1.2 in luma, smoother in chroma."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)) + 0.5 / width
    planes = []
    for power, spread in ((1.2, 50), (1.7, 18), (1.7, 18)):
        noise = np.fft.rfft2(rng.normal(size=(height, width))) / frequency**power
        plane = np.fft.irfft2(noise, (height, width))
        planes.append((plane - plane.mean()) / plane.std() * spread + 128)
    pixels = np.stack(planes, axis=-1).clip(0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels, "YCbCr").convert("RGB"))


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
