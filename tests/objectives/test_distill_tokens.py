"""DistilBERT's terms against transformers' models and PyTorch's losses on the same masks."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from pytorch import F, torch, transformers

from mmjax import config as config_lib
from mmjax import config_check, models, objectives
from mmjax.core.step import frozen_models, total_loss
from mmjax.core.views import run_views
from mmjax.data.vocabulary import Vocabulary
from mmjax.errors import UserError
from mmjax.interop import registry
from mmjax.interop.formats import Weights, shapes
from mmjax.models import tokens as token_lib
from mmjax.models.tokens import Unembedding
from mmjax.objectives import Own, distill_tokens
from mmjax.parallel import mesh as mesh_lib
from mmjax.teachers import OnlineTeacher

V, LENGTH, B, WIDTH = 40, 12, 16, 32
MASK, T = 39, 2.0
SLOWER = [pytest.param(n, marks=pytest.mark.long) for n in (2, 4)]
WEIGHTS = {"distill_tokens": 5.0, "mlm": 2.0, "distill_hidden": 1.0}


@pytest.mark.parametrize("positions", [None, 3, 7])
def test_soft_nll_is_pytorchs_cross_entropy(positions, monkeypatch):
    """Whole, and a few positions at a time with a last part that is not full."""
    rng = np.random.default_rng(0)
    x, t, embedding, theirs = (
        rng.normal(size=s).astype("f4") for s in ((4, 10, 8), (4, 10, 6), (30, 8), (30, 6))
    )
    bias, their_bias = rng.normal(size=(2, 30)).astype("f4")
    targets = rng.integers(-1, 2, (4, 10)).astype(np.int32)
    if positions:
        monkeypatch.setattr(token_lib, "DEVICE_LOGITS", positions * 4 * 2 * 30)

    def loss(x, embedding, bias):
        ours, other = Unembedding(embedding, bias), Unembedding(theirs, their_bias)
        sums = token_lib.soft_token_nll(x, t, targets, ours, other, T)
        return distill_tokens.soft_loss([sums], T)

    run = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    (value, metrics), gradients = jax.jit(run)(x, embedding, bias)
    exact = [torch.tensor(y, dtype=torch.float64, requires_grad=True) for y in (x, embedding, bias)]
    counts = torch.tensor(targets >= 0)
    logits = (exact[0] @ exact[1].T + exact[2])[counts]
    soft = torch.tensor(t.astype("f8") @ theirs.T.astype("f8") + their_bias)[counts]
    truth = T**2 * F.cross_entropy(logits / T, (soft / T).softmax(-1))
    truth.backward()
    assert float(value) == pytest.approx(truth.item(), rel=1e-6)
    for ours, true in zip(gradients, exact, strict=True):
        np.testing.assert_allclose(ours, true.grad.numpy(), atol=1e-6)
    same = (logits.argmax(-1) == soft.argmax(-1)).double().mean().item()
    assert float(metrics["agreement"]) == pytest.approx(same)
    sizes = [v.aval.size for v in _arrays(jax.make_jaxpr(run)(x, embedding, bias))]
    assert max(sizes) == (4 * 10 * 30 if positions is None else 4 * max(positions * 30, 12 * 8))


def _arrays(jaxpr):
    for equation in jaxpr.eqns:
        yield from equation.outvars
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _arrays(inner)


def texts():
    rng = np.random.default_rng(0)
    text, lengths = rng.integers(3, V - 1, (B, LENGTH)), rng.integers(4, LENGTH + 1, (B, 1))
    return {"text": text.astype(np.int32), "text_mask": np.arange(LENGTH) < lengths}


@functools.cache
def bert(seed, layers, folder):
    """transformers' model, and its weights as ours."""
    settings = transformers.BertConfig(
        vocab_size=V, hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=LENGTH, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(seed)
    theirs = transformers.BertForMaskedLM(settings).eval()
    with torch.no_grad():  # logits far from uniform
        theirs.bert.embeddings.word_embeddings.weight *= 20
    theirs.save_pretrained(folder / str(seed))
    return theirs, registry.open_weights(folder / str(seed))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bert")


@functools.cache
def ours(folder, devices, microbatches=1):
    """Losses and metrics, gradients, and the view that was read, of all three terms."""
    weights, teacher = bert(0, 1, folder)[1], bert(1, 2, folder)[1]
    config = config_lib.default().objectives
    for name, weight in WEIGHTS.items():
        options = {"of": "text"} if name == "mlm" else {"teachers": ("big",)}
        config[name] = config_lib.entry("objectives", weight=weight, **options)
    none = np.zeros(V, bool)
    built = objectives.build(config, None, Vocabulary(V - 1, MASK, (), none, none))
    model, big = (models.from_config(w.config.model) for w in (weights, teacher))
    teachers = (OnlineTeacher("big", "float32", teacher, big, ("mlm",)),)
    frozen = {"big": teacher.read(shapes(teacher.config.model))}

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    def run(params, frozen, batch):
        def loss(params):
            outputs = run_views(
                model, built, params, batch, jax.random.key(1),
                frozen=frozen_models(model, teachers, frozen, None), microbatches=microbatches,
            )  # fmt: skip
            total, metrics = total_loss(built, outputs, batch)
            return total, (metrics, outputs["mlm"])

        return jax.value_and_grad(loss, has_aux=True)(params)

    params = weights.read(shapes(weights.config.model))
    mesh = mesh_lib.make_mesh(devices, 1, 1, jax.devices()[:devices])
    with jax.set_mesh(mesh):
        batch = mesh_lib.put_batch(texts(), B)
        params, frozen = jax.tree.map(np.asarray, (params, frozen))
        (total, (metrics, view)), gradient = run(params, frozen, batch)
    made = {name: np.asarray(view[name]) for name in ("text", "text_mask", "positions",
                                                      "targets")}  # fmt: skip
    return float(total), jax.tree.map(float, metrics), jax.tree.map(np.asarray, gradient), made


def test_the_three_terms_are_those_of_transformers_and_pytorch(folder):
    total, metrics, gradient, made = ours(folder, 1)
    (student, _), (teacher, _) = bert(0, 1, folder), bert(1, 2, folder)
    labels = np.full(made["text"].shape, -100)
    np.put_along_axis(labels, made["positions"], made["targets"], axis=1)
    labels = torch.tensor(np.where(labels < 0, -100, labels))
    inputs = {
        "input_ids": torch.tensor(made["text"]).long(),
        "attention_mask": torch.tensor(made["text_mask"]).long(),
    }
    result = student(**inputs, labels=labels, output_hidden_states=True)
    with torch.no_grad():
        soft = teacher(**inputs, output_hidden_states=True)
    hidden, real = labels >= 0, torch.tensor(made["text_mask"])
    terms = {
        "distill_tokens": T**2 * F.cross_entropy(
            result.logits[hidden] / T, (soft.logits[hidden] / T).softmax(-1)
        ),
        "mlm": result.loss,
        "distill_hidden": F.cosine_embedding_loss(
            result.hidden_states[-1][real], soft.hidden_states[-1][real], torch.ones(real.sum())
        ),
    }  # fmt: skip
    for name, term in terms.items():
        assert metrics[f"loss/{name}"] == pytest.approx(term.item(), rel=1e-5), name
    expected = sum(WEIGHTS[name] * term for name, term in terms.items())
    assert total == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    student = student.bert, student.cls.predictions
    layer = student[0].encoder.layer[0]
    for ours_, true in (
        (gradient["text"]["token_embed"]["embedding"], student[0].embeddings.word_embeddings),
        (gradient["text"]["blocks"]["mlp"]["fc1"]["kernel"][0].T, layer.intermediate.dense),
        (gradient["text"]["mlm"]["dense"]["kernel"].T, student[1].transform.dense),
    ):
        true = true.weight.grad.numpy()
        np.testing.assert_allclose(ours_, true, atol=1e-5 * np.abs(true).max())
    agree = result.logits.argmax(-1) == soft.logits.argmax(-1)
    assert metrics["distill_tokens/agreement"] == pytest.approx(agree[hidden].double().mean())


@pytest.mark.parametrize("devices", [*SLOWER, 8])
def test_they_are_the_same_on_many_devices(folder, devices):
    total, metrics, gradient, made = ours(folder, devices)
    one, truth, expected, view = ours(folder, 1)
    jax.tree.map(np.testing.assert_array_equal, made, view)
    assert total == pytest.approx(one, rel=1e-6)
    assert metrics == pytest.approx(truth, rel=1e-5)
    scale = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(expected)))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * scale


