"""The rows of a training as a pandas DataFrame, to which a row is added without copying the others."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd


class StatsTable:
    """All rows so far, as floats; an empty cell is NaN. Adding a row costs the same at any epoch."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = pd.Index(columns)
        self._cells = np.empty((64, len(columns)))
        self._rows = 0

    def add(self, row: Mapping[str, float | None]) -> pd.DataFrame:
        """Add a row and return the table. It is read-only and shares memory with later ones: copy it to change it."""
        if self._rows == len(self._cells):
            self._cells = np.concatenate([self._cells, np.empty_like(self._cells)])
        self._cells[self._rows] = [np.nan if (value := row[name]) is None else value for name in self._columns]
        self._rows += 1
        view = self._cells[: self._rows]
        view.flags.writeable = False
        return pd.DataFrame(view, columns=self._columns, copy=False)
