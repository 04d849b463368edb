"""Every key of a model comes back from every format as it was, or the export refuses it."""

import itertools

import jax
import numpy as np
import pytest
import pytorch
from ml_collections import ConfigDict

from mmjax import models
from mmjax.data.keys import PREPROCESS
from mmjax.errors import UserError
from mmjax.interop import registry
from mmjax.interop.formats import OF_READERS, shapes
from mmjax.models.parts import check_model, complete, of_model, part, sections
from mmjax.schema import TRAINING_ONLY, entry

_DINO = {
    "head": "none", "norm_pre": False, "patch_bias": True, "mask_token": True, "layer_scale": 1.0,
    "registers": 2,
}  # fmt: skip
TIPS = {
    "embed_dim": 64, "logit": {"temperature": True, "max": 1000.0},
    "image": _DINO | {"norm_eps": 1e-6, "position_resize": "linear"},
    "text": {"position": "sincos_t2t", "causal": False, "mask_padding": True, "pool": "mean",
             "head": "none"},
}  # fmt: skip
_AIM = {"rms_norm": True, "gated": True, "activation": "silu", "bias": False, "qkv_bias": "none"}
AIM = {"norm_pre": False, "norm_patch": True, "patch_bias": True, "pool": "probe"}
BERT = {"norm": "post", "embed_norm": True, "token_types": 2, "causal": False,
        "mask_padding": True, "pool": "cls"}  # fmt: skip
OPENAI = {"heads": 1, "mlp_dim": 256, "activation": "quick_gelu"}  # what its files take for granted
BASES = {
    "openai": ("openai", "tiny", {"image": OPENAI, "text": OPENAI}),
    "open_clip": ("open_clip", "tiny", {}),
    "CLIPModel": ("huggingface", "tiny", {}),
    "SiglipModel": ("huggingface", "tiny-siglip", {}),
    "Siglip2Model": ("huggingface", "tiny-siglip", {}),  # its images of any shape
    "BertForMaskedLM": ("huggingface", "tiny-bert", {}),
    "ClapModel": ("huggingface", "tiny-clap", {}),
    "Dinov2WithRegistersModel": ("huggingface", "tiny", {}),  # its tower made DINO's
    "DINOv3ViTModel": ("huggingface", "tiny", {}),
    "Tipsv2Model": ("huggingface", "tiny", TIPS),
    "Aimv2Model": ("huggingface", "tiny", {"image": _AIM | AIM, "text": _AIM}),
    "ChineseCLIPModel": ("huggingface", "tiny", {"text": BERT}),
    "AltCLIPModel": (
        "huggingface",
        "tiny",
        {"text": BERT | {"position_offset": 2, "head": "normed"}},
    ),
    "big_vision": ("big_vision", "tiny-siglip", {}),
    "XCLIPModel": ("huggingface", "tiny", {}),  # its towers made X-CLIP's
}
DINO = {
    "Dinov2WithRegistersModel": _DINO | {"norm_eps": 1e-6},
    "DINOv3ViTModel": _DINO | {"position": "none", "rope": "centres", "rope_theta": 100.0,
                               "rope_pairs": "halves", "qkv_bias": "qv"},
}  # fmt: skip


PREPROCESSED = {"big_vision": {"resize": "squash", "interpolation": "bilinear"}}


def base(case):
    _, name, changes = BASES[case]
    model = models.zoo.config(name)
    if case == "XCLIPModel":
        del model["image"]
        model.video = part("xclip", size=32, patch_size=8, width=64, heads=4, frames=2)
        model.prompts = part("prompts")
    if case == "Siglip2Model":
        shared = {"width", "heads", "mlp_dim", "activation", "norm_eps", "head", "norm_pre",
                  "patch_bias", "mean", "std"}  # fmt: skip
        keys = {key: value for key, value in model.image.items() if key in shared}
        model.image = part("naflex", size=32, patch_size=8, patches=16, **keys)
    if case in DINO:
        del model["text"], model["logit"]
        model.embed_dim = 64
        model.image.update(DINO[case])
    model.update(changes)
    for spec in sections(model).values():
        if "depth" in spec:
            spec.depth = 1
    return model