@pytest.mark.long
def test_they_are_the_same_in_parts(folder):
    """Teacher and student embed parts of the masked view; the loss is of the whole."""
    (total, metrics, *_), (one, truth, *_) = ours(folder, 2, 4), ours(folder, 1)
    assert total == pytest.approx(one, rel=1e-6)
    assert metrics == pytest.approx(truth, rel=1e-5)


def test_several_teachers_are_the_mean_of_their_distributions():
    rng = np.random.default_rng(0)
    x, t, u = rng.normal(size=(3, 2, 5, 8)).astype("f4")
    unembedding = Unembedding(rng.normal(size=(30, 8)).astype("f4"), np.zeros(30, "f4"))
    targets = np.zeros((2, 5), np.int32)
    each = [token_lib.soft_token_nll(x, y, targets, unembedding, unembedding, T) for y in (t, u)]
    p = sum(jax.nn.softmax(y @ unembedding.embedding.T / T) for y in (t, u)) / 2
    log_q = jax.nn.log_softmax(x @ unembedding.embedding.T / T)
    expected = -(T**2) * (p * log_q).sum(-1).mean()
    assert float(distill_tokens.soft_loss(each, T)[0]) == pytest.approx(float(expected), rel=1e-5)


def outputs(student, teacher):
    """Of the masked view, with so many tokens and so wide."""

    def of(size, width):
        return {
            "text/tokens": jnp.ones((2, 3, width)),
            "targets": jnp.zeros((2, 3), int), "text_mask": jnp.ones((2, 3), bool),
            "text/lm_head": types.SimpleNamespace(
                hidden=lambda x: x,
                unembedding=lambda: Unembedding(jnp.ones((size, width)), jnp.ones(size)),
            ),
        }  # fmt: skip

    return {"mlm": of(*student), "teacher/teacher/mlm": of(*teacher)}


