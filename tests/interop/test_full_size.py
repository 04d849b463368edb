"""Every family at a published size: in, the same numbers, out again, the same bits.

Rounding grows with depth and width, and only here are shapes what people load. All but BERT are
`long`; of CLIP, test_huggingface.py has ViT-B/32 in every run.
"""

import json

import jax
import numpy as np
import open_clip_oracle as oracle
import peers
import pytest
import safetensors.numpy
from ml_collections import ConfigDict
from open_clip_oracle import open_clip
from pytorch import save_file, torch

from mmjax import models
from mmjax.interop import formats, registry
from mmjax.models import parts

BASE = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12,
}  # fmt: skip
VISION = {**BASE, "image_size": 224, "patch_size": 16}
CLIP_TEXT = {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "vocab_size": 49_408, "max_position_embeddings": 77,
    "eos_token_id": 49_407,
}  # fmt: skip
SIGLIP_TEXT = {**BASE, "vocab_size": 32_000, "max_position_embeddings": 64}
TRANSFORMERS = {
    "CLIPModel": {"vision_config": {**VISION, "patch_size": 32}, "text_config": CLIP_TEXT,
                  "projection_dim": 512},
    "SiglipModel": {"vision_config": VISION,
                    "text_config": {**SIGLIP_TEXT, "projection_size": 768}},
    "ViTForImageClassification": {**VISION, "num_labels": 1000},
    "BertForMaskedLM": {**BASE, "vocab_size": 30_522, "max_position_embeddings": 512},
    "RobertaForMaskedLM": {**BASE, "vocab_size": 50_265, "max_position_embeddings": 514,
                           "type_vocab_size": 1},
}  # fmt: skip
OPEN_CLIP = ("ViT-B-32", "ViT-B-16-SigLIP", "coca_ViT-B-32", "RN50")


def cases(names):
    return [n if n == "BertForMaskedLM" else pytest.param(n, marks=pytest.mark.long) for n in names]


def load(path):
    weights = registry.open_weights(path)
    for part in parts.sections(weights.config.model).values():
        if "unroll" in part:
            part.unroll = False  # compiles sooner
    return weights.config, weights.read(formats.shapes(weights.config.model))


def batch_of(model: ConfigDict, count=3):
    """Coarse pictures, which stay apart through random layers, and texts of three lengths."""
    words = model.get("text", {"context_length": 77, "vocab_size": peers.VOCAB})
    length = min(words["context_length"], 77)
    batch = peers.batch(count=count, eot=words["vocab_size"] - 1, length=length)
    size = model.image.size if "image" in model else peers.SIZE
    coarse = np.random.default_rng(1).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    batch["image"] = coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)
    return batch


def assert_same_files(before, after, left=()):
    for key in before.keys() | after.keys():
        if not key.startswith(left):
            np.testing.assert_array_equal(after[key], before[key], err_msg=key)


@pytest.mark.parametrize("name", cases(TRANSFORMERS))
def test_of_transformers(tmp_path, name):
    theirs = peers.make(name, spread=0.01, **TRANSFORMERS[name])
    theirs.save_pretrained(tmp_path / "in")
    config, params = load(tmp_path / "in")
    peers.assert_same(name, config, params, theirs, batch_of(config.model))
    registry.export(tmp_path / "out", "huggingface", config=config, params=params)
    before, after = (
        safetensors.numpy.load_file(tmp_path / side / "model.safetensors") for side in ("in", "out")
    )
    assert_same_files(before, after)


@pytest.mark.parametrize("name", cases(OPEN_CLIP))
def test_of_open_clip(tmp_path, name):
    settings = open_clip.get_model_config(name)
    theirs = oracle.randomise(open_clip.create_model(name))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    file = "open_clip_model.safetensors"
    save_file(theirs.state_dict(), tmp_path / "in" / file)
    config, params = load(tmp_path / "in")
    batch = batch_of(config.model)
    model = models.from_config(config.model)
    outputs = ("image/embed", "text/embed", "logit/scale")
    mine = jax.jit(model.apply, static_argnums=2)({"params": params}, batch, outputs)
    expected = oracle.outputs_of(theirs, batch, config.model.image.mean, config.model.image.std)
    for output in outputs[:2]:
        np.testing.assert_allclose(mine[output], expected[output], atol=1e-5, rtol=0)
        assert np.abs(expected[output][0] - expected[output][1]).max() > 1e-3
    scale = float(mine["logit/scale"])
    cosine = np.asarray(mine["image/embed"]) @ np.asarray(mine["text/embed"]).T
    bias = theirs.state_dict().get("logit_bias", torch.tensor(0.0)).numpy()
    np.testing.assert_allclose(scale * cosine + bias, expected["logits"], atol=1e-6 * scale, rtol=0)
    registry.export(tmp_path / "out", "open_clip", config=config, params=params)
    before, after = (safetensors.numpy.load_file(tmp_path / side / file) for side in ("in", "out"))
    before = {k: x for k, x in before.items() if "num_batches_tracked" not in k}
    assert_same_files(before, after, left=("text_decoder.",))
