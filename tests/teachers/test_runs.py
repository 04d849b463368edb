"""Whole runs with teachers: online, cached, resumed, on one device and on eight.

`make test` has one from a teacher's training over `mmjax embed` to a student that reads what that
wrote, and all mistakes; `make test-long` has the rest.
"""

import functools
import itertools
import json

import jax
import numpy as np
import pytest

from mmjax import config as config_lib
from mmjax import data, embedding, models
from mmjax.core.state import init_state
from mmjax.errors import UserError
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.hardware import Chip, Topology
from mmjax.params import path_string
from mmjax.planning.compile import compile_step
from mmjax.teachers.teacher import load_teachers
from mmjax.training import loop
from mmjax.training.assemble import assemble

long = pytest.mark.long

STEPS = 6  # of 16 examples, in three epochs of 36: two views, and the first one again


def base():
    config = config_lib.default()
    config.model = models.zoo.config("tiny")
    config.objectives.clip = config_lib.entry("objectives")
    config = config_lib.smoke(config)
    for tower in (config.model.image, config.model.text):
        tower.update(depth=1, unroll=False)
    config.total_steps = STEPS
    config.data.train.generated.path = "generated:36"
    config.data.update(copies=2, workers=0)
    config.data.augment.update(crop_scale=(0.5, 1.0), crop_ratio=(0.7, 1.4), flip=0.5)
    config.checkpoint.every = 3
    config.log.update(every=1, tensorboard=False)
    return config


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """The workdir of a teacher: larger pictures, longer texts, another size and tokenizer."""
    config = base()
    config.total_steps = 1
    config.model.embed_dim = 48
    config.model.image.update(size=48, width=64)
    config.model.text.update(context_length=20)
    config.data.tokenizer = "captions:560"
    workdir = tmp_path_factory.mktemp("teacher")
    loop.train(config, workdir)
    return str(workdir)


def student(source, cached=""):
    """A student with a learned projection, a queue and an average beside its teacher."""
    config = base()
    config.optim.ema = 0.9
    config.teachers.big = config_lib.entry("teachers", source=source, cached=cached)
    entries = {
        "distill_similarity": {"teachers": ("big",)},
        "distill_feature": {"teachers": ("big",), "project": True},
        "infonce": {"queue": 2, "direction": "both"},
    }
    for name, options in entries.items():
        config.objectives[name] = config_lib.entry("objectives", **options)
    return config


def metrics_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "loss" in line}


def assert_same_bits(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.fixture(scope="session")
def online(teacher, tmp_path_factory):
    """(workdir, last state) of a run whose teacher runs in the step."""
    workdir = tmp_path_factory.mktemp("online")
    return workdir, loop.train(student(teacher), workdir)


@pytest.fixture(scope="session")
def embedded(teacher, tmp_path_factory):
    """The folder that `mmjax embed` wrote."""
    folder = tmp_path_factory.mktemp("embedded")
    embedding.embed(student(teacher), str(folder))
    return folder / "big"


def test_cached_embeddings_give_the_losses_of_the_teacher_online(
    teacher, online, embedded, tmp_path
):
    """Views repeat from the third epoch on. Both round to bfloat16, one before it writes."""
    config = student(teacher, cached=str(embedded))
    config.data.workers = 1
    loop.train(config, tmp_path)
    cached, ran = metrics_of(tmp_path), metrics_of(online[0])
    for step in range(1, STEPS + 1):
        for name in ("loss/distill_similarity", "loss/distill_feature", "loss"):
            assert cached[step][name] == pytest.approx(ran[step][name], rel=1e-6), (step, name)
    # The teacher is the same, so an online run may go on with what was cached, and back.
    assert (tmp_path / "teachers.json").read_text() == (online[0] / "teachers.json").read_text()


def test_the_stored_embeddings_are_the_teachers_of_those_views(teacher, embedded):
    """Row view · records + index, computed one by one from the loader's own view."""
    from mmjax.data.augment import Crop
    from mmjax.data.draw import example_rng
    from mmjax.runs.workdir import restore_for_inference

    _, model, params, tokenizer = restore_for_inference(teacher)
    source = data.open_source({"path": "generated:36"})
    stored = {
        name: np.load(embedded / f"{name.replace('/', '_')}-00000.npy")
        .view(jax.numpy.bfloat16)
        .astype("f4")
        for name in ("image/embed", "text/embed")
    }
    assert len(stored["image/embed"]) == 72
    for view, index in ((0, 0), (0, 35), (1, 7)):
        rng = example_rng(0, data.Address(0, view, index))
        record = source[index]
        caption = record.captions[rng.integers(len(record.captions))]
        augment = data.Augment(**base().data.augment)
        image = Crop(record.parts["image"], rng, augment).at((48, 48))
        text, mask = tokenizer.encode([caption], 20)
        batch = {"image": image[None], "text": text, "text_mask": mask}
        expected = model.apply({"params": params}, batch, tuple(stored))
        row = view * 36 + index
        for name, embeds in stored.items():
            np.testing.assert_allclose(embeds[row], expected[name][0], atol=2**-8)
        distance = np.abs(stored["image/embed"] - expected["image/embed"]).max(axis=1)
        assert distance.argmin() == row, "not another picture, nor another view of this one"


@long
def test_resume_is_bit_equal_with_teacher_queue_and_projection(
    teacher, online, tmp_path, monkeypatch
):
    make = data.train_batches

    def three_batches(*args, **kwargs):
        yield from itertools.islice(make(*args, **kwargs), 3)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data, "train_batches", three_batches)
        with pytest.raises(KeyboardInterrupt):
            loop.train(student(teacher), tmp_path)
    state = loop.train(student(teacher), tmp_path)
    assert_same_bits(state, online[1])
    assert int(state.memory["infonce"]["written"]) == STEPS
    assert set(state.params["objectives"]["distill_feature"]["big"]) == {"image", "text"}


