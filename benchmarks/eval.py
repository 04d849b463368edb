"""Zero-shot evaluation, from JPEG files to accuracy, in mmjax and in PyTorch on the same CPU cores.

The peer is the loop that one writes with torch: a Dataset of Pillow files, DataLoader workers,
inference mode, transformers' CLIPModel. Both have the same ViT-B/32 weights, the same pictures
(about ImageNet's size, made here), the same Pillow preprocessing, and a classifier that is embedded
before the clock starts; their logits must agree before anything is timed. They then take turns.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/eval.py --markdown
"""

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tables import show

SIZE, CLASSES = 224, 50
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Run = Callable[[], Any]
Program = dict[str, Run]  # "evaluate", and its parts "decode" and "matmul" alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--rounds", type=int, default=5, help="turns each")
    parser.add_argument("--markdown", action="store_true", help="print the table for README.md")
    args = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Before the first import of jax, whose thread pool has the size of the affinity.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])

    with tempfile.TemporaryDirectory() as folder:
        files = write_images(Path(folder), args.images)
        peer, weights, classifier = torch_program(files, args.batch, args.threads, args.workers)
        programs = {
            f"PyTorch, {args.workers} DataLoader workers": peer,
            "mmjax": mmjax_program(Path(folder), args.batch, weights, classifier),
        }
        answers = [program["evaluate"]() for program in programs.values()]  # the first compiles
        difference = np.abs(answers[0] - answers[1]).max()
        if difference > 1e-4:
            raise SystemExit(f"The programs do not compute the same: {difference}")
        seconds = measure(programs, args.rounds)

    rows: list[tuple[str, ...]] = []
    base, busy = (np.array(seconds[next(iter(seconds))][part]) for part in ("evaluate", "cpu"))
    for name, parts in seconds.items():
        median = {part: float(np.median(times)) for part, times in parts.items()}
        ratios = base / np.array(parts["evaluate"])
        alone = median["decode"] + median["matmul"]
        rows.append((
            name, f"{args.images / median['evaluate']:.1f}", f"{np.median(ratios):.2f}×",
            f"{ratios.min():.2f}–{ratios.max():.2f}",
            f"{1000 * median['cpu'] / args.images:.0f} ms",
            f"{np.median(busy / np.array(parts['cpu'])):.2f}×",
            f"{1000 * median['decode'] / args.images:.2f} ms",
            f"{1000 * median['matmul'] / args.images:.2f} ms",
            f"{median['decode'] / alone:.0%} : {median['matmul'] / alone:.0%}",
            f"{median['evaluate'] / alone:.2f}",
        ))  # fmt: skip
    header = ("program", "images/s", "× peer", "round by round", "CPU an image", "× less",
              "decode alone", "matmul alone", "shares", "both / sum")  # fmt: skip
    title = (
        f"Zero-shot evaluation, ViT-B/32, float32, batch {args.batch}, {args.images} pictures, "
        f"{args.threads} threads, largest difference of cosines {difference:.1e}"
    )
    show(title, header, rows, args.markdown)


def write_images(folder: Path, count: int) -> list[Path]:
    """Pictures of 500 × 375 and 375 × 500: smooth shapes with fine noise, about 100 KB each."""
    (folder / "all").mkdir()
    files = []
    for number in range(count):
        rng = np.random.default_rng(number)
        width, height = (500, 375) if number % 4 else (375, 500)
        small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
        smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        pixels = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        files.append(folder / "all" / f"{number:05d}.jpg")
        Image.fromarray(pixels).save(files[-1], "JPEG", quality=85)
    return files


