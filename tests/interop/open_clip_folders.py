"""Small models of open_clip in folders, and the same models here."""

import copy
import functools
import json

import jax
import numpy as np
import open_clip_oracle as oracle
from ml_collections import ConfigDict
from open_clip_oracle import open_clip
from pytorch import save_file, torch

from mmjax import models
from mmjax.interop import formats, registry
from mmjax.interop.open_clip import encoders, towers

EOT = 511
VISION = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 512, "width": 64, "heads": 4, "layers": 3}
CLIP = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}
SIGLIP = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 32,
        "timm_model_name": "vit_tiny_patch8_siglip_32",
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        **TEXT,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    },
}
COCA = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {
        **VISION, "attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4,
        "output_tokens": True,
    },
    "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"context_length": 16, "vocab_size": 512, "width": 64, "layers": 1},
}  # fmt: skip
OWN_TEXT = {"embed_dim": 32, "custom_text": True, "text_cfg": TEXT}


def of_timm(name, pool, proj, **settings):
    """A model whose image tower timm builds: `settings` are of the model."""
    vision = {"image_size": 32, "timm_model_name": name, "timm_pool": pool, "timm_proj": proj}
    return OWN_TEXT | {"vision_cfg": vision} | settings


_PE = dict(
    attn_type="rope", use_pre_transformer_norm=True, use_rot_pos_emb=True, ref_feat_shape=(4, 4),
    rope_grid_indexing="xy", attn_pool_num_heads=8, attn_pool_mlp_ratio=4.0,
    norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-5),
)  # fmt: skip
VITAMIN = getattr(oracle.timm.models, "vitamin", None)
HYBRID = getattr(oracle.timm.models, "vision_transformer_hybrid", None)


def embedded(backbone):
    """timm's embedding of images by a backbone."""
    return lambda **kwargs: oracle.timm.layers.HybridEmbed(backbone(), proj=False, **kwargs)


# As timm's own functions of the towers after which these are named call its classes, and the same
# towers here.
SHAPE = (8, 32, 64, 2, 4)
TINY = {
    "vit_tiny_patch8_siglip_32": (
        "VisionTransformer", dict(class_token=False), towers.siglip(*SHAPE, 256)),
    "vit_pe_tiny_patch8_32": ("Eva", dict(**_PE, rope_grid_offset=1.0), towers.pe(*SHAPE, 256)),
    "vit_pe_gigantic_patch8_32": (
        "Eva", dict(**_PE, class_token=False, mlp_ratio=6.0),
        towers.pe(*SHAPE, 384, class_token=False)),
    "eva02_tiny_patch8_clip_32": (
        "Eva",
        dict(qkv_fused=False, mlp_ratio=4 * 2 / 3, swiglu_mlp=True, scale_mlp=True,
             scale_attn_inner=True, use_rot_pos_emb=True, ref_feat_shape=(16, 16)),
        towers.eva02(*SHAPE, 170)),
    "eva02_enormous_patch8_32": (
        "Eva", dict(use_post_norm=True), towers.eva(*SHAPE, 256) | {"block_norm": "branch"}),
    "vit_tiny_patch8_gap_32": (
        "VisionTransformer",
        dict(class_token=False, global_pool="avg", qkv_bias=False, init_values=1e-6,
             fc_norm=False),
        towers.vit(*SHAPE, 256) | towers.GAP),
    "vit_tiny_patch8_clip_32": (
        "VisionTransformer",
        dict(pre_norm=True, norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-5)),
        towers.vit(*SHAPE, 256) | towers.CLIP),
    "vitamin_tiny_32": (
        "VisionTransformer",
        dict(class_token=False, global_pool="avg", mlp_ratio=2.0, patch_size=1,
             mlp_layer=VITAMIN and VITAMIN.GeGluMlp,
             embed_layer=embedded(lambda: VITAMIN.MbConvStages(
                 VITAMIN.VitCfg(embed_dim=(16, 32, 64), depths=(2, 4, 1), stem_width=16)))),
        towers.vitamin(16, 16, *SHAPE[1:], 128)),
    "vit_mci_tiny_32": (
        "VisionTransformer",
        dict(no_embed_class=True, patch_size=1, embed_layer=embedded(lambda: HYBRID.ConvStem(
            channels=(16, 16, 64), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0,
            act_layer=torch.nn.GELU))),
        towers.mobileclip(16, *SHAPE[1:], 256)),
    "convnext_of_8": (
        "ConvNeXt", dict(depths=(1, 2, 1, 1), dims=(8, 16, 32, 64), norm_eps=1e-5),
        towers.convnext(8, 1, 2, 1, 1, norm_eps=1e-5)),
}  # fmt: skip
ENCODER = {"vocab_size": 512, "width": 48, "depth": 2, "heads": 4, "mlp_dim": 96}


