"""The real open_clip (and timm) as an oracle, where torchvision is missing or does not import.

Both import torchvision for image transforms that no test calls. While they are imported here,
stand-ins answer for it; afterwards they are gone, so that nothing else takes them for torchvision.
"""

import importlib.abc
import importlib.machinery
import sys
import types

import numpy as np
import pytorch
import transformers
from pytorch import torch

transformers.utils.is_torchvision_available()  # remembers the answer: never the stand-ins


class _Name(type):
    """A class of which any attribute exists: enums, decorators' arguments, base classes."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Module(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(name, (), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


def _import():
    stand_ins = _StandIns()
    sys.meta_path.insert(0, stand_ins)
    try:
        import open_clip
        import timm
    finally:
        sys.meta_path.remove(stand_ins)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    return open_clip, timm


open_clip, timm = _import() if pytorch.HERE else (pytorch.Absent(), pytorch.Absent())


def randomise(model, seed=0):
    """Every parameter and buffer away from its initial zero or one, so that each matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in model.state_dict().items():
            if not x.is_floating_point() or name in ("logit_scale", "logit_bias"):
                continue
            spread = 0.1 if x.ndim < 2 else x[0].numel() ** -0.5
            noise = spread * torch.randn(x.shape, generator=generator)
            if name.endswith("running_var"):
                x.copy_(1 + noise.abs())
            elif x.ndim < 2 and name.endswith("weight"):
                x.copy_(1 + noise)
            else:
                x.copy_(noise)
    return model.eval()


def state_of(model):
    return {name: x.numpy() for name, x in model.state_dict().items()}


def outputs_of(model, batch, mean, std):
    """Unit embeddings of a batch as mmjax has it, and the logits per image."""
    image = (batch["image"].astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    with torch.inference_mode():
        image, text = torch.tensor(image.transpose(0, 3, 1, 2)), torch.tensor(batch["text"]).long()
        images, texts = (model.encode_image(image, normalize=True),
                         model.encode_text(text, normalize=True))  # fmt: skip
        if hasattr(model, "get_logits"):
            logits = model.get_logits(image, text)[0]
        else:  # CoCa
            logits = model.logit_scale.exp() * images @ texts.T
        return {
            "image/embed": images.numpy(),
            "text/embed": texts.numpy(),
            "logits": logits.numpy(),
        }


def register_tiny_siglip(name="vit_tiny_patch8_siglip_32", **options):
    """Lets open_clip build timm's SigLIP tower in a size for tests, under a name."""
    register_tiny(name, "VisionTransformer", {"class_token": False, **options})


def register_tiny(name, kind, settings):
    """The same for a class of timm: what `settings` says over the shape of all in tests."""
    if timm.is_model(name):
        return

    def entry(pretrained=False, **kwargs):
        unused = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "drop_path_rate")
        kwargs = {key: value for key, value in kwargs.items() if key not in unused}
        model = tiny(kind, **settings | kwargs)
        model.default_cfg = {}
        return model

    entry.__module__, entry.__name__ = CLASSES[kind].__module__, name
    timm.models.register_model(entry)


def tiny(kind, **settings):
    """A model of a class of timm in the shape of all in tests."""
    if kind == "ConvNeXt":
        return CLASSES[kind](**settings)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}
    return CLASSES[kind](**shape | settings)


CLASSES = {}
if pytorch.HERE:
    CLASSES = {
        "VisionTransformer": timm.models.VisionTransformer,
        "Eva": timm.models.eva.Eva,
        "ConvNeXt": timm.models.convnext.ConvNeXt,
    }


def give_encoder(monkeypatch, **settings):
    """Makes open_clip's text towers from transformers those of a config, which is fetched by name
    otherwise."""
    config = transformers.XLMRobertaConfig(
        pad_token_id=1, bos_token_id=0, eos_token_id=2, type_vocab_size=1, layer_norm_eps=1e-5,
        max_position_embeddings=514, **settings,
    )  # fmt: skip
    monkeypatch.setattr(
        open_clip.hf_model.AutoConfig, "from_pretrained", lambda name, **kwargs: config
    )
