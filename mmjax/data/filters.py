"""Filters on the metadata of a record, as one expression in a config.

    filter = "width >= 256 and aspect < 3 and similarity > 0.28 and language in ('en', 'de')"

Names are fields of the record's JSON (tar) or columns (tables, Parquet). Where no field says so,
`aspect` is the longer side over the shorter, `caption_length` that of the longest caption. Text is
compared with a string as text ("007" is not "7"), with a number as a number, with True or False as
a truth value; two fields of text as numbers if both are. A field that does not fit what it is
compared with leaves the record out, counted as such.
"""

import ast
import contextlib
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mmjax.data.texts import is_null
from mmjax.errors import UserError

_OPERATORS: dict[type, Any] = {
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Add: operator.add, ast.Sub: operator.sub,
    ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Not: operator.not_,
    ast.USub: operator.neg,
}  # fmt: skip
_TRUTHS = {"true": True, "false": False}
_WIDTHS, _HEIGHTS = ("width", "original_width"), ("height", "original_height")

UNWANTED = "that the filter leaves out"  # why, of a record


class Lacking(Exception):  # noqa: N818
    """A record has no such field, or one of another kind."""


class Filter:
    """`keep(values, captions)` of an expression; the empty expression keeps everything.

    It may have and, or, not, comparisons, in, + - * /, numbers, strings, tuples and names.
    UserError: it has anything else. Pickles as its text.
    """

    def __init__(self, text: str, name: str):
        self.text = text
        self._name = name
        self._tree = _parse(text, name) if text else None

    def keep(self, values: Mapping[str, Any], captions: Sequence[str]) -> bool:
        """Whether the record passes. Lacking: it has not what the expression asks for."""
        if self._tree is None:
            return True
        try:
            return _truth(_evaluate(self._tree, values, captions))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise Lacking(f"whose fields do not fit the filter ({error})") from error

    def names(self) -> set[str]:
        """The fields that the expression may look at."""
        nodes = ast.walk(self._tree) if self._tree else ()
        found = {node.id for node in nodes if isinstance(node, ast.Name)}
        return found | {*_WIDTHS, *_HEIGHTS} if "aspect" in found else found

    def __reduce__(self) -> tuple:
        return Filter, (self.text, self._name)

    def __bool__(self) -> bool:
        return self._tree is not None


def _parse(text: str, name: str) -> ast.expr:
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise UserError(f"{name}: filter={text!r} is no expression ({error.msg}).") from error
    allowed = (ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.Name, ast.Constant, ast.Tuple,
               ast.List, ast.boolop, ast.In, ast.NotIn, ast.Load, *_OPERATORS)  # fmt: skip
    for node in ast.walk(tree):
        unknown = isinstance(node, ast.Constant) and not isinstance(node.value, str | int | float)
        if unknown or not isinstance(node, allowed):
            raise UserError(
                f"{name}: filter={text!r} may hold names, numbers, strings, comparisons, and, or, "
                f"not, in and arithmetic, no {ast.unparse(node)}."
            )
    return tree


def _evaluate(node: ast.expr, values: Mapping[str, Any], captions: Sequence[str]) -> Any:
    def value(child: ast.expr) -> Any:
        return _evaluate(child, values, captions)

    match node:
        case ast.Constant(value=constant):
            return constant
        case ast.Name(id=field):
            return _field(field, values, captions)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return [value(item) for item in items]
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_truth(value(part)) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_truth(value(part)) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _truth(value(operand))
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](_number(value(operand)))
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_number(value(left)), _number(value(right)))
        case ast.Compare(left=left, ops=ops, comparators=rights):
            operands = [_Given(value(n), not isinstance(n, ast.Name)) for n in (left, *rights)]
            pairs = zip(ops, operands, operands[1:], strict=False)
            return all(_compare(op, a, b) for op, a, b in pairs)
    raise AssertionError(node)  # _parse lets nothing else through


def _field(field: str, values: Mapping[str, Any], captions: Sequence[str]) -> Any:
    found = values.get(field)
    if is_null(found):
        found = None
    if found is None and field == "aspect":
        width, height = (
            next((float(values[n]) for n in names if values.get(n)), 0.0)
            for names in (_WIDTHS, _HEIGHTS)
        )
        if width and height:
            return max(width, height) / min(width, height)
    if found is None and field == "caption_length":
        return max(map(len, captions), default=0)
    if found is None:
        raise Lacking(f"without {field!r}, which the filter asks for")
    return found


class _Given(NamedTuple):
    """A value of a comparison, and whether it stands in the filter itself and is no field."""

    value: Any
    given: bool


def _compare(op: ast.cmpop, a: _Given, b: _Given) -> bool:
    if isinstance(op, ast.In | ast.NotIn):
        return _within(a, b) == isinstance(op, ast.In)
    return bool(_OPERATORS[type(op)](*_alike(a, b)))


def _within(a: _Given, b: _Given) -> bool:
    """Whether a is part of a text, or equal to one of a list. TypeError: it fits none of them."""
    if isinstance(b.value, str):
        return a.value in b.value
    pairs, problem = [], None
    for item in b.value:
        try:
            pairs.append(_alike(a, _Given(item, not a.given)))
        except (TypeError, ValueError) as error:
            problem = error
    if problem and not pairs:
        raise problem
    return any(x == y for x, y in pairs)


def _alike(a: _Given, b: _Given) -> tuple[Any, Any]:
    """Two values that can be compared: a field of text becomes what it is compared with."""
    x, y = a.value, b.value
    if isinstance(x, list | tuple | dict) or isinstance(y, list | tuple | dict):
        raise TypeError("a list is compared by in")
    if isinstance(x, str) and isinstance(y, str):
        if not a.given and not b.given:
            with contextlib.suppress(ValueError):
                return float(x), float(y)
        return x, y
    for text, other in ((a, y), (b, x)):
        if isinstance(text.value, str) and text.given:
            raise TypeError(f"{other!r} is no text to compare with {text.value!r}")
    if isinstance(x, str):
        x = _truth(x) if isinstance(y, bool) else float(x)
    elif isinstance(y, str):
        y = _truth(y) if isinstance(x, bool) else float(y)
    return x, y


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _truth(value: Any) -> bool:
    """Tables hold text, and the text "False" is not true."""
    if not isinstance(value, str):
        return bool(value)
    known = _TRUTHS.get(value.strip().lower())
    return bool(float(value)) if known is None else known
