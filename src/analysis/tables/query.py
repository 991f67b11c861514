"""Runs chosen by an expression, as `batch_size >= 128 and averaging.isnull()`, which is never run as code."""
from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from src.analysis.reading.filters import cells_equal, is_missing, require_column
from src.errors import ResultsError

_LONGEST = 2000
_EXAMPLE = "batch_size >= 128 and averaging.isnull() and model in ['linear', 'tiny/lenet']"
_Value = Callable[[int], Any]  # of a row

_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Mod: operator.mod}
_ORDER: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}


def _among(value: Any, options: Any) -> bool:
    return isinstance(options, list) and any(cells_equal(value, option) for option in options)


def _of_words(method: Callable[[str, str], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, part: isinstance(value, str) and isinstance(part, str) and method(value, part)


# name -> how many arguments, and what it gives
_METHODS: dict[str, tuple[int, Callable[..., bool]]] = {
    **dict.fromkeys(("isnull", "isna"), (0, is_missing)),
    **dict.fromkeys(("notnull", "notna"), (0, lambda value: not is_missing(value))),
    "isin": (1, _among),
    "between": (2, lambda value, low, high: _ordered(operator.ge, value, low) and _ordered(operator.le, value, high)),
    "contains": (1, _of_words(lambda text, part: part in text)),
    "startswith": (1, _of_words(str.startswith)),
    "endswith": (1, _of_words(str.endswith))}


def query(df: pd.DataFrame, expression: str) -> pd.DataFrame:
    """The rows of `df` for which `expression` holds.

    Names are columns, in backticks where they are no Python names (`facts/host`); numbers, 'words', true, false and
    null are values. There are + - * / %, comparisons (with what is missing none holds but == null), in, and, or, not
    (& | ~ mean these), and the methods isnull, notnull, isin, between, contains, startswith, endswith.
    Raises ResultsError for anything else.
    """
    text, quoted = _prepared(expression)
    try:
        if len(text) > _LONGEST:
            raise ValueError(f"more than {_LONGEST} characters")
        with warnings.catch_warnings(action="ignore"):  # of strange escapes and comparisons
            tree = ast.parse(text.strip(), mode="eval")
        holds = _Reader(df, expression, quoted).value(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, ResultsError):
            raise
        raise ResultsError(f"this cannot be read: {getattr(error, 'msg', None) or error}", where=expression[:80],
                           hint=f"write it as {_EXAMPLE}") from None
    return df[np.fromiter((holds(row) is True for row in range(len(df))), bool, len(df))]


def _prepared(expression: str) -> tuple[str, dict[str, str]]:
    """The expression with Python names instead of backticks and words instead of & | ~; the columns of these names."""
    quoted: dict[str, str] = {}

    def replaced(match: re.Match[str]) -> str:
        word = match[0]
        if word[0] == "`":
            name = f"column_in_backticks_{len(quoted)}"
            quoted[name] = word[1:-1]
            return name
        return {"&": " and ", "|": " or ", "~": " not "}.get(word, word)

    return re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`[^`]+`|&|\||~", replaced, expression), quoted


def _ordered(compare: Callable[[Any, Any], bool], one: Any, other: Any) -> bool:
    """A comparison of two numbers or two words; nothing else has an order."""
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (one, other))
    return bool(compare(one, other)) if numbers or isinstance(one, str) and isinstance(other, str) else False


class _Reader:
    """Turns the nodes of an expression into functions of the row. Whatever is not named here is refused."""

    def __init__(self, df: pd.DataFrame, expression: str, quoted: dict[str, str]) -> None:
        self._df, self._expression, self._quoted = df, expression, quoted

    def value(self, node: ast.expr) -> _Value:
        """What the node is for a row. ResultsError if it is none of those that are allowed."""
        read = getattr(self, f"_{type(node).__name__.lower()}", None)
        if read is None:
            raise self._refused(node)
        found: _Value = read(node)
        return found

    def _refused(self, node: ast.expr) -> ResultsError:
        methods = ", ".join(f".{name}()" for name in _METHODS)
        return ResultsError(f"'{ast.unparse(node)}' is not allowed", where=self._expression,
                            allowed=f"columns, values, + - * / %, comparisons, in, and, or, not, {methods}")

    def _constant(self, node: ast.Constant) -> _Value:
        if not isinstance(node.value, (int, float, str, type(None))):
            raise self._refused(node)
        return lambda row: node.value

    def _name(self, node: ast.Name) -> _Value:
        words = {"true": True, "false": False, "null": None}
        if node.id in words and node.id not in self._df:
            return lambda row: words[node.id]
        values = require_column(self._df, self._quoted.get(node.id, node.id)).tolist()
        return values.__getitem__

    def _list(self, node: ast.List | ast.Tuple) -> _Value:
        items = [self.value(item) for item in node.elts]
        return lambda row: [item(row) for item in items]

    _tuple = _list

    def _boolop(self, node: ast.BoolOp) -> _Value:
        parts = [self.value(part) for part in node.values]
        decide = all if isinstance(node.op, ast.And) else any
        return lambda row: decide(part(row) is True for part in parts)

    def _unaryop(self, node: ast.UnaryOp) -> _Value:
        of = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            return lambda row: of(row) is not True
        if isinstance(node.op, ast.USub):
            return lambda row: -value if isinstance(value := of(row), (int, float)) else None
        raise self._refused(node)

    def _binop(self, node: ast.BinOp) -> _Value:
        if type(node.op) not in _ARITHMETIC:
            raise self._refused(node)
        compute, left, right = _ARITHMETIC[type(node.op)], self.value(node.left), self.value(node.right)

        def result(row: int) -> Any:
            pair = left(row), right(row)
            if not all(isinstance(value, (int, float)) for value in pair):
                return None
            try:
                return compute(*pair)
            except (ZeroDivisionError, OverflowError):
                return None

        return result

    def _compare(self, node: ast.Compare) -> _Value:
        values = [self.value(part) for part in (node.left, *node.comparators)]
        links = list(zip(node.ops, values, values[1:], strict=False))
        return lambda row: all(self._holds(link, left(row), right(row)) for link, left, right in links)

    @staticmethod
    def _holds(link: ast.cmpop, left: Any, right: Any) -> bool:
        if isinstance(link, (ast.Eq, ast.Is)):
            return cells_equal(left, right)
        if isinstance(link, (ast.NotEq, ast.IsNot)):
            return not cells_equal(left, right)
        if isinstance(link, (ast.In, ast.NotIn)):
            return _among(left, right) == isinstance(link, ast.In)
        return _ordered(_ORDER[type(link)], left, right)

    def _call(self, node: ast.Call) -> _Value:
        method = node.func
        if not isinstance(method, ast.Attribute) or method.attr not in _METHODS or node.keywords or len(
                node.args) != _METHODS[method.attr][0]:
            raise self._refused(node)
        of = method.value
        if isinstance(of, ast.Attribute) and of.attr == "str":  # as pandas writes it
            of = of.value
        cell, arguments, decide = self.value(of), [self.value(item) for item in node.args], _METHODS[method.attr][1]
        return lambda row: decide(cell(row), *(argument(row) for argument in arguments))
