"""A third modality from outside of the package: a series of numbers beside images and texts."""

import flax.linen as nn
import jax
import numpy as np
import tiny

from mmjax import config as config_lib
from mmjax import models
from mmjax.data import modalities, sources
from mmjax.data.records import Record, Texts


@modalities.register("signal")
class Signal(modalities.Modality):
    def __init__(self, name):
        self.name = name

    of = classmethod(lambda cls, name, spec, data, tokenizer: cls(name))
    columns = property(lambda self: {self.name: modalities.Column((16,), np.float32)})

    def read(self, record, draw):
        noise = 0 if draw is None else draw.rng("signal").normal(size=16)
        return np.asarray(record.part("signal") + 0.1 * noise, np.float32)


@models.register("series")
class Series(nn.Module):
    embed_dim: int
    modality = "signal"

    def functions(self, name):
        return (models.Function(name, "__call__", (("series", name),), ("embed",)),)

    @nn.compact
    def __call__(self, outputs, series, train=False):
        x = nn.Dense(self.embed_dim)(nn.tanh(nn.Dense(24)(series)))
        return {"embed": x / jax.numpy.linalg.norm(x, axis=-1, keepdims=True)}


@sources.register("tones")
class Tones(list):  # of records
    def __init__(self, spec, name):
        self.name, self.skipped, self.captions = name, {}, lambda i: self[i].captions
        for i in range(int(spec.path)):
            signal, text = np.sin(np.arange(16) * (1 + i % 8) / 3), Texts((f"tone number {i % 8}",))
            image = np.full((16, 16, 3), 30 * (i % 8), np.uint8)
            self.append(Record(f"{i}", {"signal": signal, "text": text, "image": image}))


def config():
    result = tiny.config(lr=3e-3)
    result.model.text.vocab_size, result.total_steps, of = 600, 40, ("sound", "text")
    result.model.sound = config_lib.entry("model", kind="series")
    result.model.sounds = config_lib.entry("model", kind="scale")
    result.objectives.tones = config_lib.entry("objectives", kind="clip", of=of, scale="sounds")
    result.data.train.tones = config_lib.entry("data.train", kind="tones", path="64")
    result.data.tokenizer = "captions:600"
    heard = {"kind": "retrieval", "of": of, "candidates": "captions"}
    result.evals.heard = config_lib.entry("evals", **heard, format="tones", path="8")
    return result


def test_first_losses_and_gradients_are_the_same_on_one_device_and_on_eight():
    one = tiny.loaded_step(config(), 1)
    assert set(one[0]) == {"loss/clip", "loss/tones"}
    assert np.linalg.norm(one[1]["sound"]["Dense_0"]["kernel"]) > 1e-3
    tiny.assert_same(tiny.loaded_step(config(), 8), one)


def test_it_is_planned_trains_resumes_to_the_bit_and_finds_texts_by_sounds(tmp_path):
    assert tiny.planned(config()).fits
    straight, found = tiny.trained(config(), tmp_path / "a")
    resumed, _ = tiny.trained(config(), tmp_path / "b", stop_after=15)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, straight.params)
    assert found["heard/sound_to_text/R@1"] > 0.8
