"""What the benchmarks on emoji share: a small model, the three styles it sees, and the fourth."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

import mmjax
from mmjax import config as config_lib
from mmjax import data
from mmjax.data.images import open_image
from mmjax.pretrained import Pretrained
from mmjax.training import loop

FOLDER = Path("data/emoji")
SEEN = {"google": 1.0, "fluent": 1.0, "openmoji": 1.0}
UNSEEN = "twitter"


def config(steps: int, batch_size: int, seed: int) -> ConfigDict:
    """Pictures of 32 pixels and texts of up to 16 tokens, width 128; no objective yet."""
    result = config_lib.default()
    result.update(seed=seed, total_steps=steps, batch_size=batch_size)
    result.model.update(name="emoji", embed_dim=128)
    tower = {"width": 128, "heads": 2, "mlp_dim": 512}
    result.model.image = config_lib.entry(
        "model", kind="vit", size=32, patch_size=8, mean=(0.6, 0.55, 0.5), std=(0.35,) * 3, **tower
    )
    result.model.text = config_lib.entry(
        "model", kind="transformer", vocab_size=2049, context_length=16, causal=False, pool="cls",
        mask_padding=True, mlm_head=True, **tower,
    )  # fmt: skip
    result.model.logit = config_lib.entry("model", kind="scale")
    result.optim.update(name="muon", lr=1e-2, warmup_steps=20, weight_decay=0.1)
    result.optim.lr_scale = ((r".*(embed|norm|bias|logit)", 0.2),)
    for style, weight in SEEN.items():
        result.data.train[style] = config_lib.entry(
            "data.train", path=str(FOLDER / style), weight=weight
        )
    result.data.tokenizer = "captions:2048"
    result.data.augment.update(
        crop_scale=(0.5, 1.5), crop_ratio=(0.75, 1.33), rotate=15.0, translate=0.05, flip=0.5,
        brightness=0.3, contrast=0.3, saturation=0.5, hue=0.08, grayscale=0.15,
    )  # fmt: skip
    result.log.update(every=50, tensorboard=False)
    result.checkpoint.every = steps
    return result


def train(run: ConfigDict) -> tuple[Pretrained, list[Mapping[str, float]]]:
    """The trained model and what was logged of a run in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as workdir:
        loop.train(run, workdir)
        lines = Path(workdir, "metrics.jsonl").read_text().splitlines()
        trained = mmjax.load(workdir)
        assert (
            trained.tokenizer
        )  # loaded when it is first asked for, as long as the folder is there
        return trained, [json.loads(line) for line in lines]


def unseen(trained: Pretrained) -> tuple[np.ndarray, list[str]]:
    """Pictures uint8 [n, S, S, 3] of the style that is never trained on, and their labels."""
    source: Any = data.open_source({"path": str(FOLDER / UNSEEN)})
    pictures = [open_image(source[i].part("image")) for i in range(len(source))]
    return trained.preprocess(pictures), [source.captions(i)[0] for i in range(len(source))]


def recall(trained: Pretrained) -> float:
    """R@1 of picture → label in the unseen style, among all labels."""
    pictures, labels = unseen(trained)
    candidates = sorted(set(labels))
    nearest = (trained.embed_images(pictures) @ trained.embed_texts(candidates).T).argmax(axis=1)
    return float(
        np.mean([candidates[n] == label for n, label in zip(nearest, labels, strict=True)])
    )


def count(trained: Pretrained) -> int:
    """Parameters of a model."""
    return sum(x.size for x in jax.tree.leaves(trained.params))


def spread(values: list[float], digits: int = 1) -> str:
    """The mean of the seeds, and their least and greatest."""
    low, high = min(values), max(values)
    return f"{np.mean(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def deviation(values: Sequence[float]) -> str:
    """The mean of the seeds and their standard deviation."""
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=len(values) > 1):.1f}"
