"""Objectives that share a run: two of a kind, local losses in parts, views of frozen models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mmjax import config as config_lib
from mmjax import models, objectives
from mmjax.core.step import frozen_models, total_loss
from mmjax.core.views import run_views
from mmjax.models import Graph
from mmjax.models import tokens as token_lib
from mmjax.objectives import Objective, View
from mmjax.parallel import mesh as mesh_lib
from mmjax.params import path_string
from mmjax.teachers import OnlineTeacher

B, DEVICES = 32, (1, 8)
FLAVA = {"mlm": {}, "mlm_text": {"kind": "mlm", "of": "text"}}
CLIPS = {
    "clip": {"weight": 2.0},
    "photos": {"kind": "clip", "of": ("photo", "text"), "implementation": "ring", "weight": 0.5},
}


def config(**text):
    """Towers, a fusion that captions, and a head of the vocabulary."""
    result = tiny.config().model
    result.text.update(causal=False, mask_padding=True, pool="cls", mlm_head=True, **text)
    result.fusion = config_lib.entry("model", kind="concat", depth=1)
    return result


@functools.cache
def model():
    """With a second image tower, `photo`."""
    parts = models.from_config(config()).parts
    return Graph({**parts, "photo": parts["image"]})


def batch():
    rng = np.random.default_rng(4)
    columns = tiny.batch(config(), size=B)
    return columns | {"photo": rng.integers(0, 256, columns["image"].shape, dtype=np.uint8)}


@functools.cache
def params(seed=0):
    return tiny.params(model(), seed, batch())


def build(entries):
    """`entries`: name → options."""
    config_of = config_lib.default().objectives
    for name, options in entries.items():
        config_of[name] = config_lib.entry("objectives", **options)
    return objectives.build(config_of, config())


def run(built, devices=1, microbatches=1, frozen=None):
    """(metrics, gradients, outputs, gradients of the frozen parameters) of a first step."""

    def loss(params, frozen, batch):
        outputs = run_views(
            model(), built, params, batch, jax.random.key(7), microbatches=microbatches,
            frozen=frozen_models(model(), TEACHERS, frozen["teachers"], frozen["ema"]),
        )  # fmt: skip
        total, metrics = total_loss(built, outputs, batch)
        return total, (metrics | {"total": total}, outputs)

    frozen = {"teachers": {"big": params(2)}, "ema": params(1)} if frozen else NONE
    with jax.set_mesh(mesh_lib.make_mesh(devices, 1, 1, jax.devices()[:devices])):
        put = mesh_lib.put_batch(batch(), B)
        step = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), compiler_options=tiny.QUICK
        )
        (_, (metrics, outputs)), (gradient, theirs) = step(params(), frozen, put)
    outputs = {view: {name: x for name, x in found.items() if not name.endswith("lm_head")}
               for view, found in outputs.items() if not view.startswith("local/")}  # fmt: skip
    return jax.tree.map(np.asarray, (metrics, gradient, outputs, theirs))


TEACHERS = (OnlineTeacher("big", "float32", None, model(), ("plain", "hidden")),)
NONE = {"teachers": {"big": {}}, "ema": {}}


@functools.cache
def together(names, devices=1, microbatches=1):
    entries = {**FLAVA, **CLIPS, "caption": {}}
    return run(build({name: entries[name] for name in names}), devices, microbatches)


def assert_same(ours, truth):
    for name, value in truth[0].items():
        assert ours[0][name] == pytest.approx(value, rel=1e-5), name
    assert_same_gradients(ours[1], truth[1])


def assert_same_gradients(ours, truth):
    scale = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(truth)))
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(truth), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * scale, path_string(path)


def outputs_of(columns, *names, seed=0):
    found = model().apply({"params": params(seed)}, columns, names)
    return {name: np.asarray(x, np.float64) for name, x in found.items()}


# Two of a kind.


def clip_loss(x, y, scale):
    logits = scale * x @ y.T
    losses = [np.log(np.exp(z).sum(axis=1)) - np.diag(z) for z in (logits, logits.T)]
    return np.mean(losses)


@pytest.mark.parametrize("devices", DEVICES)
def test_two_clip_objectives_contrast_the_texts_with_two_towers(devices):
    metrics, gradient, *_ = together(("clip", "photos"), devices)
    found = outputs_of(batch(), "image/embed", "photo/embed", "text/embed", "logit/scale")
    for name, side in (("clip", "image/embed"), ("photos", "photo/embed")):
        expected = clip_loss(found[side], found["text/embed"], found["logit/scale"])
        assert metrics[f"loss/{name}"] == pytest.approx(expected, rel=1e-5), name
    total = 2.0 * metrics["loss/clip"] + 0.5 * metrics["loss/photos"]
    assert metrics["total"] == pytest.approx(total, rel=1e-6)
    alone = [together((name,))[1] for name in ("clip", "photos")]
    assert_same_gradients(gradient, jax.tree.map(np.add, *alone))
    assert all(np.linalg.norm(g["text"]["head"]["kernel"]) > 0.01 for g in alone)


def token_loss(view, logits):
    """Mean −log p of the targets of a masked view, from logits [B, L, V]."""
    logits = np.take_along_axis(logits, view["positions"][:, :, None], axis=1)
    log_p = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    targets = view["targets"]
    nll = -np.take_along_axis(log_p, np.maximum(targets, 0)[:, :, None], axis=2)[:, :, 0]
    return nll[targets >= 0].mean()


@pytest.mark.parametrize("devices", DEVICES)
def test_flavas_masked_language_of_texts_and_of_pairs(devices):
    metrics, gradient, outputs, _ = together(("mlm", "mlm_text"), devices)
    assert (outputs["mlm"]["positions"] != outputs["mlm_text"]["positions"]).any()
    for name, part in (("mlm", "fusion"), ("mlm_text", "text")):
        view = outputs[name]
        tokens = outputs_of(batch() | {"text": view["text"]}, f"{part}/tokens")[f"{part}/tokens"]
        known = {"text/tokens": jnp.asarray(tokens, jnp.float32)}
        logits = outputs_of(known, "text/logits")["text/logits"]
        assert metrics[f"loss/{name}"] == pytest.approx(token_loss(view, logits), rel=1e-5), name
        expected = np.exp(metrics[f"loss/{name}"])
        assert metrics[f"{name}/perplexity"] == pytest.approx(expected, rel=1e-5)
    assert_same((metrics, gradient), together(("mlm", "mlm_text")))
    assert np.any(gradient["fusion"]["blocks"]["mlp"]["fc1"]["kernel"])


def test_what_two_views_share_runs_once():
    """One image tower, a text tower for each of two masked texts, one fusion: four loops."""
    built = build(FLAVA)

    def loss(params, batch):
        outputs = run_views(model(), built, params, batch, jax.random.key(0))
        return total_loss(built, outputs, batch)[0]

    assert str(jax.make_jaxpr(loss)(params(), batch())).count(" scan[") == 4


@pytest.mark.parametrize("devices", DEVICES)
def test_local_losses_in_microbatches_are_those_of_the_whole_batch(devices):
    names = ("mlm", "mlm_text", "caption", "clip")
    assert_same(together(names, devices, microbatches=4), together(names))


# Views that frozen models see, and views that see frozen models.


def hiding(name="hidden"):
    """A toy objective, whose view hides the first half of each text from all models alike."""

    def hidden(batch, key, frozen):
        del key
        assert frozen == {}
        first = jnp.arange(batch["text"].shape[1]) < batch["text"].shape[1] // 2
        return {**batch, "text": jnp.where(first, 0, batch["text"])}

    def loss(outputs, batch, own):
        del batch, own
        x, *others = (outputs[view]["text/embed"] for view in FROZEN)
        return sum(jnp.square(x - other).mean() for other in others), {}

    requires = {view: ("text/embed",) for view in FROZEN}
    return {name: (Objective(requires, loss, views={name: View(hidden)}), 1.0)}


FROZEN = {"hidden": 0, "ema/hidden": 1, "teacher/big/hidden": 2}  # view → seed of its parameters


@functools.cache
def hidden(devices, microbatches=1):
    return run(hiding(), devices, microbatches, frozen=True)


@pytest.mark.parametrize("devices", DEVICES)
def test_the_average_and_teachers_see_a_view_that_an_objective_makes(devices):
    metrics, gradient, outputs, theirs = hidden(devices)
    columns = batch() | {"text": np.where(np.arange(8) < 4, 0, batch()["text"])}
    x = [outputs_of(columns, "text/embed", seed=seed)["text/embed"] for seed in FROZEN.values()]
    for view, expected in zip(FROZEN, x, strict=True):
        np.testing.assert_allclose(outputs[view]["text/embed"], expected, atol=1e-5, err_msg=view)
    expected = sum(np.square(x[0] - other).mean() for other in x[1:])
    assert metrics["total"] == pytest.approx(expected, rel=1e-5)
    assert not any(np.any(g) for g in jax.tree.leaves(theirs))
    assert np.any(gradient["text"]["head"]["kernel"])


@pytest.mark.parametrize("devices", DEVICES)
def test_frozen_views_are_the_same_in_microbatches(devices):
    assert_same(hidden(devices, microbatches=4), hidden(1))


def latents(local):
    """A toy objective, whose view holds what frozen models make of the plain batch."""
    reads = {"ema": ("image/embed",), "teacher/big": ("image/embed",)}

    def view(batch, key, frozen):
        del key
        assert frozen.keys() == reads.keys()
        latent = sum(frozen[name]["image/embed"] for name in reads)
        return {**batch, "latent": latent, "image": batch["image"][:, :, ::-1]}

    def distance(outputs, batch, own):
        del batch, own
        made = outputs["latents"]
        return jnp.square(made["image/embed"] - made["latent"]).sum(axis=1)

    def loss(outputs, batch, own):
        each = outputs["local"] if local else distance(outputs, batch, own)
        return each.mean(), {}

    return {
        "latents": (
            Objective(
                {"latents": ("image/embed",)}, loss, distance if local else None,
                views={"latents": View(view, reads)},
            ),
            1.0,
        )
    }  # fmt: skip


@functools.cache
def latent(devices, local, microbatches=1):
    return run(latents(local), devices, microbatches, frozen=True)


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("devices", DEVICES)
def test_a_view_may_hold_what_frozen_models_make_of_the_batch(devices, local):
    metrics, gradient, outputs, theirs = latent(devices, local)
    embeds = [outputs_of(batch(), "image/embed", seed=seed)["image/embed"] for seed in (1, 2)]
    np.testing.assert_allclose(outputs["latents"]["latent"], sum(embeds), atol=1e-5)
    mirrored = batch() | {"image": batch()["image"][:, :, ::-1]}
    x = outputs_of(mirrored, "image/embed")["image/embed"]
    expected = np.square(x - sum(embeds)).sum(axis=1).mean()
    assert metrics["total"] == pytest.approx(expected, rel=1e-5)
    assert not any(np.any(g) for g in jax.tree.leaves(theirs))
    if local:
        assert_same(latent(devices, local, microbatches=4), (metrics, gradient))


# The logits of a vocabulary.


V = 1024


@pytest.mark.parametrize("name", ["mlm", "caption", "distill_tokens"])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_logits_of_all_tokens_are_never_held(name, microbatches, monkeypatch):
    """The largest array of the step with its gradients, where a device may hold few logits."""
    settings = config(vocab_size=V)
    entries = {"mlm": {"rate": 1.0}, "caption": {}, "distill_tokens": {"teachers": ("big",)}}
    names = {"mlm", name}
    entry = config_lib.default().objectives
    for other in names:
        weight = float(other == name)
        entry[other] = config_lib.entry("objectives", weight=weight, **entries[other])
    if name == "caption":
        del entry["mlm"]
    built, tower = objectives.build(entry, settings), models.from_config(settings)
    teachers = [OnlineTeacher("big", "float32", None, tower, ("mlm",))]
    weights, columns = tiny.params(tower), tiny.batch(settings, size=B)

    def loss(params, batch):
        outputs = run_views(
            tower, built, params, batch, jax.random.key(0), microbatches=microbatches,
            frozen=frozen_models(tower, teachers, {"big": weights}, None),
        )  # fmt: skip
        return total_loss(built, outputs, batch)[0]

    def largest():
        jaxpr = jax.make_jaxpr(jax.grad(loss))(weights, columns).jaxpr
        return max(x.aval.size for x in _arrays(jaxpr))

    whole = B // microbatches * settings.text.context_length * V
    assert largest() >= whole  # so that the test would see them
    monkeypatch.setattr(token_lib, "DEVICE_LOGITS", B * V)
    assert largest() <= max(B * V, V * settings.text.width) < whole


def _arrays(jaxpr):
    for equation in jaxpr.eqns:
        yield from (x for x in equation.outvars if hasattr(x.aval, "size"))
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _arrays(inner)
