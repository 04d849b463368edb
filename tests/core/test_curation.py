"""The choice of examples against its formula in float64, and the step that trains on them."""

import jax
import numpy as np
import pytest
import tiny

from mmjax import config_check, models, objectives
from mmjax.config import entry
from mmjax.core import curation
from mmjax.core.views import run_plain
from mmjax.errors import UserError
from mmjax.parallel import mesh as mesh_lib
from mmjax.training.assemble import assemble

SIZE, COUNT, CHUNKS = 64, 32, 4
WEIGHTS = {"learnability": (1.0, -1.0), "easy": (0.0, -1.0), "hard": (1.0, 0.0)}


def seen(seed, dim, scale, bias):
    """What a model makes of SIZE pairs, of which some match and some do not."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SIZE, dim))
    y = x + rng.uniform(0, 3, (SIZE, 1)) * rng.normal(size=x.shape)
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y))
    return x.astype(np.float32), y.astype(np.float32), scale, bias


def losses(x, y, scale, bias):
    """−log σ(z_ij l_ij), float64 [B, B]."""
    logits = scale * np.float64(x) @ np.float64(y).T + bias
    return np.logaddexp(0, np.where(np.eye(SIZE, dtype=bool), -logits, logits))


def chosen_by_the_paper(scores, noise):
    """Joint example selection with the whole matrix of scores, float64; `noise` of each chunk."""
    drawn = np.zeros(SIZE, bool)
    for of_chunk in noise:
        given = scores[drawn].sum(axis=0) + scores[:, drawn].sum(axis=1)
        noisy = np.where(drawn, -np.inf, np.diag(scores) + given + of_chunk)
        drawn[np.argsort(-noisy)[: COUNT // len(noise)]] = True
    others = scores * ~np.eye(SIZE, dtype=bool)
    conditional = np.diag(scores) + others[drawn].sum(axis=0) + others[:, drawn].sum(axis=1)
    return np.flatnonzero(drawn), conditional


@pytest.mark.parametrize(
    ("score", "chunks", "devices"),
    [("learnability", CHUNKS, (1, 2, 4, 8)), ("easy", CHUNKS, (8,)), ("hard", 1, (8,))],
)
def test_the_choice_is_that_of_the_paper_on_any_devices(score, chunks, devices):
    sides, key = (seen(0, 8, 6.0, -3.0), seen(1, 12, 9.0, -5.0)), jax.random.key(3)
    weights = WEIGHTS[score]
    matrix = sum(w * losses(*side) for w, side in zip(weights, sides, strict=True))
    noise = [np.float64(jax.random.gumbel(k, (SIZE,))) for k in jax.random.split(key, chunks)]
    expected, scores = chosen_by_the_paper(matrix, noise)

    def choose(sides):
        pairs = [curation.Pairs(*s, w) for s, w in zip(sides, weights, strict=True) if w]
        return curation.choose(pairs, key, COUNT, chunks)

    for count in devices:
        with jax.set_mesh(mesh_lib.make_mesh(devices=jax.devices()[:count])):
            split = mesh_lib.batch_sharding()
            put = [(*jax.device_put(side[:2], split), *side[2:]) for side in sides]
            found, given = jax.jit(choose)(put)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(given, scores, rtol=1e-5, atol=1e-4)


def config(score="hard", **keys):
    """A run that trains on 16 of the 32 examples that are loaded."""
    result = tiny.config(lr=1e-2)
    result.model.logit.bias = -3.0
    result.model.image.depth = result.model.text.depth = 1
    del result.objectives.clip
    result.objectives.siglip = entry("objectives")
    result.data.train.made = entry("data.train", path="generated:64")
    result.data.curation.update(keep=0.5, score=score, chunks=4, **keys)
    return result


@pytest.fixture
def quick():
    """Compiles in a part of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_a_step_on_a_super_batch_is_the_step_on_what_it_chooses(quick):
    """The same gradient, on eight devices in microbatches, with the noise of (seed, step)."""
    curated = config()
    curated.optim.microbatches = 2
    loaded = tiny.batch(curated.model, size=32)
    run = tiny.run(curated, (4, 2, 1))
    state, (metrics,) = run.steps(loaded)
    model = models.from_config(curated.model)
    names = ("image/embed", "text/embed", "logit/scale", "logit/bias")
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), curation.DRAWS)

    def choose(params):
        found = run_plain(model, params, loaded, names)
        pairs = curation.Pairs(*(found[name] for name in names), 1.0)
        return curation.choose([pairs], key, 16, 4)

    chosen, scores = map(np.asarray, jax.jit(choose)(jax.device_get(run.state.params)))
    assert metrics["curation/kept"] == pytest.approx(scores[chosen].mean(), rel=1e-5)
    assert metrics["curation/all"] == pytest.approx(scores.mean(), rel=1e-5)

    plain = config()
    plain.data.curation.keep = 1.0
    kept = {name: column[chosen] for name, column in loaded.items()}
    expected, (without,) = tiny.run(plain).steps(kept)
    assert not {name for name in without if name.startswith("curation/")}
    losses = [{"loss": measured["loss"]} for measured in (metrics, without)]
    gradients = [tiny.first_gradient(one) for one in (state, expected)]
    tiny.assert_same(*zip(losses, gradients, strict=True))


