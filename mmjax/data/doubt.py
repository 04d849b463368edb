"""What is odd about training data though every record of it is fine: too few, or all alike."""

from collections.abc import Iterable, Sequence

import numpy as np

from mmjax.data.records import BadRecord, Source

LOOKED_AT = 2000  # records of a source whose captions are compared
DISTINCT = 0.9  # share of captions that differ from all others, below which it is said


def doubts(sources: Sequence[Source], batch_size: int, pairs: bool) -> list[str]:
    """A sentence for each thing that is odd.

    Args:
      sources: those of `config.data.train`.
      batch_size: of the whole batch.
      pairs: captions are learned with something that they describe.
    """
    found, total = [], sum(map(len, sources))
    if total < batch_size:
        found.append(
            f"config.batch_size={batch_size:,}: {total:,} examples are fewer than a batch, so each "
            "is in it several times (to a contrastive loss, as a negative of itself)"
        )
    for source in sources if pairs else ():
        # Records with bags of captions share them with their neighbours.
        if getattr(source, "captions_alone", False) and getattr(source, "bag", 1) == 1:
            found += _alike(source)
    return found


def _alike(source: Source) -> Iterable[str]:
    picked = np.unique(np.linspace(0, len(source) - 1, LOOKED_AT).astype(int)).tolist()
    captions: list[str] = []
    for number in picked:
        try:
            captions += set(source.captions(number))
        except BadRecord:  # named when it is trained on
            continue
    distinct = len(set(captions))
    if distinct < DISTINCT * len(captions):
        yield (
            f"{source.name}: {len(captions):,} captions of {len(picked):,} examples are "
            f"{distinct:,} distinct ones; to a contrastive loss, examples of one caption are "
            "negatives of each other, unless they have one group and positives='group'"
        )
