"""Tokenizers: our rows against transformers' own, training, and what cannot be loaded."""

import json
import pickle

import numpy as np
import pytest
import tokenizers
from transformers import AutoTokenizer, BertTokenizer, CLIPTokenizer, PreTrainedTokenizerFast

from mmjax.data import load_tokenizer, train_tokenizer
from mmjax.errors import UserError

CAPTIONS = [
    "a red apple on a table",
    "The smiling FACE with heart eyes!",
    "a green apple, it's 12 o'clock",
    "two apples and a café table",
] * 5
ODD = ["", "  spaces\tand\nlines ", "漢字 é!", "🎉🎉", "x " * 40, "<|endoftext|> inside", "I'LL"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_tokenizer(CAPTIONS, 600)
    tokenizer.save(folder)
    return tokenizer, folder


@pytest.mark.parametrize("kind", [CLIPTokenizer, AutoTokenizer])
def test_a_trained_tokenizer_is_a_clip_tokenizer_to_transformers(trained, kind):
    tokenizer, folder = trained
    theirs = kind.from_pretrained(folder)
    expected = theirs(
        CAPTIONS + ODD, padding="max_length", truncation=True, max_length=16, return_tensors="np"
    )
    ids, mask = tokenizer.encode(CAPTIONS + ODD, 16)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"].astype(bool))
    assert len(theirs) == tokenizer.vocab_size
    assert theirs.decode(ids[1], skip_special_tokens=True) == "the smiling face with heart eyes !"


def test_rows_are_start_tokens_end_padding(trained):
    tokenizer, _ = trained
    ids, mask = tokenizer.encode(["a red apple", "x " * 40], 8)
    assert (ids[:, 0] == tokenizer.start_id).all()
    for row, valid in zip(ids, mask, strict=True):
        assert row[valid.sum() - 1] == tokenizer.eot_id
        assert (row[~valid] == tokenizer.pad_id).all()
    assert mask[1].all(), "the long text was not cut to the length"


def test_training_is_deterministic():
    """Every pair here is as frequent as every other, and hash tables are in another order each
    time."""
    captions = [
        f"x{mark} y{letter}" for mark, letter in zip("!?,;:+=&%$", "äöüßéèêáàâ", strict=True)
    ]
    vocabularies = [train_tokenizer(iter(captions * 3), 560).wrapped.get_vocab() for _ in range(4)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)


def test_training_is_bounded(trained):
    tokenizer, folder = trained
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert sorted(vocab.values()) == list(range(len(vocab)))
    assert len(vocab) == tokenizer.vocab_size <= 600
    assert (tokenizer.start_id, tokenizer.eot_id) == (len(vocab) - 2, len(vocab) - 1)
    assert train_tokenizer(CAPTIONS, 530).vocab_size == 530
    words = tokenizer.encode(["apple"], 8)[1].sum()
    letters = train_tokenizer(CAPTIONS, 515).encode(["apple"], 8)[1].sum()
    assert words == 3 < letters, "nothing was merged"


def test_every_text_survives_the_round_trip(trained):
    """All bytes are in the vocabulary, so unseen scripts decode to themselves."""
    tokenizer, folder = trained
    theirs = CLIPTokenizer.from_pretrained(folder)
    for text in ("漢字", "🎉", "ñandú"):
        ids, mask = tokenizer.encode([text], 32)
        assert tokenizer.eot_id not in ids[0][mask[0]][:-1]
        assert theirs.decode(ids[0][mask[0]], skip_special_tokens=True) == text


def test_training_says_what_it_needs():
    with pytest.raises(UserError, match="at least 515 tokens, not 500"):
        train_tokenizer(CAPTIONS, 500)
    with pytest.raises(UserError, match="no captions to train"):
        train_tokenizer([], 1000)


def test_saved_loaded_and_pickled_are_the_same(trained):
    tokenizer, folder = trained
    for other in (load_tokenizer(folder), pickle.loads(pickle.dumps(tokenizer))):
        for a, b in zip(tokenizer.encode(ODD, 12), other.encode(ODD, 12), strict=True):
            np.testing.assert_array_equal(a, b)
        assert other.pad_id == tokenizer.pad_id


def test_bert_wordpiece(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "app", "##le", "##s"]
    theirs = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    theirs.save_pretrained(tmp_path)
    ids, mask = load_tokenizer(tmp_path).encode(["a red apples", "a", "a a a a a a a a a"], 8)
    np.testing.assert_array_equal(ids[0], [2, 5, 6, 7, 8, 9, 3, 0])
    np.testing.assert_array_equal(ids[1], [2, 5, 3, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(ids[2], [2, 5, 5, 5, 5, 5, 5, 3])
    np.testing.assert_array_equal(mask.sum(axis=1), [7, 3, 8])


def test_unigram_with_an_end_token_only(tmp_path):
    """As SigLIP and T5: sentencepiece pieces, </s> at the end, nothing in front."""
    model = tokenizers.models.Unigram(
        [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁a", -1.0), ("▁red", -2.0)], unk_id=2
    )
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    ids, _ = tokenizer.encode(["a red", "red a a a a"], 4)
    np.testing.assert_array_equal(ids, [[3, 4, 1, 0], [4, 3, 3, 1]])
    assert tokenizer.start_id is None


def test_an_end_token_is_put_where_the_tokenizer_puts_none(tmp_path):
    """As GPT-2."""
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"a": 0, "red": 1, "<end>": 2, "?": 3}, unk_token="?")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="?")
    wrapped.save_pretrained(tmp_path / "with")
    ids, mask = load_tokenizer(tmp_path / "with").encode(["a red", "a a a a a"], 4)
    np.testing.assert_array_equal(ids, [[0, 1, 2, 2], [0, 0, 0, 2]])
    np.testing.assert_array_equal(mask.sum(axis=1), [3, 4])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    wrapped.save_pretrained(tmp_path / "without")
    with pytest.raises(UserError, match="no end-of-text token"):
        load_tokenizer(tmp_path / "without")


def test_an_unknown_tokenizer_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="'no/such-tokenizer': give a local folder"):
        load_tokenizer("no/such-tokenizer")
    with pytest.raises(UserError, match=r"should hold tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_length_without_room_is_refused(trained):
    with pytest.raises(UserError, match="length of 1 has no room"):
        trained[0].encode(["a"], 1)
