"""Box accuracy of referring expressions, beside greedy search and geometry written out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import evaluation, models
from mmjax.data import from_records, train_tokenizer
from mmjax.data.modalities.region_texts import refer
from mmjax.errors import UserError
from mmjax.evaluation import Subject
from mmjax.parallel import mesh as mesh_lib

LENGTH = 40
TEXTS = ("a cat", "a dog runs", "the left ear", "a red moon")


@functools.cache
def tokenizer():
    return train_tokenizer(list(TEXTS) * 3, 540)


def settings(**data):
    config = config_lib.default()
    config.model = tiny.config().model
    del config.model.logit, config.model.text
    config.model.words = config_lib.entry(
        "model", kind="transformer", depth=0, width=32, heads=4, mlp_dim=64, mlm_head=True,
        vocab_size=tokenizer().vocab_size, context_length=LENGTH, boxes=True,
    )  # fmt: skip
    config.model.decoder = config_lib.entry("model", kind="cross", of=("image", "words"), depth=1)
    config.data.update(data)
    return config


def records(count=5, seed=0):
    """Pictures of 60 × 40 pixels with one or two regions each."""
    rng = np.random.default_rng(seed)
    found = []
    for n in range(count):
        corners = np.sort(rng.uniform(0, 1, (1 + n % 2, 2, 2)), axis=1) * (60, 40)
        regions = [
            {"text": TEXTS[(n + m) % len(TEXTS)],
             "bbox": [*box[0], *np.maximum(box[1] - box[0], 2.0).clip(0, 60 - box[0][0])]}
            for m, box in enumerate(corners)
        ]  # fmt: skip
        for region in regions:
            region["bbox"][3] = min(region["bbox"][3], 40 - region["bbox"][1])
        found.append({"image": rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), "boxes": regions})
    return found


def evaluator(config, data, **keys):
    model = models.from_config(config.model)
    subject = Subject.of(config, model, tokenizer())
    spec = {"kind": "referring", "path": from_records(data, "referring"), **keys}
    return model, evaluation.build("boxes", spec, subject)


def test_the_search_goes_on_from_each_prompt_and_numbers_do_not_depend_on_devices():
    """Tokens as of whole forward passes without a cache; metrics alike on 1 and 2 devices."""
    config = settings()
    data = records()
    model, measure = evaluator(config, data, batch_size=4)
    params = tiny.params(model)
    params["words"]["token_embed"]["embedding"] *= 6
    said = []
    plain = measure._measure
    measure._measure = lambda texts, rows: said.append(texts) or plain(texts, rows)
    results = []
    for devices in (1, 2):
        with jax.set_mesh(mesh_lib.make_mesh(devices=jax.devices()[:devices])):
            results.append(measure(params))
    np.testing.assert_array_equal(*said)
    assert results[0] == results[1]
    assert results[0]["expressions"] == 7
    assert results[0]["images"] == 5

    @jax.jit
    def likeliest(image, texts):
        """int32 [B, L], the token after each position."""
        part = {"image": image, "words": texts, "words_mask": jnp.ones(texts.shape, bool),
                "words_ar": jnp.ones_like(texts)}  # fmt: skip
        tokens = model.apply({"params": params}, part, ("decoder/tokens",))["decoder/tokens"]
        found = model.apply({"params": params}, {"words/tokens": tokens}, ("words/logits",))
        return found["words/logits"].argmax(axis=-1)

    owners = [(n, r["text"]) for n, record in enumerate(data) for r in record["boxes"]]
    texts, mask = refer(tokenizer(), [text for _, text in owners], None, LENGTH)
    given = mask.sum(axis=1) - 1
    end = tokenizer().eot_id
    images = np.stack([shown(data[n]["image"], config.model.image.size) for n, _ in owners])
    ended = np.zeros(len(texts), bool)
    for position in range(1, LENGTH):
        following = np.asarray(likeliest(images, texts))[:, position - 1]
        free = position >= given
        texts[free, position] = np.where(ended, end, following)[free]
        ended |= free & (texts[:, position] == end)
    np.testing.assert_array_equal(said[0], texts)


def shown(image, size):
    from mmjax.data.images import eval_transform, open_image

    return eval_transform(open_image(image), size)


@pytest.mark.parametrize("resize", ["squash", "shortest"])
def test_metrics_are_those_of_boxes_by_hand(resize):
    """Pixels are counted one by one; a box that is none, or is not right of its left, is wrong."""
    data = records(6, seed=1)
    _, measure = evaluator(settings(resize=resize), data)
    truth = [region["bbox"] for record in data for region in record["boxes"]]
    rng = np.random.default_rng(0)
    answers, expected = [], []
    for number, (x, y, w, h) in enumerate(truth):
        box = np.array([x, y, x + w, y + h]) + rng.normal(0, 3, 4) * (number % 3 > 0)
        side = np.array([60, 40]) if resize == "squash" else np.array([40, 40])
        corner = np.array([0, 0]) if resize == "squash" else np.array([10, 0])
        bins = np.floor((box.reshape(2, 2) - corner) / side * 500).clip(0, 499).astype(int)
        answers.append(f"[{bins[0, 0]}, {bins[0, 1]}, {bins[1, 0]}, {bins[1, 1]}]")
        fine = 20  # points a pixel
        at = [(np.arange(n * fine) + 0.5) / fine for n in (60, 40)]
        middles = (bins + 0.5) / 500 * side + corner
        theirs = [(at[k] >= middles[0, k]) & (at[k] < middles[1, k]) for k in (0, 1)]
        ours = [(at[k] >= (x, y)[k]) & (at[k] < (x + w, y + h)[k]) for k in (0, 1)]
        both = np.prod([(a & b).sum() for a, b in zip(ours, theirs, strict=True)])
        areas = [np.prod([part.sum() for part in parts]) for parts in (ours, theirs)]
        expected.append(both / (sum(areas) - both))
    answers[0], expected[0] = "a dog", 0.0
    answers[1] = "[400, 100, 300, 200]"
    expected[1] = 0.0
    texts = np.full((len(truth), LENGTH), tokenizer().eot_id)
    for row, (ids, given) in enumerate(zip(tokenizer().ids(answers), measure._given, strict=True)):
        texts[row, given : given + len(ids)] = ids
    found = measure._measure(texts, np.arange(len(texts)))
    assert found["mean_iou"] == pytest.approx(np.mean(expected), abs=0.01)
    assert found["accuracy"] == pytest.approx(np.mean(np.array(expected) >= 0.5))
    assert 0 < found["accuracy"] < 1
    assert found["spelled"] == pytest.approx(1 - 1 / len(truth))
    assert found["accuracy"].low <= found["accuracy"] <= found["accuracy"].high
    assert set(found) == set(measure.metrics)


def test_what_cannot_be_measured_is_named():
    config = settings()
    with pytest.raises(UserError, match=r"evals\.boxes: no record of .* has regions: set boxes"):
        evaluator(config, [{"image": np.zeros((8, 8, 3), np.uint8), "text": "a cat"}])
    bad = records(2)
    bad[1]["boxes"] = [{"text": "far", "bbox": [100, 0, 9, 9]}]
    with pytest.raises(UserError, match=r"record 1 has a box outside of the image: 'far' .*skips"):
        evaluator(config, bad)
    _, measure = evaluator(config, bad, allow_skips=True)
    assert measure._skipped == {"skipped": 1.0}
    config.model.words.boxes = False
    with pytest.raises(
        UserError, match=r"no one part 'fusion' that spells boxes.* train one by loc"
    ):
        evaluator(config, records(2))