def others(key, value):
    """Other values of a key, the likeliest to make a sound model first."""
    if key.choices:
        return [choice for choice in key.choices if choice != value]
    if key.name == "kind":
        return ["vit", "resnet", "regions", "transformer", "scale", "concat"]
    if key.type is tuple:
        return [value[::-1] if isinstance(value[0], str) else tuple(type(x)(x / 2) for x in value)]
    if key.type is bool:
        return [not value]
    return ["other"] if key.type is str else [(value or 1) * 2, (value or 0) + 1, 0]


def changed(model):
    """(path, model) of each sound model that differs in one key."""
    for path, key, value in of_model(model):
        if key.resumable:
            continue
        for other in others(key, value):
            result = ConfigDict(model.to_dict())
            if key.name == "kind":
                result[path.partition(".")[0]] = complete({"x": {"kind": other}}).x
            else:
                result.update_from_flattened_dict({path: other})
            try:
                check_model(result)
            except UserError:
                continue
            if other != value:
                yield path, result
                if not key.choices:
                    break


def facts(model):
    """What a model computes with, once it is trained."""
    return {
        path: value
        for path, key, value in of_model(model)
        if not key.resumable and path not in OF_READERS and TRAINING_ONLY not in key.marks
    }


NEEDS = pytest.mark.skipif(not pytorch.HERE, reason=pytorch.WHY)  # its files are PyTorch's own


@pytest.mark.parametrize(
    "case", [pytest.param("openai", marks=NEEDS), *sorted(BASES.keys() - {"openai"})]
)
def test_every_key_comes_back_or_is_refused_by_name(tmp_path, case):
    format, model, held, refused = BASES[case][0], base(case), set(), set()
    for number, (path, other) in enumerate([("", model), *changed(model)]):
        config = ConfigDict({"model": other, "data": entry(PREPROCESS, PREPROCESSED.get(case, {}))})
        folder = tmp_path / str(number)
        with pytest.raises(UserError) as error:
            registry.export(folder, format, config=config, params={})
        assert not folder.exists()
        if "cannot hold this model: " in str(error.value):
            refused.add(path)
            continue
        assert "the parameters lack" in str(error.value), path
        params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes(other))
        registry.export(folder, format, config=config, params=params)
        found = registry.open_weights(folder)
        assert facts(found.config.model) == facts(other), path
        jax.tree.map(np.testing.assert_array_equal, found.read(shapes(other)), params)
        held.add(path)
    assert "" in held
    depths = {f"{name}.depth" for name, spec in sections(model).items() if "depth" in spec}
    assert depths <= held  # and so other sizes are tried, too
    # Of BertForMaskedLM, RoBERTa's.
    offset = case in ("BertForMaskedLM", "ClapModel", "AltCLIPModel")
    assert ("text.position_offset" in held) == offset


@pytest.mark.parametrize(
    "case",
    [pytest.param("openai", marks=NEEDS), "open_clip", "CLIPModel", "XCLIPModel", "big_vision"],
)
def test_every_preprocessing_comes_back_or_is_refused_by_name(tmp_path, case):
    format, model, held = BASES[case][0], base(case), []
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes(model))
    for number, values in enumerate(itertools.product(*(key.choices for key in PREPROCESS))):
        data = dict(zip((key.name for key in PREPROCESS), values, strict=True))
        folder = tmp_path / str(number)
        try:
            config = ConfigDict({"model": model, "data": data})
            registry.export(folder, format, config=config, params=params)
        except UserError as error:
            assert f"{format} cannot hold config.data." in str(error)  # noqa: PT017
            assert not folder.exists()
            continue
        assert registry.open_weights(folder).config.data.to_dict() == data
        held.append(data)
    assert len(held) == {"openai": 1, "big_vision": 1}.get(case, 4)
