"""Which examples are in the batch of each step, and the sequence length of its images.

It is a function of (seed, step) alone, whatever the hosts, and after any restart. With
`config.data.image_lengths` (NaFlex) each batch has one of these lengths. Steps come in cycles: in
each a length has exactly its share of the steps, in an order that (seed, cycle) permutes. A batch
of longer sequences has fewer examples if `token_budget` says so; its examples begin at the sum of
the sizes before it. Without these keys every batch has batch_size examples. What is loaded for a
batch is more where `config.data.curation` chooses its examples (core/curation.py).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from mmjax.data.order import permute, shares_of
from mmjax.errors import UserError

_LENGTHS = 0x4E61466C  # tells the permutations of lengths from those of records


class Bucket(NamedTuple):
    """Batches of one shape: `size` examples to load, images of up to `length` patches (0: as many
    as each modality reads by itself)."""

    length: int
    size: int


@dataclass(frozen=True)
class Buckets:
    """step → (position of its first example in the run's order, its bucket).

    Attributes:
      cycle: the bucket of each step of a cycle, not permuted yet.
      seed: the run's.
    """

    cycle: tuple[Bucket, ...]
    seed: int

    def __call__(self, step: int) -> tuple[int, Bucket]:
        number, slot = divmod(step, len(self.cycle))
        order = [self._slot(number, i) for i in range(slot + 1)]
        sizes = [self.cycle[i].size for i in order]
        return number * self._examples + sum(sizes[:-1]), self.cycle[order[-1]]

    @property
    def kinds(self) -> tuple[Bucket, ...]:
        """The buckets that there are, the longest first."""
        return tuple(sorted({*self.cycle}, reverse=True))

    @cached_property
    def _examples(self) -> int:
        return sum(bucket.size for bucket in self.cycle)

    def _slot(self, number: int, index: int) -> int:
        if len(self.cycle) == 1:
            return index
        return permute(index, len(self.cycle), self.seed, _LENGTHS, number)


def buckets_of(config: ConfigDict) -> Buckets:
    """Of a run, whose config `check` has passed."""
    data = config.data
    if not data.image_lengths:
        return Buckets((Bucket(0, loaded(config, config.batch_size)),), config.seed)
    shares = shares_of(data.length_shares or (1.0,) * len(data.image_lengths))
    cycle = np.repeat(np.arange(len(shares)), shares)
    found = [Bucket(length, loaded(config, _size(config, length))) for length in data.image_lengths]
    return Buckets(tuple(found[i] for i in cycle), config.seed)


def loaded(config: ConfigDict, size: int) -> int:
    """Examples that are loaded for a batch of `size` to train on."""
    return round(size / config.data.curation.keep)


def trained(config: ConfigDict, size: int) -> int:
    """Examples that are trained on of `size` that are loaded."""
    return round(size * config.data.curation.keep)


def _size(config: ConfigDict, length: int) -> int:
    """Examples of a batch; 0 if the token budget holds too few."""
    budget, multiple = config.data.token_budget, config.data.batch_multiple
    if not budget or budget // length >= config.batch_size:
        return int(config.batch_size)
    return int(budget // length // multiple * multiple)


def check(config: ConfigDict) -> None:
    """UserError: the keys of the sequence lengths do not fit each other, or the model; or no whole
    number of examples is loaded for a batch."""
    _check_lengths(config)
    _check_curation(config)


def _check_curation(config: ConfigDict) -> None:
    keep, chunks = config.data.curation.keep, config.data.curation.chunks
    if keep == 1:
        return
    for length in config.data.image_lengths or (0,):
        size = _size(config, length) if length else config.batch_size
        many = loaded(config, size)
        if abs(many - size / keep) > 1e-5 * many:  # 1/3 is written 0.333333
            raise UserError(
                f"config.data.curation.keep={keep:g} does not divide a batch of {size:,}, for "
                f"which {size / keep:,.2f} examples would be loaded: set it to "
                f"{1 / max(2, round(1 / keep)):.6g}, or change config.batch_size."
            )
        if size % chunks:
            near = next(n for n in range(min(chunks, size), 0, -1) if size % n == 0)
            raise UserError(
                f"config.data.curation.chunks={chunks} does not divide a batch of {size:,}: set it "
                f"to {near}, or change config.batch_size."
            )


def _check_lengths(config: ConfigDict) -> None:
    data = config.data
    parts = {n: p for n, p in config.model.items() if isinstance(p, ConfigDict)}
    flexible = {name: part for name, part in parts.items() if part.get("kind") == "naflex"}
    for name, part in flexible.items():
        if data.augment.crop_aspect != "image":
            raise UserError(
                f"config.model.{name} keeps the shape of images, and data.augment crops them to "
                "about a square: set config.data.augment.crop_aspect='image'."
            )
        if data.image_lengths and part.patches > data.image_lengths[-1]:
            raise UserError(
                f"config.model.{name}.patches={part.patches}: no batch of training is so long: add "
                f"it to config.data.image_lengths={tuple(data.image_lengths)}, or set it to "
                f"{data.image_lengths[-1]} or less."
            )
    if not data.image_lengths:
        for key in ("length_shares", "token_budget"):
            if data[key]:
                raise UserError(
                    f"config.data.{key}={data[key]!r} is of config.data.image_lengths, which is "
                    "(): name the lengths, e.g. (128, 256, 576)."
                )
        return
    if not flexible:
        raise UserError(
            f"config.data.image_lengths={tuple(data.image_lengths)} are of an image tower of kind "
            "'naflex', and config.model has none: give it one, or set image_lengths=()."
        )
    if data.length_shares and len(data.length_shares) != len(data.image_lengths):
        raise UserError(
            f"config.data.length_shares={tuple(data.length_shares)} should have a number for each "
            f"of config.data.image_lengths={tuple(data.image_lengths)}."
        )
    if data.text_lengths:
        raise UserError(
            "config.data.text_lengths and image_lengths both change the shape of a batch, and each "
            "pair would be compiled: set one of them to ()."
        )
    for length in data.image_lengths:
        if not _size(config, length):
            raise UserError(
                f"config.data.image_lengths: no batch holds sequences of {length}: token_budget="
                f"{data.token_budget} is less than {data.batch_multiple} of them; set it to "
                f"{data.batch_multiple * length} or more, or batch_multiple to less."
            )
