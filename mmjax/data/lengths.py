"""How many tokens each record's text has, kept with a run, so that hosts agree without talking.

A host that loads some rows of a batch does not see the captions of the others; from these numbers
all know the longest text of the whole batch.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data.records import BadRecord, Source
from mmjax.data.tokenize import Tokenizer
from mmjax.errors import UserError

log = logging.getLogger("mmjax.data")

CHUNK = 4096  # records whose texts are encoded at once


class Lengths(Sequence[int]):
    """Record number → tokens of its longest caption, special ones included. Pickles as its file."""

    def __init__(self, file: Path):
        self._file = file
        self._counts = np.load(file, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, index: Any) -> Any:
        return int(self._counts[index])

    def __reduce__(self) -> tuple[Any, ...]:
        return Lengths, (self._file,)


def count_tokens(source: Source, tokenizer: Tokenizer, most: int) -> np.ndarray:
    """Tokens of the longest caption of each record, uint16 [records], `most` at most.

    A record that cannot be read counts as `most`.
    """
    log.info("%s: counting the tokens of %d records", source.name, len(source))
    counts = np.full(len(source), most, np.uint16)
    for first in range(0, len(source), CHUNK):
        numbers, texts = list[int](), list[str]()
        for number in range(first, min(first + CHUNK, len(source))):
            try:
                captions = source.captions(number)
            except BadRecord:
                continue
            counts[number] = 0
            numbers += [number] * len(captions)
            texts += captions
        if texts:
            _, mask = tokenizer.encode(texts, most)
            np.maximum.at(counts, numbers, mask.sum(axis=1).astype(np.uint16))
    return counts


def keep_lengths(folder: Path, source: Source, tokenizer: Tokenizer, most: int) -> None:
    """Writes the lengths of a source into `folder`, unless they are there."""
    target = _file(folder, source, most)
    if target.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part.npy")
    np.save(part, count_tokens(source, tokenizer, most))
    part.rename(target)


def read_lengths(folder: Path, sources: Sequence[Source], most: int) -> list[Lengths]:
    """The lengths of all sources, as `keep_lengths` wrote them. UserError: they are not there."""
    files = [_file(folder, source, most) for source in sources]
    for file in files:
        if not file.exists():
            raise UserError(
                f"{file} is not there: the hosts do not see the same --workdir; name a shared "
                "folder, or set config.data.text_lengths=()."
            )
    return [Lengths(file) for file in files]


def _file(folder: Path, source: Source, most: int) -> Path:
    return folder / f"{source.name}-{len(source)}-{most}.npy"
