"""open_clip's folders, both ways, against open_clip's own models on random weights."""

import copy
import functools
import json

import flax.traverse_util
import jax
import numpy as np
import open_clip_oracle as oracle
import pytest
import safetensors.numpy
from ml_collections import ConfigDict
from open_clip_oracle import open_clip
from pytorch import save_file, torch

from mmjax import loading, models
from mmjax.data.tokenize import clip_tokenizer, train_tokenizer
from mmjax.errors import UserError
from mmjax.interop import formats, registry, start
from mmjax.interop.open_clip import FAMILY, eva, tables, timm
from mmjax.interop.open_clip import config as settings_lib
from mmjax.models.parts import part
from mmjax.models.towers.text import ignores_padding

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
EVA = {"embed_dim": 32, "custom_text": True, "text_cfg": TEXT}
# As timm's vit_pe_core_* and eva02_*_clip_* call its class.
TINY_EVA = {
    "vit_pe_tiny_patch8_32": dict(
        global_pool="map", attn_type="rope", use_pre_transformer_norm=True, use_rot_pos_emb=True,
        ref_feat_shape=(4, 4), rope_grid_offset=1.0, rope_grid_indexing="xy",
        attn_pool_num_heads=8, attn_pool_mlp_ratio=4.0,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-5),
    ),
    "eva02_tiny_patch8_clip_32": dict(
        global_pool="token", qkv_fused=False, mlp_ratio=4 * 2 / 3, swiglu_mlp=True, scale_mlp=True,
        scale_attn_inner=True, use_rot_pos_emb=True, ref_feat_shape=(16, 16),
    ),
}  # fmt: skip
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
    "pe_core": EVA
    | {
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "vit_pe_tiny_patch8_32",
            "timm_pool": "map",
            "timm_proj": None,
        },
    },
    "eva02": EVA
    | {
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "eva02_tiny_patch8_clip_32",
            "timm_pool": "token",
            "timm_proj": None,
        },
    },
    "coca": COCA,
    "coca, as wide as its embedding": COCA | {"embed_dim": 64},
    "resnet": {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": TEXT | {"layers": 1},
    },
}


