"""Evaluators on a model of videos and texts: they find its parts, and equal one plain batch."""

import jax
import numpy as np
import pytest
import small_run
import small_video

from mmjax import config as config_lib
from mmjax import evaluation
from mmjax.data import eval_batches, open_source
from mmjax.data.modalities import Frames
from mmjax.errors import UserError
from mmjax.evaluation import command, parts, probe
from mmjax.parallel.mesh import make_mesh
from mmjax.reporting import pictures

COUNT = 24


@pytest.fixture(autouse=True)
def one_device():
    """Eight devices on two cores are slow, and `test_zeroshot` has them."""
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


@pytest.fixture
def classes(tmp_path):
    """The names of the 24 classes of generated videos."""
    names = [f"{word} {number}" for word in small_run.WORDS[:6] for number in range(4)]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    return {"classes": str(tmp_path / "classes.txt")}


def embedded(count=COUNT):
    """(embeddings, labels) of generated videos in one plain batch."""
    source = open_source({"path": f"generated:{count}", "media": "video"})
    read = (Frames("video", size=32, frames=small_video.T),)
    batch = next(eval_batches(source, read, batch_size=count, rows=np.arange(count)))
    return small_video.embed(batch, "video/embed")["video/embed"], batch["label"]


def test_classification_equals_one_plain_batch(classes):
    _, _, params = small_video.run()
    evaluator = small_video.build(kind="classification", path=f"generated:{COUNT}", **classes)
    metrics = evaluator(params)
    assert set(evaluator.metrics) == set(metrics)
    with open(classes["classes"]) as file:
        ids, mask = small_run.tokenizer().encode(file.read().splitlines(), 16)
    weights = small_video.embed({"text": ids, "text_mask": mask}, "text/embed")["text/embed"]
    embed, label = embedded()
    rank = (np.argsort(-(embed @ weights.T), axis=1, kind="stable") == label[:, None]).argmax(1)
    assert metrics["top1"] == pytest.approx(np.mean(rank == 0))
    assert metrics["top5"] == pytest.approx(np.mean(rank < 5))
    assert metrics["top5"] > 0
    again = small_video.build(
        kind="classification", path=f"generated:{COUNT}", **classes, of=("video", "text"),
        batch_size=7,
    )(params)  # fmt: skip
    assert again == metrics


@pytest.mark.parametrize("task", ["probe", "knn"])
def test_features_are_the_videos(task, monkeypatch):
    monkeypatch.setattr(probe, "DECAYS", (1e-1,))
    _, _, params = small_video.run()
    spec = {"kind": task, "path": f"generated:{COUNT}", "train": "generated:96"}
    evaluator = small_video.build(**spec)
    metrics = evaluator(params)
    assert small_video.build(**spec, of="video", batch_size=7)(params) == metrics
    assert metrics["examples"] == COUNT
    _, test, _ = evaluator._features(params)
    np.testing.assert_allclose(test.x, embedded()[0], atol=1e-5)
    assert metrics["top1"] > 0.25  # by chance 0.04


def test_retrieval_finds_the_parts_and_names_them():
    _, _, params = small_video.run()
    metrics = small_video.build(kind="retrieval", path="generated:6")(params)
    assert metrics["videos"] == 6
    assert {"video_to_text/R@1", "text_to_video/median_rank"} <= set(metrics)


def test_messages_say_the_medium(classes, tmp_path):
    _, _, params = small_video.run()
    (tmp_path / "subset.txt").write_text("23\n")
    evaluator = small_video.build(
        kind="classification", path="generated:6", **classes, subset=str(tmp_path / "subset.txt")
    )
    with pytest.raises(UserError, match="no video is of the classes of its subset"):
        evaluator(params)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "knn", "of": "image"}, r"evals\.e\.of: this model has no part 'image' that "
         "embeds what it reads: choose one of text, video"),
        ({"kind": "probe", "of": "vidoe"}, "no part 'vidoe'"),
        ({"kind": "retrieval", "of": ("image", "text")}, "no part 'image'"),
        ({"kind": "retrieval", "of": ("video", "texts")}, "this model has no part 'texts'"),
        ({"kind": "retrieval", "of": "video"}, r"evals\.e\.of=\('video',\) should name two"),
    ],
)  # fmt: skip
def test_parts_that_are_not_there_are_named(spec, message):
    with pytest.raises(UserError, match=message):
        small_video.build(path="generated:24", **spec)


def test_new_data_is_of_the_medium_that_the_model_reads():
    _, model, _ = small_video.run()
    _, images, _ = small_run.run()
    assert (parts.media(model), parts.media(images)) == ("video", "image")
    found = {}
    for keys in ({}, {"media": "image"}):
        specs = command.choose({}, "knn", "generated:8", keys, parts.media(model))
        found[len(keys)] = specs["knn"].media
    assert found == {0: "video", 1: "image"}
    for path in ("tfds://ucf101", "records:clips"):  # they show what they hold
        assert command.choose({}, "knn", path, {}, "video")["knn"].media == "image"
    assert command.choose({}, "knn", "absent", {}, "video")["knn"].media == "video"


def test_a_model_of_several_media_is_asked_which():
    class Model:
        def __init__(self, **media):
            self.media = media

        def inputs(self):
            return {part: (medium, None) for part, medium in self.media.items()}

        def outputs(self):
            return [f"{part}/embed" for part in self.media]

    def subject(**media):
        config, _, _ = small_run.run()
        return evaluation.Subject.of(config, Model(**media), None)

    two = subject(sound="audio", film="video", words="text")
    with pytest.raises(UserError, match=r"evals\.e: the parts sound, film of this model embed"):
        parts.pair(two, None, "e")
    assert parts.pair(two, ("film", "words"), "e") == ("film", "words")
    assert parts.record_part(two, "words", "e") == "words"
    assert parts.media(two.model) == "image"
    with_image = subject(image="image", sound="audio", text="text")
    assert parts.pair(with_image, None, "e") == ("image", "text")
    with pytest.raises(UserError, match="the parts one, other of this model embed texts"):
        parts.pair(subject(image="image", one="text", other="text"), None, "e")


def test_texts_can_be_probed_too():
    _, _, params = small_video.run()
    evaluator = small_video.build(
        kind="knn", path=f"generated:{COUNT}", train="generated:48", of="text"
    )
    assert evaluator(params)["top1"] == 1.0  # the same captions, which name the class


def test_a_report_shows_frames_of_the_videos(monkeypatch):
    config, model, params = small_video.run()
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.evals.found = config_lib.entry(
            "evals", kind="retrieval", path="generated:9", media="video"
        )
    restored = config, model, params, small_run.tokenizer()
    monkeypatch.setattr(pictures, "restore_for_inference", lambda workdir: restored)
    name, samples = pictures.retrievals("run")
    assert (name, len(samples)) == ("found", 8)
    assert all(sample.image.startswith("data:image/jpeg") for sample in samples)
    assert all("that moves" in text for sample in samples for text, _, _ in sample.texts)
