"""A tiny model and real files of pictures for the evaluators' tests."""

import csv
import functools

import jax
import numpy as np
from PIL import Image

from mmjax import config as config_lib
from mmjax import models
from mmjax.data import train_tokenizer

WORDS = ["red", "green", "blue", "cat", "dog", "moon", "sea", "tree", "small", "large"]


@functools.cache
def tokenizer():
    return train_tokenizer([" ".join(WORDS)] * 2, 560)


@functools.cache
def run():
    """(config, model, params) of a tiny CLIP with random weights that tell inputs apart."""
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    config.model.text.vocab_size = tokenizer().vocab_size
    config.model.image.unroll = config.model.text.unroll = False  # compiles sooner
    config.objectives.clip = config_lib.entry("objectives")
    model = models.from_config(config.model)
    shapes = jax.eval_shape(functools.partial(models.init, model), jax.random.key(0))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        center = 1.0 if path[-1].key == "scale" else 0.0
        spread = leaf.shape[-2] ** -0.5 if path[-1].key == "kernel" else 0.1
        return (center + spread * rng.normal(size=leaf.shape)).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    params["logit_scale"] = np.asarray(2.5, np.float32)
    return config, model, params


def embed(batch, *outputs):
    """The named outputs of one plain batch, numpy."""
    _, model, params = run()
    return jax.tree.map(np.asarray, apply(model)({"params": params}, batch, outputs))


@functools.cache
def apply(model):
    return jax.jit(model.apply, static_argnums=2)


def captions(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 4, replace=False)) for _ in range(count)]


def write_table(folder, texts, labels=None):
    """A CSV of random pictures, one a list of captions, and returns its path."""
    rng = np.random.default_rng(1)
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "caption", "class"])
        for number, group in enumerate(texts):
            pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((40, 36)).save(folder / f"{number}.png")
            for text in group:
                rows.writerow([f"{number}.png", text, 0 if labels is None else labels[number]])
    return str(folder / "pairs.csv")