@pytest.fixture(autouse=True)
def tiny_timm(monkeypatch):
    """A SigLIP tower for tests: timm's own class, under a name that both sides know."""
    monkeypatch.setitem(timm.TOWERS, "tiny", (64, 2, 4, 256))
    monkeypatch.setitem(timm.NAMES, ("tiny", 8, 32), "gelu")
    oracle.register_tiny_siglip()
    shape = (8, 32, 64, 2, 4)
    for make, (name, settings) in zip((eva._pe, eva._eva02), TINY_EVA.items(), strict=True):
        monkeypatch.setitem(eva.TOWERS, name, make(*shape))
        oracle.register_tiny_eva(name, settings)


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
    text = np.zeros((count, length), np.int32)
    for row, n in zip(text, lengths, strict=True):
        row[: n - 1], row[n - 1] = rng.integers(1, EOT, n - 1), EOT
    image = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)  # coarse: ResNets average noise
    return {
        "image": image.repeat(size // 4, axis=1).repeat(size // 4, axis=2),
        "text": text,
        "text_mask": np.arange(length) < lengths[:, None],
    }


def ours(config, params, batch):
    looped = ConfigDict(config.model.to_dict())
    looped.image.unroll = looped.text.unroll = False  # the same, and compiles in half the time
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


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_open_clip_reads_computes_and_writes_as_there(tmp_path, name):
    settings = MODELS[name]
    theirs = build(settings)
    config, params = load(save(tmp_path / "theirs", settings, theirs))
    assert_same(config, params, theirs)

    registry.export(tmp_path / "ours", "open_clip", config=config, params=params)
    written = safetensors.numpy.load_file(tmp_path / "ours" / "open_clip_model.safetensors")
    expected = {
        key
        if name.startswith(("siglip", "coca", "pe_core", "eva02"))
        else key.removeprefix("text."): value.numpy()
        for key, value in theirs.state_dict().items()
        if not key.endswith("num_batches_tracked")  # of batch norms: counted in training only
        and not key.startswith("text_decoder.")
    }
    assert set(written) == set(expected)
    for key, value in expected.items():
        assert written[key].dtype == value.dtype
        np.testing.assert_array_equal(written[key], value, err_msg=key)

    again = open_clip.create_model(f"local-dir:{tmp_path / 'ours'}").eval()  # strict
    batch = batch_of(config)
    mean, std = config.model.image.mean, config.model.image.std
    for a, b in zip(
        oracle.outputs_of(again, batch, mean, std).values(),
        oracle.outputs_of(theirs, batch, mean, std).values(),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_cocas_texts_are_masked_as_it_was_trained(tmp_path):
    """open_clip takes id 0 for padding wherever it stands, and no text is trimmed."""
    theirs = build(COCA)
    weights = registry.open_weights(save(tmp_path, COCA, theirs))
    config, params = weights.config, weights.read(formats.shapes(weights.config.model))
    batch = batch_of(config)
    batch["text"][1:, 1] = 0  # "!" inside a word
    mine = ours(config, params, batch)
    expected = oracle.outputs_of(theirs, batch, config.model.image.mean, config.model.image.std)
    np.testing.assert_allclose(mine["text/embed"], expected["text/embed"], atol=1e-5, rtol=0)
    assert not ignores_padding(config.model.text)
    assert {name.split(".")[0] for name in weights.left} == {"text_decoder"}

    tokens = models.from_config(config.model).apply({"params": params}, batch, ("image/tokens",))
    pixels = batch["image"] / 255 - np.array(config.model.image.mean)
    pixels = torch.tensor((pixels / np.array(config.model.image.std)).transpose(0, 3, 1, 2)).float()
    with torch.inference_mode():
        np.testing.assert_allclose(
            tokens["image/tokens"], theirs.visual(pixels)[1].numpy(), atol=1e-5, rtol=0
        )


def test_coca_is_a_teacher_or_a_start_without_its_decoder(tmp_path, caplog):
    folder = save(tmp_path, COCA, build(COCA))
    model = registry.open_weights(folder).config.model
    longer = ConfigDict(model.to_dict())
    longer.text.context_length, longer.image.size = 20, 48
    params = jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape), formats.shapes(longer)))
    found, report = start.start_from(registry.open_weights(folder), longer, params)
    assert "text_decoder/cross_attn (" in str(report)
    source = load(folder)[1]["text"]["position_embed"]
    np.testing.assert_array_equal(found["text"]["position_embed"][-1], source[-1])
    assert found["text"]["position_embed"].shape == (21, 64)
    loading.load(folder)
    assert "left, as mmjax has no model for it: text_decoder/" in caplog.text


def test_half_precision_weights_become_float32_without_loss(tmp_path):
    half = build(CLIP).half()
    _, params = load(save(tmp_path / "half", CLIP, half))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    np.testing.assert_equal(params, load(save(tmp_path / "full", CLIP, half.float()))[1])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_training_checkpoint_reads_with_the_config_beside_it(tmp_path, prefix):
    settings = CLIP | {"custom_text": True}
    theirs = build(settings)
    file = tmp_path / "epoch_3.pt"
    state = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state, "optimizer": {"lr": 0.1}}, file)
    with pytest.raises(UserError, match=r"open_clip_config\.json .*beside it"):
        registry.open_weights(file)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    found, expected = load(file), load(save(tmp_path / "folder", settings, theirs))
    np.testing.assert_equal(found[1], expected[1])
    expected[0].model.name = "epoch_3"
    assert found[0] == expected[0]


@pytest.mark.parametrize(("size", "length"), [(56, 16), (16, 11), (32, 20)])
def test_positions_of_another_size_are_resized_as_open_clip_does(tmp_path, size, length):
    folder = save(tmp_path, CLIP, build(CLIP))
    settings = copy.deepcopy(CLIP)
    settings["vision_cfg"]["image_size"] = size
    settings["text_cfg"]["context_length"] = length
    content = {"model_cfg": settings, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    config, params = load(folder)
    for mine, name in (("image", "visual.positional_embedding"), ("text", "positional_embedding")):
        expected = theirs.state_dict()[name].numpy()
        found = params[mine]["position_embed"]
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max(), rtol=0)
    shapes = jax.tree.map(np.shape, formats.shapes(config.model))
    assert jax.tree.map(np.shape, params) == shapes


