"""The architectures that open_clip ships: names and shapes of all weights, and the zoo's own."""

import flax.traverse_util
import numpy as np
import pytest
from open_clip_oracle import give_encoder, open_clip
from pytorch import torch

from mmjax import models
from mmjax.errors import UserError
from mmjax.interop import formats
from mmjax.interop.open_clip import FAMILY, tables
from mmjax.interop.open_clip import config as settings_lib
from mmjax.models.published import OPEN_CLIP

PUBLISHED = {
    "ViT-B-32": (302, 151_277_313), "ViT-L-14-336": (446, 427_944_193), "ViT-H-14-quickgelu": None,
    "ViT-B-16-SigLIP": None, "ViT-SO400M-16-SigLIP2-256": None, "RN50x4": None,
    "coca_ViT-B-32": None, "coca_ViT-L-14": None, "PE-Core-B-16": None, "EVA02-L-14-336": None,
    "xlm-roberta-base-ViT-B-32": None,
}  # fmt: skip
# As their config.json on the hub says.
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
         "intermediate_size": 3072}  # fmt: skip
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
          "intermediate_size": 4096}  # fmt: skip
ENCODERS = {
    "roberta-base": {"vocab_size": 50265, **_BASE},
    "xlm-roberta-base": {"vocab_size": 250002, **_BASE},
    "xlm-roberta-large": {"vocab_size": 250002, **_LARGE},
}


def names_and_shapes(name, monkeypatch):
    """Of one of open_clip's own model configs: `config.model`, our names and shapes, and theirs."""
    settings = open_clip.get_model_config(name)
    model = settings_lib.read_model(settings)
    shapes = flax.traverse_util.flatten_dict(formats.shapes(model), sep="/")
    mine = {}
    for row in tables.rows(model):
        of = [shapes[path].shape for path in row.paths]
        mine |= dict.fromkeys(row.names(of[0]), row.their_shape(of))
    custom = settings.pop("custom_text", False)
    encoder = settings["text_cfg"].get("hf_model_name")
    if encoder:
        custom = True  # as in its create_model
        settings["text_cfg"]["hf_model_pretrained"] = False
        give_encoder(monkeypatch, **ENCODERS[encoder])
    with torch.device("meta"):
        kind = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
        kind = open_clip.CoCa if "multimodal_cfg" in settings else kind
        theirs = kind(**settings).state_dict()
    theirs = {
        k: tuple(v.shape)
        for k, v in theirs.items()
        if "num_batches_tracked" not in k and "text_decoder" not in k
    }
    if not tables.has_own_text(model):
        theirs = {name.removeprefix("text."): shape for name, shape in theirs.items()}
    return model, mine, theirs


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_architectures_have_the_names_and_shapes_of_open_clips(name, monkeypatch):
    model, mine, theirs = names_and_shapes(name, monkeypatch)
    assert mine == theirs
    if PUBLISHED[name]:
        assert (len(mine), sum(map(np.prod, mine.values()))) == PUBLISHED[name]
    assert FAMILY.differences(model) == []
    written = settings_lib.write_model(model, None)
    assert settings_lib.read_model(written) == model


@pytest.mark.long
def test_each_of_open_clips_configs_reads_as_it_is_or_is_refused(monkeypatch):
    read, refused = [], []
    for name in open_clip.list_models():
        try:
            model, mine, theirs = names_and_shapes(name, monkeypatch)
        except UserError:
            refused.append(name)
            continue
        assert mine == theirs, name
        assert FAMILY.differences(model) == [], name
        read.append(name)
    tags = [name in read for name, _ in open_clip.list_pretrained()]
    assert {
        "version": open_clip.__version__,
        "configs": (len(read), len(read) + len(refused)),
        "pretrained tags": (sum(tags), len(tags)),
    } == OPEN_CLIP
    assert not [name for name in refused if name.startswith(("ViT-", "RN", "coca", "PE", "EVA"))]


@pytest.mark.parametrize("ours", ["CoCa-B/32", "CoCa-L/14", "RN50", "ViT-H/14"])
def test_the_zoo_has_open_clips_architectures(ours):
    theirs = {"CoCa": "coca_ViT"}.get(name := ours.partition("-")[0], name)
    theirs += ours.removeprefix(name).replace("/", "-")
    read = settings_lib.read_model(open_clip.get_model_config(theirs))
    read.name = ours
    assert read == models.zoo.config(ours)


def test_an_activation_that_timm_does_not_have_is_said():
    model = models.zoo.config("SigLIP-B/16-224")  # as Google trained it; timm took another GELU
    (reason,) = settings_lib.obstacles(model)
    assert "vit_base_patch16_siglip_224, has activation='gelu', not 'gelu_tanh'" in reason
