"""Evaluators on a model whose texts depend on the video, against every pair by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run
import tiny

from mmjax import evaluation, models
from mmjax.data import eval_batches, open_source
from mmjax.data.modalities import Frames
from mmjax.evaluation.zeroshot import prompts
from mmjax.models.parts import part
from mmjax.parallel.mesh import make_mesh

T, COUNT = 2, 24
TEMPLATES = ["a {}.", "the {} moves"]
NAMES = [f"{word} {number}" for word in small_run.WORDS[:6] for number in range(4)]


@functools.cache
def run():
    """(config, model, params): X-CLIP as small as can be."""
    config = small_run.run()[0].copy_and_resolve_references()
    tower = {"width": 32, "mlp_dim": 48, "depth": 1, "heads": 2, "unroll": False}
    with config.unlocked():
        del config.model["image"]
        config.model.video = part(
            "xclip", size=32, patch_size=16, frames=T, time_heads=2, time_mlp_dim=32, **tower
        )
        config.model.text.update(tower)
        config.model.prompts = part("prompts", depth=1, heads=2, alpha=1.0)
        config.objectives = {}
    model = models.from_config(config.model)
    return config, model, tiny.params(model)


def build(**spec):
    config, model, _ = run()
    subject = evaluation.Subject.of(config, model, small_run.tokenizer())
    return evaluation.build("e", {"media": "video", **spec}, subject)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


def every_pair(texts):
    """(float64 [videos, D], [videos, texts, D]: each text as each generated video has it, labels of
    the videos), a row of one large batch each."""
    _, model, params = run()
    source = open_source({"path": f"generated:{COUNT}", "media": "video"})
    read = (Frames("video", size=32, frames=T),)
    batch = next(eval_batches(source, read, batch_size=COUNT, rows=np.arange(COUNT)))
    ids, mask = small_run.tokenizer().encode(texts, 16)

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    def compute(params):
        columns = {"video": batch["video"], "text": ids, "text_mask": mask}
        one, names = {"params": params}, ("video/embed", "video/patches", "text/features")
        seen = model.apply(one, columns, names)
        rows = {
            "video/patches": jnp.repeat(seen["video/patches"], len(texts), axis=0),
            "text/features": jnp.tile(seen["text/features"], (COUNT, 1)),
        }
        found = model.apply(one, rows, ("prompts/conditioned",))["prompts/conditioned"]
        return seen["video/embed"], found.reshape(COUNT, len(texts), -1)

    return *(np.asarray(x, np.float64) for x in compute(params)), batch["label"]


def test_classification_compares_each_video_with_its_own_texts(tmp_path):
    (tmp_path / "classes.txt").write_text("\n".join(NAMES) + "\n")
    (tmp_path / "templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    spec = {
        "kind": "classification", "path": f"generated:{COUNT}",
        "classes": str(tmp_path / "classes.txt"), "templates": str(tmp_path / "templates.txt"),
    }  # fmt: skip
    found = build(**spec)(run()[2])
    video, text, label = every_pair(prompts(NAMES, TEMPLATES))
    mean = text.reshape(COUNT, len(NAMES), len(TEMPLATES), -1).mean(axis=2)
    cosine = np.einsum("vd,vkd->vk", video, mean / np.linalg.norm(mean, axis=-1, keepdims=True))
    rank = (np.argsort(-cosine, axis=1, kind="stable") == label[:, None]).argmax(axis=1)
    assert found["top1"] == pytest.approx(np.mean(rank == 0))
    assert found["top5"] == pytest.approx(np.mean(rank < 5))
    assert 0 < found["top5"] < 1
    assert build(**spec, batch_size=7)(run()[2]) == found
    several = build(**spec, views=2)(run()[2])  # generated videos have four frames
    assert several["views"] == 2


def test_retrieval_compares_each_pair():
    spec = {"kind": "retrieval", "path": f"generated:{COUNT}", "candidates": "captions"}
    found = build(**spec)(run()[2])
    source = open_source({"path": f"generated:{COUNT}", "media": "video"})
    captions = [source.captions(number)[0] for number in range(COUNT)]
    texts = list(dict.fromkeys(captions))
    video, text, _ = every_pair(texts)
    cosine = np.einsum("vd,vkd->vk", video, text)
    right = np.array(captions)[:, None] == np.array(texts)
    order = np.argsort(-cosine, axis=1)
    rank = np.take_along_axis(right, order, axis=1).argmax(axis=1)
    assert found["video_to_text/R@5"] == pytest.approx(np.mean(rank < 5))
    rank = np.take_along_axis(right.T, np.argsort(-cosine.T, axis=1), axis=1).argmax(axis=1)
    assert found["text_to_video/R@5"] == pytest.approx(np.mean(rank < 5))
    assert found["text_to_video/mean_rank"] == pytest.approx(np.mean(rank) + 1)
