"""Several short texts in one row, each with its own segment number, so that little is padding.

Rows are packed in groups of GROUP neighbours, each group from its own share of the texts: what is
in a row is a function of the step, whichever host loads it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from mmjax.errors import UserError

GROUP = 8  # enough for first fit to leave little room
PER_TOKEN = {"tokens", "lm_head", "logits"}  # outputs of a part that know no rows


class Packed(NamedTuple):
    """Rows of texts: `text` int32 [n, L]; `text_mask` bool [n, L], True on tokens; `text_segment`
    int32 [n, L], 1, 2, … of the texts in a row and 0 on padding; `left_out`: texts with no room."""

    text: np.ndarray
    text_mask: np.ndarray
    text_segment: np.ndarray
    left_out: int


def pack(text: np.ndarray, text_mask: np.ndarray, rows: int, pad_id: int) -> Packed:
    """Texts (int32 [m, L], bool [m, L]) in `rows` rows of the same length: the longest first, each
    into the first row that has room (first fit decreasing). In a row they are in their order."""
    lengths = text_mask.sum(axis=1)
    room = np.full(rows, text.shape[1])
    members: list[list[int]] = [[] for _ in range(rows)]
    left_out = 0
    for number in np.argsort(-lengths, kind="stable"):
        fits = np.flatnonzero(room >= lengths[number])
        if not fits.size:
            left_out += 1
            continue
        room[fits[0]] -= lengths[number]
        members[fits[0]].append(int(number))
    packed = np.full((rows, text.shape[1]), pad_id, np.int32)
    segment = np.zeros(packed.shape, np.int32)
    for row, numbers in enumerate(members):
        at = 0
        for order, number in enumerate(sorted(numbers), start=1):
            end = at + lengths[number]
            packed[row, at:end] = text[number, : lengths[number]]
            segment[row, at:end] = order
            at = end
    return Packed(packed, segment > 0, segment, left_out)


def groups(rows: np.ndarray, batch_size: int) -> list[tuple[range, np.ndarray]]:
    """The groups of rows 0 … batch_size - 1 that hold any of `rows`: (the group, the positions in
    `rows` of those that are of it)."""
    found = []
    for number in np.unique(rows // GROUP):
        group = range(number * GROUP, min((number + 1) * GROUP, batch_size))
        found.append((group, np.flatnonzero(rows // GROUP == number)))
    return found


def check(config: ConfigDict, objectives: Mapping[str, Any]) -> None:
    """UserError: the run packs texts, and something in it looks at rows as if they were texts."""
    if not config.data.pack:
        return
    problem = ""
    parts = {n: part for n, part in config.model.items() if isinstance(part, ConfigDict)}
    texts = [part for part in parts.values() if "vocab_size" in part]
    if len(texts) != 1 or len(parts) != 1:
        problem = f"is for models of texts alone, and config.model has {', '.join(sorted(parts))}"
    elif config.data.text_lengths:
        problem = "leaves no padding to trim; set data.text_lengths=()"
    elif config.teachers:
        problem = "is not for teachers, which see one text a row"
    elif not (texts[0].causal or texts[0].mask_padding):
        problem = "is not for a tower that sees its padding; set its mask_padding=True"
    for name, (objective, _) in objectives.items():
        outputs: Sequence[str] = [o for names in objective.requires.values() for o in names]
        of_rows = [output for output in outputs if output.partition("/")[2] not in PER_TOKEN]
        if not problem and of_rows:
            problem = f"does not go with objectives.{name}, which reads one {min(of_rows)} a row"
    if problem:
        raise UserError(f"config.data.pack={config.data.pack} {problem}.")
