"""Whether a library makes of texts what is made of them here: its ids, and where it pools them.

Every export tries a table of awkward texts. What the library would make other ids of is said, in a
warning and on the model card, with what helps. It is no reason to refuse: such texts are rare, and
for most tokenizers no setting of the other library would read all of them alike.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data import Tokenizer
from mmjax.data.tokenize import load_tokenizer, merges_of
from mmjax.errors import UserError
from mmjax.interop.files import read_json

# SHA-256 of OpenAI's merges, a line each: "i n".
_OPENAI = "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a"
LARGEST = "largest"  # a library pools a text at its largest id, wherever that is
AWKWARD = (
    "",
    " ",
    "a photo of a cat",
    "The QUICK brown-fox",
    "it's they'LL I'd",
    "don\u2019t \u201cquote\u201d \u2013 \u2026",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m",
    "e\u0301 n\u0303 A\u030a",
    "Stra\u00dfe \u0130stanbul \u03a3\u0391\u03a3 \ufb01n",
    "\uff21\uff22\uff43 \uff11\uff12\uff13 \uff01",
    "\u00bd \u2167 \u00b2 \u2122",
    "\u6f22\u5b57\u304b\u306a\u4ea4\u3058\u308a\u6587",
    "\ud55c\uad6d\uc5b4",
    "\u0645\u0631\u062d\u0628\u0627",
    "\u0928\u092e\u0938\u094d\u0924\u0947",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u041c\u0418\u0420!",
    "\u05e9\u05dc\u05d5\u05dd",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "\U0001f389\U0001f525 \U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
    "Tom &amp; Jerry &lt;b&gt; &#39;x&#39;",
    "<br>x</br>",
    "caf\u00c3\u00a9 \u00e2\u20ac\u0153bad",
    "a\x00b\x07c\x1b[0m",
    "a\ttab\nand\r\nline\x0b\x0c",
    "a  b   c ",
    '"" ""double""',
    "\u200bzero\ufeff\u00a0width\u2028line",
    "3.14159 1,000,000 2024-01-01",
    "!!!??? ... #hash @name",
    "C++ & C# _under_score__",
    "http://x.y/z?q=1&r=2",
    "^_^ \u00af\\_(\u30c4)_/\u00af",
    "supercalifragilisticexpialidocious" * 3,
    "word " * 300,
)
SPELLED = ("<|startoftext|>", "<|endoftext|>", "<start_of_text>", "<end_of_text>", "[CLS]", "[SEP]",
           "[PAD]", "[MASK]", "<s>", "</s>", "<pad>", "<mask>", "<eos>", "<bos>")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Library:
    """How a library makes ids of texts for a model in an exported folder.

    Attributes:
      name: "open_clip".
      encode: texts → ids, a row each at the model's full length; None: not by the folder's
        tokenizer at all.
      remedy: what makes the ids equal; a clause.
      misread: (ids, mask) → texts whose ids agree, but which it reads otherwise, bool [n].
    """

    name: str
    encode: Callable[[Sequence[str]], Any] | None
    remedy: str
    misread: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


def awkward(tokenizer: Tokenizer) -> list[str]:
    """The table, with texts that spell out special tokens: common ones and the tokenizer's own."""
    special = dict.fromkeys((*SPELLED, *tokenizer.wrapped.all_special_tokens))
    return [*AWKWARD, *(f"a {token} b" for token in special)]


def differing(
    library: Library, tokenizer: Tokenizer, length: int, padding: bool
) -> tuple[list[str], int]:
    """Those of the awkward texts that the library reads otherwise, and how many were tried.

    Args:
      library: to which the model goes.
      tokenizer: what the model was trained with.
      length: the model's context length.
      padding: whether the model looks at padding, which then must be the same, too.
    """
    texts = awkward(tokenizer)
    if library.encode is None:
        return texts, len(texts)
    ids, mask = tokenizer.encode(texts, length)
    theirs = np.asarray(library.encode(texts))
    compared = mask | padding
    differs = ((ids != theirs) & compared).any(axis=1)
    if library.misread is not None:
        differs |= library.misread(ids, mask)
    return [text for text, other in zip(texts, differs, strict=True) if other], len(texts)


def sentence(library: Library, texts: Sequence[str], tried: int) -> str:
    """What a user must know of texts that differ."""
    shown = ", ".join(repr(text if len(text) < 40 else text[:36] + "…") for text in texts[:4])
    if library.encode is None:
        return f"{library.name} does not use this model's tokenizer: {library.remedy}."
    more = f" and {len(texts) - 4} more" if len(texts) > 4 else ""
    return (
        f"{library.name} reads {len(texts)} of {tried} awkward texts otherwise than the model was "
        f"trained ({shown}{more}): {library.remedy}."
    )


def is_openais(tokenizer: Tokenizer) -> bool:
    """Whether it is the tokenizer that OpenAI's CLIP and open_clip have inside, by its merges."""
    if (tokenizer.clean, tokenizer.vocab_size, tokenizer.eot_id) != ("lower", 49_408, 49_407):
        return False
    lines = "\n".join(map(" ".join, merges_of(tokenizer)))
    return hashlib.sha256(lines.encode()).hexdigest() == _OPENAI


def load_as(
    name: str | Path, clean: str, pad_id: int | None = None, end_id: int | None = None
) -> Tokenizer:
    """A tokenizer with a library's cleaning, padding and end; one that was saved by mmjax keeps its
    own, with which the model was trained."""
    file = Path(name) / "tokenizer_config.json"
    if file.is_file() and "mmjax" in read_json(file):
        return load_tokenizer(name)
    return load_tokenizer(name, clean=clean, pad_id=pad_id, end_id=end_id)


def check_end(tokenizer: Tokenizer, pooled_at: int | str | None, file: str) -> Tokenizer:
    """The tokenizer, if a library that pools texts at `pooled_at` pools them at their end.

    Args:
      tokenizer: of the weights.
      pooled_at: the id that it looks for, LARGEST, or None where it looks for none.
      file: that says so.

    Raises:
      UserError: the library pools elsewhere, so that the weights would give other embeddings here.
    """
    end = tokenizer.eot_id
    if pooled_at == LARGEST and end != tokenizer.vocab_size - 1:
        raise UserError(
            f"{file} pools texts at their largest id, which with this tokenizer is not the end "
            f"token {end} but up to {tokenizer.vocab_size - 1}: mmjax pools at the end, and would "
            "give other embeddings; give the tokenizer that the weights were trained with."
        )
    if isinstance(pooled_at, int) and pooled_at != end:
        raise UserError(
            f"{file} pools texts at the id {pooled_at}, but this tokenizer ends them with {end}: "
            "mmjax pools at the end, and would give other embeddings; correct the id, or give the "
            "tokenizer that the weights were trained with."
        )
    return tokenizer
