"""Matching: who is a negative, how often, and the loss against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import objectives
from mmjax.objectives import Own
from mmjax.objectives.matching import matching

B = 8
GROUP = np.array([0, 0, 1, 2, 3, 4, 5, 6], np.int32)
TAGS = "matching/tags"


def similar():
    """Outputs of the plain view, in which image i and text i + 1 are alike."""
    x = np.eye(B, dtype="f4")
    return {"plain": {"image/embed": x, "text/embed": np.roll(x, -1, axis=0), "logit/scale": 2.0}}


def drawn(negatives, draws=2000):
    choose = matching("matching", negatives).pairs["matching/pairs"]
    keys = jax.random.split(jax.random.key(0), draws)
    rows = jax.jit(jax.vmap(lambda key: choose(similar(), {"group": GROUP}, key)))(keys)
    return [np.asarray(rows[part]).reshape(draws, B, 3) for part in ("image", "text")]


@pytest.mark.parametrize("negatives", ["hard", "uniform"])
def test_each_example_has_its_pair_and_two_others(negatives):
    images, texts = drawn(negatives)
    own = np.arange(B)
    assert (images[:, :, :2] == own[:, None]).all()
    assert (texts[:, :, [0, 2]] == own[:, None]).all()
    assert (GROUP[texts[:, :, 1]] != GROUP[own]).all()
    assert (GROUP[images[:, :, 2]] != GROUP[own]).all()


@pytest.mark.parametrize("negatives", ["hard", "uniform"])
def test_negatives_are_drawn_as_likely_as_they_are_alike(negatives):
    images, texts = drawn(negatives)
    plain = similar()["plain"]
    logits = 2.0 * plain["image/embed"] @ plain["text/embed"].T * (negatives == "hard")
    logits = np.where(GROUP[:, None] == GROUP[None, :], -np.inf, logits)
    for number, (rows, z) in enumerate([(texts[:, :, 1], logits), (images[:, :, 2], logits.T)]):
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        for i in range(B):
            found = np.bincount(rows[:, i], minlength=B) / len(rows)
            np.testing.assert_allclose(found, p[i], atol=0.05, err_msg=f"{number} {i}")


def test_loss_and_gradient_are_those_of_numpy():
    objective = matching("matching", "uniform")
    logits = np.random.default_rng(0).normal(size=3 * B).astype("f4") * 3
    group = np.zeros(B, np.int32)
    group[5:] = np.arange(3) + 1

    def ours(logits, group):
        outputs = {"matching/pairs": {"fusion/match": logits}}
        return objective.loss(outputs, {"group": jnp.asarray(group)}, Own())

    for ids in (group, np.zeros(B, np.int32)):
        run = jax.value_and_grad(lambda z, ids=ids: ours(z, ids), has_aux=True)
        (value, metrics), gradient = run(logits)
        z, match = logits.astype(np.float64).reshape(B, 3), np.arange(3) == 0
        counts = match | np.full((B, 1), (ids[:, None] != ids).any(axis=1)[:, None])
        p = 1 / (1 + np.exp(-z))
        expected = -np.where(match, np.log(p), np.log(1 - p))
        assert float(value) == pytest.approx(expected[counts].mean(), rel=1e-6)
        exact = np.where(counts, p - match, 0) / counts.sum()
        np.testing.assert_allclose(gradient, exact.reshape(-1), atol=1e-7)
        right = ((z > 0) == match)[counts].mean()
        assert float(metrics["accuracy"]) == pytest.approx(right)


def with_tags(count=2):
    model = tiny.config().model
    model.text.tags = count
    return matching("matching", "tags", model=model)


def test_half_of_the_texts_get_the_tags_of_another():
    length, draws = 5, 500
    text = np.arange(B)[:, None] * 10 + np.arange(length)
    batch = {"text": text, "text_mask": text % 3 > 0, "group": GROUP, "image": text}
    keys = jax.random.split(jax.random.key(0), draws)
    made = jax.jit(jax.vmap(lambda key: with_tags().views[TAGS].make(batch, key, {})))(keys)
    made = jax.tree.map(np.asarray, made)
    own = made["match"]
    assert own.mean() == pytest.approx(0.5, abs=0.04)
    source = made["text"][:, :, -1] // 10  # whose tags they are
    assert (source == np.arange(B))[own].all()
    others = GROUP[source] != GROUP
    assert others[~own].all()
    words, tags = made["text"][:, :, :3], made["text"][:, :, 3:]
    assert (words == text[:, :3]).all()
    assert (tags == text[source][:, :, 3:]).all()
    assert (made["text_mask"] == (made["text"] % 3 > 0)).all()
    chances = [np.bincount(source[~own[:, i], i], minlength=B) for i in range(B)]
    others_of = GROUP[:, None] != GROUP[None, :]
    for i, found in enumerate(chances):
        p = others_of[i] / others_of[i].sum()
        np.testing.assert_allclose(found / found.sum(), p, atol=0.1)
    alone = with_tags().views[TAGS].make({**batch, "group": np.zeros(B, np.int32)}, keys[0], {})
    assert alone["match"].all()


def test_loss_by_tags_is_that_of_numpy():
    logits = np.random.default_rng(0).normal(size=B).astype("f4") * 3
    match = np.arange(B) % 3 == 0

    def ours(logits):
        return with_tags().loss({TAGS: {"fusion/match": logits, "match": match}}, {}, Own())

    (value, metrics), gradient = jax.value_and_grad(ours, has_aux=True)(jnp.asarray(logits))
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert float(value) == pytest.approx(-np.log(np.where(match, p, 1 - p)).mean(), rel=1e-6)
    np.testing.assert_allclose(gradient, (p - match) / B, atol=1e-7)
    assert float(metrics["accuracy"]) == pytest.approx(((logits > 0) == match).mean())


@pytest.mark.parametrize(("negatives", "tags"), [("hard", 4), ("uniform", 4), ("tags", 0)])
def test_negatives_by_tags_go_with_tags(negatives, tags):
    model = tiny.config().model
    model.text.tags = tags
    config = config_lib.default().objectives
    config.matching = config_lib.entry("objectives", negatives=negatives)
    with pytest.raises(
        ValueError, match=rf"matching: .*text\.tags={tags}: .*negatives='tags' where"
    ):
        objectives.build(config, model)


def test_bad_negatives_are_named():
    config = config_lib.default().objectives
    config.matching = config_lib.entry("objectives", negatives="soft")
    with pytest.raises(ValueError, match=r"matching\.negatives='soft' must be one of hard"):
        objectives.build(config)