def test_the_teacher_stays_and_is_no_part_of_the_checkpoint(teacher, online):
    from mmjax.runs.workdir import restore_for_inference

    workdir, state = online
    assert_same_bits(state.teachers["big"], restore_for_inference(teacher)[2])
    assert_same_bits(restore_for_inference(str(workdir))[2], state.eval_params())
    names = {path.name for path in (workdir / "checkpoints" / str(STEPS)).rglob("*")}
    assert not any("teachers" in name for name in names)


def test_agreement_and_parts_are_logged(online):
    first = metrics_of(online[0])[1]
    assert 0 <= first["distill_similarity/agreement"] <= 1
    assert -1 <= first["distill_feature/cosine"] <= 1
    parts = [first[f"loss/{name}"] for name in student("").objectives]
    assert first["loss"] == pytest.approx(sum(parts), rel=1e-6)


@functools.cache
def two_steps(sizes):
    """Losses of two steps, and the first gradient of the parameters, on a mesh."""
    config = student("random:tiny")
    config.optim.update(name="adamw", warmup_steps=0, schedule="constant")
    mesh = mesh_lib.make_mesh(*sizes, jax.devices()[: int(np.prod(sizes))])
    with jax.set_mesh(mesh):
        parts = assemble(config, mesh)
        state = init_state(
            parts.model, parts.optimizer, seed=0, ema=True, mesh=mesh, declared=parts.declared
        )
        state = state.replace(teachers=load_teachers(parts.teachers, mesh, None))
        rng, step, losses = np.random.default_rng(0), parts.step(), []
        for _ in range(2):
            batch = {}
            for name, x in parts.batch.items():
                top = {"uint8": 256, "int32": 500, "bool": 2}[str(x.dtype)]
                batch[name] = rng.integers(0, top, x.shape).astype(x.dtype)
                if x.dtype == bool:
                    batch[name] = np.arange(x.shape[1]) < rng.integers(2, x.shape[1], (16, 1))
            state, metrics = step(state, mesh_lib.put_batch(batch, config.batch_size))
            losses.append({k: float(v) for k, v in metrics.items() if "loss" in k})
        shardings = jax.tree.map(lambda x: x.sharding, state)
        wanted = jax.tree.map(lambda x: x.sharding, parts.state)
        assert shardings == wanted
        assert step._cache_size() == 1
        (mu,) = [s.mu for s in jax.tree.leaves(state.opt_state, is_leaf=_has_mu) if _has_mu(s)]
        return losses, jax.tree.map(np.asarray, mu)


def _has_mu(node):
    return hasattr(node, "mu")


@long
@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)])
def test_teacher_and_queue_on_many_devices_are_those_of_one(sizes):
    (losses, moments), (truth, expected) = two_steps(sizes), two_steps((1, 1, 1))
    for ours, theirs in zip(losses, truth, strict=True):
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-5), name
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(moments), jax.tree.leaves(expected), strict=True
    ):
        if not path_string(path).endswith("key/bias"):  # zero in exact arithmetic
            assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b), path_string(path)


