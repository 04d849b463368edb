"""Contrastive losses against float64 NumPy: values and gradients, on every number of devices.

The gradients are written out by hand (oracle.py). A loss can be right while its gradient is 1/N of
the truth. The ring's tiles are made so small that a device has several.
"""

import functools
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import tiny
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracle import LOSSES, B, D

from mmjax.errors import UserError
from mmjax.objectives import contrastive
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import ring

ROOT = Path(__file__).parents[2]
DEVICES = (1, 2, 4, 8)
SCALES = (1.0, 14.3, 100.0)
HOW = ("dense", "ring")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(ring, "TILE_ENTRIES", 8)


@functools.cache
def mesh(data, fsdp=1, tensor=1):
    return mesh_lib.make_mesh(data, fsdp, tensor, jax.devices()[: data * fsdp * tensor])


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("devices", DEVICES)
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_equal_float64(name, devices, how):
    for scale in SCALES:
        value, gradients = oracle.errors(name, "random", scale, how, mesh(devices))
        assert value <= 1e-6
        assert max(gradients) <= 1e-5


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", LOSSES)
def test_pairs_that_are_alike_aligned_or_twice_in_the_batch(name, how):
    """The better the pairs match, the more of their gradient cancels: errors are relative to what
    float32 logits of size s can carry, s·2^-24."""
    for kind in ("alike", "aligned", "duplicates"):
        for scale in SCALES:
            value, gradients = oracle.errors(name, kind, scale, how, mesh(4))
            assert value <= 1e-6, kind
            assert max(gradients) <= max(1e-5, 2e-6 * scale), kind


@pytest.mark.parametrize("name", LOSSES)
def test_ring_over_both_batch_axes_with_tensor_beside_it(name):
    value, gradients = oracle.errors(name, "alike", 14.3, "ring", mesh(2, 2, 2))
    assert value <= 1e-6
    assert max(gradients) <= 1e-5


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_do_not_shrink_with_the_number_of_devices(name, how):
    """The classic fault: the right loss on N devices with gradients that are 1/N of the truth."""
    alone = oracle.measured(name, "alike", 14.3, how, mesh(1))[1]
    for devices in DEVICES[1:]:
        there = oracle.measured(name, "alike", 14.3, how, mesh(devices))[1]
        ratios = [
            np.linalg.norm(ours) / np.linalg.norm(one)
            for ours, one in zip(there, alone, strict=True)
            if np.linalg.norm(one)
        ]
        np.testing.assert_allclose(ratios, 1, rtol=1e-3)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_embeddings(name, how):
    """Rounded embeddings are 2^-9 off; the ring also rounds each logit's gradient so."""
    value, gradients = oracle.errors(name, "alike", 14.3, how, mesh(2), jnp.bfloat16)
    assert value <= 4e-3
    assert max(gradients) <= 2.5e-2


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_ring_is_the_dense_form_of_the_same_embeddings(name):
    dense, ring_ = (oracle.measured(name, "alike", 14.3, how, mesh(2), jnp.bfloat16) for how in HOW)
    assert ring_[0] == pytest.approx(dense[0], rel=1e-6)
    for ours, other in zip(ring_[1], dense[1], strict=True):
        assert np.abs(ours - other).max() <= 8e-3 * max(np.abs(other).max(), 1e-3)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", LOSSES)
def test_pairs_that_match_perfectly_at_a_great_scale_stay_finite(name, how):
    value, gradients = oracle.measured(name, "aligned", 1e4, how, mesh(2))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("name", LOSSES)
def test_embeddings_that_are_no_numbers_give_such_a_loss(name):
    x, y, u, v = (jnp.asarray(z) for z in oracle.embeddings("alike"))
    with jax.set_mesh(mesh(4)):
        loss = LOSSES[name][0](x.at[3, 2].set(jnp.nan), y, 14.3, 0.0, (u, v), "ring")
    assert np.isnan(loss)


@pytest.mark.parametrize("name", LOSSES)
def test_works_without_jit_and_without_a_mesh(name):
    x, y, u, v = oracle.embeddings("alike")
    ours = [
        float(LOSSES[name][0](*map(jnp.asarray, (x, y)), 14.3, oracle.BIAS, (u, v), how))
        for how in HOW
    ]
    expected = oracle.truth(name, "alike", 14.3)[0]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_more_candidates_than_anchors():
    """A queue, or several captions an image: positives are then a mask."""
    x, y = oracle.embeddings("alike")[:2]
    candidates = np.concatenate([y, -y])
    positives = jnp.asarray(np.eye(B, 2 * B, dtype=bool) | np.eye(B, 2 * B, k=B, dtype=bool))
    with jax.set_mesh(mesh(4)):
        losses = [
            jax.jit(functools.partial(contrastive.infonce_loss, implementation=how))(
                x, candidates, 14.3, positives
            )
            for how in HOW
        ]
    logits = 14.3 * x.astype(np.float64) @ candidates.T
    hits = np.where(positives, logits, -np.inf)
    np.testing.assert_allclose(losses, (oracle.lse(logits, 1) - oracle.lse(hits, 1)).mean(), 1e-6)


