"""Zero-shot classification: words, classifier, accuracy, and the evaluator on files."""

import hashlib

import jax
import numpy as np
import pytest
import small_run
from PIL import Image

from mmjax import evaluation
from mmjax.data import eval_batches, modalities, open_source
from mmjax.errors import UserError
from mmjax.evaluation.words import class_words, templates_of
from mmjax.evaluation.zeroshot import accuracy, classifier, prompts
from mmjax.parallel.mesh import make_mesh


def build(spec):
    config, model, _ = small_run.run()
    tokenizer = small_run.tokenizer()
    spec = {"kind": "classification", "label": "class"} | spec
    return evaluation.build("z", spec, evaluation.Subject.of(config, model, tokenizer))


def test_imagenet_words_are_everyones():
    names, templates = class_words("imagenet", "z").names, templates_of("imagenet", "z")

    def digest(lines):
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]

    assert (len(names), len(set(names)), len(templates)) == (1000, 998, 80)
    assert digest(names) == "571ae1c5"
    assert digest(prompts(names, templates)) == "be94544a"
    by_template = [prompt for template in templates for prompt in prompts(names, [template])]
    assert digest(by_template) == "ddf3e647"


def test_prompts_are_class_major_and_names_may_hold_braces():
    assert prompts(["a", "{b}"], ["{}", "the {}."]) == ["a", "the a.", "{b}", "the {b}."]


def test_classifier_is_the_normalised_mean():
    embed = np.array([[[1, 0], [0, 1]], [[0, -1], [0, -1]]], np.float32)
    np.testing.assert_allclose(classifier(embed), [[0.5**0.5, 0.5**0.5], [0, -1]], rtol=1e-7)


def test_accuracy_against_a_loop():
    rng = np.random.default_rng(0)
    image, weights = rng.normal(size=(50, 4)), rng.normal(size=(9, 4))
    weights[7] = weights[2]  # a tie: class 2 is found first
    label = np.concatenate([rng.integers(0, 8, 48), [7, 2]])
    top1, top5 = [], []
    for x, right in zip(image, label, strict=True):
        scores = [np.float32(x @ w) for w in weights]
        order = sorted(range(9), key=lambda c: (-scores[c], c))
        top1.append(order[0] == right)
        top5.append(right in order[:5])
    recall = [np.mean(np.array(top1)[label == c]) for c in range(9) if (label == c).any()]
    assert accuracy(image, weights, label) == pytest.approx(
        {
            "top1": np.mean(top1), "top5": np.mean(top5), "mean_per_class_recall": np.mean(recall),
            "examples": 50, "classes": 9,
        }
    )  # fmt: skip


@pytest.fixture
def spec(tmp_path):
    words = small_run.WORDS[:6]
    labels = np.random.default_rng(3).integers(0, 6, 21)
    path = small_run.write_table(tmp_path, [["a"]] * 21, labels)
    (tmp_path / "classes.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "templates.txt").write_text("a small {}\n{} and sea\n")
    return {
        "path": path,
        "classes": str(tmp_path / "classes.txt"),
        "templates": str(tmp_path / "templates.txt"),
    }


def test_equals_one_plain_batch(spec):
    _, _, params = small_run.run()
    source = open_source({"path": spec["path"], "label": "class"})
    read = [modalities.Image("image", 32)]
    images = next(eval_batches(source, read, batch_size=21, rows=np.arange(21)))
    texts = [
        f(word) for word in small_run.WORDS[:6] for f in ("a small {}".format, "{} and sea".format)
    ]
    ids, mask = small_run.tokenizer().encode(texts, 16)
    embed = small_run.embed({"text": ids, "text_mask": mask}, "text/embed")["text/embed"]
    weights = embed[0::2] + embed[1::2]
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    embed = small_run.embed(images, "image/embed")["image/embed"]
    guess = np.argmax(embed @ weights.T, axis=1)
    evaluator = build(spec)
    metrics = evaluator(params)
    assert set(evaluator.metrics) == set(metrics)
    assert metrics["top1"] == pytest.approx(np.mean(guess == images["label"]))
    assert len(set(guess.tolist())) > 1
    assert (metrics["examples"], metrics["classes"]) == (21, 6)


def test_does_not_depend_on_batch_size_or_devices(spec):
    _, _, params = small_run.run()
    expected = build(spec | {"batch_size": 64})(params)
    assert 0 < expected["top1"] < 1
    for batch_size, mesh in [(7, make_mesh(devices=jax.devices()[:1])), (7, make_mesh(fsdp=4))]:
        with jax.set_mesh(mesh):
            assert build(spec | {"batch_size": batch_size})(params) == expected


def test_classes_of_one_name_tie_exactly(spec, tmp_path):
    _, _, params = small_run.run()
    (tmp_path / "classes.txt").write_text("\n".join(["moon"] * 6))
    metrics = build(spec | {"batch_size": 5})(params)
    source = open_source({"path": spec["path"], "label": "class"})
    labels = np.array([source[number].label for number in range(len(source))])
    assert metrics["top1"] == pytest.approx(np.mean(labels == 0))  # the lowest class always wins
    assert metrics["top5"] == pytest.approx(np.mean(labels < 5))


def test_a_label_outside_the_classes_is_named(spec, tmp_path):
    _, _, params = small_run.run()
    (tmp_path / "classes.txt").write_text("moon\nsea\n")
    with pytest.raises(UserError, match=r"\.png has the label \d, but there are 2 classes, 0 to 1"):
        build(spec)(params)
    with pytest.raises(UserError, match=r"pairs\.csv.*column '?label'?"):
        build(spec | {"label": ""})  # there is one called class, which is not told by its name


@pytest.mark.parametrize(
    ("key", "content", "message"),
    [
        ("classes", None, r"evals\.z: cannot read .*missing\.txt"),
        ("classes", b"\n \n", r"holds no lines"),
        ("classes", b"\xff\xfe\x00", r"is UTF-16, not UTF-8"),
        ("templates", b"a photo\n", r"the template 'a photo' .* has no \{\}"),
    ],
)
def test_bad_word_files_are_said(spec, tmp_path, key, content, message):
    path = tmp_path / "missing.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        build(spec | {key: str(path)})


def test_classes_are_asked_for(spec):
    del spec["classes"]
    with pytest.raises(UserError, match="zero-shot needs classes"):
        build(spec)


def test_another_number_of_names_than_classes_is_said(tmp_path, spec):
    for name in ("Katze", "Hund"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "pets" / name / "1.png")
    message = (
        r"6 class names are given \('red', .* 2 classes \('Hund', 'Katze'\), and none is called"
    )
    with pytest.raises(UserError, match=message):
        build(spec | {"path": str(tmp_path / "pets"), "label": ""})


def test_a_record_that_was_left_out_fails_the_run_unless_allowed(spec, tmp_path):
    _, _, params = small_run.run()
    (tmp_path / "3.png").unlink()
    message = r"z: there are records that cannot be used \(1 whose image file is missing\); repair"
    with pytest.raises(UserError, match=message):
        build(spec)
    metrics = build(spec | {"allow_skips": True})(params)
    assert (metrics["examples"], metrics["skipped"]) == (20, 1)
