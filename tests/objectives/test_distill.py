"""Distillation losses against PyTorch's and float64 NumPy; the queue; every number of devices."""

import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pytorch import F, torch

from mmjax import config as config_lib
from mmjax import objectives
from mmjax.errors import UserError
from mmjax.objectives import Own, distill
from mmjax.objectives.infonce import empty, push, queue_loss
from mmjax.parallel import mesh as mesh_lib

B, C, D = 16, 10, 12
NOTHING = Own()


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def compare(ours, theirs, *arrays):
    """Values and gradients of the first array: ours in float32, PyTorch's in float64."""
    value, gradient = jax.value_and_grad(ours)(*map(jnp.asarray, arrays))
    tensors = [torch.tensor(a, dtype=torch.float64) for a in arrays]
    tensors[0].requires_grad_()
    expected = theirs(*tensors)
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-5)
    exact = tensors[0].grad.numpy()
    assert np.abs(np.asarray(gradient) - exact).max() <= 1e-5 * np.abs(exact).max()


def torch_kl(x, y, temperature, direction):
    q, p = (F.log_softmax(z / temperature, dim=-1) for z in (x, y))
    if direction == "reverse":
        p, q = q, p
    return temperature**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)


@pytest.mark.parametrize("direction", get_args(distill.Direction))
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_kl_is_pytorchs(direction, temperature):
    compare(
        lambda x, y: distill.kl_loss(x, [y], temperature=temperature, direction=direction),
        lambda x, y: torch_kl(x, y, temperature, direction),
        3 * random(B, C), 3 * random(B, C, seed=1),
    )  # fmt: skip


def test_several_teachers_are_averaged_after_their_softmax():
    compare(
        lambda x, y, z: distill.kl_loss(x, [y, z]),
        lambda x, y, z: F.kl_div(
            F.log_softmax(x, -1), (F.softmax(y, -1) + F.softmax(z, -1)) / 2, reduction="batchmean"
        ),
        random(B, C), random(B, C, seed=1), 3 * random(B, C, seed=2),
    )  # fmt: skip


def test_the_loss_of_the_article_is_cross_entropy_and_alpha_times_the_divergence():
    labels = np.arange(B) % C
    compare(
        lambda x, y: distill.kd_loss(x, [y], jnp.asarray(labels), alpha=0.7, temperature=2.0),
        lambda x, y: F.cross_entropy(x, torch.tensor(labels))
        + 0.7 * torch_kl(x, y, 2.0, "forward"),
        random(B, C), random(B, C, seed=1),
    )  # fmt: skip


def test_feature_distances_are_pytorchs():
    compare(distill.feature_loss, F.mse_loss, random(B, D), random(B, D, seed=1))
    compare(
        lambda x, y: distill.feature_loss(x, y, "cosine"),
        lambda x, y: (1 - F.cosine_similarity(x, y)).mean(),
        random(B, D), random(B, D, seed=1),
    )  # fmt: skip


def test_interactive_contrast_is_two_cross_entropies():
    images, texts, t_images, t_texts = unit(random(4, B, D))
    labels = torch.arange(B)

    def theirs(x, y, u, v):
        return (F.cross_entropy(9 * x @ v.T, labels) + F.cross_entropy(9 * y @ u.T, labels)) / 2

    for how in ("dense", "ring"):

        def ours(x, y, u, v, how=how):
            return distill.interactive_loss(x, y, 9.0, u, v, implementation=how)

        compare(ours, theirs, images, texts, t_images, t_texts)


def test_agreement_is_the_share_of_equal_nearest_texts():
    images, texts, t_images, t_texts = unit(random(4, B, D))
    same = (images @ texts.T).argmax(1) == (t_images @ t_texts.T).argmax(1)
    assert float(distill.agreement(images, texts, t_images, t_texts)) == same.mean()
    assert float(distill.agreement(images, texts, images, texts)) == 1


# The objectives, as the step calls them.

