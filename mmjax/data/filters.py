"""Filters on the metadata of a record, as one expression in a config.

    filter = "width >= 256 and aspect < 3 and similarity > 0.28 and language in ('en', 'de')"

Names are fields of the record's JSON (tar) or columns (tables, Parquet). Where no field says so,
`aspect` is the longer side over the shorter, `caption_length` that of the longest caption.
"""

import ast
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.errors import UserError

_OPERATORS: dict[type, Any] = {
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b, ast.Add: operator.add, ast.Sub: operator.sub,
    ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Not: operator.not_,
    ast.USub: operator.neg,
}  # fmt: skip
_WIDTHS, _HEIGHTS = ("width", "original_width"), ("height", "original_height")


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
            return bool(_evaluate(self._tree, values, captions))
        except (TypeError, ZeroDivisionError) as error:
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
               ast.List, ast.boolop, ast.Load, *_OPERATORS)  # fmt: skip
    for node in ast.walk(tree):
        if not isinstance(node, allowed):
            raise UserError(
                f"{name}: filter={text!r} may hold names, numbers, strings, comparisons, and, or, "
                f"not, in and arithmetic, no {type(node).__name__}."
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
            return all(value(part) for part in parts)
        case ast.BoolOp(values=parts):
            return any(value(part) for part in parts)
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](value(operand))
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](value(left), value(right))
        case ast.Compare(left=left, ops=ops, comparators=rights):
            operands = [value(left), *map(value, rights)]
            pairs = zip(ops, operands, operands[1:], strict=False)
            return all(_OPERATORS[type(op)](a, b) for op, a, b in pairs)
    raise AssertionError(node)  # _parse lets nothing else through


def _field(field: str, values: Mapping[str, Any], captions: Sequence[str]) -> Any:
    found = values.get(field)
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
    return _number(found)


def _number(value: Any) -> Any:
    """Tables hold text: what reads as a number is one."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
