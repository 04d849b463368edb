"""What the tokens of the common tokenizers mean: where words begin, what is never hidden."""

import numpy as np
import pytest
import tokenizers
import transformers

from mmjax.data import train_tokenizer, vocabulary
from mmjax.data.tokenize import Tokenizer

TEXTS = ["a lighthouse at night", "lighthouses, lights and houses", "the night light"] * 3


def clip():
    return train_tokenizer(TEXTS, 524)


def wordpiece(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "light", "##house", "##s", "night",
             "the", "and", "at", "house", ","]  # fmt: skip
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    return Tokenizer(transformers.BertTokenizer(str(tmp_path / "vocab.txt")))


def byte_level():
    model = tokenizers.ByteLevelBPETokenizer()
    model.train_from_iterator(TEXTS, 272, special_tokens=["<s>", "<pad>", "</s>", "<mask>"])
    model.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return Tokenizer(
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=model._tokenizer, bos_token="<s>", eos_token="</s>",
            pad_token="<pad>", mask_token="<mask>",
        )
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["clip", "wordpiece", "byte_level"])
def test_words_begin_where_the_marks_say(kind, tmp_path):
    tokenizer = wordpiece(tmp_path) if kind == "wordpiece" else globals()[kind]()
    words = vocabulary.of_tokenizer(tokenizer, tokenizer.vocab_size + 1)
    text, mask = tokenizer.encode(["a lighthouse at night"], 24)
    text = text[0][mask[0]]
    assert len(text) > 6  # some word has several tokens
    begins = words.starts[text] | np.concatenate([[True], words.ends[text[:-1]]])
    begins &= ~np.isin(text, words.special)
    assert begins.sum() == 4
    assert text[0] in words.special
    assert text[-1] in words.special
    assert not np.isin(text[1:-1], words.special).any()
    assert tokenizer.pad_id in words.special


def test_the_mask_is_the_tokenizers_or_a_row_to_spare(tmp_path):
    own = wordpiece(tmp_path)
    assert vocabulary.of_tokenizer(own, 100).mask_id == 4
    none = clip()
    assert vocabulary.of_tokenizer(none, none.vocab_size).mask_id is None
    assert vocabulary.of_tokenizer(none, none.vocab_size + 1).mask_id == none.vocab_size