def test_plan_and_mfu_count_what_is_loaded(quick):
    """A step costs three passes of what is trained on, and one of all that is loaded."""
    with jax.set_mesh(mesh_lib.make_mesh(devices=jax.devices()[:1])):
        curated, plain = assemble(config(), jax.sharding.get_mesh()), config()
        plain.data.curation.keep = 1.0
        plain = assemble(plain, jax.sharding.get_mesh())
        assert curated.batch["image"].shape[0] == 32
        assert curated.batch_size == plain.batch_size == 16
        cost = curated.flops(curated.batch) / plain.flops(plain.batch)
    assert cost == pytest.approx(1 + 2 / 3)
    with pytest.warns(UserWarning, match="counted once"):  # how far chosen rows have to move
        plan = tiny.planned(config())
    assert (plan.batch_size, plan.loaded_examples) == (16, 32)
    assert plan.examples_per_second == pytest.approx(16 / plan.roofline_seconds)
    assert plan.model_flops * 8 == curated.flops(curated.batch)


BAD = {
    "keep that does not divide": ({"keep": 0.3}, {}, "keep=0.3 does not divide a batch of 16"),
    "chunks that do not divide": ({"chunks": 3}, {}, "chunks=3 does not divide.*set it to 2"),
    "no teacher": ({"score": "easy"}, {}, "score='easy' needs a teacher"),
    "another teacher": (
        {"score": "easy", "teacher": "big"}, {}, "there is no config.teachers.big",
    ),
    "no loss of pairs": ({}, {"kind": "clip"}, "of the kind siglip .none here has"),
    "devices": ({"keep": 16 / 20, "chunks": 1}, {}, "loads 20 examples for a batch of 16"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_keys_are_a_sentence(case):
    keys, objective, said = BAD[case]
    run = config()
    run.data.curation.update(keys)
    run.objectives.siglip.update(objective)
    with pytest.raises(UserError, match=said):
        check(run)


def test_a_teacher_without_a_bias_is_a_sentence():
    run = config("learnability", teacher="big")
    run.teachers.big = entry("teachers", source="random:tiny")
    with pytest.raises(UserError, match=r"data\.curation needs the output 'logit/bias' of teacher"):
        check(run)


def test_two_losses_of_pairs_and_records_without_a_pair_are_a_sentence():
    run = config()
    run.objectives.other = entry("objectives", kind="siglip")
    with pytest.raises(UserError, match="these have: other, siglip"):
        check(run)
    del run.objectives.other
    run.data.train.pictures = entry("data.train", path="generated:64", without=("text",))
    with pytest.raises(UserError, match=r"data\.train\.pictures has nothing for config.model.text"):
        check(run)


def check(run):
    config_check.validate(run)
    mesh = mesh_lib.make_mesh()
    config_check.validate_on_mesh(run, dict(mesh.shape))
    with jax.set_mesh(mesh):
        assemble(run, mesh)


def test_siglip_says_of_what_its_loss_of_a_pair_is():
    built = objectives.build(config().objectives, config().model)
    assert curation.asks(config(), built) == {}
    asked = curation.asks(config("easy", teacher="big"), built)
    assert asked == {"teacher/big": ("image/embed", "text/embed", "logit/scale", "logit/bias")}
