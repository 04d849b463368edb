"""Linear probe and k-NN: against SciPy and brute force, any batch, any mesh."""

import jax
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import small_run
from imagenet_files import jpeg

from mmjax import evaluation
from mmjax.errors import UserError
from mmjax.evaluation import probe
from mmjax.evaluation.features import Labelled
from mmjax.evaluation.knn import knn_scores
from mmjax.parallel.mesh import make_mesh


def clusters(count, classes, d=8, seed=0):
    """Features of unit length around one direction a class, float32, with labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(42).normal(size=(classes, d))
    label = rng.integers(0, classes, count).astype(np.int32)
    x = centres[label] + 1.5 * rng.normal(size=(count, d))
    return Labelled((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), label)


def scipy_fit(train, classes, decay):
    """The same objective by SciPy's L-BFGS in float64."""
    x, n, d = train.x.astype(np.float64), len(train.label), train.x.shape[1]
    right = np.eye(classes)[train.label]

    def objective(flat):
        w, bias = flat[: d * classes].reshape(d, classes), flat[d * classes :]
        logits = x @ w + bias
        value = -(right * scipy.special.log_softmax(logits, axis=1)).sum() / n
        slope = (scipy.special.softmax(logits, axis=1) - right) / n
        gradient = np.concatenate([(x.T @ slope + decay * w).ravel(), slope.sum(axis=0)])
        return value + decay / 2 * (w**2).sum(), gradient

    options = {"maxiter": 10_000, "gtol": 1e-10, "ftol": 0}
    start = np.zeros((d + 1) * classes)
    result = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    return result.x[: d * classes].reshape(d, classes), result.x[d * classes :], objective


@pytest.mark.parametrize("decay", [1e-1, 1e-3, 1e-5])
def test_fit_is_scipys(decay):
    train = clusters(203, classes=4)
    w, bias, objective = scipy_fit(train, 4, decay)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        found, found_bias = probe.fit(train, 4, decay)
    least = objective(np.concatenate([w.ravel(), bias]))[0]
    reached = objective(np.concatenate([found.ravel(), found_bias]).astype(np.float64))[0]
    assert reached == pytest.approx(least, rel=1e-5)
    if decay >= 1e-3:  # the weaker, the flatter the minimum
        np.testing.assert_allclose(found, w, atol=2e-3 * np.abs(w).max())
    test = clusters(300, classes=4, seed=1)
    logits = test.x @ w + bias
    margin = np.diff(np.sort(logits, axis=1)[:, -2:], axis=1)[:, 0] > 1e-2
    agree = probe.scores(test.x, (found, found_bias)).argmax(axis=1) == logits.argmax(axis=1)
    assert agree[margin].all()
    assert margin.mean() > 0.9


def test_fit_is_the_same_on_any_mesh():
    train = clusters(61, classes=3)  # 8 devices do not divide them
    found = []
    for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh(fsdp=4)):
        with jax.set_mesh(mesh):
            found.append(probe.fit(train, 3, 1e-1)[0])
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)


def test_sweep_takes_the_decay_that_is_best_on_held_out_images(monkeypatch):
    monkeypatch.setattr(probe, "DECAYS", (1e-1, 1e-2, 1e-3, 1e-8))
    train, held_out = clusters(40, classes=3), clusters(200, classes=3, seed=2)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        decay, weights = probe.sweep(train, held_out, 3)
        right = {}
        for other in (1e-1, decay, 1e-8):
            guess = probe.scores(held_out.x, probe.fit(train, 3, other)).argmax(axis=1)
            right[other] = (guess == held_out.label).mean()
    assert right[decay] == max(right.values())
    assert (probe.scores(held_out.x, weights).argmax(axis=1) == held_out.label).mean() == (
        pytest.approx(right[decay], abs=0.01)
    )
    assert min(right.values()) < right[decay]


def test_shots_are_so_many_of_each_class():
    label = np.array([0] * 9 + [1] * 2 + [2] * 7)
    drawn = probe.draw_shots(label, 4, np.random.default_rng(0))
    assert np.bincount(label[drawn]).tolist() == [4, 2, 4]
    assert len(set(drawn.tolist())) == 10
    other = probe.draw_shots(label, 4, np.random.default_rng(1))
    assert drawn.tolist() != other.tolist()


