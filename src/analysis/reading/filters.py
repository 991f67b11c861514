"""Choosing runs: filt(big_df, model="linear", base_lr=Interval(0.1, 1)) keeps the rows that match."""
from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

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
    """The rows of `df` (a row per run) that meet every condition on a column.

    A condition is a value (numbers are compared by value, up to rounding; None and NaN match what is missing), a list
    of conditions of which one must hold, an Interval, a compiled regular expression that is searched in strings, or
    a function of the cell, such as `lambda curve: curve.max() > 0.9` for a column of curves. Columns whose names are no
    Python names go into `where`: filt(df, {"facts/host": "node1"}). Raises ResultsError for an unknown column.
    """
    keep = np.ones(len(df), dtype=bool)
    for name, condition in {**(where or {}), **conditions}.items():
        keep &= np.fromiter((matches(condition, cell) for cell in require_column(df, name).tolist()), bool, len(df))
    return df[keep]


def require_column(df: pd.DataFrame, name: str) -> pd.Series:
    """The column `name`. ResultsError with the nearest name if there is none."""
    if name not in df.columns:
        raise unknown_column(name, map(str, df.columns))
    return df[name]


def unknown_column(name: str, columns: Iterable[str]) -> ResultsError:
    """The error that says so, and names the nearest of those that there are."""
    return ResultsError(f"there is no column '{name}'", hint=did_you_mean(name, columns)
                        or "list(big_df.columns) shows all of them")


def is_missing(value: object) -> bool:
    """None, NaN or pandas' NA."""
    return value is None or value is pd.NA or isinstance(value, float) and math.isnan(value)


def cells_equal(one: object, other: object) -> bool:
    """Equality of two cells: numbers by value up to rounding, missing with missing, true and false not as numbers."""
    if is_missing(one) or is_missing(other):
        return is_missing(one) and is_missing(other)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) and isinstance(other, (int, float)) or isinstance(other, float) and isinstance(one, int):
        return math.isclose(one, other, rel_tol=1e-12)
    return type(one) is type(other) and one == other


def cell_key(value: Any) -> Any:
    """A hashable stand-in for a cell of a config column: equal for cells that hold the same setting."""
    if type(value) is str or type(value) is int:  # most cells of a grid
        return value
    if is_missing(value):
        return None
    if isinstance(value, Mapping):
        return tuple((name, cell_key(item)) for name, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(map(cell_key, value))
    return (bool, value) if isinstance(value, bool) else value


def is_number(value: Any) -> bool:
    """An int or a float; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def levels(values: pd.Series) -> list[Any]:
    """The different values of a config column: numbers in order, others as they come, a missing one first."""
    found = {cell_key(value): None if is_missing(value) else value for value in values.tolist()}
    missing = [value for value in found.values() if value is None]
    there = [value for value in found.values() if value is not None]
    return missing + (sorted(there) if all(map(is_number, there)) else there)


def matches(condition: Any, cell: Any) -> bool:
    """Whether a cell meets a condition of `filt`."""
    if isinstance(condition, (list, tuple, set, frozenset, range)) and not isinstance(condition, Interval):
        return any(matches(one, cell) for one in condition)
    if isinstance(condition, re.Pattern):
        return isinstance(cell, str) and condition.search(cell) is not None
    if callable(condition):
        return bool(condition(cell))
    if isinstance(cell, pd.Series):
        raise ResultsError("this column holds a curve for each run, which no single value equals",
                           hint="give a function of the curve, such as `lambda curve: curve.max() > 0.9`")
    return cell in condition if isinstance(condition, Interval) else cells_equal(to_python(condition), cell)


def to_python(value: Any) -> Any:
    """A numpy scalar as the Python value that it is."""
    return value.item() if hasattr(value, "item") else value
