"""ImageNet zero-shot as a user runs it: against PyTorch, subsets, ReaL labels, bad pictures."""

import functools
import io
import json
import tempfile

import jax
import numpy as np
import pytest
import small_run
from imagenet_files import jpeg, validation_name, write_folders, write_validation
from PIL import Image
from pytorch import torch, transformers

from mmjax import evaluation
from mmjax.errors import UserError
from mmjax.evaluation.words import big_vision_words, class_words, wnids
from mmjax.interop import registry
from mmjax.parallel.mesh import make_mesh

TEMPLATES = ["a small {}", "{} and sea", "the red {}."]
COUNT = 24
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def build(spec):
    config, model, _ = small_run.run()
    spec = {"kind": "imagenet", "batch_size": 8} | spec
    tokenizer = small_run.tokenizer()
    return evaluation.build("v", spec, evaluation.Subject.of(config, model, tokenizer))


@functools.cache
def one_device():
    """(mesh, parameters on it): the same arrays, so that prompts are embedded once."""
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        return mesh, jax.device_put(small_run.run()[2])


def evaluate(spec):
    mesh, params = one_device()
    with jax.set_mesh(mesh):
        evaluator = build(spec)
        found = evaluator(params)
    assert set(found) - {"skipped"} == set(evaluator.metrics)
    return found


def sized_jpeg(number):
    return jpeg(number, *[(60, 48), (40, 33), (32, 57), (31, 31), (32, 32)][number % 5])


@functools.cache
def torch_model():
    """The same random weights in transformers' CLIPModel."""
    config, _, params = small_run.run()
    content = {"config": config, "params": params, "tokenizer": small_run.tokenizer()}
    with tempfile.TemporaryDirectory() as folder:
        registry.export(f"{folder}/clip", "huggingface", **content)
        return transformers.CLIPModel.from_pretrained(f"{folder}/clip").eval()