@pytest.mark.parametrize(("k", "levels"), [(1, None), (5, None), (20, None), (5, 1), (99, 1)])
def test_knn_is_brute_force(k, levels):
    rng = np.random.default_rng(0)
    query, x = (rng.normal(size=(n, 6)) for n in (30, 70))
    if levels:  # many exact ties
        query, x = (rng.integers(-levels, levels + 1, a.shape).astype(float) for a in (query, x))
    label = rng.integers(0, 5, 70)
    expected = np.zeros((30, 5))
    for i, q in enumerate(query):
        cosine = [np.float32(np.dot(q, y)) for y in x]
        nearest = sorted(range(70), key=lambda j: (-cosine[j], j))[:k]
        for j in nearest:
            expected[i, label[j]] += np.exp((float(cosine[j]) - 1) / 0.5)
    for block in (1, 300, 1 << 22):
        found = knn_scores(query, x, label, k=k, temperature=0.5, block=block)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def build(spec):
    config, model, _ = small_run.run()
    tokenizer = small_run.tokenizer()
    return evaluation.build("p", spec, evaluation.Subject.of(config, model, tokenizer))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pictures of two classes that differ in colour: 14 to train on, 9 to test on."""
    folder = tmp_path_factory.mktemp("classes")
    for split, count in (("train", 14), ("test", 9)):
        for number in range(count):
            place = folder / split / f"class {number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.jpg").write_bytes(jpeg(number % 2 * 10 + number % 3))
    return {"path": str(folder / "test"), "train": str(folder / "train")}


@pytest.mark.parametrize("task", ["probe", "knn"])
def test_does_not_depend_on_batch_size_or_devices(folders, task, monkeypatch):
    monkeypatch.setattr(probe, "DECAYS", (1e-1, 1e-2))  # eight devices on two cores are slow
    _, _, params = small_run.run()
    spec = {"kind": task, **folders, **({"k": 3} if task == "knn" else {})}
    evaluator = build(spec | {"batch_size": 64})
    expected = evaluator(params)
    assert set(evaluator.metrics) == set(expected)
    assert (expected["examples"], expected["classes"], expected["top1"]) == (9, 2, 1.0)
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        assert build(spec | {"batch_size": 7})(params) == expected


def test_few_shot_probes_come_beside_the_full_one(folders, monkeypatch):
    monkeypatch.setattr(probe, "DECAYS", (1e-1, 1e-2))
    _, _, params = small_run.run()
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        evaluator = build({"kind": "probe", **folders, "shots": (1, 2)})
        metrics = evaluator(params)
        assert set(evaluator.metrics) == set(metrics)
    assert {"1-shot/top1", "2-shot/mean_per_class_recall", "2-shot/weight_decay"} <= set(metrics)
    assert metrics["weight_decay"] in probe.DECAYS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": ""}, "training and test set are the same: set train"),
        ({"kind": "knn", "k": 0}, "k=0 must be an integer of 1 or more"),
        ({"train": "nowhere"}, "the path nowhere does not exist"),
    ],
)
def test_what_cannot_be_probed_is_said(folders, change, message):
    with pytest.raises(UserError, match=message):
        build({"kind": "probe"} | folders | change)


def test_folders_of_other_classes_are_refused(folders, tmp_path):
    for name in ("class 0", "class 7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(jpeg(1))
    with pytest.raises(
        UserError, match=r"1 classes that are not in the training set \('class 1'\)"
    ):
        build({"kind": "knn", "path": folders["path"], "train": str(tmp_path)})


def test_a_label_that_training_never_saw_is_named(tmp_path):
    _, _, params = small_run.run()
    paths = []
    for split, labels in (("train", [0, 1, 0, 1]), ("test", [0, 4])):
        (tmp_path / split).mkdir()
        paths.append(small_run.write_table(tmp_path / split, [["a"]] * len(labels), labels))
    spec = {"kind": "knn", "path": paths[1], "train": paths[0], "label": "class"}
    with pytest.raises(
        UserError, match=r"1\.png has the label 4, but the training set's are 0 to 1"
    ):
        build(spec)(params)