def test_preprocessing_goes_there_and_back(tmp_path):
    folder = save(
        tmp_path / "theirs", CLIP, build(CLIP), size=32, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6],
        interpolation="bilinear", resize_mode="squash",
    )  # fmt: skip
    config, params = load(folder)
    assert (config.data.resize, config.data.interpolation) == ("squash", "bilinear")
    registry.export(tmp_path / "ours", "open_clip", config=config, params=params)
    model = open_clip.create_model(f"local-dir:{tmp_path / 'ours'}")
    assert model.visual.preprocess_cfg == {
        "size": (32, 32), "mode": "RGB", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6],
        "interpolation": "bilinear", "resize_mode": "squash", "fill_color": 0,
    }  # fmt: skip


def test_tokenizers_are_those_that_open_clip_takes(tmp_path):
    texts = ["a photo of a CAT", "it&#39;s  a dog!", "", "x " * 40]
    own = clip_tokenizer(open_clip.tokenizer.default_bpe())
    trained = train_tokenizer(["a photo of a cat", "two dogs"] * 3, 530)
    for name, tokenizer in {"openai": own, "trained": trained}.items():
        settings = copy.deepcopy(CLIP)
        settings["text_cfg"]["vocab_size"] = tokenizer.vocab_size
        config, params = load(save(tmp_path / "theirs", settings, build(settings)))
        folder = tmp_path / name
        registry.export(folder, "open_clip", config=config, params=params, tokenizer=tokenizer)
        theirs = open_clip.get_tokenizer(f"local-dir:{folder}")
        assert isinstance(theirs, open_clip.SimpleTokenizer) == (name == "openai")
        mine = registry.open_weights(folder).tokenizer()
        if name == "trained":  # on texts as they are; see test_their_texts.py
            theirs.clean_fn = str
        np.testing.assert_array_equal(mine.encode(texts, 16)[0], theirs(texts).numpy())
    bare = registry.open_weights(tmp_path / "theirs").tokenizer()  # found in open_clip's wheel
    np.testing.assert_array_equal(bare.encode(texts, 16)[0], own.encode(texts, 16)[0])


PUBLISHED = {
    "ViT-B-32": (302, 151_277_313), "ViT-L-14-336": (446, 427_944_193), "ViT-H-14-quickgelu": None,
    "ViT-B-16-SigLIP": None, "ViT-SO400M-16-SigLIP2-256": None, "RN50x4": None,
    "coca_ViT-B-32": None, "coca_ViT-L-14": None,
}  # fmt: skip


def names_and_shapes(name):
    """Of one of open_clip's own model configs: `config.model`, our names and shapes, and theirs."""
    settings = open_clip.get_model_config(name)
    model = settings_lib.read_model(settings)
    shapes = flax.traverse_util.flatten_dict(formats.shapes(model), sep="/")
    mine = {}
    for row in tables.rows(model):
        of = [shapes[path].shape for path in row.paths]
        mine |= dict.fromkeys(row.names(of[0]), row.their_shape(of))
    custom = settings.pop("custom_text", False)
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
def test_published_architectures_have_the_names_and_shapes_of_open_clips(name):
    model, mine, theirs = names_and_shapes(name)
    assert mine == theirs
    if PUBLISHED[name]:
        assert (len(mine), sum(map(np.prod, mine.values()))) == PUBLISHED[name]
    assert FAMILY.differences(model) == []
    written = settings_lib.write_model(model, None)
    assert settings_lib.read_model(written) == model


