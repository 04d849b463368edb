"""Self-distillation: losses and gradients beside PyTorch's, Sinkhorn on logits that overflow, what
the teacher is, one loss on any number of devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from pytorch import F, torch

from mmjax import config as config_lib
from mmjax import models, objectives
from mmjax.config_check import validate_teachers
from mmjax.core.state import model_params
from mmjax.core.step import declare, frozen_models, owned, total_loss
from mmjax.core.views import run_views
from mmjax.errors import UserError
from mmjax.objectives import Own, prototypes
from mmjax.objectives.registry import LOCAL
from mmjax.parallel import mesh as mesh_lib
from mmjax.params import path_string

ROWS, CROPS, WIDTH = 6, 3, 10
HEAD = {"prototypes": 12, "hidden": 16, "bottleneck": 8}
BOTH = ("self_distill", "masked_distill")


def config(**keys):
    """Both objectives on a tower with patches of 4 pixels; `keys` are of both."""
    result = tiny.config(ema=0.9)
    result.model.image.update(size=16, patch_size=4, depth=1, mask_token=True)
    result.data.crops.update(count=CROPS, size=8)
    result.objectives = {name: config_lib.entry("objectives", **HEAD, **keys) for name in BOTH}
    return result


def built(run):
    return objectives.build(run.objectives, run.model)


# One objective beside PyTorch, in float64


def head(seed):
    """Parameters of a head whose logits differ enough to matter."""
    sizes = WIDTH, HEAD["hidden"], HEAD["bottleneck"], HEAD["prototypes"]
    rng, shapes = np.random.default_rng(seed), prototypes.init_head(jax.random.key(0), *sizes)
    return jax.tree.map(lambda x: rng.normal(scale=0.4, size=x.shape).astype("f4"), shapes)


def torch_logits(head, x):
    """DINO's head, in its own words: a layer of torch's weight_norm with its scale at 1."""
    for name in ("fc1", "fc2", "fc3"):
        x = F.linear(x, head[name]["kernel"].T, head[name]["bias"])
        x = x if name == "fc3" else F.gelu(x)
    last = torch.nn.Linear(HEAD["bottleneck"], HEAD["prototypes"], bias=False).double()
    last = torch.nn.utils.parametrizations.weight_norm(last)
    ones = torch.ones_like(last.parametrizations.weight.original0)
    kernel = head["prototypes"]["kernel"].T
    weights = {"parametrizations.weight.original0": ones,
               "parametrizations.weight.original1": kernel}  # fmt: skip
    return torch.func.functional_call(last, weights, (F.normalize(x, dim=-1),))


def torch_koleo(x):
    x = F.normalize(x, dim=-1, eps=1e-8)
    dots = (x @ x.T).fill_diagonal_(-2)
    nearest = F.pairwise_distance(x, x[dots.argmax(dim=1)], eps=1e-8)
    return -torch.log(nearest + 1e-8).mean()


def torch_targets(logits, centre, counted):
    """Of DINO, or without a centre DINOv2's Sinkhorn–Knopp, over rows [R, K] that count."""
    if centre is not None:
        return F.softmax((logits - centre) / 0.04, dim=-1)
    masses = torch.exp(logits[counted].double() / 0.04).T
    masses /= masses.sum()
    for _ in range(3):
        masses /= masses.sum(dim=1, keepdim=True) * len(masses)
        masses /= masses.sum(dim=0, keepdim=True) * masses.shape[1]
    found = torch.zeros_like(logits)
    found[counted] = (masses * masses.shape[1]).T
    return found


def torch_loss(name, params, average, x, t, centre, mask, koleo):
    """(loss, the next centre) by the papers' formulas; x [B, R, W], t [B, W] or [B, R, W]."""
    student, teacher = torch_logits(params, x), torch_logits(average, t).detach()
    counted = torch.ones(teacher.shape[:-1], dtype=bool) if mask is None else mask
    targets = torch_targets(teacher, centre, counted)
    log_q = F.log_softmax(student / 0.1, dim=-1)
    if name == "self_distill":
        terms = [-(targets * log_q[:, crop]).sum(dim=1).mean() for crop in range(x.shape[1])]
        loss = torch.stack(terms).mean()
        loss += koleo * sum(torch_koleo(x[:, crop]) for crop in range(CROPS)) / CROPS
    else:
        each = -(targets * log_q).sum(dim=2)
        loss = torch.stack([row[m].mean() for row, m in zip(each, counted, strict=True)]).mean()
    return loss, None if centre is None else 0.9 * centre + 0.1 * teacher[counted].mean(dim=0)


