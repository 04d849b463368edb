"""Tokenizers of the families, each from files beside weights: transformers' own ids, in and out."""

import pickle

import numpy as np
import peers
import pytest
import sentencepiece
import tokenizers
from pytorch import transformers

import mmjax
from mmjax.data import load_tokenizer

TEXTS = ["A Red cat, on a mat!", "two dogs", "the dark moon", "naïve 日本 ☃", "", "x " * 40]
CORPUS = ["a red cat on a mat", "two dogs run", "the moon over a dark sea", "x y z"] * 5


def word_piece(_):
    letters = [chr(c) for c in range(97, 123)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    return transformers.BertTokenizer(vocab={word: i for i, word in enumerate([*words, "the"])})


def byte_pairs(_):
    """RoBERTa's: bytes and their merges between <s> and </s>, padded with id 1."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokens += sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t"), ("Ġ", "a")]
    vocab = {token: i for i, token in enumerate([*tokens, *("".join(pair) for pair in merges)])}
    return transformers.RobertaTokenizer(vocab=vocab, merges=merges)


def pieces(folder):
    """SigLIP's: sentencepiece on lower-case text without punctuation, padded with its end token."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_prefix=str(folder / "spiece"), vocab_size=60,
        hard_vocab_limit=False, bos_id=-1, pad_id=-1, eos_id=1, unk_id=2, minloglevel=2,
    )  # fmt: skip
    return transformers.SiglipTokenizer(str(folder / "spiece.model"))


def gemma(_):
    """SigLIP 2's: pieces of Gemma with bytes for what is unknown, and an end, but no start."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
    tokens += ["▁", *(chr(c) for c in range(97, 123)), "ca", "cat"]
    vocab = {token: i for i, token in enumerate(tokens)}
    wrapped = transformers.GemmaTokenizer(vocab=vocab, merges=[("c", "a"), ("ca", "t")],
                                         padding_side="right")  # fmt: skip
    wrapped.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return wrapped


def ids(wrapped, length):
    rows = wrapped(
        TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="np"
    )
    return rows["input_ids"], rows["attention_mask"]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("BertForMaskedLM", word_piece),
        ("RobertaModel", byte_pairs),
        ("SiglipModel", pieces),
        ("SiglipModel", gemma),
    ],
)
def test_ids_are_those_of_transformers(tmp_path, name, make):
    wrapped = make(tmp_path)
    folder = tmp_path / "in"
    peers.make(name).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    model = mmjax.load(folder)
    expected, mask = ids(wrapped, peers.LENGTH)
    found = model.tokenize(TEXTS)
    np.testing.assert_array_equal(found["text"], expected)
    np.testing.assert_array_equal(found["text_mask"], mask)
    assert model.tokenizer.vocab_size > found["text"].max()

    model.export(tmp_path / "out", "huggingface")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    np.testing.assert_array_equal(ids(again, peers.LENGTH)[0], expected)
    worker = pickle.loads(pickle.dumps(load_tokenizer(tmp_path / "out")))  # as for data workers
    np.testing.assert_array_equal(worker.encode(TEXTS, peers.LENGTH)[0], expected)