OPTIONS = {
    "distill_similarity": {"teachers": ("a", "b")},
    "distill_logits": {"teachers": ("a",), "alpha": 2.0, "temperature": 3.0},
    "distill_feature": {"teachers": ("a", "b"), "project": True},
    "distill_interactive": {"teachers": ("a",)},
    "infonce": {"queue": 2, "positives": "group", "direction": "both"},
}


def build(name, **options):
    config = config_lib.default().objectives
    config[name] = config_lib.entry("objectives", **options)
    return objectives.build(config)[name][0]


def arrays():
    """Embeddings of the student, of its average, and of two teachers."""
    names = ("plain", "ema", "teacher/a", "teacher/b")
    embeds = unit(random(len(names), 2, B, D))
    return {n: {"image/embed": x, "text/embed": y} for n, (x, y) in zip(names, embeds, strict=True)}


def with_scales(outputs):
    scales = {"plain": 8.0, "teacher/a": 20.0, "teacher/b": 5.0, "ema": 0.0}
    return {n: {**pair, "logit/scale": jnp.float32(scales[n])} for n, pair in outputs.items()}


def own_of(objective, outputs):
    shapes = jax.eval_shape(lambda x: x, outputs)
    params = objective.params(jax.random.key(0), shapes) if objective.params else None
    state = objective.state(shapes) if objective.state else None
    if state is not None:  # one batch is in it
        past = {"image_embed": unit(random(B, D, seed=7)), "text_embed": unit(random(B, D, seed=8))}
        state = push(state, past | {"group": np.arange(B, dtype=np.int32) % 5})
    return Own(params, state)


def loss_of(objective, outputs, batch, own=NOTHING):
    return objective.loss(outputs, batch, own)[0]


@functools.cache
def on_devices(count):
    """Values of all objectives, and gradients of their sum, on so many devices."""
    built = {name: build(name, **options) for name, options in OPTIONS.items()}

    @jax.jit
    def run(outputs, batch):
        owns = {name: own_of(objective, with_scales(outputs)) for name, objective in built.items()}

        def total(plain, owns):
            views = with_scales(outputs | {"plain": plain})
            losses = {
                name: loss_of(
                    objective, views, batch, Own(owns[name], own_of(objective, views).state)
                )
                for name, objective in built.items()
            }
            return sum(losses.values()), losses

        params = {name: own.params for name, own in owns.items()}
        return jax.grad(total, argnums=(0, 1), has_aux=True)(outputs["plain"], params)

    with jax.set_mesh(mesh_lib.make_mesh(count, 1, 1, jax.devices()[:count])):
        outputs = {n: mesh_lib.put_batch(pair, B) for n, pair in arrays().items()}
        batch = mesh_lib.put_batch({"group": np.arange(B, dtype=np.int32) // 2}, B)
        return jax.tree.map(np.asarray, run(outputs, batch))


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_values_and_gradients_are_those_of_one_device(devices):
    (gradients, losses), (expected, truth) = on_devices(devices), on_devices(1)
    for name in OPTIONS:
        assert losses[name] == pytest.approx(truth[name], rel=1e-5), name
    leaves = zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True)
    for ours, theirs in leaves:
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


def test_similarity_to_several_teachers_is_to_the_mean_of_their_softmaxes():
    x = with_scales(arrays())

    def softmax(z):
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    logits = {
        n: float(v["logit/scale"]) * v["image/embed"].astype("f8") @ v["text/embed"].T
        for n, v in x.items()
    }
    expected = 0.0
    for turn in (lambda z: z, np.transpose):
        p = (softmax(turn(logits["teacher/a"])) + softmax(turn(logits["teacher/b"]))) / 2
        expected -= (p * np.log(softmax(turn(logits["plain"])))).sum(axis=1).mean() / 2
    value = loss_of(build("distill_similarity", teachers=("a", "b")), x, {})
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_fixed_temperature_stands_in_for_the_teachers_scale():
    x = with_scales(arrays())
    hot = build("distill_similarity", teachers=("a",), temperature=0.05)
    assert "logit/scale" not in hot.requires["teacher/a"]
    own = build("distill_similarity", teachers=("a",))  # its scale is 20
    assert float(loss_of(hot, x, {})) == pytest.approx(float(loss_of(own, x, {})), rel=1e-6)


def test_a_projection_brings_the_student_to_the_teachers_size():
    x = arrays()
    x["teacher/a"] = {name: unit(random(B, D + 3, seed=5)) for name in x["teacher/a"]}
    objective = build("distill_feature", teachers=("a",), project=True)
    own = own_of(objective, x)
    expected = 0.0
    for side in ("image", "text"):
        kernel = np.asarray(own.params["a"][side]["kernel"], "f8")
        assert kernel.shape == (D, D + 3)
        projected = unit(x["plain"][f"{side}/embed"] @ kernel)
        expected += np.square(projected - x["teacher/a"][f"{side}/embed"]).mean()
    assert float(loss_of(objective, x, {}, own)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["distill_feature", "distill_interactive"])
def test_other_sizes_without_a_projection_are_named(name):
    x = with_scales(arrays())
    x["teacher/a"] |= {"image/embed": unit(random(B, D + 3))}
    with pytest.raises(UserError, match=rf"{name}: .* size 12 .* 'a' 15: set .*project=True"):
        loss_of(build(name, teachers=("a",)), x, {})


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("distill_logits", {"direction": "backward"}, "forward, reverse"),
        ("distill_logits", {"temperature": 0.0}, "above 0"),
        ("distill_feature", {"distance": "l1"}, "mse, cosine"),
        ("distill_similarity", {"teachers": ()}, "one or more"),
        ("infonce", {"queue": 2, "implementation": "ring"}, "has no ring"),
    ],
)
def test_a_bad_option_is_named(name, options, said):
    with pytest.raises(UserError, match=rf"config\.objectives\.{name}.*{said}"):
        build(name, **options)


