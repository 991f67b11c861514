"""Values of the page document: JSON without NaN, text without control characters, arrays as base64."""
from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from src.analysis.reading.filters import is_missing, to_python
from src.printable import printable

_DIGITS = 7  # of a number, as many as a float32 has
_MAX_TEXT = 20_000  # characters of one text


class Table(TypedDict, total=False):
    """A table of the page.

    notes: sentences above it;
    code: columns in a monospaced font;
    copy: a column whose cells have a button that copies them
    """

    title: str
    notes: list[str]
    columns: list[str]
    rows: list[list[Any]]
    code: list[str]
    copy: str


def table(title: str, frame: pd.DataFrame, notes: Iterable[str] = (), code: Iterable[str] = (), copy: str = ""
          ) -> Table:
    """Return a frame as a table of the page."""
    result: Table = {"title": title, "notes": [text(note) for note in notes], "columns": [text(name) for name in frame],
                     "rows": [[value(cell) for cell in row] for row in frame.astype(object).itertuples(
                         index=False, name=None)], "code": list(code)}
    return result | {"copy": copy} if copy else result


def text(value: object) -> str:
    """Return a text without control characters, surrogates and characters that change its direction; cut if long."""
    string = str(value)
    return printable(string if len(string) <= _MAX_TEXT else f"{string[:_MAX_TEXT]} …")


def number(figure: float) -> float | int | None:
    """Return a number with the digits of a float32; None if it is not finite."""
    if isinstance(figure, int):
        return figure
    return float(f"{figure:.{_DIGITS}g}") if math.isfinite(figure) else None


def numbers(figures: Iterable[float]) -> list[float | int | None]:
    """Return the numbers of a column."""
    return [number(figure) for figure in np.asarray(figures).tolist()]


def value(cell: Any) -> Any:
    """Return any cell as a value of JSON, None if it is missing."""
    if is_missing(cell):
        return None
    cell = to_python(cell)
    if isinstance(cell, (bool, int, float)):
        return number(cell)
    if isinstance(cell, Mapping):
        return {text(key): value(item) for key, item in cell.items()}
    return [value(item) for item in cell] if isinstance(cell, (list, tuple)) else text(cell)


def parameter(cell: Any) -> Any:
    """Return the value of a parameter: as `value`, but exact, and a number that is not finite as text."""
    if isinstance(cell, float):
        return cell if math.isfinite(cell) else f"{cell:g}"
    return value(cell)


def packed(array: np.ndarray, kind: str) -> str:
    """Return an array as base64 of its little-endian bytes. kind: a numpy type such as f4 or i4."""
    with np.errstate(over="ignore"):  # of a number beyond float32
        return base64.b64encode(np.ascontiguousarray(array, dtype=f"<{kind}").tobytes()).decode()
