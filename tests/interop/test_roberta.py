"""RoBERTa's positions begin after the id of padding, whatever that is, and no id of an exported
config is outside its vocabulary."""

import json

import jax
import numpy as np
import peers
import pytest
from ml_collections import ConfigDict
from pytorch import torch, transformers
from test_tokenizers import byte_pairs

from mmjax import models
from mmjax.data import Tokenizer, train_tokenizer
from mmjax.data.keys import PREPROCESS
from mmjax.errors import UserError
from mmjax.interop import registry
from mmjax.interop.formats import shapes
from mmjax.schema import entry


@pytest.mark.parametrize("pad", [0, 5])
def test_padding_of_any_id_goes_there_and_back(tmp_path, pad):
    name = "RobertaForMaskedLM"
    theirs = peers.make(name, pad_token_id=pad, max_position_embeddings=peers.LENGTH + pad + 1)
    theirs.save_pretrained(tmp_path / "in")
    weights = registry.open_weights(tmp_path / "in")
    text = weights.config.model.text
    assert (text.position_offset, text.context_length) == (pad + 1, peers.LENGTH)
    params = weights.read(shapes(weights.config.model))
    batch = peers.batch(pad=pad)
    batch["text"][batch["text_mask"] & (batch["text"] == pad)] = 7  # a text has none inside
    peers.assert_same(name, weights.config, params, theirs, batch)

    registry.export(tmp_path / "out", "huggingface", config=weights.config, params=params)
    again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    assert again.config.pad_token_id == pad
    peers.assert_same(name, weights.config, params, again, batch)


def roberta(vocab_size):
    model = models.zoo.config("tiny-bert")
    model.text.update(position_offset=2, mlm_head=True, vocab_size=vocab_size, context_length=12)
    config = ConfigDict({"model": model, "data": entry(PREPROCESS)})
    rng = np.random.default_rng(0)
    random = lambda x: (0.1 * rng.standard_normal(x.shape)).astype(np.float32)  # noqa: E731
    return config, jax.tree.map(random, shapes(model))


def test_a_tokenizer_without_its_padding_loads_and_says_what_differs(tmp_path, caplog):
    """As `--config=roberta_base:smoke` trains: id 1 is a letter, and padding the end token."""
    words = train_tokenizer(['a "photo" of a cat', "two dogs"] * 3, 530)
    config, params = roberta(words.vocab_size)
    folder = tmp_path / "out"
    registry.export(folder, "huggingface", config=config, params=params, tokenizer=words)
    said = "its positions skip the id 1: give it position_ids from 2 on"
    assert said in caplog.text
    assert said in (folder / "README.md").read_text()
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    assert model.config.max_position_embeddings == 14
    quoted = words.wrapped.convert_ids_to_tokens(1)
    texts = ["a cat", f"{quoted} two dogs"]
    ids, mask = words.encode(texts, 12)
    inputs = {"input_ids": torch.tensor(ids).long(), "attention_mask": torch.tensor(mask).long()}
    with torch.inference_mode():
        plain = model(**inputs).logits.numpy()
        placed = model(**inputs, position_ids=torch.arange(2, 14)[None]).logits.numpy()
    batch = {"text": ids, "text_mask": mask}
    found = peers.ours(config, params, batch, ("text/logits",))["text/logits"]
    np.testing.assert_allclose(found[mask], placed[mask], atol=1e-5, rtol=0)
    np.testing.assert_allclose(found[0][mask[0]], plain[0][mask[0]], atol=1e-5, rtol=0)
    assert (ids[1] == 1).any() == (np.abs(found[1] - plain[1])[mask[1]].max() > 1e-3)


def test_with_its_own_tokenizer_only_spelled_out_padding_differs(tmp_path, caplog):
    words = Tokenizer(byte_pairs(None))
    config, params = roberta(words.vocab_size)
    registry.export(tmp_path / "out", "huggingface", config=config, params=params, tokenizer=words)
    assert "reads 1 of" in caplog.text
    assert "('a <pad> b'): its positions skip the id 1" in caplog.text


def test_positions_that_no_padding_precedes_are_refused(tmp_path):
    config, params = roberta(64)
    config.model.text.position_offset = 65
    with pytest.raises(
        UserError, match="its positions begin after that of padding, which is an id"
    ):
        registry.export(tmp_path / "out", "huggingface", config=config, params=params)


@pytest.mark.parametrize("name", ["tiny", "tiny-siglip", "tiny-bert", "roberta"])
@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_ids_in_a_config_are_of_its_vocabulary(tmp_path, name, with_tokenizer):
    words = train_tokenizer(["a photo of a cat", "two dogs"] * 3, 530)
    if name == "roberta":
        config, _ = roberta(words.vocab_size)
    else:
        config = ConfigDict({"model": models.zoo.config(name), "data": entry(PREPROCESS)})
        config.model.text.vocab_size = words.vocab_size
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes(config.model))
    registry.export(
        tmp_path / "out", "huggingface", config=config, params=params,
        tokenizer=words if with_tokenizer else None,
    )  # fmt: skip
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    found = {
        key: value
        for part in (settings, settings.get("text_config", {}))
        for key, value in part.items()
        if key.endswith("_token_id") and value is not None
    }
    assert all(0 <= value < words.vocab_size for value in found.values()), found
    text = settings.get("text_config", settings)
    if with_tokenizer:
        assert text["eos_token_id"] == words.eot_id
        assert text["bos_token_id"] == words.start_id
