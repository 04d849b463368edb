"""`mmjax data dedup`: near-duplicates, and test images.

Every image gets a 64-bit perceptual hash (imagehash's phash). A record goes when its hash differs
in at most `distance` bits from one that stays before it, or from any image of a test set.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from mmjax.data import BadRecord, Source, open_source
from mmjax.data.images import MAX_PIXELS, check_size, open_image, to_rgb
from mmjax.data.records import read_records
from mmjax.data.workers import Batch, read_ahead
from mmjax.datatools.opening import spec_of, track
from mmjax.errors import UserError
from mmjax.paths import check_file

BATCH = 64
NAMED = 1000


class Repeats(TypedDict):
    """What repeats another record, as the file holds it.

    `drop` has the numbers of the records to leave out, of the `records` that there are; `pairs` the
    first thousand as (key, key of what it repeats, bits between them). `from_tests` counts those
    that repeat an image of a test set.
    """

    records: int
    distance: int
    against: list[str]
    unreadable: int
    from_tests: int
    drop: list[int]
    pairs: list[tuple[str, str, int]]


def dedup(
    path: str | Path,
    *,
    output: str | Path,
    against: Sequence[str | Path] = (),
    distance: int = 4,
    workers: int = 0,
    **keys: Any,
) -> Repeats:
    """Finds near-duplicates, and images of test sets; `config.data.train.NAME.drop` reads the file.

    >>> from mmjax import datatools
    >>> found = datatools.dedup("cc3m", against=["imagenet/val"], output="cc3m.drop.json")
    ... # doctest: +SKIP
    >>> config.data.train.pairs.drop = "cc3m.drop.json"  # doctest: +SKIP

    Args:
      path: the data, as `config.data.train.NAME.path`.
      output: the JSON file to write.
      against: paths of test sets.
      distance: bits that may differ, 0 to 15 of the 64 of a perceptual hash.
      workers: processes; 0 reads with threads.
      **keys: other keys of `config.data.train.NAME`.

    Raises:
      UserError: imagehash is not installed, a source cannot be opened, or the output cannot be
        written.
    """
    spec = spec_of(path, keys)
    if not 0 <= distance < 16:
        raise UserError(f"--distance={distance}: 0 to 15 of the 64 bits may differ.")
    check_file("--output", output)
    try:
        import imagehash  # noqa: F401 - said before the work, not after
    except ImportError as error:
        raise UserError("mmjax data dedup needs imagehash: pip install 'mmjax[dedup]'.") from error
    source = open_source(spec)
    tests = [open_source({"path": str(test)}, unset="test") for test in against]
    hashed = [hash_images(s, workers) for s in (*tests, source)]
    starts = np.cumsum([0, *(len(hashes) for hashes, _ in hashed)])
    hashes = np.concatenate([h for h, _ in hashed])
    good = np.concatenate([ok for _, ok in hashed])
    first = int(starts[-2])  # where the source's own begin
    repeats = find_repeats(hashes, good, first, distance)
    drop = [later - first for later in sorted(repeats)]
    pairs = []
    for later in sorted(repeats)[:NAMED]:
        earlier = repeats[later]
        which = int(np.searchsorted(starts, earlier, side="right")) - 1
        of = (*tests, source)[which]
        bits = int(np.bitwise_count(hashes[later] ^ hashes[earlier]))
        pairs.append((_key(source, later - first), _key(of, earlier - int(starts[which])), bits))
    result: Repeats = {
        "records": len(source), "distance": distance, "against": [str(test) for test in against],
        "unreadable": int((~hashed[-1][1]).sum()),
        "from_tests": sum(earlier < first for earlier in repeats.values()),
        "drop": drop, "pairs": pairs,
    }  # fmt: skip
    file = Path(output)
    part = file.with_name(f"{file.name}.part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.rename(file)
    return result


def hash_images(source: Source, workers: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint64 hashes of all records, and bool: which could be read."""
    steps = -(-len(source) // BATCH)
    batches = read_ahead(_HashBatch(source), 0, steps, workers=workers, prefetch=4)
    found = [(b["hash"], b["good"]) for b in track(batches, f"hashing {source.name}", steps)]
    return np.concatenate([h for h, _ in found]), np.concatenate([g for _, g in found])


def find_repeats(hashes: np.ndarray, good: np.ndarray, first: int, distance: int) -> dict[int, int]:
    """{number from `first` on: an earlier one that stays, within `distance` bits of it}.

    Two hashes that differ in d bits agree in one of d + 1 parts of them: only those that do are
    compared.
    """
    values, inverse = np.unique(hashes, return_inverse=True)
    near: dict[int, set[int]] = {}
    bounds = np.linspace(0, 64, distance + 2).astype(int)
    for low, high in itertools.pairwise(bounds):
        part = (values >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        order = np.argsort(part, kind="stable")
        cuts = np.flatnonzero(np.diff(part[order])) + 1
        for group in np.split(order, cuts):
            for a, b in _close(values, group, distance):
                near.setdefault(a, set()).add(b)
                near.setdefault(b, set()).add(a)
    repeats: dict[int, int] = {}
    kept: dict[int, int] = {}  # value → the first number that stays with it
    for number in np.flatnonzero(good).tolist():
        value = int(inverse[number])
        close = [kept[v] for v in (value, *near.get(value, ())) if v in kept]
        if close and number >= first:
            repeats[number] = min(close)
        else:
            kept.setdefault(value, number)
    return repeats


def _close(values: np.ndarray, group: np.ndarray, distance: int) -> Iterator[tuple[int, int]]:
    """Pairs of a group within `distance` bits; a row of comparisons at a time."""
    if not distance:
        return
    for position, one in enumerate(group[:-1].tolist()):
        others = group[position + 1 :]
        bits = np.bitwise_count(values[others] ^ values[one])
        for other in others[bits <= distance].tolist():
            yield one, other


@dataclass
class _HashBatch:
    """step → hashes of a batch of records."""

    source: Source

    def __call__(self, step: int) -> Batch:
        import imagehash

        indices = range(step * BATCH, min((step + 1) * BATCH, len(self.source)))
        hashes = np.zeros(len(indices), np.uint64)
        good = np.zeros(len(indices), bool)
        for row, record in enumerate(read_records(self.source, indices)):
            try:
                if isinstance(record, BadRecord):
                    raise record
                image = record.part("image")
                if isinstance(image, bytes):
                    check_size(image, MAX_PIXELS)
                bits = imagehash.phash(to_rgb(open_image(image))).hash
            except BadRecord:
                continue
            hashes[row] = int("".join("01"[bit] for bit in bits.ravel().astype(int)), 2)
            good[row] = True
        return {"hash": hashes, "good": good}


def _key(source: Source, index: int) -> str:
    return source[index].key
