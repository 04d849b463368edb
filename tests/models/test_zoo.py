"""Named architectures are the published ones: transformers' models of an equal config agree."""

import functools
import math

import jax
import pytest
import tiny
from pytorch import torch, transformers

from mmjax import config as config_lib
from mmjax import models
from mmjax import params as roles
from mmjax.errors import UserError
from mmjax.models import zoo
from mmjax.models.flops import forward_flops


@functools.cache
def shapes(name):
    return tiny.shapes(models.create(name))


def count(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def dino(image):
    """DINOv2 or v3, as `peer`: both know registers, and v3 has no learned positions."""
    name = "DINOv3ViT" if image.position == "none" else "Dinov2"
    name += "WithRegisters" * (name == "Dinov2" and image.registers > 0)
    sizes = {
        "hidden_size": image.width, "intermediate_size": image.mlp_dim, "mlp_ratio": 4,
        "num_hidden_layers": image.depth, "num_attention_heads": image.heads,
        "image_size": image.size, "patch_size": image.patch_size,
        "num_register_tokens": image.registers,
    }  # fmt: skip
    settings = getattr(transformers, f"{name}Config")(**sizes)
    with torch.device("meta"):
        return getattr(transformers, f"{name}Model")(settings)


def tips_or_aim(vision, words, config):
    """TIPSv2 or AIMv2, as `peer`."""
    image = config.image
    if not image.rms_norm:
        swiglu = {"use_swiglu_ffn": image.gated} | {"mlp_ratio": 4 if image.gated else
                                                    image.mlp_dim / image.width}  # fmt: skip
        settings = transformers.Tipsv2Config(vision_config=vision | swiglu, text_config=words)
        return transformers.Tipsv2Model(settings)
    vision |= {"is_native": image.position != "learned", "use_head": image.pool == "probe"}
    if not words:
        return transformers.Aimv2VisionModel(transformers.Aimv2VisionConfig(**vision))
    settings = transformers.Aimv2Config(
        vision_config=vision, text_config=words, projection_dim=config.embed_dim
    )
    return transformers.Aimv2Model(settings)


def peer(config):
    """transformers' model of the same architecture, without memory behind its parameters."""
    image, text = config.get("image"), config.get("text")

    def tower(tower):
        return {
            "hidden_size": tower.width, "intermediate_size": tower.mlp_dim,
            "num_hidden_layers": tower.depth, "num_attention_heads": tower.heads,
        }  # fmt: skip

    if image:
        vision = {**tower(image), "image_size": image.size, "patch_size": image.patch_size}
    if image and (image.rms_norm or (text and image.layer_scale)):
        words = text and {
            **tower(text), "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
        }  # fmt: skip
        with torch.device("meta"):
            return tips_or_aim(vision, words, config)
    if not text and image.layer_scale:
        return dino(image)
    if not text:
        with torch.device("meta"):
            settings = transformers.ViTConfig(**vision, num_labels=config.embed_dim)
            return transformers.ViTForImageClassification(settings)
    words = {
        **tower(text), "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
    }  # fmt: skip
    if not image and "audio" not in config:
        offset = text.position_offset
        words |= {"max_position_embeddings": text.context_length + offset}
        words["type_vocab_size"] = text.token_types
        kind = "Roberta" if offset else "Bert"
        with torch.device("meta"):
            settings = getattr(transformers, f"{kind}Config")(**words)
            return getattr(transformers, f"{kind}ForMaskedLM")(settings)
    if "audio" in config:
        audio, width = config.audio, config.audio.width
        heard = {
            "num_mel_bins": audio.bins, "spec_size": audio.size, "window_size": audio.window_tokens,
            "patch_size": audio.patch_size, "patch_stride": [audio.patch_size] * 2,
            "patch_embeds_hidden_size": width, "hidden_size": width * 2 ** (len(audio.stages) - 1),
            "depths": audio.stages, "num_attention_heads": audio.stage_heads,
        }  # fmt: skip
        words |= {"max_position_embeddings": text.context_length + text.position_offset}
        with torch.device("meta"):
            return transformers.ClapModel(
                transformers.ClapConfig(
                    audio_config=heard, text_config=words, projection_dim=config.embed_dim
                )
            )
    siglip = config.logit.bias is not None
    with torch.device("meta"):
        if siglip:
            words["projection_size"] = config.embed_dim
            return transformers.SiglipModel(
                transformers.SiglipConfig(vision_config=vision, text_config=words)
            )
        return transformers.CLIPModel(
            transformers.CLIPConfig(
                vision_config=vision, text_config=words, projection_dim=config.embed_dim
            )
        )


def test_vit_b_32_has_151_277_313_parameters():
    assert count(shapes("ViT-B/32")) == 151_277_313


RESNETS = {"RN50": 102_007_137, "RN101": 119_688_033, "RN50x4": 178_300_601}  # as open_clip counts


@pytest.mark.parametrize("name", RESNETS)
def test_resnets_have_the_published_parameters_and_statistics(name):
    sizes = {"statistic": 0, "weight": 0}
    for path, x in jax.tree_util.tree_leaves_with_path(shapes(name)):
        kind = roles.role(roles.path_string(path)).kind
        sizes["statistic" if kind == "statistic" else "weight"] += x.size
    assert sizes["weight"] == RESNETS[name]
    norms = [x for x in jax.tree_util.tree_leaves_with_path(shapes(name)["image"])
             if roles.path_string(x[0]).endswith("/var")]  # fmt: skip
    assert sizes["statistic"] == 2 * sum(x.size for _, x in norms) > 0


COCAS = {"CoCa-B/32", "CoCa-L/14"}  # test_open_clip_published.py holds them to open_clip's
PRISMS = {"VideoPrism-LvT-B", "VideoPrism-LvT-L"}  # and tests/interop/test_videoprism.py these


@pytest.mark.parametrize("name", sorted(set(zoo.list_models()) - set(RESNETS) - COCAS - PRISMS))
def test_parameters_are_as_many_as_in_transformers(name):
    theirs = sum(p.numel() for p in peer(zoo.config(name)).parameters())
    statistics = 2 * zoo.config(name).audio.bins if "clap" in name else 0  # to them, buffers
    assert count(shapes(name)) == theirs + statistics


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_parameter_has_a_role(name):
    found = set()
    for path, x in jax.tree_util.tree_leaves_with_path(shapes(name)):
        role = roles.role(roles.path_string(path))
        found.add(role.kind)
        assert role.stacked == ("blocks" in role.path.split("/"))
        assert (role.kind == "matrix") == role.path.endswith("kernel")
        assert x.dtype == "float32"
    config = zoo.config(name)
    wanted = {"matrix", "norm", "bias"}
    # Two have no learned positions: one turns by RoPE, the positions of the other are fixed.
    wanted |= set() if name.startswith("dinov3") or name.endswith("native") else {"position"}
    wanted |= {"statistic"} if name in RESNETS or name in PRISMS or "clap" in name else set()
    tokenless = name in RESNETS or (name.startswith("aimv2") and not name.endswith("lit"))
    wanted |= set() if tokenless else {"token"}
    wanted |= {"embedding"} if "text" in config else set()
    wanted |= (
        {"scale"} if "logit" in config or config.get("image", {}).get("layer_scale") else set()
    )
    assert found == wanted


def test_a_parameter_without_a_role_is_named():
    with pytest.raises(KeyError, match="image/gate"):
        roles.role("image/gate")


# GFLOPs of a pair, of open_clip's docs/model_profile.csv
PROFILED = {
    "ViT-B/32": 14.78, "ViT-B/16": 41.09, "ViT-L/14": 175.33, "ViT-L/14-336": 395.22,
    "ViT-H/14": 381.68, "ViT-g/14": 581.15, "SigLIP-B/16-224": 46.44, "SigLIP-L/16-256": 201.62,
    "SigLIP-So400m/14-224": 233.54, "SigLIP-So400m/14-384": 723.48,
    "RN50": 18.18, "RN101": 25.5, "RN50x4": 51.82,
}  # fmt: skip


@pytest.mark.parametrize("name", PROFILED)
def test_flops_are_those_of_open_clips_profile(name):
    config = zoo.config(name)
    found = forward_flops(config, shapes(name))
    if name in RESNETS:  # open_clip's last attention asks for every cell, and throws all but one
        cells, width = (config.image.size // 32) ** 2, 32 * config.image.width
        found += cells * (2 * width**2 + 2 * width * config.embed_dim + 4 * (cells + 1) * width)
    assert found / 1e9 == pytest.approx(PROFILED[name], abs=0.0051)


@pytest.mark.parametrize("style", ["concat", "cross", "bottleneck"])
def test_flops_of_a_fusion_are_those_of_its_layers(style):
    config = zoo.config("ViT-B/32")
    plain = forward_flops(config, shapes("ViT-B/32"))
    config.fusion = config_lib.entry("model", kind=style, depth=3)
    params = tiny.shapes(models.from_config(config))

    def layers(queries, keys, mlp=4):  # without biases and norms
        width = 512
        linear = 2 * (2 * queries + 2 * keys + 2 * mlp * queries) * width**2
        return 3 * (linear + 4 * queries * keys * width)

    bring, image, text = 2 * 50 * 768 * 512, 50, 77
    fusion = {
        "concat": layers(image + text, image + text),
        "cross": layers(text, text) + layers(text, image, mlp=0),
        "bottleneck": layers(image + 4, image + 4) + layers(text + 4, text + 4),
    }[style]
    assert forward_flops(config, params) == plain + bring + fusion


def test_quickgelu_is_the_same_architecture_with_openais_activation():
    plain, quick = zoo.config("ViT-L/14"), zoo.config("ViT-L/14-quickgelu")
    assert plain.image.activation == plain.text.activation == "gelu"
    assert quick.image.activation == quick.text.activation == "quick_gelu"
    quick.update({"name": plain.name, "image": {"activation": "gelu"}})
    quick.text.activation = "gelu"
    assert quick == plain


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ViT-B/23", "ViT-B/32"),
        ("siglip-so400m/14-384", "SigLIP-So400m/14-384"),
        ("vit-l/14-336", "ViT-L/14-336"),
        ("SigLIP-B/16-224-quickgelu", "SigLIP-B/16-224"),  # SigLIP has one activation
    ],
)
def test_an_unknown_name_names_the_nearest(name, nearest):
    with pytest.raises(UserError, match=rf"{name}.*nearest is '{nearest}'"):
        models.create(name)
