"""Views × crops of videos: against a loop over them with the model applied one by one."""

import jax
import numpy as np
import pytest
import small_run
import small_video
from PIL import Image
from scipy.special import softmax

from mmjax import evaluation
from mmjax.data import from_records, modalities
from mmjax.data.records import BadRecord, Record
from mmjax.data.sampling import sample_frames, segment_views
from mmjax.errors import UserError
from mmjax.evaluation.views import view_accuracy
from mmjax.parallel.mesh import make_mesh

T, SIZE = small_video.T, 32
CLASSES = small_run.WORDS[:6]
FRAMES = modalities.Frames("video", size=SIZE, frames=T)


def videos():
    """Smooth noise of several shapes and lengths, one of them of two frames."""
    rng = np.random.default_rng(0)
    found = []
    for count, height, width in (
        (16, 40, 64),
        (29, 64, 36),
        (9, 32, 32),
        (2, 40, 64),
        (50, 48, 90),
    ):
        small = rng.integers(0, 256, (count, 5, 6, 3), np.uint8)
        resized = [np.asarray(Image.fromarray(x).resize((width, height))) for x in small]
        found.append(np.stack(resized))
    return found


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    records = [{"video": v, "text": "a", "label": n % 6} for n, v in enumerate(videos())]
    path = from_records(records)
    return {"kind": "classification", "path": path, "classes": str(folder / "classes.txt")}


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        yield


def shown(video, view, views, crop, crops):
    """(frames uint8 [T, 32, 32, 3], mask) of one view and crop, written out."""
    count, (height, width) = min(T, len(video)), video.shape[1:3]
    frames = np.zeros((T, SIZE, SIZE, 3), np.uint8)
    for segment in range(count):
        first = segment * len(video) // count
        last = (segment + 1) * len(video) // count - 1
        number = first + (last - first) * (2 * view + 1) // (2 * views)
        short = min(height, width)
        w, h = int(SIZE * width / short), int(SIZE * height / short)
        image = Image.fromarray(video[number]).resize((w, h), Image.Resampling.BICUBIC)
        share = {1: (0.5,), 3: (0, 0.5, 1)}[crops][crop]
        left, top = round((w - SIZE) * share), round((h - SIZE) * share)
        frames[segment] = np.asarray(image)[top : top + SIZE, left : left + SIZE]
    return frames, np.arange(T) < count


def logits_by_hand(views, crops):
    """float [videos, views · crops, classes]: cosines, the model applied to one view at a time."""
    ids, mask = small_run.tokenizer().encode(list(CLASSES), 16)
    weights = small_video.embed({"text": ids, "text_mask": mask}, "text/embed")["text/embed"]
    logits = np.zeros((len(videos()), views * crops, len(CLASSES)))
    for number, video in enumerate(videos()):
        for view in range(views):
            for crop in range(crops):
                frames, mask = shown(video, view, views, crop, crops)
                batch = {"video": frames[None], "video_mask": mask[None]}
                embed = small_video.embed(batch, "video/embed")["video/embed"][0]
                logits[number, view * crops + crop] = weights @ embed
    return logits


@pytest.mark.parametrize(
    ("views", "crops", "aggregate"), [(4, 3, "logits"), (4, 3, "softmax"), (1, 3, "softmax")]
)
def test_equals_a_loop_over_views_and_crops(spec, views, crops, aggregate):
    _, _, params = small_video.run()
    evaluator = small_video.build(
        **spec, views=views, crops=crops, aggregate=aggregate, batch_size=24
    )
    metrics = evaluator(params)
    assert set(evaluator.metrics) == set(metrics)
    logits = logits_by_hand(views, crops)
    if aggregate == "softmax":
        logits = softmax(np.exp(2.5) * logits, axis=2)
    scores, label = logits.mean(axis=1), np.arange(5) % 6
    rank = (np.argsort(-scores, axis=1) == label[:, None]).argmax(axis=1)
    expected = {"top1": np.mean(rank == 0), "top5": np.mean(rank < 5)}
    expected["top1_top5_mean"] = (expected["top1"] + expected["top5"]) / 2
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert (metrics["views"], metrics["crops"]) == (views, crops)
    embed = evaluator._embedder.records(params, evaluator._source, "video", evaluator._views)[0]
    cosine = embed["video/embed"] @ evaluator._weights(params).T
    by_hand = logits_by_hand(views, crops)
    np.testing.assert_allclose(cosine, by_hand, atol=2e-6)
    assert np.abs(by_hand - by_hand[:, :1]).max() > 1e-3  # the views differ


def test_any_batch_size_and_number_of_devices_gives_the_same(spec):
    _, _, params = small_video.run()
    keys = {"views": 2, "crops": 3}
    first, again = (small_video.build(**spec, **keys, batch_size=b)(params) for b in (4, 64))
    assert first == again
    with jax.set_mesh(make_mesh(data=2, fsdp=2, devices=jax.devices()[:4])):
        assert small_video.build(**spec, **keys, batch_size=24)(params) == first


def test_mean_of_logits_and_of_softmax_differ():
    """Two views are a little for class 0, one is much for class 1."""
    embed = np.array([[[0.6, 0.5], [0.6, 0.5], [0.0, 1.0]]])
    weights, label = np.eye(2), np.array([1])
    assert view_accuracy(embed, weights, label, None)["top1"] == 1.0
    assert view_accuracy(embed, weights, label, 100.0)["top1"] == 0.0


@pytest.mark.parametrize("frames", [1, 2, 5, 8, 9, 30, 31, 300])
def test_views_span_the_video_and_one_is_that_of_evaluation(frames):
    times = np.arange(frames) / 25.0
    np.testing.assert_array_equal(segment_views(times, 8, 1)[0], sample_frames(times, 8))
    several = segment_views(times, 8, 4)
    assert several.shape == (4, min(8, frames))
    assert (np.diff(several, axis=1) > 0).all()
    assert several.min() >= 0
    assert several.max() < frames
    if frames >= 64:
        assert len(np.unique(several)) == several.size


def test_what_is_decoded_once_is_what_one_view_shows():
    video = videos()[0]
    views = modalities.Views(FRAMES, 1, 3)
    found, mask = views.read(Record("a", {"video": video}), None)
    alone, of_one = FRAMES.read(Record("a", {"video": video}), None)
    np.testing.assert_array_equal(found[1], alone)
    np.testing.assert_array_equal(mask[1], of_one)
    assert found.shape == views.columns["video"].shape
    with pytest.raises(BadRecord, match="a cannot be decoded"):
        views.read(Record("a", {"video": b"nothing"}), None)


@pytest.mark.parametrize(
    ("keys", "data", "message"),
    [
        ({"views": 2}, {"sampling": "rate"}, r"evals\.e: views=2 are of the segments"),
        ({"crops": 3}, {"resize": "squash"}, r"evals\.e: crops=3 need config\.data\.resize"),
        ({"crops": 2}, {}, r"evals\.e\.crops=2 must be one of 1, 3"),
        ({"views": 0}, {}, r"evals\.e\.views=0 must be an integer of 1 or more"),
    ],
)
def test_what_does_not_fit_is_a_sentence(spec, keys, data, message):
    with pytest.raises(UserError, match=message):
        small_video.build(data, **spec, **keys)


def test_images_have_no_views(spec):
    config, model, _ = small_run.run()
    subject = evaluation.Subject.of(config, model, small_run.tokenizer())
    with pytest.raises(UserError, match="are of videos, which this model does not read"):
        evaluation.build("e", {**spec, "crops": 3}, subject)
