"""Token objectives: which positions are hidden and how, the losses, and what captions predict."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from pytorch import torch, transformers

from mmjax import config as config_lib
from mmjax import models, objectives
from mmjax.core.step import total_loss
from mmjax.core.views import run_views
from mmjax.data.vocabulary import Vocabulary
from mmjax.interop import registry
from mmjax.interop.formats import shapes
from mmjax.models import tokens as token_lib
from mmjax.models.tokens import TokenNll, Unembedding
from mmjax.objectives import tokens

V, LENGTH, ROWS = 40, 20, 400
PAD, START, END, MASK = 0, 1, 2, 39
NONE = np.zeros(V, bool)


def vocabulary(**changes):
    fields = {"size": V - 1, "mask_id": MASK, "special": (PAD, START, END), "starts": NONE,
              "ends": NONE} | changes  # fmt: skip
    return Vocabulary(**fields)


def texts(seed=0):
    """[START] words [END] padding, of random lengths from 3 to LENGTH."""
    rng = np.random.default_rng(seed)
    text = rng.integers(3, V - 1, (ROWS, LENGTH)).astype(np.int32)
    lengths = rng.integers(3, LENGTH + 1, ROWS)
    positions = np.arange(LENGTH)
    text[:, 0] = START
    text[positions == lengths[:, None] - 1] = END
    text[positions >= lengths[:, None]] = PAD
    return {"text": text, "text_mask": positions < lengths[:, None]}


def view(name, **options):
    """The objective's own view of the texts, as NumPy arrays."""
    words = options.pop("vocabulary", vocabulary())
    objective = objectives.REGISTRY[name](name, vocabulary=words, **options)
    made = jax.jit(objective.views[name].make)(texts(), jax.random.key(3), {})
    return {column: np.asarray(x) for column, x in made.items()}


def test_masked_positions_are_the_share_and_never_special():
    made, plain = view("mlm", rate=0.15), texts()
    positions, targets = made["positions"], made["targets"]
    assert positions.shape == targets.shape == (ROWS, 3)  # ⌈0.15 · 20⌉ of each text
    may = plain["text_mask"] & ~np.isin(plain["text"], [PAD, START, END])
    wanted = np.maximum(1, np.round(0.15 * may.sum(axis=1)))
    assert ((targets >= 0).sum(axis=1) == wanted).all()
    for row in range(ROWS):
        hidden = positions[row][targets[row] >= 0]
        assert len(set(hidden)) == len(hidden)
        assert may[row, hidden].all()
        assert (plain["text"][row, hidden] == targets[row][targets[row] >= 0]).all()
        untouched = np.setdiff1d(np.arange(LENGTH), hidden)
        assert (made["text"][row, untouched] == plain["text"][row, untouched]).all()


def test_hidden_tokens_are_masked_replaced_or_kept():
    made = view("mlm", rate=0.5)
    counts = made["targets"] >= 0
    shown = np.take_along_axis(made["text"], made["positions"], axis=1)[counts]
    truth = made["targets"][counts]
    n = len(truth)
    assert n > 1500
    error = 4 * np.sqrt(0.25 / n)
    assert (shown == MASK).mean() == pytest.approx(0.8, abs=error)
    # A random token is the right one now and then.
    assert (shown == truth).mean() == pytest.approx(0.1 + 0.1 / (V - 1), abs=error)
    every = view("mlm", rate=0.5, mask=1.0, random=0.0)
    hidden = np.take_along_axis(every["text"], every["positions"], axis=1)
    assert (hidden[every["targets"] >= 0] == MASK).all()


def test_every_step_hides_other_positions():
    objective = objectives.REGISTRY["mlm"]("mlm", vocabulary=vocabulary())
    view = jax.jit(objective.views["mlm"].make)
    one, two, again = (view(texts(), jax.random.key(k), {})["positions"] for k in (0, 1, 0))
    assert (one != two).any()
    assert (one == again).all()


