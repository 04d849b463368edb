"""What values a config key may have: type, range, choices; checked, read from text, described."""

import argparse
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np

BITS_32 = 2**31 - 1  # JAX counts in int32
_OPEN, _CLOSE, _QUOTES = "([{", ")]}", "\"'"
_NAMES = {int: ("an integer", "integers"), float: ("a number", "numbers"),
          str: ("a string", "strings"), bool: ("true or false", "booleans")}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a key may be, as `Annotated[int, Range(1)]`; of a tuple, its items.

    Attributes:
      least, most: bounds that are themselves allowed.
      above, below: bounds that are not.
      also: single values outside of the bounds that have a meaning of their own, as 0 or -1.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    also: tuple[float, ...] = ()

    def has(self, value: float) -> bool:
        return value in self.also or not (
            (self.least is not None and value < self.least)
            or (self.most is not None and value > self.most)
            or (self.above is not None and value <= self.above)
            or (self.below is not None and value >= self.below)
        )

    def __str__(self) -> str:
        low = self.least if self.above is None else self.above
        if self.least is not None and self.most is not None:
            text = f"from {self.least:g} to {self.most:g}"
        else:
            parts = []
            if low is not None:
                parts.append(f"above {low:g}" if self.least is None else f"of {low:g} or more")
            if self.most is not None or self.below is not None:
                most = self.most is not None
                parts.append(f"at most {self.most:g}" if most else f"below {self.below:g}")
            text = " and ".join(parts)
        return text + "".join(f", or {value:g}" for value in self.also)


ANY = Range()  # any finite number
COUNT = Range(1)
COUNT_OR_0 = Range(1, also=(0,))  # where 0 has a meaning of its own
NATURAL = Range(0)
POSITIVE = Range(above=0)
POSITIVE_OR_0 = Range(above=0, also=(0,))
SHARE = Range(0, 1)


class Form:
    """What else `Annotated` may say of a key's values."""

    def __init__(self, text: str):
        self.text = text


ASCENDING = Form("in ascending order")
PATTERN = Form("regular expressions")
NAMES = Form("names separated by commas")  # one text, however it is written


