"""Exports say which texts their library reads otherwise: checked with the libraries themselves, for
every kind of tokenizer and every format."""

import json
import logging

import jax
import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from open_clip_oracle import open_clip
from pytorch import torch, transformers
from test_tokenizers import byte_pairs, gemma, pieces, word_piece

import mmjax
from mmjax import models
from mmjax.data import Tokenizer, train_tokenizer
from mmjax.data.keys import PREPROCESS
from mmjax.data.tokenize import END, OPEN_CLIP, START, clip_tokenizer, respelled
from mmjax.errors import UserError
from mmjax.interop import registry, texts
from mmjax.interop.formats import shapes
from mmjax.schema import entry

LENGTH = 77
MAKE = {
    "open_clip's": lambda _: clip_tokenizer(open_clip.tokenizer.default_bpe(), OPEN_CLIP),
    "OpenAI's": lambda _: clip_tokenizer(open_clip.tokenizer.default_bpe()),
    "of a CLIPModel": lambda _: Tokenizer(
        clip_tokenizer(open_clip.tokenizer.default_bpe()).wrapped, clean="", pad_id=49_407
    ),
    "trained": lambda _: train_tokenizer(["a photo of a cat", "two dogs"] * 3, 530),
    "word pieces": lambda folder: Tokenizer(word_piece(folder)),
    "RoBERTa's": lambda folder: Tokenizer(byte_pairs(folder)),
    "RoBERTa's, cleaned": lambda folder: Tokenizer(byte_pairs(folder), clean="whitespace"),
    "SigLIP's": lambda folder: Tokenizer(pieces(folder), clean="canonicalize"),
    "Gemma's": lambda folder: Tokenizer(gemma(folder), clean="canonicalize"),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = MAKE[kind](tmp_path_factory.mktemp("words"))
        return made[kind]

    return of


def model_of(tokenizer, **text):
    model = models.zoo.config("tiny")
    for part in (model.image, model.text):
        part.update(width=8, heads=1, mlp_dim=32, depth=1)
    model.text.update(vocab_size=tokenizer.vocab_size, context_length=LENGTH, **text)
    return ConfigDict({"model": model, "data": entry(PREPROCESS)})


def export(folder, format, config, tokenizer=None):
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes(config.model))
    registry.export(folder, format, config=config, params=params, tokenizer=tokenizer)
    return folder


def real(format, folder):
    """The library's own tokenizer of a folder: texts → ids."""
    if format == "open_clip":
        return open_clip.get_tokenizer(f"local-dir:{folder}", context_length=LENGTH)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    return lambda some: words(
        some, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np"
    )["input_ids"]


# Kind → how many of the awkward texts must come to the library as they are.
ALIKE = {
    ("open_clip", "open_clip's"),
    ("huggingface", "trained"),
    ("huggingface", "word pieces"),
    ("open_clip", "RoBERTa's, cleaned"),
    ("open_clip", "SigLIP's"),
    ("open_clip", "Gemma's"),
    ("huggingface", "of a CLIPModel"),
    ("huggingface", "RoBERTa's"),
}


@pytest.mark.parametrize("format", ["open_clip", "huggingface"])
@pytest.mark.parametrize("kind", MAKE)
def test_what_an_export_says_is_what_the_library_does(tmp_path, caplog, tokenizer, kind, format):
    words = tokenizer(kind)
    config, folder = model_of(words), tmp_path / "out"
    with caplog.at_level(logging.WARNING, "mmjax.interop"):
        export(folder, format, config, words)
    tried = texts.awkward(words)
    ids, mask = words.encode(tried, LENGTH)
    theirs = np.asarray(real(format, folder)(tried))
    differs = ((ids != theirs) & mask).any(axis=1)
    other = [text for text, differs in zip(tried, differs, strict=True) if differs]

    library = registry.FORMATS[format].library(folder, config, words)
    np.testing.assert_array_equal(np.asarray(library.encode(tried)), theirs)
    assert texts.differing(library, words, LENGTH, False) == (other, len(tried))
    card = (folder / "README.md").read_text()
    if not other:
        assert "awkward" not in caplog.text + card
    else:
        said = f"reads {len(other)} of {len(tried)} awkward texts otherwise"
        assert said in caplog.text
        assert said in card
        assert repr(other[0]) in card
    assert ((format, kind) in ALIKE) == (not other), other
    assert len(other) < len(tried)

    back = registry.open_weights(folder).tokenizer()
    np.testing.assert_array_equal(back.encode(tried, LENGTH)[0][mask], ids[mask])
    if format == "open_clip" and not words.clean:
        assert "tokenizer.clean_fn = str" in card
        as_they_are = real(format, folder)
        as_they_are.clean_fn = str
        np.testing.assert_array_equal(np.asarray(as_they_are(tried))[mask], ids[mask])