def torch_program(
    files: list[Path], batch: int, threads: int, workers: int
) -> tuple[Program, dict[str, np.ndarray], np.ndarray]:
    """The peer, its weights, and a classifier float32 [CLASSES, D]."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = CLIPModel(CLIPConfig()).eval()
    classifier = torch.nn.functional.normalize(torch.randn(CLASSES, 512), dim=1)
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (MEAN, STD))

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> torch.Tensor:
            image = Image.open(io.BytesIO(files[index].read_bytes())).convert("RGB")
            short = min(image.size)
            width, height = (int(SIZE * side / short) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BICUBIC)
            left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
            image = image.crop((left, top, left + SIZE, top + SIZE))
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
            return (pixels.float() / 255 - mean) / std

    batches = torch.utils.data.DataLoader(
        Pictures(), batch_size=batch, num_workers=workers, persistent_workers=True
    )
    next(iter(batches))  # starts the workers: they fork, which must not be after JAX has threads

    def embed(pixels: torch.Tensor) -> torch.Tensor:
        found = model.get_image_features(pixel_values=pixels)
        return torch.nn.functional.normalize(getattr(found, "pooler_output", found), dim=1)

    def evaluate() -> np.ndarray:
        with torch.inference_mode():
            found = [embed(pixels) @ classifier.T for pixels in batches]
            cosines = torch.cat(found)
            cosines.topk(5)
        return cosines.numpy()

    def matmul() -> None:
        with torch.inference_mode():
            pixels = torch.zeros(batch, 3, SIZE, SIZE)
            for _ in range(len(files) // batch):
                embed(pixels) @ classifier.T

    def decode() -> None:
        for _ in batches:
            pass

    state = {name: x.detach().numpy().copy() for name, x in model.state_dict().items()}
    program = {"evaluate": evaluate, "decode": decode, "matmul": matmul}
    return program, state, classifier.numpy()


def mmjax_program(
    folder: Path, batch: int, weights: dict[str, np.ndarray], classifier: np.ndarray
) -> Program:
    """What an evaluator does once its prompts are embedded: images, ranks, accuracy, intervals."""
    import jax

    from mmjax import config as config_lib
    from mmjax import models
    from mmjax.data import eval_batches, open_source
    from mmjax.data.modalities import Image
    from mmjax.evaluation import accuracy
    from mmjax.evaluation.embed import Embedder
    from mmjax.evaluation.spec import Subject
    from mmjax.inference import layers_apart, layers_together
    from mmjax.interop.huggingface import clip
    from mmjax.parallel.mesh import make_mesh, put_batch

    config = config_lib.default()
    config.model = models.zoo.config("ViT-B/32-quickgelu")  # the activation of CLIPConfig()
    model = models.from_config(config.model)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        params = jax.device_put(clip.MODEL.family.read(weights, config.model))
    spec = config_lib.entry("evals", path=str(folder), batch_size=batch)
    source = open_source(spec)
    embedder = Embedder.of(spec, Subject.of(config, model, None))  # the classifier is given
    labels = np.arange(len(source)) % CLASSES

    def evaluate() -> np.ndarray:
        with jax.set_mesh(mesh):
            columns, _ = embedder.records(params, source, "image")
        accuracy(columns["image/embed"], classifier, labels)
        return columns["image/embed"] @ classifier.T

    def decode() -> None:
        for _ in eval_batches(
            source, [Image("image", SIZE)], batch_size=batch, rows=np.arange(batch),
            workers=config.data.workers,
        ):  # fmt: skip
            pass

    @jax.jit
    def apply(layers, columns):
        return model.apply({"params": layers_together(layers)}, columns, ("image/embed",))

    pixels = np.zeros((batch, SIZE, SIZE, 3), np.uint8)

    def matmul() -> None:
        with jax.set_mesh(mesh):
            layers = layers_apart(params)
            for _ in range(len(source) // batch):
                jax.block_until_ready(apply(layers, put_batch({"image": pixels}, batch)))

    return {"evaluate": evaluate, "decode": decode, "matmul": matmul}


def measure(programs: dict[str, Program], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds, program → part → [rounds]; the programs take turns at each part.

    "cpu" are the seconds that the cores worked for "evaluate", in all threads and workers: what
    other work on the same machine changes least.
    """
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in programs}
    for number in range(rounds + 1):
        for part in ("evaluate", "decode", "matmul"):
            for name, program in programs.items():
                start, busy = time.perf_counter(), cpu_seconds()
                program[part]()
                if number:  # the first round warms up
                    times = {part: time.perf_counter() - start}
                    times |= {"cpu": cpu_seconds() - busy} if part == "evaluate" else {}
                    for key, value in times.items():
                        seconds[name].setdefault(key, []).append(value)
    return seconds


def cpu_seconds() -> float:
    """CPU time so far of this process and of its children that live, as the workers do (Linux)."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()  # after the name, from field 3 on
        except OSError:  # it has just ended
            continue
        if os.getpid() in (int(file.parent.name), int(fields[1])):
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
