"""LocCa: what its three passes predict, its loss beside PyTorch's, on devices and in parts."""

import jax
import numpy as np
import pytest
import tiny
from pytorch import torch

from mmjax import config as config_lib
from mmjax import models, objectives
from mmjax.core.step import total_loss
from mmjax.core.views import run_views
from mmjax.data.vocabulary import Vocabulary
from mmjax.errors import UserError
from mmjax.models import parts
from mmjax.models import tokens as token_lib
from mmjax.models.tokens import Unembedding

V, LENGTH, ROWS, MASK = 40, 10, 16, 39


def config(**keys):
    """`siglip` on the towers beside `locca` on a decoder with words of its own."""
    result = tiny.config()
    result.model.text.causal = False
    result.model.logit.bias = -10.0
    result.model.words = config_lib.entry(
        "model", kind="transformer", depth=0, width=32, heads=4, mlp_dim=64, vocab_size=V,
        context_length=LENGTH, mlm_head=True, boxes=True,
    )  # fmt: skip
    result.model.decoder = config_lib.entry("model", kind="cross", of=("image", "words"), depth=1)
    result.objectives = {
        "siglip": config_lib.entry("objectives"),
        "locca": config_lib.entry("objectives", of="decoder", text="words", **keys),
    }
    return result


def vocabulary():
    none = np.zeros(V, bool)
    return Vocabulary(V - 1, MASK, (0, 1, 2), none, none)


def built(config):
    return objectives.build(config.objectives, config.model, vocabulary())


