"""TIPSv2 from a folder as it is published: its pixels, its texts and its temperature; AIMv2 of
native resolution; and the gradients of both."""

import json
import logging

import jax
import numpy as np
import peers
import pytest
import tiny
from PIL import Image
from pytorch import torch, transformers
from safetensors.numpy import load_file, save_file

import mmjax
from mmjax import models
from mmjax.data import load_tokenizer, train_tokenizer
from mmjax.interop import huggingface, registry
from mmjax.interop.formats import shapes
from mmjax.interop.huggingface import tipsv2

PIECES = ["<pad>", "<unk>", "\u2581", "a", "\u2581a", "t", "c", "at", "\u2581c", "\u2581cat"]
MERGES = [("\u2581", "a"), ("a", "t"), ("\u2581", "c"), ("\u2581c", "at")]


def words(folder):
    vocab = {piece: number for number, piece in enumerate(PIECES)}
    found = transformers.Tipsv2Tokenizer(vocab=vocab, merges=MERGES)
    found.save_pretrained(folder)
    return found


def picture():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (9, 14, 3), np.uint8)).resize((70, 45))


def test_texts_have_neither_start_nor_end(tmp_path):
    theirs = words(tmp_path / "words")
    tokenizer = tipsv2.words(tmp_path / "words")
    texts = ["A  cat", "tac", "", "a cat a cat a cat"]
    expected = theirs(texts, padding="max_length", max_length=5, truncation=True)
    ids, mask = tokenizer.encode(texts, 5)
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])
    tokenizer.save(tmp_path / "again")
    for again in (load_tokenizer, tipsv2.words):
        np.testing.assert_array_equal(again(tmp_path / "again").encode(texts, 5)[0], ids)
    own = train_tokenizer(["a photo of a cat", "two dogs"] * 3, 530)  # one with an end keeps it
    own.save(tmp_path / "own")
    assert tipsv2.words(tmp_path / "own").encode(["a cat"], 5)[0][0, 3] == own.eot_id


def test_a_folder_as_published_gives_the_logits_of_transformers(tmp_path):
    text = {**peers.TEXT, "vocab_size": len(PIECES)}
    model = peers.make("Tipsv2Model", text_config=text, temperature_init_value=0.02)
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = {n: x for n, x in load_file(file).items() if n != "temperature"}
    save_file(state, file)  # published files have none: it is in the config
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "Tipsv2ImageProcessor", "do_normalize": False, "resample": 2,
        "size": {"height": peers.SIZE, "width": peers.SIZE},
    }))  # fmt: skip
    theirs = words(tmp_path)
    texts = ["a cat", "tac a cat", "cat"]
    loaded = mmjax.load(tmp_path)
    found = loaded.logits(images=[picture()], texts=texts)
    squashed = picture().resize((peers.SIZE, peers.SIZE), Image.Resampling.BILINEAR)
    pixels = np.asarray(squashed, np.float32).transpose(2, 0, 1)[None] / 255
    rows = theirs(texts, padding="max_length", max_length=peers.LENGTH, return_tensors="pt")
    with torch.inference_mode():
        expected = model(
            pixel_values=torch.tensor(pixels), input_ids=rows["input_ids"],
            attention_mask=rows["attention_mask"],
        ).logits_per_image  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=50 * 2e-6, rtol=0)
    weights = registry.open_weights(tmp_path)
    params = weights.read(shapes(weights.config.model))
    registry.export(
        tmp_path / "out", "huggingface", config=weights.config, params=params,
        tokenizer=weights.tokenizer(),
    )  # fmt: skip
    prepared = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert prepared["do_normalize"] is False
    assert prepared["image_processor_type"] == "Tipsv2ImageProcessor"
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]
    assert (settings["pad_token_id"], settings["eos_token_id"]) == (0, None)
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert again.pop("temperature") == np.float32(0.02)
    assert again.keys() == state.keys()
    np.testing.assert_equal(again, state)


def test_aimv2_of_native_resolution_squashes_and_says_so(tmp_path, caplog):
    model = peers.make("Aimv2VisionModel")
    model.save_pretrained(tmp_path)
    settings = {"do_resize": False, "do_center_crop": False, "resample": 3,
                "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    with caplog.at_level(logging.WARNING, "mmjax.interop"):
        loaded = mmjax.load(tmp_path, image_size=24)
    assert "leaves pictures in their own size" in caplog.text
    found = loaded.outputs(("image/features",), images=[picture()])["image/features"]
    squashed = np.asarray(picture().resize((24, 24), Image.Resampling.BICUBIC), np.float32) / 255
    batch = (squashed - np.float32(settings["image_mean"])) / np.float32(settings["image_std"])
    with torch.inference_mode():
        pixels = torch.tensor(batch.transpose(2, 0, 1)[None])
        expected = model(pixel_values=pixels).pooler_output
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    native = models.from_config(registry.open_weights(tmp_path).config.model)  # of 16 pixels
    image = {"image": loaded.preprocess([picture()])}
    outputs = native.apply({"params": loaded.params}, image, ("image/features",))
    assert image["image"].shape == (1, 24, 24, 3)
    np.testing.assert_allclose(outputs["image/features"], found, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["Tipsv2Model", "Aimv2Model"])
def test_gradients_of_logits_are_theirs(tmp_path, name):
    model = peers.make(name)
    model.save_pretrained(tmp_path / "in")
    weights = registry.open_weights(tmp_path / "in")
    config, batch = weights.config, peers.batch(count=3)
    config.model.image.unroll = config.model.text.unroll = False
    graph, factors = (
        models.from_config(config.model),
        np.float32([[1, -2, 3], [0, 1, 4], [2, 5, 6]]),
    )
    outputs = ("image/embed", "text/embed", "logit/scale")

    def loss(params):
        found = graph.apply({"params": params}, batch, outputs)
        logits = found["logit/scale"] * found["image/embed"] @ found["text/embed"].T
        return (factors * logits).sum()

    compiled = jax.jit(jax.grad(loss), compiler_options=tiny.QUICK)
    gradient = compiled(weights.read(shapes(config.model)))
    family = huggingface.architecture_for(config.model, None).family
    found = family.write(jax.tree.map(np.asarray, gradient), config.model)

    mean, std = (np.float32(x) for x in peers.normalization(config).values())
    image = (batch["image"].astype(np.float32) / 255 - mean) / std
    logits = model(
        pixel_values=torch.tensor(image.transpose(0, 3, 1, 2)),
        input_ids=torch.tensor(batch["text"]).long(),
        attention_mask=torch.tensor(batch["text_mask"]).long(),
    ).logits_per_image
    (torch.tensor(factors) * logits).sum().backward()
    for parameter in model.parameters():  # gradients under the names of files
        used = parameter.grad is not None
        parameter.data = parameter.grad if used else torch.zeros_like(parameter)
    model.save_pretrained(tmp_path / "gradient")
    expected = load_file(tmp_path / "gradient" / "model.safetensors")
    assert expected.keys() == found.keys()
    size = np.sqrt(sum((g**2).sum() for n, g in expected.items() if g.ndim))
    assert size > 1
    for key, g in expected.items():
        limit = 1e-5 * (size if g.ndim else abs(g))  # that of a temperature is far larger
        assert np.linalg.norm(found[key] - g) <= limit, key
