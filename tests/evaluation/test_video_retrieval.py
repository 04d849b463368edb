"""Retrieval between videos and texts: several captions a clip against brute force, and DSL."""

import jax
import numpy as np
import pytest
import small_run
import small_video

from mmjax.data import from_records
from mmjax.errors import UserError
from mmjax.evaluation.retrieval import dual_softmax, retrieval_metrics
from mmjax.parallel.mesh import make_mesh

PAIR = ("video", "text")


def embeddings(videos, captions, d=5, seed=0):
    """Unit vectors of videos and of their captions (so many each), which are near them."""
    rng = np.random.default_rng(seed)
    video = rng.normal(size=(videos, d))
    owner = np.repeat(np.arange(videos), captions)
    text = video[owner] + 0.8 * rng.normal(size=(len(owner), d))
    video, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (video, text))
    return video.astype(np.float32), text.astype(np.float32), owner


def brute_force(scores, owner):
    """{direction/metric: value} from scores [videos, texts], written out for each query.

    text → video: every caption is a query. video → text: the best rank of the video's captions.
    """
    to_video, to_text = [], []
    for text, video in enumerate(owner):
        column = scores[:, text]
        order = sorted(range(len(column)), key=lambda v: (-column[v], v))
        to_video.append(order.index(video) + 1)
    for video, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda t: (-row[t], t))
        own = [order.index(t) + 1 for t in np.flatnonzero(owner == video)]
        to_text.append(min(own))
    found = {}
    for direction, ranks in (("text_to_video", to_video), ("video_to_text", to_text)):
        ranks = np.array(ranks)
        found |= {f"{direction}/R@{k}": np.mean(ranks <= k) for k in (1, 5, 10)}
        found[f"{direction}/median_rank"] = float(np.floor(np.median(ranks)))
        found[f"{direction}/mean_rank"] = np.mean(ranks)
    return found


@pytest.mark.parametrize("captions", [1, 20, "uneven"])
def test_several_captions_a_clip_against_brute_force(captions):
    if captions == "uneven":
        captions = np.random.default_rng(1).integers(1, 9, 40)
    video, text, owner = embeddings(40, captions)
    pairs = np.stack([owner, np.arange(len(owner))], axis=1)
    found = retrieval_metrics(video, text, pairs[::-1], PAIR)  # in any order
    expected = brute_force(video @ text.T, owner)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert 0 < found["text_to_video/R@1"] < found["video_to_text/R@10"] <= 1
    assert (found["videos"], found["texts"]) == (40, len(owner))


@pytest.mark.parametrize("captions", [1, 4])
def test_dual_softmax_against_brute_force(captions):
    """scores · softmax over the queries (CAMoE's inference, Cheng et al., 2021)."""
    video, text, owner = embeddings(30, captions, seed=3)
    pairs, scale = np.stack([owner, np.arange(len(owner))], axis=1), 20.0
    logits = scale * (video.astype(np.float64) @ text.astype(np.float64).T)
    both = {}
    for direction, axis in (("text_to_video", 1), ("video_to_text", 0)):  # of the queries
        prior = np.exp(logits) / np.exp(logits).sum(axis=axis, keepdims=True)
        ranks = brute_force(logits * prior, owner)
        both |= {f"dsl/{k}": v for k, v in ranks.items() if k.startswith(direction)}
    found = dual_softmax(video, text, pairs, scale, PAIR)
    assert {name: found[name] for name in both} == pytest.approx(both)
    assert set(found) == set(both)
    plain = retrieval_metrics(video, text, pairs, PAIR)
    assert found["dsl/text_to_video/R@1"] != plain["text_to_video/R@1"]


def test_the_evaluator_names_dual_softmax_and_leaves_the_others_as_they_are():
    _, _, params = small_video.run()
    captions = small_run.captions(27)
    clips = np.random.default_rng(0).integers(0, 256, (9, 4, 32, 32, 3), np.uint8)
    path = from_records(
        [
            {"video": clip, "text": tuple(captions[3 * n : 3 * n + 3])}
            for n, clip in enumerate(clips)
        ]
    )
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        plain = small_video.build(kind="retrieval", path=path)(params)
        evaluator = small_video.build(kind="retrieval", path=path, dsl=True)
        both = evaluator(params)
    assert set(evaluator.metrics) == set(both)
    assert {name: both[name] for name in plain} == plain
    assert {name for name in both if name not in plain} == {
        f"dsl/{name}" for name in plain if "_to_" in name
    }
    assert plain["texts"] == 27


def test_dual_softmax_needs_the_scale():
    with pytest.raises(UserError, match=r"evals\.e\.dsl needs logit/scale"):
        small_video.build(kind="retrieval", path="generated:4", dsl=True, without="logit")