@dataclasses.dataclass(frozen=True)
class Values:
    """The values of a key, or the items of a tuple.

    Attributes:
      type: bool, int, float, str or tuple.
      optional: whether None is one.
      choices: all of them; () for any.
      range: of numbers; None: it was not declared, and any finite number will do.
      items: of a tuple: what each is, or what all are where it is of any length.
      any_length: of a tuple.
      forms: what else they are.
    """

    type: type
    optional: bool = False
    choices: tuple = ()
    range: Range | None = None
    items: tuple["Values", ...] = ()
    any_length: bool = False
    forms: tuple[Form, ...] = ()

    @classmethod
    def of(cls, annotation: Any, inherited: Sequence[Any] = ()) -> "Values":
        """What an annotation says: `Literal`, `X | None`, `tuple[X, ...]`, `Annotated[X, Range]`.

        `inherited`: what the annotation of a tuple says of its items.
        """
        said, optional = list(inherited), False
        if typing.get_origin(annotation) is typing.Annotated:
            annotation, *more = typing.get_args(annotation)
            said = [*said, *more]
        if typing.get_origin(annotation) in (typing.Union, types.UnionType):
            annotation, optional = typing.get_args(annotation)[0], True
        ranges = [x for x in said if isinstance(x, Range)]
        forms = tuple(x for x in said if isinstance(x, Form))
        if typing.get_origin(annotation) is Literal:
            choices = typing.get_args(annotation)
            return cls(type(choices[0]), optional, choices)
        kind = typing.get_origin(annotation) or annotation
        if kind is tuple:
            args = typing.get_args(annotation) or (str, ...)
            of_items = [*ranges, *(form for form in forms if form is PATTERN)]
            items = tuple(cls.of(arg, of_items) for arg in args if arg is not Ellipsis)
            ordered = tuple(form for form in forms if form is ASCENDING)
            return cls(tuple, optional, (), None, items, Ellipsis in args, ordered)
        number = kind in (int, float)
        return cls(kind, optional, (), ranges[-1] if ranges and number else None, forms=forms)

    def __str__(self) -> str:
        """As in "must be …"."""
        text = self._one() if self.type is not tuple else self._several()
        return text + (", or None" if self.optional else "")

    def _one(self) -> str:
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if PATTERN in self.forms:
            return "a regular expression"
        if NAMES in self.forms:
            return NAMES.text
        name = _NAMES[self.type][0] if self.type in _NAMES else f"a {self.type.__name__}"
        return f"{name} {self.range or ''}".strip()

    def _several(self) -> str:
        first, *others = self.items or (Values(str),)
        if any(other != first for other in others):
            text = f"a tuple ({', '.join(map(str, self.items))})"
        else:
            many = "" if self.any_length else f"{len(self.items)} "
            if first.type is tuple or first.choices:
                text = f"a tuple of {many}items, each {first}"
            else:
                pattern = PATTERN in first.forms
                text = f"a tuple of {many}{PATTERN.text if pattern else _NAMES[first.type][1]}"
                text += f", each {first.range}" if first.range not in (None, ANY) else ""
        return text + "".join(f", {form.text}" for form in self.forms)

    def problem(self, value: Any) -> str:
        """What the value must be instead; "" if it is one of these."""
        if value is None:
            return "" if self.optional else str(self)
        if not self._is_of_type(value):
            return str(self)
        if self.choices:
            return "" if value in self.choices else f"{self} (nearest: {self._nearest(value)})"
        if self.type is tuple:
            return self._problem_of_items(value)
        if self.type is str and PATTERN in self.forms:
            try:
                re.compile(value)
            except re.error as error:
                return f"{self} ({error})"
        return self._problem_of_number(value) if self.type in (int, float) else ""

    def _is_of_type(self, value: Any) -> bool:
        if isinstance(value, bool):
            return self.type is bool
        return isinstance(value, (int, float) if self.type is float else self.type)

    def _problem_of_number(self, value: Any) -> str:
        """Bounds hold for the float32 that a number becomes, too: 1 - 1e-12 is 1 there."""
        if self.type is int:
            if abs(value) > BITS_32:
                return f"{self}, within 32 bits"
            rounded = value
        else:
            try:
                with np.errstate(over="ignore"):
                    rounded = float(np.float32(value))
            except OverflowError:
                rounded = np.inf
            if not np.isfinite(rounded):
                return f"{self}, finite in float32"
        in_range = self.range is None or (self.range.has(value) and self.range.has(rounded))
        return "" if in_range else str(self)

    def _problem_of_items(self, value: tuple) -> str:
        each = self.items * len(value) if self.any_length else self.items
        if len(value) != len(each):
            return str(self)
        if any(kind.problem(item) for kind, item in zip(each, value, strict=True)):
            return str(self)
        return str(self) if ASCENDING in self.forms and list(value) != sorted(value) else ""

    def _nearest(self, value: Any) -> str:
        return nearest(str(value), map(str, self.choices))

    def read(self, text: Any) -> Any:
        """The value that a text of a command line stands for, or one of a YAML file; what stands
        for none is returned as it is, and `problem` will name it.

        A tuple is written a,b or (a,b) or ["a","b"]; a comma or a bracket of an item is quoted. One
        item alone is a tuple of it.
        """
        if self.optional and text in (None, "None", "none", "null"):
            return None
        if self.type is tuple:
            parts = split(text) if isinstance(text, str) else text
            parts = list(parts) if isinstance(parts, list | tuple) else [parts]
            several = self.any_length or len(parts) == len(self.items)
            each = self.items * len(parts) if self.any_length else self.items
            pairs = zip(each, parts, strict=True) if several else ((Values(str), p) for p in parts)
            return tuple(kind.read(part) for kind, part in pairs)
        if NAMES in self.forms and isinstance(text, str | list | tuple):
            names = split(text) if isinstance(text, str) else text
            return ",".join(names) if all(isinstance(name, str) for name in names) else text
        if self.type is float and type(text) is int and abs(text) <= BITS_32:
            return float(text)
        if not isinstance(text, str):
            return text
        if self.type is bool:
            return {"true": True, "false": False}.get(text.lower(), text)
        try:
            return self.type(text)
        except ValueError:
            return text


def argument(of: type, range: Range) -> Callable[[str], Any]:
    """The `type` of an argparse argument that is such a number."""
    values = Values(of, range=range)

    def read(text: str) -> Any:
        value = values.read(text)
        if problem := values.problem(value):
            raise argparse.ArgumentTypeError(f"{text!r} must be {problem}")
        return value

    return read


def split(text: str) -> list[str]:
    """The items of a tuple that is written as text, its brackets and their quotes taken off.

    >>> split('(image/, "a,b", (text/, 0.5))')
    ['image/', 'a,b', '(text/, 0.5)']
    """
    text = text.strip()
    if text and text[0] in "([" and _end(text) == len(text) - 1:
        text = text[1:-1]
    items, start, at = list[str](), 0, 0
    while at < len(text):
        if text[at] == ",":
            items.append(text[start:at])
            start = at + 1
        elif text[at] in _OPEN or (text[at] in _QUOTES and not text[start:at].strip()):
            at = max(at, _end(text, at))  # one that does not close is a character as any other
        at += 1
    items = [item.strip() for item in (*items, text[start:])]
    if not items[-1]:  # (a,) and ()
        items.pop()
    return [_unquoted(item) for item in items]


def _end(text: str, at: int = 0) -> int:
    """Where the bracket or quote that opens at `at` closes; -1 if nowhere."""
    if text[at] in _QUOTES:
        return text.find(text[at], at + 1)
    depth = 0
    for number in range(at, len(text)):
        depth += (text[number] in _OPEN) - (text[number] in _CLOSE)
        if depth == 0:
            return number
    return -1


def _unquoted(item: str) -> str:
    quoted = len(item) > 1 and item[0] in _QUOTES and item[-1] == item[0]
    return item[1:-1] if quoted else item


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of `known` that is spelled most like `name`, in capitals or not."""
    folded = {other.casefold(): other for other in known}
    return folded[difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.0)[0]]
