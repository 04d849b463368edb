"""Retrieval: the metrics by hand, and the evaluator on files, any batch size, any mesh."""

import io

import jax
import numpy as np
import pytest
import small_run
from PIL import Image

from mmjax import evaluation
from mmjax.data import eval_transform, open_source
from mmjax.errors import UserError
from mmjax.evaluation.retrieval import distinct_texts, rank_metrics, retrieval_metrics
from mmjax.parallel.mesh import make_mesh


def build(spec):
    config, model, _ = small_run.run()
    tokenizer = small_run.tokenizer()
    spec = {"kind": "retrieval"} | spec
    return evaluation.build("r", spec, evaluation.Subject.of(config, model, tokenizer))


@pytest.fixture
def table(tmp_path):
    """20 pictures of one to three captions, some captions shared between pictures."""
    texts = small_run.captions(36)
    groups = [texts[i : i + 1 + i % 3] for i in range(20)]
    return small_run.write_table(tmp_path, groups)


def test_rank_metrics_by_hand():
    metrics = rank_metrics(np.array([0, 0, 3, 4, 5, 9, 10, 99]), np.arange(8), 8)
    assert metrics == {
        "R@1": 2 / 8, "R@5": 4 / 8, "R@10": 6 / 8, "median_rank": 5.0, "mean_rank": 130 / 8 + 1,
    }  # fmt: skip


def test_any_of_several_captions_is_a_hit():
    image = np.eye(3, dtype=np.float32)
    text = np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    # Picture 0 owns texts 0 (wrong) and 1 (right); picture 1 owns 2; picture 2 owns 3.
    metrics = retrieval_metrics(image, text, np.array([[0, 0], [0, 1], [1, 2], [2, 3]]))
    # Texts 0 and 2 are equal, the lower index is first: picture 1's caption is second.
    assert metrics["image_to_text/R@1"] == 2 / 3
    assert metrics["image_to_text/mean_rank"] == (1 + 2 + 1) / 3
    # Text 0 finds picture 1 first, and its own picture 0 on the next place by index.
    assert metrics["text_to_image/R@1"] == 3 / 4
    assert metrics["text_to_image/mean_rank"] == (2 + 1 + 1 + 1) / 4
    assert (metrics["images"], metrics["texts"]) == (3, 4)


def test_a_distractor_is_a_candidate_but_no_query():
    image = np.eye(2, dtype=np.float32)
    text = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    metrics = retrieval_metrics(image, text, np.array([[0, 1], [1, 2]]))  # text 0 is nobody's
    assert metrics["image_to_text/R@1"] == 1 / 2
    assert metrics["text_to_image/R@1"] == 1.0
    assert metrics["texts"] == 3


def test_distinct_texts_keep_order_and_match_every_owner():
    texts, pairs = distinct_texts([("b", "c", "b"), ("a",), ("c",)], ["x", "a", "x"])
    assert texts == ["x", "a", "b", "c"]
    assert pairs.tolist() == [[0, 2], [0, 3], [1, 1], [2, 3]]


def direct(table):
    """The metrics from one plain batch of everything: no evaluator, no padding, full length."""
    config = small_run.run()[0]
    source = open_source({"path": table})
    files = [io.BytesIO(source[i].parts["image"]) for i in range(len(source))]
    images = [eval_transform(Image.open(file), config.model.image.size) for file in files]
    texts = [(i, c) for i in range(len(source)) for c in source.captions(i)]
    ids, mask = small_run.tokenizer().encode(
        [c for _, c in texts], config.model.text.context_length
    )
    batch = {"image": np.stack(images), "text": ids, "text_mask": mask}
    out = small_run.embed(batch, "image/embed", "text/embed")
    x, y = out["image/embed"], out["text/embed"]
    scores, owner = x @ y.T, np.array([i for i, _ in texts])
    hits = {k: [] for k in (1, 5, 10)}
    for i in range(len(x)):
        order = np.argsort(-scores[i], kind="stable")
        for k, found in hits.items():
            found.append(i in owner[order[:k]])
    back = [
        np.argsort(-scores[:, j], kind="stable").tolist().index(owner[j]) for j in range(len(y))
    ]
    return {f"image_to_text/R@{k}": np.mean(v) for k, v in hits.items()} | {
        f"text_to_image/R@{k}": np.mean(np.array(back) < k) for k in hits
    }


def test_equals_one_plain_batch(table):
    _, _, params = small_run.run()
    evaluator = build({"path": table})
    metrics = evaluator(params)
    assert set(evaluator.metrics) == set(metrics)
    expected = direct(table)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert 0 < metrics["image_to_text/R@5"] < 1


def test_does_not_depend_on_batch_size_or_devices(table):
    _, _, params = small_run.run()
    expected = build({"path": table, "batch_size": 64})(params)
    for batch_size, mesh in [
        (7, make_mesh(devices=jax.devices()[:1])),
        (7, make_mesh()),
        (16, make_mesh(data=2, fsdp=2, tensor=2)),
    ]:
        with jax.set_mesh(mesh):
            assert build({"path": table, "batch_size": batch_size})(params) == expected


def test_trimmed_texts_give_the_same(table, monkeypatch):
    _, _, params = small_run.run()
    expected = build({"path": table})(params)
    assert build({"path": table})._tokens["text"].shape[1] == 8  # of 16
    monkeypatch.setattr("mmjax.evaluation.embed.ignores_padding", lambda tower: False)
    whole = build({"path": table})
    assert whole._tokens["text"].shape[1] == 16
    assert whole(params) == expected


def test_candidates_come_from_a_file(tmp_path, table):
    _, _, params = small_run.run()
    own = build({"path": table, "candidates": "captions"})(params)
    distinct = {c for i in range(20) for c in open_source({"path": table}).captions(i)}
    assert own["texts"] == len(distinct)

    more = tmp_path / "labels.txt"
    more.write_text("\n".join(["", *sorted(distinct)[:5], "  large sea ", "the moon", ""]))
    wide = build({"path": table, "candidates": str(more)})(params)
    assert wide["texts"] == len(distinct) + 2
    assert wide["image_to_text/mean_rank"] >= own["image_to_text/mean_rank"]
    assert wide["text_to_image/mean_rank"] == own["text_to_image/mean_rank"]


def test_missing_candidates_file_is_named(tmp_path, table):
    with pytest.raises(UserError, match=r"evals\.r: cannot read .*labels\.txt"):
        build({"path": table, "candidates": str(tmp_path / "labels.txt")})


def test_missing_data_is_found_when_built(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv does not exist"):
        build({"path": str(tmp_path / "nowhere.csv")})


def test_a_picture_without_caption_is_named(tmp_path):
    table = small_run.write_table(tmp_path, [["a cat"], [""]], labels=[0, 1])
    with pytest.raises(UserError, match=r"1\.png has no caption"):
        build({"path": table, "label": "class"})


def test_unknown_kind_is_named(table):
    with pytest.raises(
        UserError, match=r"evals\.r\.kind='probing': choose one of .*nearest: probe"
    ):
        build({"path": table, "kind": "probing"})