@long
def test_a_plan_holds_the_teacher_too():
    config = student("random:tiny")
    topology = Topology(
        "eight", Chip("cpu", 1e12, 5e11, 2e9, 1e9, 1e11, 1e10, 1e9), jax.devices(), 1
    )
    compiled = compile_step(config, topology)
    sizes = [x.size for x in jax.tree.leaves(compiled.state.teachers)]
    assert (
        sum(sizes) == sum(x.size for x in jax.tree.leaves(compiled.state.teachers["big"])) > 100_000
    )
    assert compiled.arguments > 4 * sum(sizes)


# What is wrong is one sentence before the first step.


def wrong(config, tmp_path, match):
    with pytest.raises(UserError, match=match):
        loop.train(config, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_an_unknown_teacher_and_an_idle_one_are_named(tmp_path):
    config = student("random:tiny")
    config.objectives.distill_similarity.teachers = ("bog",)
    wrong(
        config, tmp_path, r"distill_similarity\.teachers: there is no config\.teachers\.bog .*big"
    )
    config = base()
    config.teachers.big = config_lib.entry("teachers", source="random:tiny")
    wrong(config, tmp_path, r"config\.teachers\.big is used by no objective")
    config.teachers.big.source = ""
    wrong(config, tmp_path, r"config\.teachers\.big names no teacher")
    config.teachers.big.source = "random:tyni"
    wrong(config, tmp_path, r"config\.teachers\.big\.source='random:tyni'.*'tiny'")


def test_sizes_that_differ_without_a_projection(teacher, tmp_path):
    config = student(teacher)
    config.objectives.distill_feature.project = False
    wrong(config, tmp_path, r"distill_feature: .* size 32 .*'big' 48: set .*project=True")


def test_a_queue_without_an_average(tmp_path):
    config = student("random:tiny")
    config.optim.ema = 0.0
    wrong(config, tmp_path, r"infonce needs averaged parameters: set config\.optim\.ema")


def test_cached_embeddings_of_other_data_views_or_teachers(teacher, embedded, tmp_path):
    def cached(**changes):
        config = student(teacher, cached=str(embedded))
        config.update_from_flattened_dict(changes)
        return config

    wrong(cached(seed=1), tmp_path, r"config\.seed=0, not 1: run mmjax embed")
    wrong(cached(**{"data.augment.flip": 0.1}), tmp_path, r"data\.augment=.*flip.*run mmjax embed")
    wrong(
        cached(**{"data.train.generated.path": "generated:35"}), tmp_path,
        r"other records in data\.train\.generated \(36 then, 35 now\)",
    )  # fmt: skip
    wrong(cached(**{"data.copies": 0}), tmp_path, r"holds 2 copies .*data\.copies=0: set it to 2")
    wrong(cached(**{"teachers.big.dtype": "float32"}), tmp_path, r"dtype='float32'.* are bfloat16")
    wrong(
        cached(**{"teachers.big.source": "random:tiny"}), tmp_path,
        r"are of another teacher .* than config\.teachers\.big\.source='random:tiny'",
    )  # fmt: skip
    wrong(
        cached(**{"teachers.big.cached": str(tmp_path)}), tmp_path, r"is missing; run mmjax embed"
    )


@long
def test_embedding_again_goes_on_and_another_teacher_is_refused(teacher, embedded, capsys):
    folder = str(embedded.parent)
    shard = embedded / "text_embed-00000.npy"
    before = shard.read_bytes()
    (embedded / "teacher.json").rename(embedded / "teacher.part")  # as if interrupted
    shard.unlink()
    embedding.embed(student(teacher), folder)
    assert shard.read_bytes() == before
    embedding.embed(student(teacher), folder)
    assert "is complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds embeddings of another teacher"):
        embedding.embed(student("random:tiny"), folder)
    config = student(teacher)
    config.data.copies = 0
    with pytest.raises(UserError, match=r"config\.data\.copies=0 shows every example anew"):
        embedding.embed(config, folder)


def test_a_run_does_not_go_on_with_another_teacher(online, tmp_path):
    with pytest.raises(UserError, match=r"teachers\.big is not the teacher that .* began with"):
        loop.train(student("random:tiny"), online[0])