@pytest.mark.parametrize("marks", ["starts", "ends"])
def test_whole_words_are_hidden_or_seen(marks):
    """Even tokens mark the border of a word: before them (##, Ġ), or after them (</w>)."""
    border = np.arange(V) % 2 == 0
    special = np.isin(np.arange(V), [PAD, START, END])
    words = vocabulary(starts=special, ends=special)
    words = vocabulary(**{"starts": special, "ends": special, marks: border | special})
    made, plain = view("mlm", vocabulary=words, rate=0.3, whole_word=True), texts()
    some = 0
    for row in range(ROWS):
        text = plain["text"][row]
        if marks == "starts":
            begins = np.isin(text, np.flatnonzero(border | special))
            begins[1:] |= np.isin(text[:-1], [PAD, START, END])
        else:
            begins = np.isin(text, [PAD, START, END])
            begins[1:] |= np.isin(text[:-1], np.flatnonzero(border | special))
        begins[0] = True
        word = np.cumsum(begins)
        hidden = made["positions"][row][made["targets"][row] >= 0]
        for number in set(word[hidden]):
            assert set(np.flatnonzero(word == number)) <= set(hidden)
        may = plain["text_mask"][row] & ~np.isin(text, [PAD, START, END])
        # No word is begun once there are enough; one that is too long is left out.
        longest = np.bincount(word).max()
        assert len(hidden) < np.round(0.3 * may.sum()) + longest + 1
        some += len(hidden) > 0
    assert some > 0.9 * ROWS


def test_captions_predict_the_next_token():
    made, plain = view("caption"), texts()
    assert (made["text_ar"] == 1).all()
    for row in range(ROWS):
        n = plain["text_mask"][row].sum()
        assert (made["targets"][row, : n - 1] == plain["text"][row, 1:n]).all()
        assert (made["targets"][row, n - 1 :] == -1).all()
    assert made["text"] is not None
    assert (made["text"] == plain["text"]).all()


def test_a_prefix_is_given_and_not_predicted():
    made, plain = view("caption", prefix=0.5), texts()
    given = (made["text_ar"] == 0).sum(axis=1)
    lengths = plain["text_mask"].sum(axis=1)
    assert (given >= 1).all()
    assert (given <= np.maximum(1, 0.5 * lengths)).all()
    assert len(set(given)) > 5
    for row in range(ROWS):
        predicted = np.flatnonzero(made["targets"][row] >= 0) + 1  # positions of these tokens
        assert predicted.tolist() == list(range(given[row], lengths[row]))


def test_parallel_examples_hide_every_input_and_their_length():
    made, plain = view("caption", parallel=0.75), texts()
    at_once = (made["text_ar"] == 0).all(axis=1)
    assert at_once.mean() == pytest.approx(0.75, abs=0.1)
    assert (made["text"][at_once] == MASK).all()
    assert made["text_mask"][at_once].all()
    assert (made["text"][~at_once] == plain["text"][~at_once]).all()
    assert (made["targets"] == view("caption")["targets"]).all()


@pytest.mark.parametrize("positions", [None, 3, 7])
def test_token_nll_is_pytorchs_cross_entropy(positions, monkeypatch):
    """Whole, and a few positions at a time with a last part that is not full."""
    rng = np.random.default_rng(0)
    x, embedding = rng.normal(size=(4, 10, 8)), rng.normal(size=(30, 8))
    x, embedding, bias = x.astype("f4"), embedding.astype("f4"), rng.normal(size=30).astype("f4")
    targets = rng.integers(-1, 30, (4, 10)).astype(np.int32)
    if positions:
        monkeypatch.setattr(token_lib, "DEVICE_LOGITS", positions * 4 * 30)

    def loss(x, embedding, bias):
        sums = token_lib.token_nll(x, targets, Unembedding(embedding, bias))
        return tokens.token_loss(sums)[0], sums

    run = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    (value, sums), gradients = jax.jit(run)(x, embedding, bias)
    theirs = [
        torch.tensor(y, dtype=torch.float64, requires_grad=True) for y in (x, embedding, bias)
    ]
    logits = theirs[0] @ theirs[1].T + theirs[2]
    labels = torch.tensor(targets, dtype=torch.int64)
    truth = torch.nn.functional.cross_entropy(
        logits.reshape(-1, 30), labels.reshape(-1), ignore_index=-1
    )
    truth.backward()
    assert float(value) == pytest.approx(truth.item(), rel=1e-6)
    for ours, true in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(ours, true.grad.numpy(), atol=1e-6)
    right = (logits.argmax(-1) == labels).sum(dim=1).numpy()
    np.testing.assert_array_equal(sums.correct, right)
    np.testing.assert_array_equal(sums.targets, (targets >= 0).sum(axis=1))
    sizes = [v.aval.size for v in _arrays(jax.make_jaxpr(run)(x, embedding, bias))]
    assert max(sizes) == (4 * 10 * 30 if positions is None else max(4 * positions * 30, 4 * 12 * 8))


def _arrays(jaxpr):
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _arrays(inner)


