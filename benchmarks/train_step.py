"""A whole ViT-B/32 train step in mmjax and in PyTorch, on the same CPU cores, in one run.

The peer is transformers' CLIPModel with torch's fused AdamW. Both start from the same weights and
see the same float32 batch; the losses must agree to 1e-4 before anything is timed. The programs
then take turns, a few steps each, so that a change in the machine's load meets all of them.

    python benchmarks/train_step.py --rounds=5 --markdown

Caption lengths are an assumption about web captions: 10.3 ± 4.5 tokens from a gamma distribution,
plus start and end (of 32, the longest has 24 tokens).
"""

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
from tables import show

LENGTHS = (16, 24, 32, 48, 77)  # what we trim to: config.data.text_lengths
START, END = 49406, 49407  # CLIP's tokens; OpenAI's tokenizer pads with the end token
LR, DECAY, BETAS, EPS = 1e-5, 0.2, (0.9, 0.98), 1e-6
Step = Callable[[], float]  # runs one train step to its end and returns the loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns each")
    parser.add_argument("--markdown", action="store_true", help="print the table for README.md")
    args = parser.parse_args()
    # Before the first import of jax, whose thread pool has the size of the affinity.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])

    batch = make_batch(args.batch)
    longest = int(batch["text_mask"].sum(axis=1).max())
    trimmed = min(length for length in LENGTHS if length >= longest)
    peer, weights = torch_step(batch, args.threads)
    steps = {
        f"transformers CLIPModel + torch AdamW, {batch['text'].shape[1]} tokens": peer,
        f"mmjax, padded to {batch['text'].shape[1]} tokens": mmjax_step(batch, weights),
        f"mmjax, trimmed to {trimmed} tokens": mmjax_step(
            batch | {name: batch[name][:, :trimmed] for name in ("text", "text_mask")}, weights
        ),
    }
    del weights
    losses = {name: step() for name, step in steps.items()}  # the first step also compiles
    spread = max(losses.values()) - min(losses.values())
    if spread > 1e-4:
        raise SystemExit(f"The programs do not compute the same loss: {losses}")

    seconds = measure(steps, args.rounds, args.steps)
    rates = {name: args.batch / np.median(times) for name, times in seconds.items()}
    base = np.median(seconds[next(iter(seconds))], axis=1)
    rows: list[tuple[str, ...]] = []
    for name, times in seconds.items():
        ratios = base / np.median(times, axis=1)  # round by round
        rows.append((name, f"{rates[name]:.2f}", f"{np.median(ratios):.2f}×",
                     f"{ratios.min():.2f}–{ratios.max():.2f}", f"{losses[name]:.6f}"))  # fmt: skip
    header = ("program", "examples/s", "× peer", "round by round", "first loss")
    title = f"ViT-B/32 train step, batch {args.batch}, float32, {args.threads} threads"
    show(title, header, rows, args.markdown)


def make_batch(size: int, context: int = 77) -> dict[str, np.ndarray]:
    """Noise images and random tokens: neither changes the work; the lengths do."""
    rng = np.random.default_rng(0)
    mean, deviation = 10.3, 4.5
    words = rng.gamma((mean / deviation) ** 2, deviation**2 / mean, size)
    lengths = np.clip(np.rint(words), 1, context - 2).astype(int) + 2
    text = rng.integers(0, START, (size, context), dtype=np.int32)
    position = np.arange(context)
    text[:, 0] = START
    text[position >= lengths[:, None] - 1] = END
    return {
        "image": rng.integers(0, 256, (size, 224, 224, 3), dtype=np.uint8),
        "text": text,
        "text_mask": position < lengths[:, None],
    }


def torch_step(batch: dict[str, np.ndarray], threads: int) -> tuple[Step, dict[str, np.ndarray]]:
    """The peer's step, and its weights before the first. Pixels are normalised beforehand."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = CLIPModel(CLIPConfig()).train()
    weights = {name: x.detach().numpy().copy() for name, x in model.state_dict().items()}
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}],
        lr=LR, betas=BETAS, eps=EPS, fused=True,
    )  # fmt: skip
    image = torch.tensor(batch["image"]).permute(0, 3, 1, 2).float() / 255
    image = (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    image, text = image.contiguous(), torch.tensor(batch["text"], dtype=torch.long)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=text, pixel_values=image, return_loss=True).loss
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        return loss.item()

    return step, weights


MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def mmjax_step(batch: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> Step:
    """Our step, as training runs it: pixels travel as uint8 and are normalised inside."""
    import jax

    from mmjax import config as config_lib
    from mmjax import models, objectives
    from mmjax.core import optim
    from mmjax.core.state import new_state
    from mmjax.core.step import make_train_step
    from mmjax.interop.huggingface import clip
    from mmjax.parallel.mesh import make_mesh, put_batch

    config = config_lib.default()
    config.model = models.zoo.config("ViT-B/32-quickgelu")  # the activation of CLIPConfig()
    config.objectives.clip = config_lib.entry("objectives")
    config.optim.update({"lr": LR, "schedule": "constant", "weight_decay": DECAY, "eps": EPS})
    config.optim.update({"b1": BETAS[0], "b2": BETAS[1]})
    params = clip.MODEL.family.read(weights, config.model)
    multipliers = optim.lr_multipliers(config.optim, params)
    optimizer = optim.optimizer(config.optim, multipliers)
    model, built = models.from_config(config.model), objectives.build(config.objectives)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        state = jax.jit(lambda: new_state(params, optimizer, ema=False))()
        train_step = jax.jit(
            make_train_step(model, built, optimizer, multipliers, config), donate_argnums=0
        )

    def step() -> float:
        nonlocal state
        with jax.set_mesh(mesh):
            state, metrics = train_step(state, put_batch(batch, len(batch["image"])))
            jax.block_until_ready(state)
        return float(metrics["loss"])

    return step


def measure(steps: dict[str, Step], rounds: int, turn: int) -> dict[str, np.ndarray]:
    """Seconds of each step, name → [rounds, steps of a turn]; the programs take turns."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times = []
            for _ in range(turn):
                start = time.perf_counter()
                step()
                times.append(time.perf_counter() - start)
            seconds[name].append(times)
    return {name: np.array(times) for name, times in seconds.items()}


if __name__ == "__main__":
    main()