def batch(config, rows=ROWS, seed=3):
    """Row 0 has no caption, row 1 no region."""
    rng = np.random.default_rng(seed)
    found = tiny.batch(config.model, rows)
    lengths = rng.integers(5, LENGTH + 1, (rows, 3, 1))
    ids = rng.integers(3, MASK, (rows, 3, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH) < lengths
    given = np.tile([1, 3, 2], (rows, 1)).astype(np.int32)
    given[0, 0], given[1, 1:] = LENGTH, LENGTH
    return found | {
        "words": ids[:, 0], "words_mask": mask[:, 0], "words_regions": ids[:, 1:],
        "words_regions_mask": mask[:, 1:], "words_given": given,
    }  # fmt: skip


def test_what_each_pass_predicts():
    made, plain = {}, batch(config(), 200)
    for name, view in built(config(parallel=0.5))["locca"][0].views.items():
        made[name] = jax.tree.map(np.asarray, view.make(plain, jax.random.key(3), {}))
    texts = np.concatenate([plain["words"][:, None], plain["words_regions"]], axis=1)
    masks = np.concatenate([plain["words_mask"][:, None], plain["words_regions_mask"]], axis=1)
    assert list(made) == ["locca/caption", "locca/aref", "locca/gcap"]
    for number, view in enumerate(made.values()):
        for row in range(200):
            given, end = plain["words_given"][row, number], masks[row, number].sum()
            predicted = np.flatnonzero(view["targets"][row] >= 0) + 1
            assert predicted.tolist() == list(range(given, end))
            np.testing.assert_array_equal(
                view["targets"][row, predicted - 1], texts[row, number, predicted]
            )
        at_once = (view["words_ar"] == 0).all(axis=1)
        assert (view["words_ar"][~at_once] == 1).all()
        assert (view["words"][~at_once] == texts[~at_once, number]).all()
        if number:
            assert not at_once.any()
        else:
            assert at_once.mean() == pytest.approx(0.5, abs=0.1)
            assert (view["words"][at_once] == MASK).all()
            assert view["words_mask"][at_once].all()


@pytest.fixture(scope="module")
def losses():
    """batch → (loss, metrics) and the logits of each pass, of the texts as they are."""
    settings = config(parallel=0.0)
    model, objective = models.from_config(settings.model), built(settings)["locca"]
    params, views = tiny.params(model), objective[0].views

    @jax.jit
    def run(batch):
        outputs = run_views(model, {"locca": objective}, params, batch, jax.random.key(1))
        logits = {}
        for name in ("caption", "aref", "gcap"):
            made = views[f"locca/{name}"].make(batch, jax.random.key(9), {})
            found = model.apply({"params": params}, made, ("decoder/tokens",))
            found = model.apply({"params": params}, {"words/tokens": found["decoder/tokens"]},
                                ("words/logits",))  # fmt: skip
            logits[name] = found["words/logits"]
        return total_loss({"locca": objective}, outputs, batch), logits

    return run


def test_the_loss_is_pytorchs_cross_entropy_over_all_three(losses):
    """Of the logits that the model itself gives for the texts of each pass."""
    plain = batch(config())
    (loss, metrics), logits = losses(plain)
    every = []
    for number, name in enumerate(("caption", "aref", "gcap")):
        ids, mask = plain["words"], plain["words_mask"]
        if number:
            ids = plain["words_regions"][:, number - 1]
            mask = plain["words_regions_mask"][:, number - 1]
        counts = mask & (np.arange(LENGTH) >= plain["words_given"][:, number, None])
        targets = torch.tensor(np.where(counts, ids, -1)[:, 1:].reshape(-1).astype(np.int64))
        theirs = torch.tensor(np.asarray(logits[name])[:, :-1].reshape(-1, V).astype(np.float64))
        nll = torch.nn.functional.cross_entropy(theirs, targets, ignore_index=-1, reduction="none")
        every.append(nll[targets >= 0])
        found = float(metrics[f"locca/{name}_loss"])
        assert found == pytest.approx(every[-1].mean().item(), rel=1e-5)
        hits = (theirs.argmax(dim=1) == targets)[targets >= 0].float().mean().item()
        assert float(metrics[f"locca/{name}_accuracy"]) == pytest.approx(hits)
    assert float(loss) == pytest.approx(torch.cat(every).mean().item(), rel=1e-5)


def test_the_image_is_seen_and_examples_without_texts_count_nothing(losses):
    plain = batch(config())
    value = float(losses(plain)[0][0])
    assert losses(plain | {"image": plain["image"][::-1]})[0][0] != value
    changed = {name: np.array(x) for name, x in plain.items()}
    changed["words"][0, 1:] = 5
    changed["words_regions"][1, :, 1:] = 5
    assert losses(changed)[0][0] == pytest.approx(value, rel=1e-6)
    changed["words"][2, 1:3] = 5
    assert losses(changed)[0][0] != pytest.approx(value, rel=1e-6)


def test_beside_siglip_on_any_devices_and_in_any_parts():
    """Value and gradient of the first step; the losses have their weights, 1 each."""
    plain, found = batch(config()), []
    for devices, pieces in ((1, 1), (8, 2)):
        settings = config()
        settings.optim.microbatches = pieces
        state, (metrics,) = tiny.run(settings, (devices, 1, 1), tiny.QUICK).steps(plain)
        both = metrics["loss/siglip"] + metrics["loss/locca"]
        assert metrics["loss"] == pytest.approx(both, rel=1e-6)
        metrics = {n: x for n, x in metrics.items() if "loss" in n or "accuracy" in n}
        found.append((metrics, tiny.first_gradient(state)))
    tiny.assert_same(*found)
    assert {"locca/caption_loss", "locca/aref_loss", "locca/gcap_accuracy"} <= found[0][0].keys()
    for part in ("decoder", "words", "image", "text"):
        norm = sum(np.square(x).sum() for x in jax.tree.leaves(found[0][1][part]))
        assert np.isfinite(norm)
        assert norm > 0


@pytest.mark.parametrize(("rows", "part"), [(4, 7), (3, 30)])
def test_a_vocabulary_in_parts_is_a_whole_one(rows, part, monkeypatch):
    """Values and gradients to 1e-6 of float64's, with a last part that is not full."""
    rng = np.random.default_rng(0)
    size, width, length = 50, 8, 6
    x, embedding = rng.normal(size=(rows, length, width)), 3 * rng.normal(size=(size, width))
    x, embedding, bias = x.astype("f4"), embedding.astype("f4"), rng.normal(size=size).astype("f4")
    targets = rng.integers(-1, size, (rows, length)).astype(np.int32)
    monkeypatch.setattr(token_lib, "DEVICE_LOGITS", rows * part)

    def loss(x, embedding, bias):
        sums = token_lib.token_nll(x, targets, Unembedding(embedding, bias))
        return sums.nll.sum() / sums.targets.sum(), sums

    run = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    (value, sums), gradients = jax.jit(run)(x, embedding, bias)
    theirs = [
        torch.tensor(y, dtype=torch.float64, requires_grad=True) for y in (x, embedding, bias)
    ]
    logits = theirs[0] @ theirs[1].T + theirs[2]
    labels = torch.tensor(targets, dtype=torch.int64)
    truth = torch.nn.functional.cross_entropy(
        logits.reshape(-1, size), labels.reshape(-1), ignore_index=-1
    )
    truth.backward()
    assert float(value) == pytest.approx(truth.item(), rel=1e-6)
    for ours, true in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(ours, true.grad.numpy(), atol=1e-6)
    right = (logits.argmax(-1) == labels).sum(dim=1).numpy()
    np.testing.assert_array_equal(sums.correct, right)
    np.testing.assert_array_equal(sums.targets, (targets >= 0).sum(axis=1))


def test_temporaries_do_not_grow_with_vocabulary_times_batch(monkeypatch):
    """XLA's own account: of a vocabulary and a batch four times as large each, the dense logits are
    sixteen times as many, and the temporaries grow with the embedding and the tokens alone."""
    limit, width, length = 2**14, 8, 4
    monkeypatch.setattr(token_lib, "DEVICE_LOGITS", limit)

    def temporaries(rows, size):
        def loss(x, embedding, bias, targets):
            return token_lib.token_nll(x, targets, Unembedding(embedding, bias)).nll.sum()

        f4 = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)  # noqa: E731
        targets = jax.ShapeDtypeStruct((rows, length), np.int32)
        run = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
        args = f4(rows, length, width), f4(size, width), f4(size), targets
        found = run.lower(*args).compile().memory_analysis().temp_size_in_bytes
        return found - 4 * (6 * size * width + 6 * rows * length * width)  # copies of the inputs

    small, large = temporaries(64, 2**12), temporaries(256, 2**14)
    dense = 4 * 256 * 2**14  # bytes of the logits of one position
    assert large < dense / 2
    assert large < small + 12 * 4 * limit


def test_parts_that_do_not_fit_are_named():
    settings = config()
    settings.model.words.boxes = False
    with pytest.raises(UserError, match=r"locca: .*model\.words: set its keys boxes=True"):
        built(settings)
    settings = config()
    settings.model.decoder.kind = "bottleneck"
    with pytest.raises(UserError, match=r"of='decoder' should name .*decoder is a bottleneck"):
        built(settings)
    settings = config()
    settings.model.words.update(tags=3, token_types=2)
    with pytest.raises(
        UserError, match=r"words\.boxes=True is of captions and regions: set tags=0"
    ):
        parts.check_model(settings.model)
