"""Text to token ids: one wrapper over the tokenizers of transformers, and training a new one.

Every row is [start] tokens… [end] padding, whatever the tokenizer (VideoPrism's texts have no end);
over-long text is cut so that the end token stays last; the mask comes from lengths, because padding
may share an id with a token.
"""

import gzip
import itertools
import json
import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from mmjax.data.clean import cleaner
from mmjax.data.clip_bpe import find_bpe
from mmjax.data.stand_in import check_fetched
from mmjax.errors import UserError

# transformers advises to install PyTorch; its tokenizers need none.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
# In a notebook without ipywidgets its progress bars are text; each kernel would be warned of that.
warnings.filterwarnings("ignore", "IProgress not found")

START, END = "<|startoftext|>", "<|endoftext|>"
OPEN_CLIP = "<start_of_text>", "<end_of_text>"  # as open_clip spells the two
_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt",
          "spiece.model", "tokenizer.model")  # fmt: skip
OPENAI_MERGES = 49_408 - 2 * 256 - 2  # ids less the bytes, these at word ends, start and end


class Tokenizer:
    """Wraps a transformers tokenizer.

    Attributes: `vocab_size` (every id is below it), `start_id` (None if the tokenizer has none),
    `eot_id` (the last token of each text that has an end), `pad_id`, `clean`.

    Args:
      wrapped: of transformers.
      clean: what texts go through first, a name of `data/clean.py`; None is what the tokenizer was
        saved with, usually "".
      pad_id: where it is not the tokenizer's own: open_clip pads with 0.
      end: whether a text ends in the end token; None is what the tokenizer was saved with, usually
        True.
      end_id: what stands for the end token: CLIPA has the id of padding; None is what the tokenizer
        was saved with, usually its own.
    """

    def __init__(
        self,
        wrapped: Any,
        clean: str | None = None,
        pad_id: int | None = None,
        end: bool | None = None,
        end_id: int | None = None,
    ):
        self._wrapped = wrapped
        saved = wrapped.init_kwargs.setdefault("mmjax", {})
        self.clean: str = saved.get("clean", "") if clean is None else clean
        pad_id = saved.get("pad_id") if pad_id is None else pad_id
        # The Rust tokenizer alone does the encoding where there is one: it is faster, it pickles,
        # and worker processes need not import transformers.
        self._backend = getattr(wrapped, "backend_tokenizer", None)
        if self._backend is not None:
            self._backend = tokenizers.Tokenizer.from_str(self._backend.to_str())
            self._backend.no_padding()
            self._backend.no_truncation()
            if self.clean == "lower" and type(wrapped).__name__ == "CLIPTokenizer":
                self._backend.normalizer = None  # it would compose accents; the cleaning does not
        prefix, suffix = _special_ids(wrapped)
        if not suffix:
            suffix = [i for i in (wrapped.eos_token_id, wrapped.sep_token_id) if i is not None][:1]
        end = saved.get("end", True) if end is None else end
        if not suffix and not end and wrapped.pad_token_id is not None:
            suffix = [wrapped.pad_token_id]  # TIPS's has padding alone
        if not suffix:
            raise UserError(
                f"The tokenizer {wrapped.name_or_path} has no end-of-text token: set its eos_token."
            )
        end_id = saved.get("end_id") if end_id is None else end_id
        suffix = suffix if end_id is None else [end_id]
        self._prefix, self._suffix = prefix, suffix if end else []
        self.start_id: int | None = prefix[0] if prefix else None
        self.eot_id: int = suffix[-1]
        if pad_id is None:
            pad_id = self.eot_id if wrapped.pad_token_id is None else wrapped.pad_token_id
        self.pad_id: int = pad_id
        unknown = {wrapped.unk_token_id} - {self.eot_id}  # CLIP's is its end token
        self._special = sorted({*wrapped.all_special_ids} - unknown)
        saved |= {"clean": self.clean, "pad_id": self.pad_id} | ({} if end else {"end": False})
        saved |= {} if end_id is None else {"end_id": end_id}
        self.vocab_size: int = max(len(wrapped), self.eot_id + 1, self.pad_id + 1)

    def encode(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids int32 [n, length], and bool [n, length]: True on real tokens, end included."""
        return self.rows(self.ids(texts), length)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, cleaned, without special tokens."""
        clean = cleaner(self.clean)
        return self._encode([clean(text) for text in texts])

    def rows(self, ids: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
        """What `encode` returns, from the `ids` of the texts."""
        room = self.room(length)
        rows = np.full((len(ids), length), self.pad_id, np.int32)
        lengths = np.zeros(len(ids), np.int64)
        for row, some in enumerate(ids):
            tokens = [*self._prefix, *some[:room], *self._suffix]
            rows[row, : len(tokens)] = tokens
            lengths[row] = len(tokens)
        return rows, np.arange(length) < lengths[:, None]

    @property
    def ends(self) -> int:
        """Special tokens after a text."""
        return len(self._suffix)

    def room(self, length: int) -> int:
        """Tokens of a text, beside the special ones, in a row of `length`. UserError: below 0."""
        room = length - len(self._prefix) - len(self._suffix)
        if room < 0:
            raise UserError(f"A text length of {length} has no room for the special tokens.")
        return room

    def text(self, ids: Sequence[int]) -> str:
        """What ids say, without special tokens; not in a worker process."""
        found: str = self._wrapped.decode(list(ids), skip_special_tokens=True)
        return found

    def spelled(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """bool [n]: the texts that hold a special token inside, as a caption may spell one out.

        `ids` and `mask` are what `encode` gave. Such a token counts as what it is, here as in
        transformers, OpenAI's CLIP and open_clip: a text is pooled at its first end token.
        """
        index = np.arange(ids.shape[1])
        lengths = mask.sum(axis=1, keepdims=True)
        inside = (index >= len(self._prefix)) & (index < lengths - len(self._suffix))
        return (np.isin(ids, self._special) & inside).any(axis=1)

    def save(self, folder: str | Path) -> None:
        """Writes a folder that `load_tokenizer` and transformers' AutoTokenizer read."""
        self._wrapped.save_pretrained(str(folder))

    @property
    def wrapped(self) -> Any:
        """The tokenizer of transformers; None in a worker process, which only encodes."""
        return self._wrapped

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if self._backend is not None:
            return [e.ids for e in self._backend.encode_batch(texts, add_special_tokens=False)]
        return self._wrapped(texts, add_special_tokens=False)["input_ids"]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._backend is not None:
            state["_wrapped"] = None  # a worker only encodes
        return state


def load_tokenizer(
    name_or_folder: str | Path,
    clean: str | None = None,
    pad_id: int | None = None,
    end: bool | None = None,
    end_id: int | None = None,
) -> Tokenizer:
    """A tokenizer of transformers from a local folder or by its hub name; or OpenAI's of CLIP, as
    "clip" where open_clip or clip is installed, or by the path of its vocabulary (.txt.gz).

    `clean`, `pad_id`, `end` and `end_id` are those of `Tokenizer`.

    Raises:
      UserError: it cannot be found, or the hub cannot be reached.
    """
    # Seconds to import, and AutoTokenizer brings PyTorch where it is installed: only where needed.
    from huggingface_hub import HfApi

    name = str(name_or_folder)
    if name == "clip" or name.endswith(".txt.gz"):
        return clip_tokenizer(find_bpe() if name == "clip" else name)
    for file in _FILES:
        check_fetched(Path(name) / file)
    try:
        try:
            # What is on this machine first: no network, and no wait for one that is not there.
            found = _tokenizer_class(name).from_pretrained(name, local_files_only=True)
        except OSError:
            if Path(name).is_dir():
                raise
            HfApi().model_info(name, timeout=10)  # one quick question, where a download retries
            found = _tokenizer_class(name).from_pretrained(name)
        return Tokenizer(found, clean, pad_id, end, end_id)
    except UserError:
        raise
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, hub errors, …
        if Path(name).is_dir():
            remedy = "the folder should hold tokenizer.json and tokenizer_config.json"
        else:
            remedy = (
                "give a local folder that a transformers tokenizer was saved to, a hub name that "
                "this machine can reach (to mmjax convert and eval as --tokenizer=PATH, to load as "
                "tokenizer=…), or as config.data.tokenizer captions:4096, to train one on captions"
            )
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(f"Cannot load the tokenizer {name!r}: {remedy} ({reason}).") from error


def clip_tokenizer(merges_file: str | Path, ends: tuple[str, str] = (START, END)) -> Tokenizer:
    """OpenAI's tokenizer of CLIP from its own file, bpe_simple_vocab_16e6.txt.gz: 49,408 ids.

    Cleans and pads as OpenAI and open_clip do, and gives the ids that open_clip's SimpleTokenizer
    gives, but for two things: punctuation right before a special token that a text spells out, and
    characters so new that Unicode versions differ on whether they are letters.

    Args:
      merges_file: OpenAI's.
      ends: how the start and end token are spelled: a text that has them has these tokens. They are
        OpenAI's by default, OPEN_CLIP in open_clip.

    Raises:
      UserError: the file is missing or is another.
    """
    check_fetched(Path(merges_file))
    try:
        with gzip.open(merges_file, "rt", encoding="utf-8") as file:
            lines = list(itertools.islice(file, 1, 1 + OPENAI_MERGES))  # of the 262,144 in it
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(
            f"{merges_file} is not OpenAI's bpe_simple_vocab_16e6.txt.gz ({error}): copy it again."
        ) from error
    merges: list[Any] = [tuple(line.split()) for line in lines]
    if len(merges) < OPENAI_MERGES:
        raise UserError(
            f"{merges_file} holds {len(merges)} merges, not the {OPENAI_MERGES} of OpenAI's "
            "bpe_simple_vocab_16e6.txt.gz: copy it again."
        )
    return _clip(merges, ends)


def respelled(tokenizer: Tokenizer, ends: tuple[str, str]) -> Tokenizer:
    """OpenAI's tokenizer with its start and end token spelled otherwise, as in `clip_tokenizer`."""
    return _clip(merges_of(tokenizer), ends)


def merges_of(tokenizer: Tokenizer) -> list[tuple[str, ...]]:
    """The merges of a byte-pair tokenizer, in order; none of another."""
    backend = getattr(tokenizer.wrapped, "backend_tokenizer", None)
    model = json.loads(backend.to_str())["model"] if backend is not None else {}
    return [tuple(pair) for pair in model.get("merges", ())]


def _clip(merges: list[Any], ends: tuple[str, str]) -> Tokenizer:
    from transformers import CLIPTokenizer

    start, end = ends
    wrapped = CLIPTokenizer(
        vocab=_vocabulary(_byte_alphabet(), merges, ends), merges=merges,
        bos_token=start, eos_token=end, unk_token=end, pad_token=end,
    )  # fmt: skip
    return Tokenizer(wrapped, clean="lower", pad_id=0)


def _tokenizer_class(name: str) -> Any:
    config = Path(name) / "tokenizer_config.json"
    if config.is_file() and "CLIPTokenizer" in config.read_text(encoding="utf-8"):
        from transformers import CLIPTokenizer

        return CLIPTokenizer
    from transformers import AutoTokenizer

    return AutoTokenizer


def train_tokenizer(captions: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-pair tokenizer as CLIP's (lower case, </w> at word ends), trained on captions.

    The vocabulary is laid out as CLIP's: 256 bytes, the same at the end of a word, one token a
    merge, start, end. No text is ever unknown. Training is deterministic; the result has at most
    `vocab_size` tokens, fewer if the captions hold fewer repeated pairs.

    Raises:
      UserError: `vocab_size` is below 515, or there are no captions.
    """
    from transformers import CLIPTokenizer

    alphabet = _byte_alphabet()
    merges_wanted = vocab_size - 2 * len(alphabet) - 2
    if merges_wanted < 1:
        raise UserError(
            f"A trained tokenizer needs at least {2 * len(alphabet) + 3} tokens, not {vocab_size}."
        )
    pieces = CLIPTokenizer().backend_tokenizer  # CLIP's own normalizer and word splitting
    model = tokenizers.Tokenizer(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    model.normalizer, model.pre_tokenizer = pieces.normalizer, pieces.pre_tokenizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        # Of pairs that are equally frequent the one of lower ids is merged first. What is not named
        # here gets its id when it is met, in the order of a hash table, another each time.
        initial_alphabet=alphabet,
        special_tokens=[byte + "</w>" for byte in alphabet],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    model.train_from_iterator(_non_empty(captions), trainer)
    merges: list[Any] = [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]
    merges = merges[:merges_wanted]
    vocab = _vocabulary(alphabet, merges)
    logging.getLogger("mmjax.data").info("trained a tokenizer of %d tokens", len(vocab))
    return Tokenizer(CLIPTokenizer(vocab=vocab, merges=merges))


def _vocabulary(
    alphabet: Sequence[str], merges: Iterable[Sequence[str]], ends: tuple[str, str] = (START, END)
) -> dict[str, int]:
    tokens = [*alphabet, *(b + "</w>" for b in alphabet), *("".join(m) for m in merges), *ends]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes in CLIP's order: visible Latin-1 first, then others."""
    return sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def _non_empty(captions: Iterable[str]) -> Iterable[str]:
    caption = None
    for caption in captions:
        yield caption
    if caption is None:
        raise UserError("There are no captions to train a tokenizer on.")


def _special_ids(wrapped: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text."""
    bare = wrapped("a", add_special_tokens=False)["input_ids"]
    full = wrapped("a", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return list(full[:start]), list(full[start + len(bare) :])
    raise UserError(f"The tokenizer {wrapped.name_or_path} rewrites text around special tokens.")
