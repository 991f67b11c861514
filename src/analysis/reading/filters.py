"""Select runs: filt(big_df, model="linear", base_lr=Interval(0.1, 1)) keeps the rows that match."""
from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from src.config import declared_types
from src.errors import ResultsError, did_you_mean


class Interval(NamedTuple):
    """The numbers from `low` to `high`, both included; None leaves that side open."""

    low: float | None = None
    high: float | None = None

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


def filt(df: pd.DataFrame, where: Mapping[str, Any] | None = None, /, **conditions: Any) -> pd.DataFrame:
    """Return the rows of `df` (a row per run) that meet every condition on a column.

    where: conditions on columns whose names are not Python identifiers: filt(df, {"facts/host": "node1"})
    conditions: for each column one of
        - a value: None and NaN match missing cells, numbers are compared by value up to rounding, true and false are
          not numbers, and 1 differs from 1.0 only in columns where that matters (`distinguishes_floats`)
        - a list of conditions, of which one must hold; in a column of lists also the whole list of a cell
        - an Interval
        - a compiled regular expression, searched in strings
        - a function of the cell, such as `lambda curve: curve.max() > 0.9` for a column of curves
    ResultsError for an unknown column, and for a single value in a column of lists.
    """
    keep = np.ones(len(df), dtype=bool)
    for name, condition in {**(where or {}), **conditions}.items():
        cells, condition = require_column(df, name).tolist(), as_declared(name, condition)
        check_condition(name, condition, cells)
        strict = distinguishes_floats(name, cells)
        keep &= np.fromiter((matches(condition, cell, strict) for cell in cells), bool, len(df))
    return df[keep]


def require_column(df: pd.DataFrame, name: str) -> pd.Series:
    """Return the column `name`. ResultsError with the nearest name if it does not exist."""
    if name not in df.columns:
        raise unknown_column(name, map(str, df.columns))
    return df[name]


def unknown_column(name: str, columns: Iterable[str]) -> ResultsError:
    """Return the error for a column that does not exist; it suggests the nearest of `columns`."""
    return ResultsError(f"unknown column '{name}'", hint=did_you_mean(name, columns)
                        or "list(big_df.columns) lists all columns")


def is_missing(value: object) -> bool:
    """Return whether a cell is None, NaN or pandas' NA."""
    return value is None or value is pd.NA or isinstance(value, float) and math.isnan(value)


def is_number(value: Any) -> bool:
    """Return whether a cell is an int or a float; true and false are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def distinguishes_floats(name: str, cells: Iterable[Any]) -> bool:
    """Return whether 1 and 1.0 are different values of a column.

    They are where Config declares `int | float` (`limit_train_batches: 1` is one batch, 1.0 is all of them), and, for
    columns that are not fields of Config, where both ints and floats occur.
    """
    types = declared_types(name)
    if types:
        return {"int", "float"} <= types
    return {int, float} <= set(map(type, cells))


def as_declared(name: str, value: Any) -> Any:
    """Return a value, or a list of them, in the type of a column's cells.

    The string '0.9' becomes the number 0.9 if the field of Config accepts numbers and strings, as `momentum` does.
    """
    if not {"float", "str"} <= declared_types(name):
        return value
    if type(value) in (list, tuple, set, frozenset):  # not an Interval
        return [as_declared(name, item) for item in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def cells_equal(first: object, second: object, strict: bool = False) -> bool:
    """Return whether two cells hold the same value.

    Missing equals missing. Numbers are compared by value up to rounding; strict: an int never equals a float. Lists and
    mappings are compared item by item. Values of other types differ: true is not 1, and '1' is not 1.
    """
    if is_missing(first) or is_missing(second):
        return is_missing(first) and is_missing(second)
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if is_number(first) and is_number(second) and (isinstance(first, float) or isinstance(second, float)):
        same_type = isinstance(first, float) and isinstance(second, float)
        return (same_type or not strict) and math.isclose(first, second, rel_tol=1e-12)  # type: ignore[arg-type]
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(cells_equal, first, second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(cells_equal(value, second[name]) for name, value in first.items())
    return type(first) is type(second) and first == second


def cell_key(value: Any) -> Any:
    """Return a hashable key of a config cell, equal for equal settings. int, float, bool, str and None stay apart."""
    if type(value) is str or type(value) is int:  # most cells of a grid
        return value
    if is_missing(value):
        return None
    if isinstance(value, Mapping):
        return dict, tuple((name, cell_key(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return list, tuple(map(cell_key, value))
    return (type(value), value) if isinstance(value, (bool, float)) else value


def key_column(values: pd.Series) -> pd.Series:
    """Return the `cell_key` of each cell, for pandas' functions that hash cells: a config may have a list anywhere.

    A column of one type of numbers is returned as it is.
    """
    return values.map(cell_key).astype(object) if values.dtype == object else values


def levels(values: pd.Series) -> list[Any]:
    """Return the distinct values of a config column: a missing one first, numbers in order, others as they occur."""
    distinct = {cell_key(value): None if is_missing(value) else value for value in values.tolist()}
    missing = [value for value in distinct.values() if value is None]
    present = [value for value in distinct.values() if value is not None]
    return missing + (sorted(present) if all(map(is_number, present)) else present)


def check_condition(name: str, condition: Any, cells: Iterable[Any]) -> None:
    """Raise ResultsError if the condition is a single value and all cells of the column are lists."""
    present = [cell for cell in cells if not is_missing(cell)]
    if present and isinstance(to_python(condition), (str, int, float)) and not is_missing(condition) and all(
            isinstance(cell, list) for cell in present):
        raise ResultsError(f"the cells of {name} are lists, which no single value equals",
                           hint=f"give the whole list, as {name}={present[0]!r}, or a function, as "
                           f"{name}=lambda items: {condition!r} in items")


def matches(condition: Any, cell: Any, strict: bool = False) -> bool:
    """Return whether a cell meets a condition of `filt`. strict: an int never equals a float."""
    if isinstance(condition, Interval):
        return cell in condition
    condition = to_python(condition)
    if isinstance(condition, (list, tuple, set, frozenset, range)):
        is_whole_list = isinstance(condition, (list, tuple)) and isinstance(cell, (list, tuple))
        return is_whole_list and cells_equal(condition, cell) or any(
            matches(option, cell, strict) for option in condition)
    if isinstance(condition, re.Pattern):
        return isinstance(cell, str) and condition.search(cell) is not None
    if callable(condition):
        return bool(condition(cell))
    if isinstance(cell, pd.Series):
        raise ResultsError("the cells of this column are curves, which no single value equals",
                           hint="give a function of the curve, such as `lambda curve: curve.max() > 0.9`")
    return cells_equal(condition, cell, strict)


def to_python(value: Any) -> Any:
    """Convert a scalar, an array or a column of numpy or pandas to a Python value."""
    return value.tolist() if isinstance(value, (np.generic, np.ndarray, pd.Series, pd.Index)) else value
