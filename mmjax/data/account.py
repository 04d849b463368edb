"""What became of everything that a source was given: nothing is left out uncounted.

Every source fills one `Account` when it is opened; it is logged at the start of a run and of an
evaluation, and `mmjax data inspect` prints it.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger("mmjax.data.account")


@dataclass
class Account:
    """What was detected in the data, and what of it does not become records.

    Attributes:
      found: what was detected, a sentence each: by which file, and how to say otherwise.
      left_out: why → how many records are left out.
      unread: what → how many files or members were passed over that are no records.
      first: the same reasons → the first of them, by name.
    """

    found: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def leave_out(self, why: str, which: object, count: int = 1) -> None:
        """Counts records that are left out; `which` names the first of them."""
        self.left_out[why] += count
        self.first.setdefault(why, _printable(which))

    def pass_over(self, what: str, which: object, count: int = 1) -> None:
        """Counts files or members that are no records; `which` names the first of them."""
        self.unread[what] += count
        self.first.setdefault(what, _printable(which))

    def unrecognised(self, suffix: str, which: object) -> None:
        """Counts a file or member of a kind that nothing here reads."""
        self.pass_over(f"of a kind that is not read ({suffix or 'no suffix'})", which)

    def add(self, other: "Account") -> None:
        """Counts what another account has counted, too."""
        self.found += [line for line in other.found if line not in self.found]
        self.left_out.update(other.left_out)
        self.unread.update(other.unread)
        self.first = {**other.first, **self.first}

    def lines(self) -> list[str]:
        """A line for each thing that was detected, left out or not read."""
        counted = (("left out", self.left_out), ("not read", self.unread))
        return self.found + [
            f"{what}: {count:,} {why} (first: {self.first.get(why, 'not named')})"
            for what, reasons in counted
            for why, count in sorted(reasons.items())
        ]

    def reasons(self) -> str:
        """Why records were left out, in one phrase; "" if none were."""
        return "; ".join(
            f"{count:,} {why} (first: {self.first[why]})"
            for why, count in sorted(self.left_out.items())
        )

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold; `of_json` reads it back."""
        return {
            "found": self.found,
            "left out": dict(self.left_out),
            "not read": dict(self.unread),
            "first": self.first,
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> "Account":
        return cls(
            list(content["found"]),
            Counter(content["left out"]),
            Counter(content["not read"]),
            dict(content["first"]),
        )


def _printable(which: object) -> str:
    """A name that any log can hold: file names and JSON may have half surrogate pairs."""
    return str(which).encode("utf-8", "backslashreplace").decode("utf-8")


NOTES = "notes of the program that wrote the shards"  # files that nobody expects to be read


class Accounted:
    """What a source has that fills an account."""

    account: Account

    @property
    def skipped(self) -> Mapping[str, int]:
        """Why → how many records were left out."""
        return self.account.left_out


def account_of(source: Any) -> Account:
    """The account of a source; one that keeps none counts what it left out in `skipped`."""
    found = getattr(source, "account", None)
    return Account(left_out=Counter(source.skipped)) if found is None else found


def report(source: Any) -> None:
    """Logs the account of a source: a warning if anything was left out, or not read but NOTES."""
    account = account_of(source)
    heard = log.warning if account.left_out or account.unread.keys() - {NOTES} else log.info
    heard("%s: %s records%s", source.name, f"{len(source):,}",
          "".join(f"\n  {line}" for line in account.lines()))  # fmt: skip


@contextlib.contextmanager
def unreported() -> Iterator[None]:
    """Inside, `report` is silent: the account is shown in another way."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