@functools.cache
def torch_logits():
    """float32 [COUNT, 1000] of the pictures 1 … COUNT: open_clip's protocol, written in PyTorch."""
    config, model = small_run.run()[0], torch_model()
    side = config.model.image.size
    pixels = []
    for number in range(1, COUNT + 1):
        image = Image.open(io.BytesIO(sized_jpeg(number))).convert("RGB")
        scale = side / min(image.size)
        size = [side if s == min(image.size) else int(s * scale) for s in image.size]
        image = image.resize(size, Image.BICUBIC)
        left, top = (round((s - side) / 2) for s in size)
        x = torch.tensor(np.array(image.crop((left, top, left + side, top + side)))) / 255
        pixels.append(((x - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1))
    with torch.inference_mode():
        image = model.get_image_features(pixel_values=torch.stack(pixels))
        image = getattr(image, "pooler_output", image)
        image = image / image.norm(dim=-1, keepdim=True)
        words = [
            t.replace("{}", name) for name in class_words("imagenet", "v").names for t in TEMPLATES
        ]
        ids, _ = small_run.tokenizer().encode(words, 16)
        text = model.get_text_features(input_ids=torch.tensor(ids).long())
        text = getattr(text, "pooler_output", text)
        text = text / text.norm(dim=-1, keepdim=True)
        weights = text.reshape(1000, len(TEMPLATES), -1).mean(dim=1)
        weights = weights / weights.norm(dim=-1, keepdim=True)
        return (100 * image @ weights.T).numpy()


@pytest.fixture(scope="module")
def labels():
    """A third of the pictures is labelled what PyTorch puts first, a third what it puts third."""
    order = np.argsort(-torch_logits(), axis=1, kind="stable")
    return [int(order[i, (0, 2, 500)[i % 3]]) for i in range(COUNT)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, labels):
    folder = tmp_path_factory.mktemp("imagenet")
    (folder / "templates.txt").write_text("\n".join(TEMPLATES))
    for number, label in enumerate(labels, start=1):
        place = folder / "val" / wnids()[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / validation_name(number)).write_bytes(sized_jpeg(number))
    return folder


@pytest.fixture
def spec(folder):
    return {"path": str(folder), "templates": str(folder / "templates.txt"), "subset": "all"}


def test_logits_are_those_of_pytorch(spec, labels):
    """On the pictures in the order of the folder: bit-equal pixels, so only products differ."""
    mesh, params = one_device()
    evaluator = build(spec)
    with jax.set_mesh(mesh):
        weights = evaluator._weights(params)
        images, _ = evaluator._embedder.records(params, evaluator._source, "image")
    numbers = [int(evaluator._source[i].key[-13:-5]) - 1 for i in range(COUNT)]
    found = 100 * images["image/embed"] @ weights.T
    np.testing.assert_allclose(found, torch_logits()[numbers], atol=1e-6 * 100)
    assert images["label"].tolist() == [labels[i] for i in numbers]


def test_accuracy_is_that_of_pytorch(spec, labels):
    metrics = evaluate(spec)
    order = np.argsort(-torch_logits(), axis=1, kind="stable")
    first = order[:, 0] == labels
    five = (order[:, :5] == np.array(labels)[:, None]).any(axis=1)
    recall = [first[np.array(labels) == c].mean() for c in set(labels)]
    assert metrics == pytest.approx(
        {"top1": first.mean(), "top5": five.mean(), "mean_per_class_recall": np.mean(recall),
         "examples": COUNT, "classes": 1000}
    )  # fmt: skip
    assert (metrics["top1"], metrics["top5"]) == pytest.approx((1 / 3, 2 / 3))


def test_does_not_depend_on_batch_size_or_devices(spec):
    expected = evaluate(spec | {"batch_size": 64})
    assert evaluate(spec | {"batch_size": 7}) == expected
    with jax.set_mesh(make_mesh()):
        assert build(spec | {"batch_size": 7})(small_run.run()[2]) == expected


@pytest.mark.parametrize("subset", ["", "present"])
def test_fewer_folders_restrict_the_classifier(spec, labels, subset):
    metrics = evaluate(spec | {"subset": subset})
    present = sorted(set(labels))
    place = [present.index(label) for label in labels]
    order = np.argsort(-torch_logits()[:, present], axis=1, kind="stable")
    assert metrics["classes"] == len(present)
    assert metrics["top1"] == pytest.approx(np.mean(order[:, 0] == place))


def test_a_subset_comes_from_a_file(spec, labels, tmp_path):
    """By WordNet id, label or name; images of other classes do not count."""
    chosen = [*sorted(set(labels) - {1})[:3], 1]
    name = class_words("imagenet", "v").names[1]
    lines = [wnids()[chosen[0]], str(chosen[1]), wnids()[chosen[2]], name]
    (tmp_path / "subset.txt").write_text("\n".join(lines))
    metrics = evaluate(spec | {"subset": str(tmp_path / "subset.txt")})
    kept = [i for i, label in enumerate(labels) if label in chosen]
    logits = torch_logits()[kept][:, sorted(chosen)]
    right = [sorted(chosen).index(labels[i]) for i in kept]
    assert (metrics["examples"], metrics["classes"]) == (len(kept), 4)
    assert metrics["top1"] == pytest.approx(np.mean(logits.argmax(axis=1) == right))


@pytest.mark.parametrize(
    ("line", "message"), [("missile", "not the name of exactly one"), ("1000", "no label below")]
)
def test_a_subset_that_is_not_clear_is_refused(spec, tmp_path, line, message):
    (tmp_path / "subset.txt").write_text(line)
    with pytest.raises(UserError, match=message):
        build(spec | {"subset": str(tmp_path / "subset.txt")})


def test_any_real_label_is_right_and_none_does_not_count(spec, labels, tmp_path):
    order = np.argsort(-torch_logits(), axis=1, kind="stable")
    answers = [[int(order[i, 700]), int(order[i, i % 7])] if i % 5 else [] for i in range(COUNT)]
    (tmp_path / "real.json").write_text(json.dumps(answers))
    metrics = evaluate(spec | {"real": str(tmp_path / "real.json")})
    kept = [i for i in range(COUNT) if i % 5]
    assert metrics == pytest.approx(
        {"top1": np.mean([i % 7 == 0 for i in kept]), "top5": np.mean([i % 7 < 5 for i in kept]),
         "examples": len(kept), "classes": 1000}
    )  # fmt: skip


def test_big_visions_words():
    names, templates = big_vision_words(
        ["T-shirt", "St. Bernard", "jack-o'-lantern", "a_b, c"], ["a photo of the {}.", "itap  {}!"]
    )
    assert names == ["tshirt", "st bernard", "jackolantern", "a b"]
    assert templates == ["a photo of the {}", "itap {}"]


def test_big_visions_protocol_changes_the_prompts(spec, monkeypatch):
    seen = []
    encode = small_run.tokenizer().encode
    monkeypatch.setattr(
        small_run.tokenizer(), "encode", lambda texts, n: (seen.append(texts), encode(texts, n))[1]
    )
    build(spec | {"protocol": "big_vision"})
    build(spec | {"protocol": "open_clip", "templates": "plain"})
    assert "the red tshirt" in seen[0]
    assert "T-shirt" in seen[1]


def test_prompts_are_embedded_once_for_the_same_parameters(spec, monkeypatch):
    calls = []
    embedder = evaluation.embed.Embedder
    texts = embedder.texts
    monkeypatch.setattr(embedder, "texts", lambda *args: (calls.append(1), texts(*args))[1])
    spec = spec | {"batch_size": 16, "templates": "plain"}
    first = evaluate(spec)
    assert evaluate(spec) == first
    assert len(calls) == 1
    mesh, params = one_device()
    with jax.set_mesh(mesh):
        assert build(spec)(jax.tree.map(lambda x: x * 1.5, params)) != first
    assert len(calls) == 2


def test_an_unreadable_picture_fails_the_run_unless_skips_are_allowed(tmp_path, caplog):
    write_folders(tmp_path, range(12), wnids())
    for number in (3, 8):
        bad = tmp_path / wnids()[number - 1] / validation_name(number)
        bad.write_bytes(bad.read_bytes()[:300])
    spec = {"path": str(tmp_path), "templates": "plain"}
    message = (
        r"v: 2 of 12 records cannot be read \(.*00000003\.JPEG cannot be decoded.*; .*08\.JPEG"
    )
    with pytest.raises(UserError, match=message + ".*--allow-skips"):
        evaluate(spec)
    metrics = evaluate(spec | {"allow_skips": True})
    assert (metrics["examples"], metrics["skipped"]) == (10, 2)
    assert "2 of 12 records cannot be read" in caplog.text


def test_the_original_tar_is_evaluated(tmp_path):
    write_validation(tmp_path, [5, 900, 31, 5, 2])
    metrics = evaluate({"path": str(tmp_path), "templates": "plain"})
    assert (metrics["examples"], metrics["classes"]) == (5, 1000)
