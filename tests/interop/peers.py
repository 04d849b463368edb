"""Small random models of transformers in PyTorch, saved as it saves them, and their outputs."""

import functools
import inspect

import jax
import numpy as np
from ml_collections import ConfigDict
from pytorch import torch, transformers

from mmjax import models

SIZE, LENGTH, VOCAB = 16, 12, 64
TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
VISION = {**TOWER, "image_size": SIZE, "patch_size": 4}
DINO = {name: value for name, value in VISION.items() if name != "intermediate_size"}
TEXT = {**TOWER, "vocab_size": VOCAB, "max_position_embeddings": LENGTH}
CLIP_TEXT = {**TEXT, "eos_token_id": VOCAB - 1, "bos_token_id": 0}
SETTINGS = {
    "CLIPModel": ("CLIPConfig", {"vision_config": VISION, "text_config": CLIP_TEXT,
                                 "projection_dim": 24}),
    "MetaClip2Model": ("MetaClip2Config", {
        "vision_config": VISION, "projection_dim": 24,
        "text_config": {**CLIP_TEXT, "eos_token_id": 2, "pad_token_id": 1}}),
    "ChineseCLIPModel": ("ChineseCLIPConfig", {
        "vision_config": VISION, "text_config": {**TEXT, "type_vocab_size": 2},
        "projection_dim": 24}),
    "AltCLIPModel": ("AltCLIPConfig", {
        "vision_config": VISION, "projection_dim": 24,
        "text_config": {**TEXT, "max_position_embeddings": LENGTH + 2, "project_dim": 24}}),
    "CLIPTextModelWithProjection": ("CLIPTextConfig", {**CLIP_TEXT, "projection_dim": 24}),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", {**VISION, "projection_dim": 24}),
    "SiglipModel": ("SiglipConfig", {"vision_config": VISION,
                                     "text_config": {**TEXT, "projection_size": 32}}),
    "ViTModel": ("ViTConfig", VISION),
    "ViTForImageClassification": ("ViTConfig", {**VISION, "num_labels": 7}),
    "Dinov2Model": ("Dinov2Config", DINO),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", {
        **DINO, "use_swiglu_ffn": True, "num_register_tokens": 3, "layerscale_value": 0.5}),
    "DINOv3ViTModel": ("DINOv3ViTConfig", {
        **VISION, "num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"}),
    "Tipsv2Model": ("Tipsv2Config", {"vision_config": DINO, "text_config": TEXT}),
    "Aimv2VisionModel": ("Aimv2VisionConfig", {**VISION, "is_native": True}),
    "Aimv2Model": ("Aimv2Config", {
        "vision_config": VISION, "text_config": {**TEXT, "eos_token_id": VOCAB - 1},
        "projection_dim": 24}),
    "BertModel": ("BertConfig", TEXT),
    "BertForMaskedLM": ("BertConfig", TEXT),
    "RobertaModel": ("RobertaConfig", {**TEXT, "max_position_embeddings": LENGTH + 2}),
    "RobertaForMaskedLM": ("RobertaConfig", {**TEXT, "max_position_embeddings": LENGTH + 2}),
}  # fmt: skip
TOKENS = {"image/tokens": "last_hidden_state", "image/features": "pooler_output"}
BOTH = {
    "image/embed": "image_embeds", "text/embed": "text_embeds",
    "image/tokens": "vision_model_output.last_hidden_state",
    "text/tokens": "text_model_output.last_hidden_state",
}  # fmt: skip
OUTPUTS = {  # of ours ↔ of theirs
    "CLIPModel": {"image/embed": "image_embeds", "text/embed": "text_embeds"},
    "MetaClip2Model": {"image/embed": "image_embeds", "text/embed": "text_embeds"},
    "ChineseCLIPModel": {"image/embed": "image_embeds", "text/embed": "text_embeds"},
    "AltCLIPModel": {"image/embed": "image_embeds", "text/embed": "text_embeds"},
    "CLIPTextModelWithProjection": {"text/features": "text_embeds"},
    "CLIPVisionModelWithProjection": {"image/features": "image_embeds"},
    "SiglipModel": {"image/embed": "image_embeds", "text/embed": "text_embeds"},
    "ViTModel": TOKENS,
    "ViTForImageClassification": {"image/features": "logits"},
    "Dinov2Model": TOKENS,
    "Dinov2WithRegistersModel": TOKENS,
    "DINOv3ViTModel": TOKENS,
    "Tipsv2Model": BOTH,
    "Aimv2VisionModel": TOKENS,
    "Aimv2Model": BOTH,
    "BertModel": {"text/tokens": "last_hidden_state", "text/features": "pooler_output"},
    "BertForMaskedLM": {"text/logits": "logits"},
    "RobertaModel": {"text/tokens": "last_hidden_state", "text/features": "pooler_output"},
    "RobertaForMaskedLM": {"text/logits": "logits"},
}


