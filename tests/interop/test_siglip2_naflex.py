"""SigLIP 2 NaFlex: the pixels of Siglip2ImageProcessor, the embeddings of Siglip2Model, and its
files in and out again."""

import json

import jax
import numpy as np
import peers
import pytest
import safetensors.numpy
from ml_collections import ConfigDict
from PIL import Image
from pytorch import torch, transformers

import mmjax
from mmjax import models
from mmjax.errors import UserError
from mmjax.interop import start
from mmjax.interop.formats import Weights, shapes

PATCH, PATCHES = 4, 20
SHAPES = ((40, 40), (20, 80), (80, 20), (11, 13), (50, 37), (7, 90))  # height, width in pixels
VISION = {**peers.TOWER, "patch_size": PATCH, "num_patches": 16}
TEXT = {**peers.TEXT, "projection_size": 32, "bos_token_id": 0, "eos_token_id": 1}


def pictures(seed=0):
    rng = np.random.default_rng(seed)
    for height, width in SHAPES:
        coarse = rng.integers(0, 256, (1 + height // 6, 1 + width // 6, 3), dtype=np.uint8)
        yield Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """A folder of random weights, its model and its processor."""
    folder = tmp_path_factory.mktemp("naflex")
    config = transformers.Siglip2Config(vision_config=VISION, text_config=TEXT)
    torch.manual_seed(0)
    model = transformers.Siglip2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    processor = transformers.Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=PATCHES)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


@pytest.mark.parametrize("patches", [PATCHES, 7, 1])
def test_pixels_are_those_of_transformers(peer, patches):
    folder, _, processor = peer
    ours = mmjax.load(folder, patches=patches).columns("image", list(pictures()))
    theirs = processor(list(pictures()), max_num_patches=patches, return_tensors="np")
    np.testing.assert_array_equal(ours["image_shape"], theirs["spatial_shapes"])
    np.testing.assert_array_equal(ours["image_mask"], theirs["pixel_attention_mask"])
    seen = ours["image_mask"]
    levels = (theirs["pixel_values"] * 0.5 + 0.5) * 255  # uint8 that they were before
    np.testing.assert_allclose(ours["image"][seen], levels[seen], atol=1e-3, rtol=0)


def test_embeddings_of_six_shapes_in_a_batch(peer):
    folder, model, processor = peer
    ours, texts = mmjax.load(folder), peers.batch()["text"]
    with torch.inference_mode():
        theirs = model(
            **processor(list(pictures()), return_tensors="pt"), input_ids=torch.tensor(texts).long()
        )
    found = ours.outputs(("image/tokens", "image/embed"), image=list(pictures()))
    mask = ours.columns("image", list(pictures()))["image_mask"]
    expected = theirs.image_embeds.numpy()
    assert np.abs(expected[:, None] - expected).max(axis=2)[np.triu_indices(6, 1)].min() > 1e-2
    np.testing.assert_allclose(found["image/embed"], expected, atol=1e-5, rtol=0)
    tokens = theirs.vision_model_output.last_hidden_state.numpy()
    np.testing.assert_allclose(found["image/tokens"][mask], tokens[mask], atol=1e-5, rtol=0)
    batch = {"text": texts, "text_mask": np.ones(texts.shape, bool)}
    text = peers.ours(ours.config, ours.params, batch, ("text/embed",))["text/embed"]
    np.testing.assert_allclose(text, theirs.text_embeds.numpy(), atol=1e-5, rtol=0)


def test_keys_and_bits_after_a_round_trip(peer, tmp_path):
    folder, _, processor = peer
    mmjax.load(folder).export(tmp_path / "out", "huggingface")
    before, after = (
        safetensors.numpy.load_file(path / "model.safetensors")
        for path in (folder, tmp_path / "out")
    )
    assert set(after) == set(before)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    _, report = transformers.Siglip2Model.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report.values()), report
    again = transformers.Siglip2ImageProcessorPil.from_pretrained(tmp_path / "out")
    for key in ("patch_size", "max_num_patches", "resample", "image_mean", "image_std"):
        assert getattr(again, key) == getattr(processor, key), key


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("config.json", {"vision_config": {**VISION, "num_patches": 15}}, "15 is no square"),
        ("config.json", {"vision_config": {**VISION, "vision_use_head": False}}, "pools nothing"),
        (
            "preprocessor_config.json",
            {"patch_size": 8},
            r"patch_size=8\): it resizes them in their",
        ),
        ("preprocessor_config.json", {"resample": 1, "odd": 3}, "resample=1, odd=3"),
    ],
)
def test_what_cannot_be_read_is_named(peer, tmp_path, file, change, expected):
    for source in peer[0].iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    settings = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(settings | change))
    with pytest.raises(UserError, match=expected):
        mmjax.load(tmp_path)


def test_a_tower_of_one_size_starts_it():
    """Of the square whose positions it learned, it then sees what that tower does."""
    fixed = models.zoo.config("tiny-siglip")
    naflex = fixed.copy_and_resolve_references()
    keys = {k: v for k, v in fixed.image.items() if k in models.parts.part("naflex")}
    with naflex.unlocked():
        naflex.image = models.parts.part("naflex", patches=16)
        naflex.image.update({**keys, "kind": "naflex"})
    params = jax.tree.map(lambda x: np.random.default_rng(0).normal(0, 0.2, x.shape), shapes(fixed))
    weights = Weights("it", ConfigDict({"model": fixed}), lambda like: like)
    report = start.plan(weights, naflex)
    assert (report.left, report.missing) == ([], [])
    image = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    cut = image.reshape(2, 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(2, 16, 192)
    batch = {
        "image": cut, "image_mask": np.ones((2, 16), bool), "image_shape": np.full((2, 2), 4),
    }  # fmt: skip
    params = jax.tree.map(np.float32, params)
    one = peers.ours(ConfigDict({"model": fixed}), params, {"image": image}, ("image/embed",))[
        "image/embed"
    ]
    other = peers.ours(ConfigDict({"model": naflex}), params, batch, ("image/embed",))[
        "image/embed"
    ]
    np.testing.assert_allclose(other, one, atol=1e-6, rtol=0)
