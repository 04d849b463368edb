"""Runs on image–text, video–text and audio–text sources together, each objective on the rows that
have both of its parts."""

import re

import jax
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import config_check
from mmjax.errors import UserError
from mmjax.objectives import contrastive
from mmjax.parallel import mesh as mesh_lib
from mmjax.training.assemble import assemble


def run(**optim):
    config = tiny.config(lr=1e-3, **optim)
    frame = {k: v for k, v in config.model.image.items() if k != "kind"}
    config.model.video = config_lib.entry("model", kind="video_vit", **{**frame, "frames": 2})
    config.model.text.vocab_size = 600
    config.objectives.films = config_lib.entry("objectives", kind="clip", of=("video", "text"))
    for name, media, weight in (("films", "video", 1.0), ("shapes", "image", 3.0)):
        config.data.train[name] = config_lib.entry(
            "data.train", path="generated:96", media=media, weight=weight
        )
    config.data.tokenizer = "captions:600"
    config.total_steps = 8
    return config


def run_with_sounds():
    """Images with texts, and sounds with texts."""
    config = run()
    config.model.audio = config_lib.entry(
        "model", kind="audio_vit", width=32, depth=1, heads=4, mlp_dim=64, seconds=0.5, bins=32
    )
    config.objectives.tones = config_lib.entry("objectives", kind="clip", of=("audio", "text"))
    del config.model.video, config.objectives.films, config.data.train.films
    spec = config_lib.entry("data.train", path="generated:96", media="audio")
    config.data.train.tones = spec
    return config


@pytest.fixture
def rings(monkeypatch):
    """Devices of which several have no row of the films."""
    monkeypatch.setattr(contrastive, "DENSE_ENTRIES", 0)


def test_first_losses_and_gradients_are_the_same_on_one_device_and_on_eight(rings):
    config = run_with_sounds()
    one = tiny.loaded_step(config, 1)
    assert set(one[0]) == {"loss/clip", "loss/tones"}
    for part in ("image", "audio"):
        assert np.linalg.norm(one[1][part]["head"]["kernel"]) > 1e-3
    tiny.assert_same(tiny.loaded_step(config, 8), one)


def test_it_trains_in_microbatches_resumes_to_the_bit_and_is_planned(tmp_path):
    config = run(microbatches=2)
    straight, found = tiny.trained(config, tmp_path / "a")
    resumed, _ = tiny.trained(config, tmp_path / "b", stop_after=3)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, straight.params)
    # Of equal logits the losses are ln 12 and ln 4: each is over the rows of its own source.
    assert 0 < found["loss/films"] < np.log(4) + 0.5 < found["loss/clip"] < np.log(12) + 0.5
    assert tiny.planned(config).fits


def bound():
    """Images, sounds and texts in one run: what images and sounds have to do with each other is
    learnt by way of the texts (ImageBind, Girdhar et al., 2023, by way of images)."""
    config = tiny.config(lr=3e-3)
    size = {
        key: config.model.image[key] for key in ("width", "heads", "mlp_dim", "depth", "unroll")
    }
    config.model.audio = config_lib.entry(
        "model", kind="audio_vit", seconds=1.0, bins=32, pool="mean", norm_pre=False, **size
    )
    config.model.text.update(vocab_size=600, context_length=16)
    config.objectives.sounds = config_lib.entry("objectives", kind="clip", of=("audio", "text"))
    for name, media in (("shapes", "image"), ("tones", "audio")):
        config.data.train[name] = config_lib.entry("data.train", path="generated:96", media=media)
        config.evals[name] = config_lib.entry(
            "evals", kind="retrieval", path="generated:24", media=media, candidates="captions",
            of=(media, "text"),
        )  # fmt: skip
    config.data.tokenizer = "captions:600"
    config.batch_size, config.total_steps = 32, 60
    return config


def test_images_sounds_and_texts_are_trained_in_one_run(tmp_path):
    config = bound()
    _, found = tiny.trained(config, tmp_path)
    assert found["tones/audio_to_text/R@5"] > 0.75, found  # by chance 0.38
    assert found["shapes/image_to_text/R@5"] > 0.5, found  # by chance 0.20
    small = config_lib.smoke(config_lib.complete(bound()))
    for specs in (small.data.train, small.evals):
        assert {name: spec.media for name, spec in specs.items()} == {
            "shapes": "image", "tones": "audio",
        }  # fmt: skip


def test_a_smoke_run_of_a_mixture_is_a_mixture():
    config = config_lib.smoke(config_lib.complete(run()))
    assert {name: spec.media for name, spec in config.data.train.items()} == {
        "films": "video", "shapes": "image",
    }  # fmt: skip
    config_check.validate(config)


def only_films(config):
    del config.objectives.clip


def apart(config):
    config.objectives.apart = config_lib.entry("objectives", kind="clip", of=("image", "video"))


def masked(config):
    config.objectives.masked = config_lib.entry("objectives", kind="masked_image")
    config.model.image.pixel_head = True


def language(config):
    config.model.text.mlm_head = True
    config.objectives.mlm = config_lib.entry("objectives", of="text")
    config.data.train.lines = config_lib.entry("data.train", path="a.txt", kind="text")


def absent(config):
    config.data.train.films.without = ("sound",)


def teachers(config):
    config.teachers.old = config_lib.entry("teachers", source="random:tiny")
    config.objectives.old = config_lib.entry(
        "objectives", kind="distill_similarity", teachers=("old",)
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (language, ""),
        (only_films, "config.data.train.shapes is used by no objective: it has nothing for video"),
        (apart, "config.objectives.apart needs image and video of one example, and no source"),
        (masked, "config.objectives.masked reads 'image' of every example, and config.data.train."
                 "films has nothing for it"),
        (absent, "config.data.train.films.without='sound': the model reads image, text, video"),
        (teachers, "config.teachers wants sources that all show the same"),
    ],
)  # fmt: skip
def test_what_a_mixture_cannot_train_is_said_at_the_start(change, said):
    config = run()
    change(config)
    if not said:
        start(config)
        return
    with pytest.raises(UserError, match=re.escape(said)):
        start(config)


def start(config):
    config_check.validate(config)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        assemble(config, mesh)
