"""Convert Python values to Arrow columns and back, and frames to Arrow tables: for the cache, for files, for polars."""
from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from src.analysis.reading.filters import is_missing

if TYPE_CHECKING:
    import pyarrow as pa

# the beginning of a cell that a spreadsheet evaluates; it skips blanks, and accepts the wide forms of the characters
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")


def encode(values: np.ndarray) -> tuple[bool, pa.Array]:
    """Return (is_json, column): values of one type and None as they are, everything else as JSON."""
    import pyarrow as pa

    if values.dtype != object:
        return False, pa.array(values)
    cells = values.tolist()
    types = set(map(type, cells)) - {type(None)}
    cell_type = types.pop() if len(types) == 1 else str if not types else list
    arrow_types = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    with contextlib.suppress(OverflowError, UnicodeEncodeError):
        if cell_type in arrow_types:
            return False, pa.array(cells, arrow_types[cell_type])
    return True, pa.array(map(json.dumps, cells), pa.string())


def writable_array(column: Any) -> np.ndarray:
    """Return a column of numbers without nulls as a writable array, without a copy if possible.

    A copy takes as long as reading the file.
    """
    chunk = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    values = chunk.buffers()[1]
    if values is None or not values.is_mutable:
        return np.array(chunk)
    return np.frombuffer(values, chunk.type.to_pandas_dtype(), len(chunk), chunk.offset * chunk.type.bit_width // 8)


def decode(column: Any) -> np.ndarray:
    """Return the Python values of a column; equal strings are one object. Numbers without nulls keep a dtype."""
    import pyarrow as pa

    if pa.types.is_string(column.type):
        column = column.dictionary_encode()
    if pa.types.is_dictionary(column.type):
        encoded = column.unify_dictionaries().combine_chunks()
        encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
        strings = np.array([*encoded.dictionary.to_pylist(), None], dtype=object)
        return strings[encoded.indices.fill_null(len(strings) - 1).to_numpy()]
    if column.null_count:
        return np.fromiter(column.to_pylist(), object, len(column))
    return np.array(column.to_numpy()) if pa.types.is_boolean(column.type) else writable_array(column)


def to_table(frame: pd.DataFrame) -> pa.Table:
    """Return a frame as an Arrow table; JSON for lists, mappings and mixed columns, so that 1, 1.0 and '1' differ."""
    import pyarrow as pa

    return pa.table({str(name): _series_to_arrow(frame[name]) for name in frame})


def with_json_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame for a csv file: columns of lists, of mappings and of mixed types hold JSON, and None is empty.

    Text that a spreadsheet would evaluate as a formula, also in names of columns and runs, begins with an apostrophe.
    """
    cells = {name: _csv_cells(frame[name]) for name in frame if not pd.api.types.is_numeric_dtype(frame[name].dtype)}
    return frame.assign(**cells).rename(columns=_without_formula)


def _csv_cells(values: pd.Series) -> Any:
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.cat.rename_categories(_without_formula)
    cells = values.tolist()
    if _needs_json(cells):
        return [None if is_missing(cell) else json.dumps(cell) for cell in cells]
    return [_without_formula(cell) for cell in cells]


def _without_formula(cell: Any) -> Any:
    """Return a cell; with an apostrophe in front if it is text that a spreadsheet evaluates, and no number."""
    if not isinstance(cell, str) or not _FORMULA.match(cell):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _needs_json(cells: list[Any]) -> bool:
    """Whether the text of the cells in a csv file would not tell their types."""
    types = {type(cell) for cell in cells if not is_missing(cell)}
    is_ambiguous = types == {str} and "" in cells and any(map(is_missing, cells))
    return len(types) > 1 or bool(types & {list, dict}) or is_ambiguous


def _series_to_arrow(values: pd.Series) -> pa.Array:
    import pyarrow as pa

    if isinstance(values.dtype, pd.CategoricalDtype):
        labels = pa.array(values.cat.categories.tolist(), pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(values.cat.codes.to_numpy(), pa.int32()), labels)
    if values.dtype != object:
        return pa.array(values.to_numpy())
    is_json, column = encode(values.to_numpy())
    if is_json:
        return pa.array([None if text == "null" else text for text in column.to_pylist()], pa.string())
    return column