CASES = [
    ("self_distill", {}),
    ("self_distill", {"centring": "sinkhorn", "koleo": 0.1}),
    ("masked_distill", {}),
    ("masked_distill", {"centring": "sinkhorn"}),
    ("masked_distill", {"all_patches": True}),
]


@pytest.mark.parametrize(("name", "keys"), CASES)
def test_losses_gradients_and_centre_are_those_of_pytorch(name, keys, monkeypatch):
    """In parts of two examples; the teacher's gradient is exactly zero."""
    run = config()
    run.objectives[name].update(keys)
    objective = built(run)[name][0]
    rng, first = np.random.default_rng(2), 1  # a class token, which is no patch
    masked = name == "masked_distill"
    count = 16 if masked else CROPS
    x = rng.normal(size=(ROWS, first * masked + count, WIDTH)).astype("f4")
    t = rng.normal(size=x.shape if masked else (ROWS, WIDTH)).astype("f4")
    mask = rng.random((ROWS, count)) < 0.5
    mask[:, 0] = True
    state = {} if "centring" in keys else {"centre": rng.normal(size=12).astype("f4") / 10}
    logits = 2 * count * HEAD["prototypes"]
    monkeypatch.setattr(prototypes, "DEVICE_LOGITS", 2 * logits)

    def loss(x, params, t, average, state):
        output = "image/tokens" if masked else "image/features"
        ours = {output: x, "image_patch_mask": mask}
        outputs = {"ema/image_global": {output: t}, name if masked else "image_local": ours}
        own = Own(params, state, average)
        rows = objective.local(outputs, {}, own)
        value, metrics = objective.loss({LOCAL: rows}, {}, own)
        new = objective.update(own, {f"{LOCAL}/{name}": rows}, {}) if objective.update else {}
        return value, (metrics, new)

    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True))
    (value, (metrics, new)), gradients = run(x, head(0), t, head(1), state)

    def double(tree):
        return jax.tree.map(lambda a: torch.tensor(np.float64(a), requires_grad=True), tree)

    theirs = double((x, head(0)))
    x_, t_ = (a[:, first:] if masked else a for a in (theirs[0], double(t)))
    centre = double(state["centre"]) if state else None
    counted = torch.tensor(mask) if masked and not keys.get("all_patches") else None
    truth, next_centre = torch_loss(
        name, theirs[1], double(head(1)), x_, t_, centre, counted, keys.get("koleo", 0.0)
    )
    truth.backward()
    assert float(value) == pytest.approx(truth.item(), rel=1e-5)
    for ours, true in zip(jax.tree.leaves(gradients[:2]), jax.tree.leaves(theirs), strict=True):
        exact = true.grad.numpy()
        np.testing.assert_allclose(ours, exact, atol=1e-5 * np.abs(exact).max())
    assert all((np.asarray(zero) == 0).all() for zero in jax.tree.leaves(gradients[2:]))
    if state:
        np.testing.assert_allclose(new["centre"], next_centre.detach(), atol=1e-6)
    spread = keys.get("koleo", 0.0) * metrics.get("koleo", 0.0)
    assert float(metrics["entropy"] + metrics["divergence"] + spread) == pytest.approx(float(value))


@pytest.mark.parametrize("devices", [1, 8])
def test_sinkhorn_of_logits_of_a_hundred(devices):
    """Exponentials of them overflow. In float64 by its definition, a matrix normalised in turn."""
    rng, k = np.random.default_rng(3), 8
    logits = np.round(rng.uniform(-100, 100, (16, 3, k)), 1).astype("f4")
    mask = rng.random((16, 3)) < 0.7
    kernel = {"prototypes": {"kernel": jnp.eye(k)}}
    exact = logits[mask].astype(np.float64)

    def normalised(matrix, axis):
        most = matrix.max(axis=axis, keepdims=True)
        return matrix - most - np.log(np.exp(matrix - most).sum(axis=axis, keepdims=True))

    for _ in range(3):
        exact = normalised(normalised(exact, 0), 1)

    @jax.jit
    def run(z, mask):
        targets = prototypes.sinkhorn(kernel, z, mask, 1.0)
        return jax.nn.softmax(prototypes.logits_of(kernel, z) - targets.shift)

    with jax.set_mesh(mesh_lib.make_mesh(devices=jax.devices()[:devices])):
        placed = mesh_lib.put_batch({"z": logits, "mask": mask}, 16)
        found = np.asarray(run(placed["z"], placed["mask"]))[mask]
    np.testing.assert_allclose(found, np.exp(exact), atol=1e-5)


# Both in the step


