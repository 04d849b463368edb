"""What the ids of a tokenizer mean to objectives that mask and predict tokens."""

import dataclasses

import numpy as np

from mmjax.data.tokenize import Tokenizer


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Attributes:
    size: ids of the tokenizer, which random tokens are drawn from.
    mask_id: the id that stands for a hidden token; None if there is no room for one.
    special: ids that are never hidden (start, end, padding, …).
    starts, ends: bool [size]: whether a token can only begin a word, or ends the one it is in.
    """

    size: int
    mask_id: int | None
    special: tuple[int, ...]
    starts: np.ndarray
    ends: np.ndarray


def placeholder(rows: int = 2) -> Vocabulary:
    """For shapes, where the run's tokenizer is not there yet."""
    none = np.zeros(rows, bool)
    return Vocabulary(rows, 0, (), none, none)


def of_tokenizer(tokenizer: Tokenizer, rows: int) -> Vocabulary:
    """The vocabulary of a tokenizer whose model has `rows` token embeddings.

    Without a mask token of its own, the first row that the tokenizer does not use becomes it. Words
    are told by the marks of the common tokenizers: ## before a continuation (WordPiece), Ġ or ▁
    before a word (byte-level BPE, SentencePiece), </w> after one (CLIP).
    """
    wrapped, size = tokenizer.wrapped, tokenizer.vocab_size
    tokens = [token or "" for token in wrapped.convert_ids_to_tokens(list(range(len(wrapped))))]
    tokens += [""] * (size - len(tokens))
    special = {*wrapped.all_special_ids, tokenizer.pad_id, tokenizer.eot_id}
    if tokenizer.start_id is not None:
        special.add(tokenizer.start_id)
    is_special = np.isin(np.arange(size), list(special))
    starts = ends = is_special
    if any(token.endswith("</w>") for token in tokens):
        ends = ends | [token.endswith("</w>") for token in tokens]
    elif any(token.startswith("##") for token in tokens):
        starts = starts | [not token.startswith("##") for token in tokens]
    else:
        starts = starts | [token.startswith(("Ġ", "▁")) for token in tokens]
    mask_id = wrapped.mask_token_id
    if mask_id is None and rows > size:
        mask_id = size
    return Vocabulary(size, mask_id, tuple(sorted(special)), starts, ends)
