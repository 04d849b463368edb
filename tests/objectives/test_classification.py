"""Classification against PyTorch's losses, mixup against a computation by hand; every mesh."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from pytorch import F, torch

from mmjax import config as config_lib
from mmjax import models, objectives
from mmjax.core.step import total_loss
from mmjax.core.views import run_views
from mmjax.errors import UserError
from mmjax.objectives import Own
from mmjax.objectives import classification as lib
from mmjax.parallel import mesh as mesh_lib

B, C = 32, 16
NAME = "classes"
CASES = [("softmax", 0.0), ("softmax", 0.1), ("sigmoid", 0.0), ("sigmoid", 0.1)]


def labels(missing=True):
    label = np.random.default_rng(3).integers(0, C, B).astype(np.int32)
    label[[2, 9, 30]] = -1 if missing else 0
    return label


def logits(seed=0):
    return 3 * np.random.default_rng(seed).normal(size=(B, C)).astype("f4")


def build(**options):
    config = config_lib.default().objectives
    config[NAME] = config_lib.entry("objectives", kind="classification", **options)
    return objectives.build(config)


def torch_loss(z, targets, loss):
    """Sum over examples of the loss to targets [B, C]."""
    if loss == "softmax":
        return F.cross_entropy(z, targets, reduction="sum")
    return F.binary_cross_entropy_with_logits(z, targets, reduction="sum")


def smooth(label, smoothing):
    hot = F.one_hot(torch.tensor(label).long().clamp(min=0), C).double()
    return (1 - smoothing) * hot + smoothing / C


def loss_of(objective, outputs, batch):
    own = Own()
    local = objective.local(outputs, batch, own)
    return objective.loss({"local": local}, batch, own)


@pytest.mark.parametrize(("loss", "smoothing"), CASES)
def test_value_and_gradient_are_pytorchs(loss, smoothing):
    objective, _ = build(loss=loss, label_smoothing=smoothing)[NAME]
    label, batch = labels(), {"label": labels()}

    def ours(z):
        return loss_of(objective, {"plain": {"image/features": z}}, batch)

    (value, metrics), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(logits())
    z = torch.tensor(logits(), dtype=torch.float64, requires_grad=True)
    there = torch.tensor(label >= 0)
    if loss == "softmax":
        truth = F.cross_entropy(
            z, torch.tensor(label).long(), ignore_index=-1, label_smoothing=smoothing
        )
    else:
        truth = torch_loss(z[there], smooth(label, smoothing)[there], loss) / there.sum()
    truth.backward()
    assert float(value) == pytest.approx(truth.item(), rel=1e-6)
    exact = z.grad.numpy()
    np.testing.assert_allclose(gradient, exact, atol=1e-6 * np.abs(exact).max())
    assert (np.asarray(gradient)[label < 0] == 0).all()
    best = torch.tensor(logits()).topk(5).indices.numpy()[label >= 0]
    known = label[label >= 0]
    assert float(metrics["accuracy"]) == pytest.approx((best[:, 0] == known).mean())
    assert float(metrics["top5"]) == pytest.approx((best == known[:, None]).any(axis=1).mean())


def test_equal_logits_rank_as_argmax_and_few_classes_have_no_top_five():
    z = jnp.zeros((3, C))
    assert lib.class_rank(z, jnp.array([0, 1, 7])).tolist() == [0, 1, 7]
    few = {"plain": {"image/features": logits()[:, :5]}}
    _, metrics = loss_of(build()[NAME][0], few, {"label": labels() % 5})
    assert set(metrics) == {"accuracy"}


def test_without_any_label_the_loss_and_its_gradient_are_zero():
    batch = {"label": np.full(B, -1, np.int32)}
    objective = build(label_smoothing=0.1)[NAME][0]

    def ours(z):
        return loss_of(objective, {"plain": {"image/features": z}}, batch)[0]

    value, gradient = jax.value_and_grad(ours)(logits())
    assert float(value) == 0
    assert not np.any(gradient)


def pictures(size=B):
    return np.random.default_rng(1).integers(0, 256, (size, 16, 16, 3), dtype=np.uint8)


def mixed(objective, key=0, **columns):
    batch = {"image": pictures(), "label": labels(), **columns}
    view = jax.jit(objective.views[NAME].make)(batch, jax.random.key(key), {})
    return batch, jax.tree.map(np.asarray, view)


def test_mixup_is_that_of_a_computation_by_hand():
    """Each image with the one before it, both labels kept, and the loss to the mixed targets."""
    objective, _ = build(mixup=0.5, label_smoothing=0.1)[NAME]
    batch, view = mixed(objective)
    share = float(view["share"][0])
    assert (view["share"] == view["share"][0]).all()
    assert 0.5 <= share < 1
    for i in range(B):
        expected = share * batch["image"][i].astype("f8") + (1 - share) * batch["image"][i - 1]
        np.testing.assert_allclose(view["image"][i], expected, atol=1e-4)
        assert view["other_label"][i] == batch["label"][i - 1]
    assert view["image"].dtype == np.float32
    np.testing.assert_array_equal(view["label"], batch["label"])

    for missing in (False, True):
        label = labels(missing)
        other = np.roll(label, 1)
        made = {**view, "label": label, "other_label": other}

        def ours(z, made=made, label=label):
            return loss_of(objective, {NAME: {**made, "image/features": z}}, {"label": label})

        (value, metrics), gradient = jax.value_and_grad(ours, has_aux=True)(logits())
        z = torch.tensor(logits(), dtype=torch.float64, requires_grad=True)
        if not missing:  # as the article has it: one target, the mix of both
            targets = share * smooth(label, 0.1) + (1 - share) * smooth(other, 0.1)
            truth = F.cross_entropy(z, targets)
        else:  # each label that is there counts with its share
            weights, total = 0.0, 0.0
            for y, part in ((label, share), (other, 1 - share)):
                there = torch.tensor(y >= 0)
                total = total + part * torch_loss(z[there], smooth(y, 0.1)[there], "softmax")
                weights += part * int(there.sum())
            truth = total / weights
        truth.backward()
        assert float(value) == pytest.approx(truth.item(), rel=1e-6)
        exact = z.grad.numpy()
        np.testing.assert_allclose(gradient, exact, atol=1e-6 * np.abs(exact).max())
        right = (logits().argmax(axis=1) == label)[label >= 0].mean()
        assert float(metrics["accuracy"]) == pytest.approx(right)


def test_each_step_draws_its_share_of_a_beta_distribution():
    make = jax.jit(build(mixup=0.2)[NAME][0].views[NAME].make)
    batch = {"image": pictures(2), "label": labels()[:2]}
    keys = jax.random.split(jax.random.key(0), 500)
    shares = np.array([make(batch, key, {})["share"][0] for key in keys])
    draws = np.random.default_rng(0).beta(0.2, 0.2, 100_000)
    expected = np.maximum(draws, 1 - draws)
    for q in (0.1, 0.25, 0.5):
        assert np.quantile(shares, q) == pytest.approx(np.quantile(expected, q), abs=0.05)


def config(**options):
    result = tiny.config()
    del result.model.text, result.model.logit
    result.model.embed_dim = C
    result.model.image.head = "linear_bias"
    entry = config_lib.entry("objectives", kind="classification", **options)
    result.objectives = {NAME: entry}
    return result


@functools.cache
def first_step(devices, microbatches=1, loss="softmax", mixup=0.3):
    """(loss and metrics, gradients) through a tower and its views."""
    run_config = config(loss=loss, mixup=mixup, label_smoothing=0.1)
    model = models.from_config(run_config.model)
    built = objectives.build(run_config.objectives, run_config.model)

    def run(params, batch):
        outputs = run_views(
            model, built, params, batch, jax.random.key(7), microbatches=microbatches
        )
        return total_loss(built, outputs, batch)

    with jax.set_mesh(mesh_lib.make_mesh(devices, 1, 1, jax.devices()[:devices])):
        batch = mesh_lib.put_batch({"image": pictures(), "label": labels()}, B)
        step = jax.jit(jax.value_and_grad(run, has_aux=True), compiler_options=tiny.QUICK)
        (total, metrics), gradient = step(tiny.params(model), batch)
    return jax.tree.map(np.asarray, ({**metrics, "total": total}, gradient))


@pytest.mark.parametrize(("loss", "mixup"), [("softmax", 0.3), ("sigmoid", 0.0)])
@pytest.mark.parametrize(("devices", "microbatches"), [(1, 4), (8, 1), (8, 4)])
def test_devices_and_microbatches_change_nothing(devices, microbatches, loss, mixup):
    metrics, gradient = first_step(devices, microbatches, loss, mixup)
    truth, expected = first_step(1, 1, loss, mixup)
    assert set(truth) == {
        f"loss/{NAME}", f"{NAME}/accuracy", f"{NAME}/top5", "total"
    }  # fmt: skip
    for name, value in truth.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5), name
    scale = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(expected)))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * scale


def test_mixup_sends_one_example_from_device_to_device():
    make = build(mixup=0.2)[NAME][0].views[NAME].make
    with jax.set_mesh(mesh_lib.make_mesh(8, 1, 1)):
        batch = mesh_lib.put_batch({"image": pictures(), "label": labels()}, B)
        run = jax.jit(lambda batch, key: make(batch, key, {}))
        text = run.lower(batch, jax.random.key(0)).compile().as_text()
    assert not re.findall(r"= \S+ (all-gather|all-to-all)\(", text)
    sent = re.findall(r"= \w+\[([\d,]*)\]\S* collective-permute(?:-start)?\(", text)
    assert "1,16,16,3" in sent
    assert all(int(shape.split(",")[0]) == 1 for shape in sent)


def test_float_images_are_those_of_bytes():
    run_config = config()
    model = models.from_config(run_config.model)
    params = tiny.params(model)
    embed = jax.jit(lambda image: model.apply({"params": params}, {"image": image}, OUTPUT))
    ours, floats = embed(pictures()), embed(pictures().astype(np.float32))
    np.testing.assert_array_equal(ours[OUTPUT[0]], floats[OUTPUT[0]])


OUTPUT = ("image/features",)


def test_a_run_learns_the_classes_of_its_batch():
    run = tiny.run(config(), options=tiny.QUICK)
    batch = {"image": pictures(), "label": labels()}
    _, history = run.steps(*[batch] * 15)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1][f"{NAME}/accuracy"] > history[0][f"{NAME}/accuracy"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "hinge"}, "loss='hinge' must be one of softmax"),
        ({"label_smoothing": 1.0}, r"label_smoothing=1\.0"),
        ({"mixup": -0.2}, r"mixup=-0\.2"),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(UserError, match=rf"config\.objectives\.{NAME}\.{said}"):
        build(**options)


def test_data_without_labels_or_images_to_mix_is_named():
    outputs = {"plain": {"image/features": logits()}}
    with pytest.raises(UserError, match=rf"objectives\.{NAME} needs labels: name the column"):
        loss_of(build()[NAME][0], outputs, {})
    make = build(mixup=0.2, of="text")[NAME][0].views[NAME].make
    batch = {"label": labels(), "text": np.zeros((B, 4), np.int32)}
    with pytest.raises(UserError, match=r"mixup mixes images, and 'text' reads none"):
        make(batch, jax.random.key(0), {})