def test_the_loss_is_that_of_berts_own_class_on_the_same_masks(tmp_path):
    """Value and gradients, through the train step's views, with weights read from its folder."""
    settings = transformers.BertConfig(
        vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=LENGTH, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.BertForMaskedLM(settings).eval()
    theirs.save_pretrained(tmp_path)
    weights = registry.open_weights(tmp_path)
    model = models.from_config(weights.config.model)
    params = weights.read(shapes(weights.config.model))
    built = {"mlm": (objectives.REGISTRY["mlm"]("mlm", vocabulary(), of="text"), 1.0)}
    batch = {name: x[:16] for name, x in texts().items()}

    @jax.jit
    def loss(params):
        outputs = run_views(model, built, params, batch, jax.random.key(1))
        return total_loss(built, outputs, batch)[0], outputs["mlm"]

    (value, made), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    labels = np.full(batch["text"].shape, -100)
    np.put_along_axis(labels, np.asarray(made["positions"]), np.asarray(made["targets"]), 1)
    result = theirs(
        torch.tensor(np.asarray(made["text"])).long(), torch.tensor(batch["text_mask"]).long(),
        labels=torch.tensor(np.where(labels < 0, -100, labels)),
    )  # fmt: skip
    result.loss.backward()
    assert float(value) == pytest.approx(result.loss.item(), rel=1e-5)
    embedding = theirs.bert.embeddings.word_embeddings.weight.grad.numpy()
    first = theirs.bert.encoder.layer[0].intermediate.dense.weight.grad.numpy().T
    for ours, true in (
        (gradient["text"]["token_embed"]["embedding"], embedding),
        (gradient["text"]["blocks"]["mlp"]["fc1"]["kernel"][0], first),
        (gradient["text"]["mlm"]["bias"], theirs.cls.predictions.bias.grad.numpy()),
    ):
        np.testing.assert_allclose(ours, true, atol=1e-5 * np.abs(true).max())


def test_metrics_are_accuracy_and_perplexity():
    sums = TokenNll(jnp.array([3.0, 1.0]), jnp.array([1.0, 2.0]), jnp.array([2.0, 3.0]))
    loss, metrics = tokens.token_loss(sums)
    assert float(loss) == pytest.approx(0.8)
    assert float(metrics["accuracy"]) == pytest.approx(0.6)
    assert float(metrics["perplexity"]) == pytest.approx(np.exp(0.8))


def test_a_tokenizer_without_a_mask_token_wants_a_row():
    config = config_lib.default().objectives
    config.mlm = config_lib.entry("objectives")
    lacking = vocabulary(mask_id=None)
    with pytest.raises(ValueError, match=r"mlm: the tokenizer has no mask token .*to 40 or more"):
        objectives.build(config, tiny.config().model, lacking)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [("mlm", {"rate": 0.0}, r"\.rate=0\.0"), ("mlm", {"random": 0.3}, ".* more than 1 together"),
     ("caption", {"parallel": 2.0}, r"\.parallel=2\.0"),
     ("caption", {"parallel": 0.5, "prefix": 0.5}, ": .*set one of them to 0")],
)  # fmt: skip
def test_bad_options_are_named(name, options, said):
    config = config_lib.default().objectives
    config[name] = config_lib.entry("objectives", **options)
    with pytest.raises(ValueError, match=rf"config\.objectives\.{name}{said}"):
        objectives.build(config, tiny.config().model)


@pytest.mark.parametrize("name", ["mlm", "caption"])
def test_tokens_that_are_not_the_texts_are_refused(name):
    config = tiny.config()
    config.model.text.mlm_head = True
    config.objectives = {name: config_lib.entry("objectives", of="image")}
    model = models.from_config(config.model)
    built = objectives.build(config.objectives, config.model)
    params, batch = tiny.shapes(model), tiny.batch(config.model)

    def views(params, batch):
        return run_views(model, built, params, batch, jax.random.key(0))

    with pytest.raises(
        ValueError, match=rf"{name}\.of='image' gives 5 tokens .* 8: set it to 'text'"
    ):
        jax.eval_shape(views, params, batch)


def test_causal_models_share_the_text_of_captions():
    """What a view changes is all that runs again: a causal tower sees a caption as it is."""
    model = models.from_config(tiny.config().model)
    columns = {name: name for name in ("text", "text_mask", "text_ar")}
    assert "text_ar" not in model.sources(("text/tokens",), columns)
    config = tiny.config().model
    config.text.causal = False
    assert "text_ar" in models.from_config(config).sources(("text/tokens",), columns)
