"""What a text goes through before its tokenizer, for weights that were trained on cleaned texts.

As in open_clip, to the character: OpenAI's CLIP repairs broken encodings and HTML and lowers the
case, SigLIP also drops the punctuation. Without it "it&#39;s" has other tokens than in training.
VideoPrism lowers the case and ends every text in a period, its only punctuation.
"""

import functools
import html
import string
from collections.abc import Callable

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACED = str.maketrans(dict.fromkeys(string.punctuation, " "))


def cleaner(name: str) -> Callable[[str], str]:
    """The cleaning of a name: "lower" (CLIP), "whitespace" (the same with its case), "canonicalize"
    (SigLIP: lower case, no punctuation), "sentence" (VideoPrism: and a period), "" (none). KeyError
    for any other."""
    return _CLEANERS[name]


def _repair(text: str) -> str:
    return html.unescape(html.unescape(_ftfy().fix_text(text))).strip()


def _whitespace(text: str) -> str:
    return " ".join(_repair(text).split())


def _lower(text: str) -> str:
    return _whitespace(text).lower()


def _canonicalize(text: str) -> str:
    text = _repair(text).replace("_", " ").translate(_PUNCTUATION).lower()
    return " ".join(text.split())


def _sentence(text: str) -> str:
    """`canonicalize_text` of videoprism/utils.py."""
    return " ".join(text.translate(_SPACED).lower().split()) + "."


@functools.cache
def _ftfy():  # a tenth of a second to import, for weights that want it
    import ftfy

    return ftfy


_CLEANERS: dict[str, Callable[[str], str]] = {
    "": lambda text: text,
    "whitespace": _whitespace,
    "lower": _lower,
    "canonicalize": _canonicalize,
    "sentence": _sentence,
}
