"""A source without the records that `mmjax data dedup` found to be repeats."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmjax.data.account import Account, Accounted, account_of
from mmjax.data.classes import classes_of
from mmjax.data.identity import digest, identity
from mmjax.data.records import BadRecord, Record, Source, read_records
from mmjax.errors import UserError


class Kept(Accounted):
    """Some records of another source, in its order."""

    def __init__(self, source: Source, kept: np.ndarray, account: Account):
        self.name, self.account = source.name, account
        self.block = getattr(source, "block", 1)
        self.classes = classes_of(source)
        self.captions_alone = getattr(source, "captions_alone", False)
        self._source, self._kept = source, kept

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Record:
        return self._source[int(self._kept[index])]

    def read(self, indices: Sequence[int]) -> list[Record | BadRecord]:
        return read_records(self._source, [int(self._kept[index]) for index in indices])

    def identity(self) -> str:
        """See `data/identity.py`."""
        return digest([identity(self._source), self._kept.tobytes()])

    @property
    def labels(self) -> np.ndarray | None:
        """Of the records that are kept; None where the source has none without reading them."""
        labels = getattr(self._source, "labels", None)
        return None if labels is None else labels[self._kept]

    def captions(self, index: int) -> tuple[str, ...]:
        return self._source.captions(int(self._kept[index]))


def without(source: Source, file: str) -> Kept:
    """The source without the records that the file names. UserError: it is of another source."""
    try:
        with open(file, encoding="utf-8") as stream:
            content: dict[str, Any] = json.load(stream)
        records, drop = int(content["records"]), np.array(content["drop"], np.int64)
    except OSError as error:
        raise UserError(f"{source.name}: drop={file} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{source.name}: drop={file} is no file of mmjax data dedup.") from error
    if records != len(source):
        raise UserError(
            f"{source.name}: drop={file} was made for {records:,} records, and there are "
            f"{len(source):,}: run mmjax data dedup again, with the same keys."
        )
    kept = np.setdiff1d(np.arange(records), drop)
    if not len(kept):
        raise UserError(f"{source.name}: drop={file} leaves nothing.")
    account = Account()
    account.add(account_of(source))
    if len(drop):
        account.leave_out("that repeat another", f"record {drop[0]}", records - len(kept))
    return Kept(source, kept, account)
