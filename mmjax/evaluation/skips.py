"""What is evaluated, all of it: records that cannot be used fail it, or are counted and named."""

import logging
from collections.abc import Collection

import numpy as np
from ml_collections import ConfigDict

from mmjax.data import Source, open_source
from mmjax.data.filters import UNWANTED
from mmjax.data.modalities import Modality
from mmjax.data.walk import why_unreadable
from mmjax.errors import UserError
from mmjax.evaluation.spec import source_of

NAMED = 3  # in a message
REMEDY = "repair or remove them, or leave them out by --allow-skips"
log = logging.getLogger("mmjax.evaluation")


def open_test(spec: ConfigDict, name: str, *, labels: bool = False) -> Source:
    """Opens the source of a spec, of data sets with splits "test" unless another is named; `labels`
    as of `open_source`."""
    source = open_source(source_of(spec), name, unset="test", labels=labels)
    check_complete(source, spec.allow_skips)
    return source


def check_complete(source: Source, allow_skips: bool) -> None:
    """UserError if records were left out when the source was opened, unless that is allowed."""
    unusable = _unusable(source)
    if unusable and not allow_skips:
        reasons = ", ".join(f"{count:,} {why}" for why, count in sorted(unusable.items()))
        raise UserError(
            f"{source.name}: there are records that cannot be used ({reasons}); {REMEDY}."
        )


def report_unreadable(
    source: Source, numbers: np.ndarray, modalities: Collection[Modality], allow_skips: bool
) -> int:
    """Counts and names the records that `numbers` says could not be read: see `check_complete`.

    Returns:
      How many records of the source do not count in all.
    """
    if len(numbers):
        message = unreadable(source, numbers, modalities)
        if not allow_skips:
            raise UserError(f"{message}; {REMEDY}.")
        log.warning("%s; they are left out", message)
    return len(numbers) + sum(_unusable(source).values())


def _unusable(source: Source) -> dict[str, int]:
    """Why → how many records were left out that were asked for: not those that a filter does."""
    return {why: count for why, count in source.skipped.items() if why != UNWANTED}


def unreadable(source: Source, numbers: np.ndarray, modalities: Collection[Modality]) -> str:
    """Says of these records how many they are, and what is wrong with the first."""
    named = "; ".join(why_unreadable(source, int(number), modalities) for number in numbers[:NAMED])
    more = f"; and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"{source.name}: {len(numbers)} of {len(source)} records cannot be read ({named}{more})"