def register_tiny(monkeypatch):
    """Lets both sides know the towers above by their names, and a text tower of transformers as
    "tiny"."""
    for name, (kind, settings, keys) in TINY.items():
        oracle.register_tiny(name, kind, settings)
        monkeypatch.setitem(towers.TOWERS, name, keys)
    keys = encoders.ENCODERS["xlm-roberta-base"] | ENCODER
    monkeypatch.setitem(encoders.ENCODERS, "tiny", keys)
    oracle.give_encoder(
        monkeypatch, vocab_size=512, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=96,
    )  # fmt: skip


MODELS = {
    "gelu": CLIP,
    "quick_gelu, text tower of its own": CLIP | {"quick_gelu": True, "custom_text": True},
    "tanh, eps, bias, first token, no norm": {
        "embed_dim": 32,
        "init_logit_bias": -3.0,
        "vision_cfg": VISION
        | {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}, "no_ln_pre": True},
        "text_cfg": TEXT | {"pool_type": "first", "no_causal_mask": True, "mlp_ratio": 3.7362},
    },
    "siglip": SIGLIP,
    "pe_core": of_timm("vit_pe_tiny_patch8_32", "map", None),
    "pe_core without a class token": of_timm("vit_pe_gigantic_patch8_32", "map", None),
    "eva02": of_timm("eva02_tiny_patch8_clip_32", "token", None),
    "eva, normalised branches": of_timm("eva02_enormous_patch8_32", "token", None),
    "timm's mean": of_timm("vit_tiny_patch8_gap_32", "", "linear", custom_text=False),
    "vitamin": of_timm("vitamin_tiny_32", "", "linear"),
    "mobileclip": of_timm("vit_mci_tiny_32", "token", None),
    "convnext": of_timm("convnext_of_8", "", "mlp", custom_text=False),
    "clipa, layer scale": CLIP
    | {
        "vision_cfg": VISION
        | {
            "no_ln_pre": True,
            "pool_type": "avg",
            "final_ln_after_pool": True,
            "ls_init_value": 1e-4,
        },
        "text_cfg": TEXT | {"pool_type": "last", "no_causal_mask": True, "ls_init_value": 0.1},
    },
    "xlm-roberta, timm's clip": of_timm(
        "vit_tiny_patch8_clip_32",
        "token",
        None,
        text_cfg={
            "hf_model_name": "tiny",
            "hf_model_pretrained": False,
            "hf_pooler_type": "mean_pooler",
            "context_length": 16,
        },
    ),
    "coca": COCA,
    "coca, as wide as its embedding": COCA | {"embed_dim": 64},
    "resnet": {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT | {"layers": 1},
    },
}


def build(settings):
    settings = copy.deepcopy(settings)
    custom = settings.pop("custom_text", False)
    kind = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
    if "multimodal_cfg" in settings:
        kind = open_clip.CoCa
    return oracle.randomise(kind(**settings))


def save(folder, settings, model, **preprocess):
    folder.mkdir(exist_ok=True)
    content = {"model_cfg": settings, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def batch_of(config, count=4):
    rng, size = np.random.default_rng(1), config.model.image.size
    length = config.model.text.context_length
    lengths = np.linspace(2, length, count).astype(int)
    padding = 1 if config.model.text.position_offset else 0
    text = np.full((count, length), padding, np.int32)
    for row, n in zip(text, lengths, strict=True):
        row[: n - 1], row[n - 1] = rng.integers(2, EOT, n - 1), EOT
    image = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)  # coarse: ResNets average noise
    return {
        "image": image.repeat(size // 4, axis=1).repeat(size // 4, axis=2),
        "text": text,
        "text_mask": np.arange(length) < lengths[:, None],
    }


def ours(config, params, batch):
    looped = ConfigDict(config.model.to_dict())
    for part in (looped.image, looped.text):
        part.update({"unroll": False} if "unroll" in part else {})  # compiles in half the time
    model = models.from_config(looped)
    outputs = tuple(name for name in model.outputs() if not name.endswith("tokens"))
    found = jax.jit(model.apply, static_argnums=2)({"params": params}, batch, outputs)
    found = {name: np.asarray(value) for name, value in found.items()}
    scale = found["logit/scale"]
    found["logits"] = scale * found["image/embed"] @ found["text/embed"].T
    found["logits"] += found.get("logit/bias", 0)
    return found


def assert_same(config, params, model):
    batch = batch_of(config)
    mine = ours(config, params, batch)
    theirs = oracle.outputs_of(model, batch, config.model.image.mean, config.model.image.std)
    for name in ("image/embed", "text/embed"):
        np.testing.assert_allclose(mine[name], theirs[name], atol=1e-5, rtol=0)
        assert np.abs(theirs[name][0] - theirs[name][1]).max() > 1e-3, "examples are all alike"
    scale = float(mine["logit/scale"])
    np.testing.assert_allclose(mine["logits"], theirs["logits"], atol=1e-6 * scale, rtol=0)


def load(path):
    weights = registry.open_weights(path)
    return weights.config, weights.read(formats.shapes(weights.config.model))
