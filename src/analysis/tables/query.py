"""Select runs by an expression, as `batch_size >= 128 and averaging.isnull()`, which is never executed as code."""
from __future__ import annotations

import ast
import contextlib
import itertools
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

import numpy as np
import pandas as pd

from src import metrics, run_folder
from src.analysis.reading.filters import as_declared, cells_equal, distinguishes_floats, is_missing, is_number
from src.analysis.tables import tables
from src.config import FIELDS
from src.errors import ResultsError, did_you_mean

_MAX_LENGTH = 2000
_EXAMPLE = "batch_size >= 128 and averaging.isnull() and model in ['linear', 'tiny/lenet']"
_Value = Callable[[int], Any]  # row number → value
_LITERALS = {"true": True, "false": False, "null": None}  # unless a column has this name

_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Mod: operator.mod}
_ORDER: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}


def _is_in(value: Any, options: Any, strict: bool = False) -> bool:
    return isinstance(options, list) and any(cells_equal(value, option, strict) for option in options)


def _contains(value: Any, part: Any) -> bool:
    """Whether a string contains a string, or a list an item."""
    return _is_in(part, value) if isinstance(value, list) else (
        isinstance(value, str) and isinstance(part, str) and part in value)


def _on_strings(method: Callable[[str, str], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, part: isinstance(value, str) and isinstance(part, str) and method(value, part)


# name: (number of arguments, function of the cell and the arguments)
_METHODS: dict[str, tuple[int, Callable[..., bool]]] = {
    **dict.fromkeys(("isnull", "isna"), (0, is_missing)),
    **dict.fromkeys(("notnull", "notna"), (0, lambda value: not is_missing(value))),
    "isin": (1, _is_in),
    "between": (2, lambda value, low, high: _compare(operator.ge, value, low) and _compare(operator.le, value, high)),
    "contains": (1, _contains),
    "startswith": (1, _on_strings(str.startswith)),
    "endswith": (1, _on_strings(str.endswith))}


# the cells of which a method can hold
_CELL_TYPES: dict[str, tuple[type, ...]] = {"contains": (str, list), "startswith": (str,), "endswith": (str,)}


def _item(cell: Any, key: str | int) -> Any:
    """Return an item of a mapping, or of a list by its number; None if there is none."""
    if isinstance(cell, Mapping):
        return cell.get(key)
    return cell[key] if isinstance(cell, list) and isinstance(key, int) and -len(cell) <= key < len(cell) else None


def _spell(value: Any) -> str:
    """Return a value as an expression spells it."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_spell(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_spell, value))}]"
    return next((name for name, literal in _LITERALS.items() if value is literal), repr(value))


def _kind(cell: Any) -> str:
    return "mappings" if isinstance(cell, Mapping) else "lists" if isinstance(cell, list) else (
        "numbers" if is_number(cell) else "true or false" if isinstance(cell, bool) else "strings")


def query(df: pd.DataFrame, expression: str) -> pd.DataFrame:
    """Return the rows of `df` for which `expression` holds.

    Names are columns, in backticks where they are not Python identifiers (`facts/host`); numbers, 'strings', true,
    false and null are values, as are lists and mappings of them: model_kwargs == {'width': 8}. model_kwargs['width'] is
    an item of a mapping or a list, null where it has none. Operators: + - * / %, comparisons, in, and, or, not (& | ~
    mean these). Methods: isnull, isna, notnull, notna, isin, between, contains (a string in a string, an item in a
    list), startswith, endswith.

    Missing cells: null is a value of its own for == and !=. `x == null` holds where x is missing; `x != 5` and
    `x not in [5]` hold there too, since missing is not 5. <, <=, >, >= and between never hold for a missing cell.
    Numbers are compared by value up to rounding; 1 and 1.0 differ only in columns where that matters
    (`filters.distinguishes_floats`). ResultsError for anything else, and for what can hold for no cell of a column, as
    `contains` of numbers.
    """
    text, quoted = _to_python_syntax(expression)
    try:
        if len(text) > _MAX_LENGTH:
            raise ValueError(f"it has more than {_MAX_LENGTH} characters")
        with warnings.catch_warnings(action="ignore"):  # about invalid escapes and suspicious comparisons
            tree = ast.parse(text.strip(), mode="eval")
        holds = _Compiler(df, expression, quoted).value(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, ResultsError):
            raise
        raise ResultsError(f"invalid expression: {getattr(error, 'msg', None) or error}", where=expression[:80],
                           hint=f"write it as {_EXAMPLE}") from None
    return df[np.fromiter((holds(row) is True for row in range(len(df))), bool, len(df))]


def column(df: pd.DataFrame, name: str, is_negated: bool = False) -> pd.Series:
    """Return a column of values_table. ResultsError with the nearest name, or with all that are no parameters.

    is_negated: `not` stands before the name, for the hint if it is a value of the column `end`.
    """
    if name in df.columns:
        return df[name]
    names = [str(column) for column in df.columns]
    others = [column for column in names if column not in FIELDS and not column.startswith("facts/")]
    hint = f"did you mean end {'!=' if is_negated else '=='} '{name}'?" if name in run_folder.ENDS else did_you_mean(
        name, names)
    raise ResultsError(f"unknown column '{name}'", hint=hint, allowed=None if hint else (
        f"{', '.join(others)}; every parameter of a job spec; and facts, as facts/host"))


def sort(df: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of values_table sorted by a column: the best first of a metric, else ascending; equal rows keep
    their order. With a minus before the name, the other way round. Rows without a value come last.
    """
    is_reversed = name.startswith("-") and name not in df.columns
    cells = column(df, name.removeprefix("-") if is_reversed else name)
    is_missing_cell = cells.map(is_missing).to_numpy(bool)
    measure = str(cells.name).removeprefix("best/")
    is_descending = "/" in measure and not measure.startswith("facts/") and (
        metrics.direction(measure, tables.named_metric(df)) == metrics.MAXIMIZE)
    positions = sorted(np.flatnonzero(~is_missing_cell), key=lambda row: _sort_key(cells.iloc[row]),
                       reverse=is_descending != is_reversed)
    return df.iloc[[*positions, *np.flatnonzero(is_missing_cell)]]


def _sort_key(value: Any) -> tuple[str, Any]:
    """Numbers are sorted by value, strings by their characters, and other types by their text."""
    return ("", value) if is_number(value) else (type(value).__name__, value if isinstance(value, str) else repr(value))


def _to_python_syntax(expression: str) -> tuple[str, dict[str, str]]:
    """Replace backticks by identifiers, and & | ~ by and, or, not. Return the expression, and columns by identifier."""
    quoted: dict[str, str] = {}

    def replace(match: re.Match[str]) -> str:
        token = match[0]
        if token[0] == "`":
            name = f"column_in_backticks_{len(quoted)}"
            quoted[name] = token[1:-1]
            return name
        return {"&": " and ", "|": " or ", "~": " not "}.get(token, token)

    return re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`[^`]+`|&|\||~", replace, expression), quoted


def _compare(operation: Callable[[Any, Any], bool], first: Any, second: Any) -> bool:
    """Compare two numbers or two strings; values of other types have no order."""
    is_ordered = is_number(first) and is_number(second) or isinstance(first, str) and isinstance(second, str)
    return is_ordered and bool(operation(first, second))


class _Compiler:
    """Turns the nodes of an expression into functions of the row. Nodes without a method here are refused."""

    def __init__(self, df: pd.DataFrame, expression: str, quoted: dict[str, str]) -> None:
        self._df, self._expression, self._quoted = df, expression, quoted

    def value(self, node: ast.expr) -> _Value:
        """Return the function that computes a node's value for a row. ResultsError for a node that is not allowed."""
        compile_node = getattr(self, f"_{type(node).__name__.lower()}", None)
        if compile_node is None:
            raise self._refused(node)
        value: _Value = compile_node(node)
        return value

    def _refused(self, node: ast.expr) -> ResultsError:
        methods = ", ".join(f".{name}()" for name in _METHODS)
        return ResultsError(f"'{ast.unparse(node)}' is not allowed", where=self._expression,
                            allowed="columns, their items as x['key'], values, lists, mappings, + - * / %, "
                            f"comparisons, in, and, or, not, {methods}")

    def _constant(self, node: ast.Constant) -> _Value:
        if not isinstance(node.value, (int, float, str, type(None))):
            raise self._refused(node)
        return lambda row: node.value

    def _name(self, node: ast.Name) -> _Value:
        return self._cells(node).__getitem__ if self._is_column(node) else lambda row: _LITERALS[node.id]

    def _is_column(self, node: ast.expr) -> TypeGuard[ast.Name]:
        """Whether a node is a name, and none of the literals."""
        return isinstance(node, ast.Name) and (node.id not in _LITERALS or node.id in self._df)

    def _cells(self, node: ast.Name) -> list[Any]:
        return column(self._df, self._quoted.get(node.id, node.id)).tolist()

    def _is_strict(self, node: ast.expr) -> bool:
        """Whether a node is a column in which 1 and 1.0 differ."""
        return self._is_column(node) and distinguishes_floats(self._quoted.get(node.id, node.id), self._cells(node))

    def _list(self, node: ast.List | ast.Tuple) -> _Value:
        items = [self.value(item) for item in node.elts]
        return lambda row: [item(row) for item in items]

    _tuple = _list

    def _dict(self, node: ast.Dict) -> _Value:
        if not all(isinstance(key, ast.Constant) for key in node.keys):  # None in place of **mapping
            raise self._refused(node)
        items = [(ast.literal_eval(key), self.value(item)) for key, item in zip(node.keys, node.values, strict=True)
                 if key is not None]
        return lambda row: {key: item(row) for key, item in items}

    def _subscript(self, node: ast.Subscript) -> _Value:
        """An item of the mapping or the list in a cell."""
        key = None
        with contextlib.suppress(ValueError):  # not a literal
            key = ast.literal_eval(node.slice)
        if not isinstance(key, (str, int)):
            raise self._refused(node)
        self._check_cells(node.value, (Mapping, list), f"[{key!r}]")
        cell = self.value(node.value)
        return lambda row: _item(cell(row), key)

    def _check_cells(self, node: ast.expr, types: tuple[type, ...], operation: str) -> None:
        """Raise ResultsError if the node is a column in which no cell is of these types: nothing would ever match."""
        if not self._is_column(node):
            return
        cells = [cell for cell in self._cells(node) if not is_missing(cell)]
        if cells and not any(isinstance(cell, types) for cell in cells):
            raise self._no_match(node, cells[0], f", which have no {operation}")

    def _no_match(self, node: ast.Name, cell: Any, problem: str) -> ResultsError:
        name = ast.unparse(node) if node.id not in self._quoted else f"`{self._quoted[node.id]}`"
        whole = f"{name} == {_spell(cell)}"
        items = list(cell.items()) if isinstance(cell, Mapping) else []
        hint = f"write {name}[{items[0][0]!r}] == {_spell(items[0][1])}, or {whole}" if items else (
            f"write {name}.contains({_spell(cell[0])}), or {whole}" if isinstance(cell, list) and cell else
            f"write {whole}")
        return ResultsError(f"the cells of {name} are {_kind(cell)}{problem}", where=self._expression, hint=hint)

    def _boolop(self, node: ast.BoolOp) -> _Value:
        parts = [self.value(part) for part in node.values]
        combine = all if isinstance(node.op, ast.And) else any
        return lambda row: combine(part(row) is True for part in parts)

    def _unaryop(self, node: ast.UnaryOp) -> _Value:
        is_not = isinstance(node.op, ast.Not)
        if is_not and self._is_column(node.operand):
            column(self._df, self._quoted.get(node.operand.id, node.operand.id), is_negated=True)
        operand = self.value(node.operand)
        if is_not:
            return lambda row: operand(row) is not True
        if isinstance(node.op, ast.USub):
            return lambda row: -value if isinstance(value := operand(row), (int, float)) else None
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
        operands = [node.left, *node.comparators]
        for (first, second), operation in zip(itertools.pairwise(operands), node.ops, strict=True):
            if isinstance(operation, (ast.Eq, ast.NotEq)):
                self._check_comparable(first, second)
                self._check_comparable(second, first)
        values = list(map(self.value, operands))
        strict = list(map(self._is_strict, operands))
        for position, operand in enumerate(operands):
            if self._is_column(operand):  # its neighbors are compared in its type
                for other in {position - 1, position + 1} & set(range(len(operands))):
                    values[other] = self._in_type_of(operand, values[other])
        links = [(operation, values[i], values[i + 1], strict[i] or strict[i + 1])
                 for i, operation in enumerate(node.ops)]
        return lambda row: all(self._holds(operation, left(row), right(row), is_strict)
                               for operation, left, right, is_strict in links)

    def _check_comparable(self, node: ast.expr, value: ast.expr) -> None:
        """Raise ResultsError if all cells of a column are lists or mappings, and the value is a number or a string."""
        if not isinstance(value, ast.Constant) or not self._is_column(node):
            return
        cells = [cell for cell in self._cells(node) if not is_missing(cell)]
        if cells and all(isinstance(cell, (Mapping, list)) for cell in cells) and not is_missing(value.value):
            raise self._no_match(node, cells[0], f", which {value.value!r} never equals")

    def _in_type_of(self, column: ast.Name, value: _Value) -> _Value:
        """Return a value as the cells of a column hold it."""
        name = self._quoted.get(column.id, column.id)
        return lambda row: as_declared(name, value(row))

    @staticmethod
    def _holds(operation: ast.cmpop, left: Any, right: Any, strict: bool) -> bool:
        if isinstance(operation, (ast.Eq, ast.Is)):
            return cells_equal(left, right, strict)
        if isinstance(operation, (ast.NotEq, ast.IsNot)):
            return not cells_equal(left, right, strict)
        if isinstance(operation, (ast.In, ast.NotIn)):
            return _is_in(left, right, strict) == isinstance(operation, ast.In)
        return _compare(_ORDER[type(operation)], left, right)

    def _call(self, node: ast.Call) -> _Value:
        method = node.func
        if not isinstance(method, ast.Attribute) or method.attr not in _METHODS or node.keywords or len(
                node.args) != _METHODS[method.attr][0]:
            raise self._refused(node)
        operand = method.value
        if isinstance(operand, ast.Attribute) and operand.attr == "str":  # the spelling of pandas: x.str.contains('a')
            operand = operand.value
        if method.attr in _CELL_TYPES:
            self._check_cells(operand, _CELL_TYPES[method.attr], f".{method.attr}()")
        cell, arguments = self.value(operand), [self.value(item) for item in node.args]
        if method.attr == "isin" and self._is_strict(operand):
            return lambda row: _is_in(cell(row), arguments[0](row), strict=True)
        return lambda row: _METHODS[method.attr][1](cell(row), *(argument(row) for argument in arguments))
