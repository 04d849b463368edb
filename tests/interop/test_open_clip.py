"""open_clip's folders, both ways, against open_clip's own models on random weights."""

import copy
import json
import sys

import jax
import numpy as np
import open_clip_oracle as oracle
import pytest
import safetensors.numpy
from ml_collections import ConfigDict
from open_clip_folders import (
    CLIP,
    COCA,
    MODELS,
    TEXT,
    TINY,
    VISION,
    assert_same,
    batch_of,
    build,
    load,
    of_timm,
    ours,
    register_tiny,
    save,
)
from open_clip_oracle import open_clip
from pytorch import torch, transformers

from mmjax import loading, models
from mmjax.data.tokenize import clip_tokenizer, train_tokenizer
from mmjax.errors import UserError
from mmjax.interop import formats, registry, start
from mmjax.interop.open_clip import tables
from mmjax.models.parts import part
from mmjax.models.towers.text import ignores_padding


@pytest.fixture(autouse=True)
def tiny_timm(monkeypatch):
    register_tiny(monkeypatch)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_open_clip_reads_computes_and_writes_as_there(tmp_path, name):
    settings = MODELS[name]
    theirs = build(settings)
    config, params = load(save(tmp_path / "theirs", settings, theirs))
    assert_same(config, params, theirs)

    registry.export(tmp_path / "ours", "open_clip", config=config, params=params)
    written = safetensors.numpy.load_file(tmp_path / "ours" / "open_clip_model.safetensors")
    expected = {
        key if tables.has_own_text(config.model) else key.removeprefix("text."): value.numpy()
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


def test_clipas_texts_end_in_the_id_of_padding(tmp_path):
    letters = [chr(c) for c in range(97, 123)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    vocabulary = {word: number for number, word in enumerate(words)}
    settings = CLIP | {
        "text_cfg": TEXT
        | {"hf_tokenizer_name": "bert", "tokenizer_kwargs": {"strip_sep_token": True},
           "pool_type": "last", "no_causal_mask": True},
    }  # fmt: skip
    folder = save(tmp_path / "theirs", settings, build(settings))
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    texts = ["a cat", "", "two dogs  run", "long " * 9]
    expected = open_clip.get_tokenizer(f"local-dir:{folder}")(texts).numpy()
    assert not (expected == words.index("[SEP]")).any()
    weights = registry.open_weights(folder)
    tokenizer = weights.tokenizer()
    np.testing.assert_array_equal(tokenizer.encode(texts, 16)[0], expected)
    params = weights.read(formats.shapes(weights.config.model))
    out = tmp_path / "ours"
    registry.export(out, "open_clip", config=weights.config, params=params, tokenizer=tokenizer)
    written = json.loads((out / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert written["tokenizer_kwargs"] == {"clean": "whitespace", "strip_sep_token": True}
    again = open_clip.get_tokenizer(f"local-dir:{out}")(texts)
    np.testing.assert_array_equal(again.numpy(), expected)
    np.testing.assert_array_equal(
        registry.open_weights(out).tokenizer().encode(texts, 16)[0], expected
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (CLIP | {"hyper_cfg": {}}, "model_cfg.hyper_cfg makes a model"),
        (COCA | {"text_cfg": COCA["text_cfg"] | {"pad_id": 1}}, "embed_cls .* pad_id other than 0"),
        (COCA | {"vision_cfg": VISION | {"attentional_pool": "parallel"}}, "pool='parallel' makes"),
        (CLIP | {"vision_cfg": VISION | {"pool_type": "none"}}, "vision_cfg.pool_type='none'"),
        (
            CLIP | {"text_cfg": {"hf_model_name": "bert"}},
            "text_cfg.hf_model_name='bert'.* it has r",
        ),
        (
            CLIP | {"text_cfg": {"hf_model_name": "roberta-base", "hf_pooler_type": "cls_pooler"}},
            "text_cfg.hf_pooler_type='cls_pooler'",
        ),
        (
            CLIP | {"vision_cfg": {"timm_model_name": "fastvit_mci0"}},
            "timm_model_name='fastvit_mci0' is an image tower that mmjax has not",
        ),
        (
            of_timm("eva02_tiny_patch8_clip_32", "avg", None),
            "timm_pool='avg' makes another model of eva02",
        ),
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
        ({"text": {"norm": "post"}}, "no encoder of transformers that open_clip has"),
        ({"other": part("cross")}, "it has the part 'other'"),
        ({"image": {"activation": "quick_gelu"}}, r"\.activation='.*' would come back as"),
        ({"image": {"pool": "mean"}}, "timm has no image tower like it: the nearest, .*pool='"),
        ({"image": {"pool": "map"}}, "the nearest, .*pool='cls', not 'map'"),
    ],
)
def test_what_open_clip_cannot_hold_is_said(tmp_path, change, reason):
    config, params = load(save(tmp_path / "theirs", CLIP, build(CLIP)))
    config.model.update(change)
    with pytest.raises(UserError, match=f"open_clip cannot hold this model: .*{reason}"):
        registry.export(tmp_path / "ours", "open_clip", config=config, params=params)
    assert not (tmp_path / "ours").exists()


def test_open_clip_to_hugging_face_and_back_changes_no_bit(tmp_path):
    theirs = build(CLIP | {"quick_gelu": True})
    config, params = load(save(tmp_path / "a", CLIP | {"quick_gelu": True}, theirs))
    registry.export(tmp_path / "b", "huggingface", config=config, params=params)
    config, params = load(tmp_path / "b")
    registry.export(tmp_path / "c", "open_clip", config=config, params=params)
    found = safetensors.numpy.load_file(tmp_path / "c" / "open_clip_model.safetensors")
    np.testing.assert_equal(found, oracle.state_of(theirs))


@pytest.mark.parametrize("case", ["pe_core without a class token", "eva02", "mobileclip"])
def test_positions_of_another_size_are_timms(tmp_path, case):
    """Learned positions are resized, rotary ones scaled to the native grid."""
    model = build(MODELS[case])
    weights = registry.open_weights(save(tmp_path / "in", MODELS[case], model))
    config = weights.config.copy_and_resolve_references()
    config.model.image.size = 48
    random = models.init(models.from_config(config.model), jax.random.key(0))
    params, _ = start.start_from(weights, config.model, random)

    kind, settings, _ = TINY[MODELS[case]["vision_cfg"]["timm_model_name"]]
    pool = MODELS[case]["vision_cfg"]["timm_pool"]
    trunk = oracle.tiny(kind, img_size=48, num_classes=32, global_pool=pool, **settings).eval()
    fit = sys.modules[type(trunk).__module__].checkpoint_filter_fn
    trunk.load_state_dict(fit(model.visual.trunk.state_dict(), trunk))
    batch = batch_of(config)
    image = (batch["image"] / 255.0 - config.model.image.mean) / config.model.image.std
    with torch.inference_mode():
        expected = trunk(torch.tensor(image.transpose(0, 3, 1, 2), dtype=torch.float32)).numpy()
    found = models.from_config(config.model).apply(
        {"params": params}, {"image": batch["image"]}, ("image/features",)
    )["image/features"]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
