"""OpenAI's CLIP files: TorchScript archives without running them, state dicts, and back."""

import pickle
import zipfile

import jax
import numpy as np
import open_clip_oracle as oracle
import pytest
from open_clip_oracle import open_clip
from pytorch import torch

from mmjax import models
from mmjax.data import clip_bpe as bpe
from mmjax.data.tokenize import clip_tokenizer, load_tokenizer
from mmjax.errors import UserError
from mmjax.interop import formats, registry, torchscript

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit")  # deprecated; OpenAI used it
TEXT = {"context_length": 16, "vocab_size": 512, "width": 64, "heads": 1, "layers": 2}
VIT = {"image_size": 32, "patch_size": 8, "width": 128, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 1, 2, 1], "width": 16, "patch_size": None}
MARKS = {"input_resolution": 32, "context_length": 16, "vocab_size": 512}


def build(vision):
    """A CLIP of OpenAI's kind as published: half precision where OpenAI's is."""
    model = open_clip.model.CLIP(
        embed_dim=32, vision_cfg=dict(vision), text_cfg=dict(TEXT), quick_gelu=True
    )
    oracle.randomise(model)
    open_clip.model.convert_weights_to_lp(model)
    return model


def published_state(model):
    state = dict(model.state_dict())
    size = model.visual.image_size
    size = size[0] if isinstance(size, tuple) else size
    return state | {k: torch.tensor(v) for k, v in (MARKS | {"input_resolution": size}).items()}


class Published(torch.nn.Module):
    """A module with the parameters of a state dict, and a program of its own."""

    def __init__(self, state):
        super().__init__()
        for name, value in state.items():
            *parents, last = name.split(".")
            node = self
            for parent in parents:
                if not hasattr(node, parent):
                    node.add_module(parent, torch.nn.Module())
                node = getattr(node, parent)
            node.register_buffer(last, value)

    def forward(self, x):
        return x * self.logit_scale.exp()


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """(the model, its archive)"""
    model = build(VIT)
    file = tmp_path_factory.mktemp("openai") / "ViT-T-8.pt"
    program = Published(published_state(model))
    program.transformer.resblocks.attn_mask = torch.zeros(16, 16)  # no parameter, as in theirs
    archive = torch.jit.trace(program, torch.ones(1))
    torch.jit.save(archive, file)
    return model, file


def load(path):
    weights = registry.open_weights(path)
    return weights.config, weights.read(formats.shapes(weights.config.model))


def test_an_archive_has_the_names_and_values_that_pytorch_finds(vit):
    _, file = vit
    found = torchscript.open_archive(file)
    expected = torch.jit.load(file).state_dict()
    assert set(found) - {"transformer.resblocks.attn_mask"} == set(expected) >= set(MARKS)
    for name, value in expected.items():
        array = np.asarray(found[name])
        assert found[name].shape == array.shape == tuple(value.shape)
        assert array.dtype == value.numpy().dtype
        np.testing.assert_array_equal(array, value.numpy(), err_msg=name)


@pytest.mark.parametrize("vision", [VIT, RESNET], ids=["vit", "resnet"])
def test_it_reads_computes_and_writes_as_published(tmp_path, vit, vision):
    if vision is VIT:
        theirs, file = vit
    else:
        theirs, file = build(vision), tmp_path / "RN.pt"
        torch.save(published_state(theirs), file)
    expected = published_state(theirs)
    config, params = load(file)
    assert config.model.text.activation == "quick_gelu"
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}

    batch, image = batch_of(config), config.model.image
    peer = oracle.outputs_of(theirs.float(), batch, image.mean, image.std)
    if vision is VIT:  # test_open_clip.py compiles a ResNet
        model = models.from_config(config.model)
        outputs = ("image/embed", "text/embed", "logit/scale")
        mine = jax.jit(model.apply, static_argnums=2)({"params": params}, batch, outputs)
        for name in ("image/embed", "text/embed"):
            np.testing.assert_allclose(mine[name], peer[name], atol=1e-5, rtol=0)
        scale = float(mine["logit/scale"])
        logits = scale * mine["image/embed"] @ mine["text/embed"].T
        np.testing.assert_allclose(logits, peer["logits"], atol=1e-6 * scale, rtol=0)

    registry.export(tmp_path / "out", "openai", config=config, params=params)
    written = torch.load(tmp_path / "out" / "model.pt")
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    assert set(written) == set(expected) - counters
    for name, value in written.items():
        assert value.dtype == expected[name].dtype, name
        assert torch.equal(value, expected[name]), name
    again = open_clip.openai.load_openai_model(str(tmp_path / "out" / "model.pt"), device="cpu")
    found = oracle.outputs_of(again, batch, image.mean, image.std)
    np.testing.assert_array_equal(found["logits"], peer["logits"])
    reread = load(tmp_path / "out")
    np.testing.assert_equal(reread[1], params)


