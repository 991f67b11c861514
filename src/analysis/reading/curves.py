"""Columns of curves: a Series for each run, created when the column is accessed."""
from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray, ExtensionDtype, take

from src.analysis.reading.filters import is_missing

Make = Callable[[], np.ndarray]  # returns the (n,) Series of a column


class CurveType(ExtensionDtype):
    """The pandas type of a column of curves. holds_words: they are of strings instead of numbers."""

    name = "curve"
    kind = "O"
    na_value = np.nan
    _metadata = ("holds_words",)

    def __init__(self, holds_words: bool = False) -> None:
        self.holds_words = holds_words

    @property
    def type(self) -> Any:
        return pd.Series

    @classmethod
    def construct_array_type(cls) -> Any:
        return Curves


class _Column:
    """The cells of a whole column, created once for all arrays that are parts of it."""

    def __init__(self, make: Make, holds_words: bool) -> None:
        self._make, self.holds_words = make, holds_words

    @functools.cached_property
    def cells(self) -> np.ndarray:
        return self._make()

    @property
    def is_created(self) -> bool:
        return "cells" in self.__dict__


class Curves(ExtensionArray):
    """Behaves like a column of objects. Selecting, sorting and copying runs creates no cell."""

    def __init__(self, source: _Column, at: np.ndarray) -> None:
        self._source, self._at = source, at  # cell i is the cell at[i] of the source

    @classmethod
    def lazy(cls, make: Make, length: int, holds_words: bool = False) -> Curves:
        """Return `length` cells that `make` creates when one of them is accessed."""
        return cls(_Column(make, holds_words), np.arange(length))

    @classmethod
    def of(cls, cells: Sequence[Any] | np.ndarray) -> Curves:
        """Return existing cells: Series, or NaN for missing ones."""
        values = np.empty(len(cells), dtype=object)
        for position, cell in enumerate(cells):
            values[position] = cell
        holds_words = any(isinstance(cell, pd.Series) and cell.dtype == object for cell in values)
        curves = cls.lazy(lambda: values, len(values), holds_words)
        curves._source.cells  # noqa: B018  # marks them as created
        return curves

    @classmethod
    def _from_sequence(cls, scalars: Any, *, dtype: Any = None, copy: bool = False) -> Curves:
        cells = list(scalars)
        if not all(isinstance(cell, pd.Series) or is_missing(cell) for cell in cells):
            raise TypeError("a column of curves holds Series")
        return cls.of(cells)

    def _cast_pointwise_result(self, values: Any) -> Any:
        """Return the results of a function of each cell: curves, or an ordinary column."""
        cells = list(values)
        if any(isinstance(cell, pd.Series) for cell in cells):
            return Curves.of(cells)
        return pd.Series(cells, dtype=None if cells else object).array

    @classmethod
    def _from_factorized(cls, values: Any, original: Any) -> Curves:
        return cls.of(values)

    @classmethod
    def _concat_same_type(cls, to_concat: Sequence[Curves]) -> Curves:
        return cls.of([cell for part in to_concat for cell in part])

    def _cells(self) -> np.ndarray:
        return self._source.cells[self._at]

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cells())

    def __getitem__(self, item: Any) -> Any:
        item = pd.api.indexers.check_array_indexer(self, item)
        at = self._at[item]
        return Curves(self._source, at) if isinstance(at, np.ndarray) else self._source.cells[at]

    def __setitem__(self, key: Any, value: Any) -> None:
        cells = self._cells()
        if isinstance(value, Curves):
            value = value._cells()
        positions = np.atleast_1d(np.arange(len(self))[pd.api.indexers.check_array_indexer(self, key)])
        many = isinstance(value, (list, np.ndarray))
        for number, position in enumerate(positions):
            cells[position] = value[number] if many else value
        changed = Curves.of(cells)
        self._source, self._at = changed._source, changed._at

    def __eq__(self, other: object) -> Any:
        return self._cells() == other

    __hash__ = None  # type: ignore[assignment]  # like every array

    @property
    def dtype(self) -> CurveType:
        return CurveType(self._source.holds_words)

    @property
    def nbytes(self) -> int:
        return int(self._at.nbytes)

    def isna(self) -> np.ndarray:
        if not self._source.is_created:  # all cells are curves
            return np.zeros(len(self), bool)
        return np.fromiter((not isinstance(cell, pd.Series) for cell in self._cells()), bool, len(self))

    def take(self, indices: Any, *, allow_fill: bool = False, fill_value: Any = None) -> Curves:
        indices = np.asarray(indices)
        if allow_fill and (indices < 0).any():
            return Curves.of(take(self._cells(), indices, allow_fill=True, fill_value=np.nan))
        return Curves(self._source, take(self._at, indices))

    def copy(self) -> Curves:
        return Curves(self._source, self._at.copy())

    def astype(self, dtype: Any, copy: bool = True) -> Any:
        if isinstance(dtype, CurveType) or dtype == "curve":
            return self.copy()
        dtype = pd.api.types.pandas_dtype(dtype)  # `str` is an extension type
        if isinstance(dtype, ExtensionDtype):
            return pd.Series(self._cells(), dtype=object).astype(dtype).array
        return self._cells().astype(dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self._cells()

    def __reduce__(self) -> tuple[Any, ...]:
        return Curves.of, (list(self._cells()),)