@pytest.mark.long
def test_each_of_open_clips_configs_reads_as_it_is_or_is_refused():
    read, refused = [], []
    for name in open_clip.list_models():
        try:
            model, mine, theirs = names_and_shapes(name)
        except UserError:
            refused.append(name)
            continue
        assert mine == theirs, name
        assert FAMILY.differences(model) == [], name
        read.append(name)
    assert len(read) == 77
    usual = [name for name in refused if name.startswith(("ViT-", "RN", "coca_ViT"))]
    assert all("CLIPA" in name or name == "ViT-M-16-alt" for name in usual)  # mean, layer scale


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (CLIP | {"hyper_cfg": {}}, "model_cfg.hyper_cfg makes a model"),
        (COCA | {"text_cfg": COCA["text_cfg"] | {"pad_id": 1}}, "embed_cls .* pad_id other than 0"),
        (COCA | {"vision_cfg": VISION | {"attentional_pool": "parallel"}}, "pool='parallel' makes"),
        (CLIP | {"vision_cfg": VISION | {"pool_type": "avg"}}, "vision_cfg.pool_type='avg'"),
        (CLIP | {"text_cfg": TEXT | {"hf_model_name": "bert"}}, "text_cfg.hf_model_name='bert'"),
        (CLIP | {"vision_cfg": {"timm_model_name": "convnext"}}, "timm_model_name='convnext'"),
        (CLIP | {"vision_cfg": VISION | {"image_size": [32, 64]}}, "is not square"),
        (CLIP | {"text_cfg": TEXT | {"norm_kwargs": {"bias": False}}}, "norm_kwargs="),
        (CLIP | {"text_cfg": TEXT | {"act_kwargs": {"a": 1}}}, "act_kwargs="),
        ({"embed_dim": 3}, "no config of open_clip"),
    ],
)
def test_what_mmjax_has_no_model_for_is_said(tmp_path, settings, said):
    folder = save(tmp_path, settings, build(CLIP))
    with pytest.raises(UserError, match=said):
        registry.open_weights(folder)


def test_weights_of_another_model_are_said(tmp_path):
    folder = save(tmp_path, CLIP | {"text_cfg": TEXT | {"layers": 4}}, build(CLIP))
    with pytest.raises(UserError, match=r"lack transformer\.resblocks\.3"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"text": {"pool": "mean"}}, "text is pooled by 'mean'"),
        ({"text": {"norm": "post"}}, r"text\.norm='post' would"),
        ({"other": part("cross")}, "it has the part 'other'"),
        ({"image": {"activation": "quick_gelu"}}, r"image\.activation='quick_gelu' would"),
        ({"image": {"pool": "mean"}}, r"image\.pool='mean' would"),
        ({"image": {"pool": "map"}}, "timm has no SigLIP image tower"),
    ],
)
def test_what_open_clip_cannot_hold_is_said(tmp_path, change, reason):
    config, params = load(save(tmp_path / "theirs", CLIP, build(CLIP)))
    config.model.update(change)
    with pytest.raises(UserError, match=f"open_clip cannot hold this model: .*{reason}"):
        registry.export(tmp_path / "ours", "open_clip", config=config, params=params)
    assert not (tmp_path / "ours").exists()


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
    assert "vit_base_patch16_siglip_224 of timm has the activation 'gelu'" in reason


def test_open_clip_to_hugging_face_and_back_changes_no_bit(tmp_path):
    theirs = build(CLIP | {"quick_gelu": True})
    config, params = load(save(tmp_path / "a", CLIP | {"quick_gelu": True}, theirs))
    registry.export(tmp_path / "b", "huggingface", config=config, params=params)
    config, params = load(tmp_path / "b")
    registry.export(tmp_path / "c", "open_clip", config=config, params=params)
    found = safetensors.numpy.load_file(tmp_path / "c" / "open_clip_model.safetensors")
    np.testing.assert_equal(found, oracle.state_of(theirs))


@pytest.mark.parametrize("case", ["pe_core", "eva02"])
def test_positions_of_another_size_are_timms(tmp_path, case):
    """Learned positions are resized, rotary ones scaled to the native grid."""
    model = build(MODELS[case])
    weights = registry.open_weights(save(tmp_path / "in", MODELS[case], model))
    config = weights.config.copy_and_resolve_references()
    config.model.image.size = 48
    random = models.init(models.from_config(config.model), jax.random.key(0))
    params, _ = start.start_from(weights, config.model, random)

    name = MODELS[case]["vision_cfg"]["timm_model_name"]
    settings = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 32}
    eva_class = oracle.timm.models.eva
    trunk = eva_class.Eva(img_size=48, **settings, **TINY_EVA[name]).eval()
    trunk.load_state_dict(eva_class.checkpoint_filter_fn(model.visual.trunk.state_dict(), trunk))
    batch = batch_of(config)
    image = (batch["image"] / 255.0 - config.model.image.mean) / config.model.image.std
    with torch.inference_mode():
        expected = trunk(torch.tensor(image.transpose(0, 3, 1, 2), dtype=torch.float32)).numpy()
    found = models.from_config(config.model).apply(
        {"params": params}, {"image": batch["image"]}, ("image/features",)
    )["image/features"]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
