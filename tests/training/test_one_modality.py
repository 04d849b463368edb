"""Runs of one modality: class folders without texts, and texts whose images are no images."""

import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

import mmjax
from mmjax import config as config_lib
from mmjax import evaluation, models
from mmjax.errors import UserError
from mmjax.parallel import mesh as mesh_lib
from mmjax.runs.workdir import restore_for_inference
from mmjax.training import loop
from mmjax.training.assemble import assemble


def base(tower, **objective):
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    for other in {"image", "text", "logit"} - {tower}:
        del config.model[other]
    config.model.embed_dim = 32
    config.model[tower].update(width=32, depth=1, heads=2, mlp_dim=64, unroll=False)
    if tower == "image":
        config.model.image.update(size=16, patch_size=8)
    config.objectives = {k: config_lib.entry("objectives", **v) for k, v in objective.items()}
    config.update(total_steps=3, batch_size=8)
    config.optim.update(warmup_steps=1, lr=1e-3)
    config.log.update(every=1, tensorboard=False)
    config.data.workers = 0
    return config


def losses(config, workdir, devices, monkeypatch):
    """Of a run on some of the devices."""
    with monkeypatch.context() as patch:
        make = functools.partial(mesh_lib.make_mesh, devices=jax.devices()[:devices])
        patch.setattr(mesh_lib, "make_mesh", make)
        loop.train(config, workdir)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row], rows


@pytest.fixture
def classes(tmp_path):
    """Two class folders of six images, and no text."""
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    return str(tmp_path / "data")


def test_an_image_model_trains_on_class_folders_without_a_tokenizer(classes, tmp_path, monkeypatch):
    config = base("image", masked_image={})
    config.model.image.pixel_head = True
    config.data.tokenizer = "no/such-tokenizer"
    config.data.train.classes = config_lib.entry("data.train", path=classes)
    one, _ = losses(config, tmp_path / "one", 1, monkeypatch)
    eight, rows = losses(config, tmp_path / "eight", 8, monkeypatch)
    assert eight == pytest.approx(one, rel=1e-5)
    assert len(one) == 3
    assert [row["data/substituted"] for row in rows if "loss" in row] == [0] * 3
    assert not (tmp_path / "one" / "tokenizer").exists()
    workdir = str(tmp_path / "one")
    assert restore_for_inference(workdir)[3] is None
    held = evaluation.evaluate(workdir, task="loss", data=classes, batch_size=8)
    assert held["loss"]["examples"] == 8
    beside = {"train": f"{classes}/../data", "k": 3, "batch_size": 8}
    found = evaluation.evaluate(workdir, task="knn", data=classes, **beside)
    assert 0 <= found["knn"]["top1"] <= 1
    with pytest.raises(UserError, match="this model has no part 'text'"):
        evaluation.evaluate(workdir, task="retrieval", data="generated:8")
    loaded = mmjax.load(workdir)
    assert loaded.tokenizer is None
    assert loaded.embed_images([np.zeros((9, 9, 3), np.uint8)]).shape == (1, 32)
    assert loop.train(config, tmp_path / "one").step == 3  # resumes


def test_an_image_model_learns_from_the_images_of_a_teacher_and_exports(
    classes, tmp_path, monkeypatch
):
    """The teacher has a text tower and larger images: its texts are not read, its images are."""
    config = base("image", distill_feature={"teachers": ("big",), "of": ("image",)})
    config.model.image.update(norm_pre=False, patch_bias=True, head="tanh")
    config.teachers.big = config_lib.entry("teachers", source="random:tiny")
    config.data.train.classes = config_lib.entry("data.train", path=classes)
    config.total_steps = 1
    mesh = mesh_lib.make_mesh()
    with jax.set_mesh(mesh):
        columns = {n: x.shape[1:] for n, x in assemble(config, mesh).batch.items()}
    assert columns == {
        "image": (16, 16, 3), "teacher/big/image": (32, 32, 3), "label": (), "group": ()
    }  # fmt: skip
    losses(config, tmp_path / "run", 1, monkeypatch)
    loaded = mmjax.load(tmp_path / "run")
    loaded.export(tmp_path / "hf", "huggingface")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    expected, found = (x.embed_images(pixels) for x in (loaded, mmjax.load(tmp_path / "hf")))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_text_model_reads_no_images(tmp_path, monkeypatch):
    """Their files are no images, and no record is replaced."""
    names = [f"{n}.jpg" for n in range(12)]
    for name in names:
        (tmp_path / name).write_text("no image")
    lines = [f"{name},picture number {n}" for n, name in enumerate(names)]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,caption", *lines]))
    config = base("text", mlm={"of": "text"})
    config.model.text.update(vocab_size=600, context_length=12, mlm_head=True, causal=False)
    config.model.text.mask_padding = True
    config.data.tokenizer = "captions:560"
    config.data.train.pairs = config_lib.entry("data.train", path=str(tmp_path / "pairs.csv"))
    one, rows = losses(config, tmp_path / "one", 1, monkeypatch)
    eight, _ = losses(config, tmp_path / "eight", 8, monkeypatch)
    assert eight == pytest.approx(one, rel=1e-5)
    assert [row["data/substituted"] for row in rows if "loss" in row] == [0] * 3
    path = str(tmp_path / "pairs.csv")
    held = evaluation.evaluate(tmp_path / "one", task="loss", data=path, batch_size=8)
    assert held["loss"]["loss"] > 0