def batch_of(config, count=3):
    rng, size = np.random.default_rng(1), config.model.image.size
    image = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    text = rng.integers(1, 511, (count, 16)).astype(np.int32)
    lengths = np.array([5, 9, 16])
    text[np.arange(count), lengths - 1] = 511
    text = np.where(np.arange(16) < lengths[:, None], text, 0)
    return {
        "image": image.repeat(size // 4, axis=1).repeat(size // 4, axis=2),
        "text": text,
        "text_mask": np.arange(16) < lengths[:, None],
    }


def test_what_half_precision_cannot_hold_stays_float32(tmp_path, vit):
    config, params = load(vit[1])
    kernel = params["image"]["blocks"]["mlp"]["fc1"]["kernel"]
    kernel[0, 0, 0] = np.float32(0.1)
    registry.export(tmp_path / "out", "openai", config=config, params=params)
    state = torch.load(tmp_path / "out" / "model.pt")
    name = "visual.transformer.resblocks.{}.mlp.c_fc.weight"
    assert state[name.format(0)].dtype == torch.float32
    assert state[name.format(1)].dtype == torch.float16
    np.testing.assert_equal(load(tmp_path / "out")[1], params)


def test_the_tokenizer_is_found_or_asked_for(tmp_path, vit, monkeypatch):
    weights = registry.open_weights(vit[1])
    texts = ["a photo of a cat", "it&#39;s"]
    expected = open_clip.tokenize(texts).numpy()
    np.testing.assert_array_equal(weights.tokenizer().encode(texts, 77)[0], expected)

    for name in ("clip", open_clip.tokenizer.default_bpe()):  # as config.data.tokenizer
        np.testing.assert_array_equal(load_tokenizer(name).encode(texts, 77)[0], expected)

    monkeypatch.setattr(bpe.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="tokenizer of CLIP is not on this machine: pip install"):
        load_tokenizer("clip")
    with pytest.raises(UserError, match=r"put OpenAI's bpe_simple_vocab_16e6\.txt\.gz"):
        weights.tokenizer()
    config, params = load(vit[1])
    own = clip_tokenizer(open_clip.tokenizer.default_bpe())
    registry.export(tmp_path / "out", "openai", config=config, params=params, tokenizer=own)
    saved = registry.open_weights(tmp_path / "out").tokenizer()
    np.testing.assert_array_equal(saved.encode(texts, 77)[0], expected)


def test_weights_of_unknown_activation_are_not_guessed(tmp_path, vit):
    torch.save(vit[0].state_dict(), tmp_path / "clip.pt")
    with pytest.raises(UserError, match="holds weights of a CLIP, but not which"):
        registry.open_weights(tmp_path / "clip.pt")


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("damage", ["code", "cut", "beyond", "empty"])
def test_bad_archives_are_one_sentence_and_run_nothing(tmp_path, vit, damage, capsys):
    file = tmp_path / "bad.pt"
    with zipfile.ZipFile(vit[1]) as source, zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("/data.pkl"):
                data = {"code": pickle.dumps(Evil()), "cut": data[:500]}.get(damage, data)
                if damage == "empty":
                    continue
            if damage == "beyond" and "/data/" in name:
                data = data[: len(data) // 2]
            target.writestr(name, data)
    said = {"code": r"names builtins\.print, which no weights need"}.get(damage, "is damaged")
    with pytest.raises(UserError, match=said):
        load(file)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"logit": {"bias": -1.0}}, r"logit\.bias=-1\.0 would"),
        ({"image": {"mean": (0.5, 0.5, 0.5)}}, r"image\.mean="),
        ({"text": {"activation": "gelu"}}, r"text\.activation='gelu' would"),
        ({"image": {"heads": 4}}, r"image\.heads=4 would come back as"),
        ({"text": {"mlp_dim": 32}}, r"text\.mlp_dim=32 would"),
        ({"image": {"norm_eps": 1e-6}}, r"image\.norm_eps=1e-06 would"),
        ({"image": {"norm_pre": False}}, r"image\.norm_pre=False would"),
    ],
)
def test_what_openais_format_cannot_hold_is_said(tmp_path, vit, change, reason):
    config = registry.open_weights(vit[1]).config
    config.model.update(change)
    with pytest.raises(UserError, match=f"OpenAI's CLIP cannot hold this model: .*{reason}"):
        registry.export(tmp_path / "out", "openai", config=config, params={})


def test_other_preprocessing_is_not_lost(tmp_path, vit):
    config, params = load(vit[1])
    config.data.resize = "squash"
    with pytest.raises(UserError, match=r"openai cannot hold config\.data\.resize='squash'"):
        registry.export(tmp_path / "out", "openai", config=config, params=params)