def make(name, seed=0, spread=0.1, **changes):
    """A model of class `name` in eval mode, every parameter away from zero and one by `spread`."""
    config_class, settings = SETTINGS[name]
    settings = {**settings, **changes}
    torch.manual_seed(seed)
    model = getattr(transformers, name)(getattr(transformers, config_class)(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
        if hasattr(model, "logit_scale"):
            model.logit_scale.fill_(float(np.log(50.0)))
        if hasattr(model, "temperature"):
            model.temperature.fill_(1 / 50)
    return model


def batch(seed=1, count=5, pad=0, eot=VOCAB - 1, size=SIZE, length=LENGTH):
    """Noise pictures, and texts of every length up to the longest that end in `eot`."""
    rng = np.random.default_rng(seed)
    lengths = np.linspace(3, length, count).astype(int)
    text = np.full((count, length), pad)
    for row, n in zip(text, lengths, strict=True):
        row[:n] = [2, *rng.integers(3, eot, n - 2), eot]
    return {
        "image": rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8),
        "text": text.astype(np.int32),
        "text_mask": np.arange(length) < lengths[:, None],
    }


def normalization(config: ConfigDict) -> dict:
    """Mean and std of the image part; those of no image where the model has none."""
    image = config.model.get("image", {"mean": (0,) * 3, "std": (1,) * 3})
    return {"mean": image["mean"], "std": image["std"]}


def theirs(model, batch, mean, std):
    """Outputs of the model of transformers, for the inputs that it takes."""
    image = (batch["image"].astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    inputs = {
        "pixel_values": torch.tensor(image.transpose(0, 3, 1, 2)),
        "input_ids": torch.tensor(batch["text"]).long(),
        "attention_mask": torch.tensor(batch["text_mask"]).long(),
    }
    if type(model).__name__.startswith(("Siglip", "ViT", "Dino", "DINO")):
        del inputs["attention_mask"]  # SigLIP's text is padded to the end and attends to all of it
    with torch.inference_mode():
        wanted = inspect.signature(model.forward).parameters
        return model(**{name: x for name, x in inputs.items() if name in wanted})


def named(found, name):
    """The output of a name in what a model of transformers gives; "a.b" is b of its output a."""
    return functools.reduce(getattr, name.split("."), found)


def ours(config: ConfigDict, params, batch, outputs=None):
    """All outputs of our model but scores of targets (or those named), as NumPy."""
    model = models.from_config(config.model)
    every = tuple(name for name in model.outputs() if not name.endswith("_scores"))
    apply = _jitted(model, outputs or every)
    return jax.tree.map(np.asarray, apply({"params": params}, batch))


@functools.lru_cache
def _jitted(model, outputs):
    return jax.jit(functools.partial(model.apply, outputs=outputs))


def assert_same(name, config, params, model, batch, atol=1e-5, outputs=None):
    """Embeddings agree to 1e-5, logits to 1e-6 × scale, and examples differ by far more."""
    mine = ours(config, params, batch)
    other = theirs(model, batch, **normalization(config))
    for output, of_theirs in (outputs or OUTPUTS[name]).items():
        found, expected = mine[output], np.asarray(named(other, of_theirs))
        assert np.abs(expected[0] - expected[1]).max() > 0.01
        if output in ("text/tokens", "text/logits"):
            found, expected = (x[batch["text_mask"]] for x in (found, expected))
        np.testing.assert_allclose(found, expected, atol=atol, rtol=0, err_msg=output)
    if "logit/scale" in mine:
        scale = float(mine["logit/scale"])
        logits = scale * mine["image/embed"] @ mine["text/embed"].T + mine.get("logit/bias", 0)
        expected = np.asarray(other["logits_per_image"])
        np.testing.assert_allclose(logits, expected, atol=1e-6 * scale, rtol=0)