# The queue.


def queue_oracle(x, y, past, scale, group=None, past_groups=None):
    """float64; `past`: a list of the batches [B, D] that are in the queue."""
    candidates = np.concatenate([y, *past]).astype("f8")
    logits = scale * x.astype("f8") @ candidates.T
    same = np.eye(len(x), len(candidates), dtype=bool)
    if group is not None:
        same = group[:, None] == np.concatenate([group, *past_groups])[None, :]
    e = np.exp(logits)
    return np.log(e.sum(1) / (e * same).sum(1)).mean()


@pytest.mark.parametrize("positives", ["pair", "group"])
def test_the_queue_holds_the_newest_batches_as_candidates(positives):
    """Empty, partly filled, full, and overwritten: five batches through a queue of three."""
    objective = build("infonce", queue=3, positives=positives, direction="backward")
    rng = np.random.default_rng(0)
    state, seen = None, []
    for number in range(5):
        x = {n: {k: unit(random(B, D, seed=10 * number + i + j)) for j, k in enumerate(pair)}
             for i, (n, pair) in enumerate(arrays().items())}  # fmt: skip
        x = with_scales(x)
        batch = {"group": rng.integers(0, 6, B).astype(np.int32)}
        if state is None:
            state = objective.state(jax.eval_shape(lambda x: x, x))
        value, _ = objective.loss(x, batch, Own(None, state))
        past = seen[-3:]
        groups = (batch["group"], [g for _, g in past]) if positives == "group" else (None, None)
        expected = queue_oracle(
            x["plain"]["text/embed"], x["ema"]["image/embed"], [p for p, _ in past], 8.0, *groups
        )
        assert float(value) == pytest.approx(expected, rel=1e-5), number
        state = objective.update(Own(None, state), x, batch)
        seen.append((x["ema"]["image/embed"], batch["group"]))
    assert int(state["written"]) == 5


def test_an_empty_queue_changes_neither_value_nor_gradient():
    x, y = unit(random(2, B, D))
    queue = empty(2, {"y": jax.ShapeDtypeStruct((B, D), jnp.float32)})

    def with_queue(x):
        return queue_loss(x, y, queue["y"], queue["written"], 9.0)

    compare(with_queue, lambda x: F.cross_entropy(9 * x @ torch.tensor(y.T).double(),
                                                  torch.arange(B)), x)  # fmt: skip
