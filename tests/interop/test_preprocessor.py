"""preprocessor_config.json in its spellings: the pixels are those of transformers' processors."""

import json

import numpy as np
import peers
import pytest
from PIL import Image
from pytorch import transformers

import mmjax
from mmjax.errors import UserError

SIZE = peers.SIZE
NORMAL = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
CLIP, VIT, SIGLIP = "CLIPVisionModelWithProjection", "ViTModel", "SiglipModel"
SPELLINGS = {
    "CLIP today": (CLIP, {"size": {"shortest_edge": SIZE}, "do_center_crop": True,
                          "crop_size": {"height": SIZE, "width": SIZE}, "resample": 3}),
    "CLIP as published": (CLIP, {"size": SIZE, "crop_size": SIZE, "do_center_crop": True,
                                 "resample": 3}),
    "CLIP squashed": (CLIP, {"size": {"height": SIZE, "width": SIZE}, "crop_size": SIZE}),
    "ViT today": (VIT, {"size": {"height": SIZE, "width": SIZE}, "resample": 2}),
    "ViT as published": (VIT, {"size": SIZE}),
    "SigLIP": (SIGLIP, {"size": {"height": SIZE, "width": SIZE}, "resample": 3}),
    "SigLIP by default": (SIGLIP, {"size": {"height": SIZE, "width": SIZE}}),
}  # fmt: skip


def folder_of(path, name, settings):
    peers.make(name).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(NORMAL | settings))
    return path


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_pixels_are_those_of_transformers(tmp_path, spelling):
    name, settings = SPELLINGS[spelling]
    model = mmjax.load(folder_of(tmp_path, name, settings))
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (9, 14, 3), np.uint8)).resize((70, 45))
    kind = {CLIP: "CLIP", VIT: "ViT", SIGLIP: "Siglip"}[name]
    processor = getattr(transformers, f"{kind}ImageProcessor").from_pretrained(tmp_path)
    expected = np.asarray(processor(picture, return_tensors="np")["pixel_values"])[0]
    found = model.preprocess([picture])[0].astype(np.float32) / 255
    found = (found - np.float32(NORMAL["image_mean"])) / np.float32(NORMAL["image_std"])
    np.testing.assert_allclose(found.transpose(2, 0, 1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resample": 1}, "resample=1"),
        ({"size": {"shortest_edge": 18}}, r"size=\{'shortest_edge': 18\}"),
        ({"size": {"shortest_edge": SIZE}, "do_center_crop": False}, "the middle is not cut"),
        ({"do_normalize": False}, "do_normalize=False"),
    ],
)
def test_what_would_give_other_pixels_is_said(tmp_path, change, said):
    folder = folder_of(tmp_path, CLIP, SPELLINGS["CLIP today"][1] | change)
    with pytest.raises(UserError, match=rf"preprocessor_config\.json: .*{said}.*16 pixels"):
        mmjax.load(folder)