def memory(how, batch, devices=8):
    """Bytes of temporaries of a device for the CLIP loss with its gradients, by the compiler."""
    on = mesh(devices)
    sharding = NamedSharding(on, P(mesh_lib.BATCH))
    embed = jax.ShapeDtypeStruct((batch, 64), "float32", sharding=sharding)
    loss = functools.partial(contrastive.clip_loss, implementation=how)
    with jax.set_mesh(on):
        compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(embed, embed, 10.0).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_the_dense_form_gathers_embeddings_and_sums_only():
    """The gather of a diagonal would collect its indices, in both directions."""
    with jax.set_mesh(mesh(8)):
        embed = jax.ShapeDtypeStruct((B, D), "float32", sharding=mesh_lib.batch_sharding())
        step = jax.value_and_grad(functools.partial(contrastive.clip_loss, implementation="dense"))
        text = jax.jit(step).lower(embed, embed, 10.0).compile().as_text()
    gathered = re.findall(r"= (\w+)\[[\d,]*\]\S* all-gather\(", text)
    assert gathered
    assert set(gathered) == {"f32"}


def test_the_ring_never_holds_the_matrix(monkeypatch):
    monkeypatch.setattr(ring, "TILE_ENTRIES", 2**14)
    batch = 8192
    n = batch // 8
    assert memory("dense", batch) > n * batch * 4
    # Tiles of n × 16 logits, and a few arrays of n × D.
    assert memory("ring", batch) < n * batch * 4 / 10


def test_auto_takes_the_ring_for_large_blocks(monkeypatch):
    monkeypatch.setattr(ring, "TILE_ENTRIES", 2**14)
    with jax.set_mesh(mesh(8)):
        for entries, permutes in ((2**17, False), (2**17 - 1, True)):
            monkeypatch.setattr(contrastive, "DENSE_ENTRIES", entries)
            embed = jax.ShapeDtypeStruct((1024, D), "float32")
            text = jax.jit(lambda x: contrastive.clip_loss(x, x, 10.0)).lower(embed).as_text()
            assert ("collective_permute" in text) is permutes


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda x: contrastive.clip_loss(x, x[:8], 1.0), "32 image embeddings and 8 text"),
        (lambda x: contrastive.clip_loss(x, x, 1.0, implementation="rng"), "auto, dense, ring"),
        (
            lambda x: contrastive.siglip_loss(x[:30], x[:30], 1.0, 0.0, implementation="ring"),
            "ring of 4 devices does not divide 30",
        ),
        (
            lambda x: contrastive.infonce_loss(x, x, 1.0, oracle.positives(), group=oracle.GROUP),
            "not both",
        ),
        (
            lambda x: contrastive.similarity_distill_loss(x, x, 1.0, x[:8], x[:8], 1.0),
            "32 student embeddings and 8 teacher",
        ),
    ],
)
def test_what_cannot_be_is_said(call, sentence):
    with jax.set_mesh(mesh(4)), pytest.raises(UserError, match=re.escape(sentence)):
        call(jnp.asarray(oracle.embeddings("alike")[0]))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", LOSSES)
def test_lowers_for_hardware_that_is_only_described(name, how):
    """256 devices that are not there, in the shape of a mesh: nothing is computed or placed."""
    on = AbstractMesh((4, 2, 32), mesh_lib.AXES, axis_types=(AxisType.Auto,) * 3)
    sharding = NamedSharding(on, P(mesh_lib.BATCH))

    def shape(width):
        return jax.ShapeDtypeStruct((B, width), "float32", sharding=sharding)

    def loss(x, y, u, v):
        return LOSSES[name][0](x, y, 10.0, 0.0, (u, v), how)

    with jax.sharding.use_abstract_mesh(on):
        traced = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).trace(
            shape(D), shape(D), shape(D + 3), shape(D + 3)
        )
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert (f"tensor<{B}x{B}xf32>" in text) is (how == "dense")
    assert ("collective_permute" in text) is (how == "ring")


def test_every_host_of_four_finds_the_same_values_and_gradients():
    """Four real processes with two devices each, over gloo."""
    command = [sys.executable, str(Path(__file__).with_name("hosts.py"))]
    launch = [sys.executable, str(ROOT / "launch" / "local.py"), "--processes=4", "--devices=2"]
    run = subprocess.run([*launch, "--", *command], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    for host in range(4):
        found = re.findall(rf"^\[{host}\] (\w+) (\S+) (\S+)$", run.stdout, re.MULTILINE)
        assert [name for name, *_ in found] == list(LOSSES), run.stdout
        assert all(float(value) <= 1e-6 and float(worst) <= 1e-5 for _, value, worst in found)


@functools.cache
def train_step(how, microbatches):
    """Loss and gradients of a step on eight devices."""
    config = tiny.config(microbatches=microbatches)
    config.objectives.clip.implementation = how
    run = tiny.run(config, (4, 2, 1))
    state, (metrics,) = run.steps(tiny.batch(config.model))
    return metrics["loss"], tiny.first_gradient(state)


@pytest.mark.parametrize("microbatches", [1, 4])
def test_ring_inside_the_train_step_is_exact(microbatches):
    """Towers in microbatches, the loss over the whole batch: gradients as dense and unbroken."""
    loss, gradients = train_step("ring", microbatches)
    truth, expected = train_step("dense", 1)
    assert loss == pytest.approx(truth, rel=1e-6)
    scale = max(np.abs(g).max() for g in jax.tree.leaves(expected))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), gradients, expected
    )