def test_what_does_not_fit_is_named():
    def build(name, **options):
        return objectives.REGISTRY[name](name, **options)

    with pytest.raises(UserError, match=r"has 30 tokens and teacher 'teacher' 31: set .*vocab_siz"):
        build("distill_tokens").local(outputs((30, 8), (31, 8)), {}, Own())
    with pytest.raises(UserError, match=r"width 8 and those of teacher 'teacher' 6: set .*width"):
        build("distill_hidden").loss(outputs((30, 8), (30, 6)), {}, Own())
    config = config_lib.default().objectives
    config.distill_tokens = config_lib.entry("objectives", temperature=0.0)
    with pytest.raises(
        UserError, match=r"distill_tokens\.temperature=0\.0 must be a number above 0"
    ):
        objectives.build(config)
    with pytest.raises(ValueError, match="one or more"):
        build("distill_hidden", teachers=())


def test_the_masked_view_is_that_of_mlm():
    config = config_lib.default()
    config.objectives.distill_tokens = config_lib.entry("objectives", teachers=("big",))
    config.teachers.big = config_lib.entry("teachers", source="random:tiny-bert")
    built, given = objectives.build(config.objectives), models.create("tiny-bert").outputs()
    with pytest.raises(
        UserError, match=r"distill_tokens reads the view that .*mlm makes: add .*mlm"
    ):
        config_check.validate_outputs(built, given)
    with pytest.raises(UserError, match=r"'text/tokens' of teacher 'big', which gives text/embed"):
        config_check.validate_teachers(config, built, {"big": ("text/embed",)})  # as if cached
    config.objectives.mlm = config_lib.entry("objectives", of="text", weight=0.0)
    built = objectives.build(config.objectives, models.zoo.config("tiny-bert"))
    config_check.validate_outputs(built, given)
    config_check.validate_teachers(config, built, {"big": given})
    with pytest.raises(UserError, match=r"needs .*'text/lm_head': set .*mlm_head=True"):
        config_check.validate_outputs(built, ("text/logits", "text/tokens"))


def test_a_teacher_that_reads_other_tokens_is_refused(folder):
    weights = bert(1, 2, folder)[1]
    config = config_lib.default()
    config.model = weights.config.model.copy_and_resolve_references()

    def tokenizer(words):
        wrapped = types.SimpleNamespace(get_vocab=lambda: words)
        return types.SimpleNamespace(wrapped=wrapped)

    of_weights = Weights("bert", weights.config, weights.read, lambda: tokenizer({"a": 0}))
    model = models.from_config(weights.config.model)
    teacher = OnlineTeacher("big", "float32", of_weights, model)
    masked = {"teacher/big/mlm": ("text/hidden",)}
    teacher = teacher.for_objectives(masked, config)
    assert teacher.readers(config, lambda: tokenizer({"a": 0})) == ()  # none of its own
    assert teacher.readers(config) == ()
    with pytest.raises(UserError, match=r"teachers\.big .*bert has another tokenizer: give"):
        teacher.readers(config, lambda: tokenizer({"b": 0}))
    config.model.text.context_length = LENGTH + 1
    with pytest.raises(UserError, match=r"big reads .* 13 tokens, and knows 12: set .*to 12"):
        teacher.for_objectives(masked, config)
    config.model.image = config_lib.entry("model", kind="regions")
    clip = tiny.config()
    of_weights = Weights("clip", clip, None, None)
    teacher = OnlineTeacher("big", "float32", of_weights, models.from_config(clip.model))
    teacher.for_objectives({"teacher/big": ("text/embed",)}, config)
    with pytest.raises(UserError, match=r"big reads images, and a model of regions .* without any"):
        teacher.for_objectives({"teacher/big": ("image/embed",)}, config)
