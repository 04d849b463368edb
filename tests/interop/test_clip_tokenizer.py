"""Cleaned texts and their ids are those of open_clip, whose tokenizer ships in its wheel."""

import gzip
import html
import pickle
import random

import numpy as np
import pytest
from open_clip_oracle import open_clip
from transformers import AutoTokenizer

from mmjax.data import load_tokenizer
from mmjax.data.clean import cleaner
from mmjax.data.tokenize import clip_tokenizer
from mmjax.errors import UserError

PIECES = (
    "a photo of",
    "The QUICK brown-fox",
    "it's",
    "they'LL we'Ve I'd",
    "don\u2019t \u201cquote\u201d",
    "naïve café Ångström",
    "e\u0301 n\u0303 J\u030c",
    "Straße İstanbul ΣΑΣ ﬁn",
    "漢字かな交じり文",
    "한국어 문장",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "Привет, МИР!",
    "שלום עולם",
    "ภาษาไทย",
    "👩‍👩‍👧‍👦 family",
    "🎉🎉🔥",
    "🇩🇪🏴‍☠️",
    "&amp; &lt;b&gt; &#39;x&#39;",
    "&amp;amp;lt;",
    "&eacute;&nbsp;&copy;",
    "<br>x</br> &hearts;",
    "cafÃ© â€œbadâ€\x9d",
    "\x00\x07\x1b[0m",
    "\t tab\n\r\x0b\x0c line",
    "\u200b\u200d\ufeff\u2028 z",
    "\x85\x1c\x1f",
    "１２３ ½ Ⅷ ²",
    "3.14159 1,000,000 2024-01-01",
    "!!!??? ...",
    "#hash @name http://x.y/z?q=1&r=2",
    "C++ & C#",
    "_under_score__",
    "supercalifragilisticexpialidocious" * 3,
    "ａｂｃ ＦＵＬＬ",
    "^_^ ¯\\_(ツ)_/¯",
    "€£¥ ©®™ °",
    "\ud7ff \ue000 \ufffd",
    "",
)


def awkward(count=1000):
    """Mixtures of the pieces: joined, shuffled, cut inside, escaped; some empty, some over-long."""
    rng = random.Random(0)
    texts = list(PIECES)
    while len(texts) < count:
        text = rng.choice(("", " ", "  ", "-")).join(rng.choices(PIECES, k=rng.randint(1, 5)))
        change = rng.randrange(6)
        if change == 0:
            text = html.escape(text)
        elif change == 1:
            text = "".join(rng.sample(text, len(text)))
        elif change == 2:
            text = text[rng.randrange(len(text) + 1) :]
        elif change == 3:
            text = text * rng.randint(1, 8)
        elif change == 4:
            text = text.upper()
        texts.append(text)
    return texts


@pytest.fixture(scope="module")
def tokenizer():
    return clip_tokenizer(open_clip.tokenizer.default_bpe())


@pytest.mark.parametrize("length", [77, 16])
def test_a_thousand_awkward_texts_have_open_clips_ids(tokenizer, length):
    texts = awkward()
    ids, mask = tokenizer.encode(texts, length)
    expected = open_clip.SimpleTokenizer(context_length=length)(texts).numpy()
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(mask.sum(axis=1) - 1, expected.argmax(axis=1))
    lengths = mask.sum(axis=1)
    assert lengths.min() == 2, "no text was empty"
    assert (lengths == length).sum() > 50, "too few were over-long"


@pytest.mark.parametrize("name", ["lower", "whitespace", "canonicalize"])
def test_cleaning_is_open_clips(name):
    theirs = open_clip.tokenizer.get_clean_fn(name)
    texts = awkward()
    assert [cleaner(name)(text) for text in texts] == [theirs(text) for text in texts]


def test_it_saves_loads_and_pickles_as_it_is(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    texts = awkward(200)
    expected = tokenizer.encode(texts, 32)[0]
    for other in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        np.testing.assert_array_equal(other.encode(texts, 32)[0], expected)
        assert (other.clean, other.pad_id, other.vocab_size) == ("lower", 0, 49_408)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    plain = ["a photo of a cat", "two dogs!"]
    lists = theirs(plain)["input_ids"]
    for row, wanted in zip(tokenizer.encode(plain, 16)[0], lists, strict=True):
        np.testing.assert_array_equal(row[: len(wanted)], wanted)


def test_cleaning_and_padding_can_be_given_to_a_saved_tokenizer(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    plain = load_tokenizer(tmp_path, clean="", pad_id=7)
    ids, mask = plain.encode(["it&#39;s"], 16)
    assert (ids[~mask] == 7).all()
    assert mask.sum() > tokenizer.encode(["it&#39;s"], 16)[1].sum(), "it was cleaned"


def test_another_file_is_refused(tmp_path):
    file = tmp_path / "bpe_simple_vocab_16e6.txt.gz"
    with pytest.raises(UserError, match=r"bpe_simple_vocab_16e6\.txt\.gz"):
        clip_tokenizer(file)
    file.write_bytes(b"no gzip")
    with pytest.raises(UserError, match="copy it again"):
        clip_tokenizer(file)
    with gzip.open(file, "wt") as stream:
        stream.write("#version\n" + "a b\n" * 10)
    with pytest.raises(UserError, match="10 merges"):
        clip_tokenizer(file)