def test_a_format_with_a_tokenizer_of_its_own_says_so(tmp_path, caplog, tokenizer):
    assert torch.save  # what the format is written by
    for format, changes in (("openai", {"heads": 1, "mlp_dim": 256, "width": 64}),):
        config = model_of(tokenizer("trained"), activation="quick_gelu")
        config.model.image.update(changes, activation="quick_gelu")
        config.model.text.update(changes)
        with caplog.at_level(logging.WARNING, "mmjax.interop"):
            folder = export(tmp_path / format, format, config, tokenizer("trained"))
        said = "OpenAI's clip does not use this model's tokenizer"
        assert said in caplog.text
        assert said in (folder / "README.md").read_text()
        config.model.text.vocab_size = tokenizer("word pieces").vocab_size
        with pytest.raises(UserError, match="OpenAI's clip pools texts at their largest id"):
            export(tmp_path / "no", format, config, tokenizer("word pieces"))


def test_openais_tokenizer_is_known_by_its_merges(tokenizer):
    assert texts.is_openais(tokenizer("OpenAI's"))
    assert texts.is_openais(respelled(tokenizer("OpenAI's"), OPEN_CLIP))
    assert not texts.is_openais(tokenizer("of a CLIPModel"))
    words = tokenizer("OpenAI's")
    assert not texts.is_openais(tokenizer("trained"))
    assert respelled(tokenizer("open_clip's"), (START, END)).wrapped.get_vocab() == (
        words.wrapped.get_vocab()
    )


def test_weights_that_are_pooled_elsewhere_are_refused(tmp_path, tokenizer):
    """open_clip's argmax pools at the largest id: 0.55 off where the end token has another."""
    words = tokenizer("RoBERTa's")
    folder = export(tmp_path / "clip", "open_clip", model_of(words), words)
    file = folder / "open_clip_config.json"
    settings = json.loads(file.read_text())
    text = settings["model_cfg"]["text_cfg"]
    assert (text["pool_type"], text["eos_id"]) == ("eos", words.eot_id)
    registry.open_weights(folder).tokenizer()
    for change, said in (
        ({"pool_type": "argmax"}, r"largest id, which .* is not the end token 2"),
        ({"eos_id": 3}, r"at the id 3, but this tokenizer ends them with 2"),
    ):
        settings["model_cfg"]["text_cfg"] = text | change
        file.write_text(json.dumps(settings))
        with pytest.raises(UserError, match=rf"open_clip_config\.json pools texts .*{said}"):
            registry.open_weights(folder).tokenizer()

    words = tokenizer("Gemma's")
    folder = export(tmp_path / "hf", "huggingface", model_of(words), words)
    registry.open_weights(folder).tokenizer()
    settings = json.loads((folder / "config.json").read_text())
    for end, said in ((2, "largest id"), (7, "at the id 7")):
        settings["text_config"]["eos_token_id"] = end
        (folder / "config.json").write_text(json.dumps(settings))
        with pytest.raises(UserError, match=rf"config\.json pools texts at .*{said[3:]}"):
            registry.open_weights(folder).tokenizer()


@pytest.mark.parametrize("format", ["huggingface", "open_clip"])
def test_a_text_that_spells_an_end_token_is_pooled_as_in_the_exported_model(
    tmp_path, tokenizer, format
):
    """At the first one, here as in transformers and open_clip."""
    words, config = tokenizer("trained"), tiny.config()
    config.model.text.vocab_size = words.vocab_size
    params = tiny.params(models.from_config(config.model))
    path = tmp_path / "clip"
    registry.export(path, format, config=config, params=params, tokenizer=words)
    spelled = ["a red <|endoftext|> cat", "a red cat", "<|endoftext|>", "<|startoftext|> a red"]
    clip = mmjax.load(path)
    if format == "huggingface":
        model = transformers.CLIPModel.from_pretrained(path)
        theirs = transformers.AutoTokenizer.from_pretrained(path)
        inputs = theirs(spelled, return_tensors="pt", padding=True)
        with torch.inference_mode():
            found = model(**inputs, pixel_values=torch.zeros(1, 3, 16, 16))
        expected = found.text_embeds.numpy()
    else:
        theirs = open_clip.create_model(f"local-dir:{path}").eval()
        with torch.inference_mode():
            ids = open_clip.get_tokenizer(f"local-dir:{path}")(spelled)
            expected = theirs.encode_text(ids, normalize=True).numpy()
    found = clip.embed_texts(spelled)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
    assert np.abs(found[0] - found[1]).max() > 0.01