def batch(run, rows=16):
    rng, image = np.random.default_rng(5), run.model.image
    crops, side = run.data.crops, image.size
    return tiny.batch(run.model, rows) | {
        "image_global": rng.uniform(0, 255, (rows, side, side, 3)).astype("f4"),
        "image_local": rng.uniform(0, 255, (rows, crops.count, crops.size, crops.size, 3)).astype(
            "f4"
        ),
    }


@functools.cache
def first_step(devices, microbatches=1, teacher="self"):
    """(losses, gradient of the parameters and of the crops) of both objectives together; the
    average differs from the model."""
    run = config(teacher=teacher)
    run.objectives.self_distill.update(centring="sinkhorn", koleo=0.1)
    model, both = models.from_config(run.model), built(run)
    mesh = mesh_lib.make_mesh(devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        columns = mesh_lib.put_batch(batch(run), 16)
        declared = declare(model, both, columns, (), {})
        rng = np.random.default_rng(4)
        heads = jax.tree.map(
            lambda x: rng.normal(scale=0.3, size=x.shape).astype("f4"),
            jax.eval_shape(declared.params, jax.random.key(1)),
        )
        params = tiny.params(model) | heads
        ema = jax.tree.map(lambda x: np.float32(0.9) * x + np.float32(0.01), params)
        centre = {"centre": np.linspace(0, 0.5, HEAD["prototypes"], dtype=np.float32)}
        memory = {name: centre for name in jax.eval_shape(declared.memory)}

        def loss(params, crops):
            own, now = owned(both, params, memory, ema), model_params(params)
            outputs = run_views(
                model, both, now, {**columns, **crops}, jax.random.key(2), own=own,
                frozen=frozen_models(model, (), {}, ema, now), microbatches=microbatches,
            )  # fmt: skip
            return total_loss(both, outputs, columns, own)

        crops = {name: columns[name] for name in ("image_global", "image_local")}
        step = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), compiler_options=tiny.QUICK
        )
        (_, metrics), gradients = step(params, crops)
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    gradient = {path_string(path): np.asarray(g, np.float64) for path, g in leaves}
    return {name: float(value) for name, value in metrics.items()}, gradient


def assert_same(found, truth):
    assert found[0] == pytest.approx(truth[0], rel=1e-5)
    for path, exact in truth[1].items():
        if not path.endswith("key/bias"):  # zero in exact arithmetic
            off = np.linalg.norm(found[1][path] - exact)
            assert off <= 1e-5 * max(np.linalg.norm(exact), 1e-2), path


def test_eight_devices_in_parts_give_the_loss_and_gradients_of_one():
    assert_same(first_step(8, microbatches=2), first_step(1))


@pytest.mark.long
@pytest.mark.parametrize(("devices", "microbatches"), [(2, 1), (4, 2), (8, 1), (1, 4)])
def test_other_devices_and_parts(devices, microbatches):
    found, one = (first_step(*of, teacher="ema") for of in ((devices, microbatches), (1,)))
    assert_same(found, one)
    for name in BOTH:
        assert found[0][f"loss/{name}"] != pytest.approx(first_step(1)[0][f"loss/{name}"])


def test_a_teacher_that_is_the_model_itself_takes_no_gradient():
    """The student of masked_distill alone sees the global crop, and no hidden patch of it."""
    _, gradient = first_step(1)
    assert (gradient["1/image_local"] != 0).any()
    seen = (gradient["1/image_global"].reshape(16, 4, 4, 4, 4, 3) != 0).any(axis=(2, 4, 5))
    assert (seen.sum(axis=(1, 2)) == 8).all()
    assert (gradient["0/objectives/self_distill/prototypes/kernel"] != 0).any()
    assert (gradient["0/image/mask_embed"] != 0).any()


def test_what_cannot_be_is_said():
    def said(problem, **changes):
        run = config(**changes.pop("keys", {}))
        for path, value in changes.items():
            section, _, key = path.rpartition("__")
            config_lib.config_at(run, section.replace("__", "."))[key] = value
        with pytest.raises(UserError, match=problem):
            validate_teachers(run, built(run), {})

    said(r"distill needs averaged parameters: set config\.optim\.ema", optim__ema=0.0)
    own = {"teacher": "self"}
    said(r"distill needs averaged parameters: set config\.optim\.ema", keys=own, optim__ema=0.0)
    said(r"ema_of='heads' keeps none: set .* \.?.*teacher='self'", optim__ema_of="heads")
    said(r"config\.model\.image is 'resnet'", model__image__kind="resnet")
    said(r"masked_distill: .*set config\.model\.image\.mask_token=True",
         model__image__mask_token=False)  # fmt: skip
    said(r"set config\.model\.image\.patch_dropout=0", model__image__patch_dropout=0.5)
    validate_teachers(config(teacher="self"), built(config(teacher="self")), {})
