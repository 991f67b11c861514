"""Python values as columns of Arrow and back, and whole frames as tables: for the cache, for files and for polars."""
from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import pyarrow as pa


def encode(values: np.ndarray) -> tuple[bool, pa.Array]:
    """Values of one type, or None, as they are; all else as JSON, which the first result says."""
    import pyarrow as pa

    if values.dtype != object:
        return False, pa.array(values)
    cells = values.tolist()
    kinds = set(map(type, cells)) - {type(None)}
    kind = kinds.pop() if len(kinds) == 1 else str if not kinds else list
    arrow = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    with contextlib.suppress(OverflowError, UnicodeEncodeError):
        if kind in arrow:
            return False, pa.array(cells, arrow[kind])
    return True, pa.array(map(json.dumps, cells), pa.string())


def writable_array(column: Any) -> np.ndarray:
    """A column of whole bytes without nulls, to be written to. Its own memory where that can be: a copy takes as long
    as the reading."""
    part = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    values = part.buffers()[1]
    if values is None or not values.is_mutable:
        return np.array(part)
    return np.frombuffer(values, part.type.to_pandas_dtype(), len(part), part.offset * part.type.bit_width // 8)


def decode(column: Any) -> np.ndarray:
    """The Python values of a column; equal strings are one object. Numbers, and true and false, without a None among
    them as an array of theirs."""
    import pyarrow as pa

    if pa.types.is_string(column.type):
        column = column.dictionary_encode()
    if pa.types.is_dictionary(column.type):
        coded = column.unify_dictionaries().combine_chunks()
        coded = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
        words = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
        return words[coded.indices.fill_null(len(words) - 1).to_numpy()]
    if column.null_count:
        return np.fromiter(column.to_pylist(), object, len(column))
    return np.array(column.to_numpy()) if pa.types.is_boolean(column.type) else writable_array(column)


def to_table(frame: pd.DataFrame) -> pa.Table:
    """A frame as an Arrow table: numbers as they are, words as strings, lists, mappings and what is mixed as JSON."""
    import pyarrow as pa

    return pa.table({str(name): _of_series(frame[name]) for name in frame})


def with_json_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose lists and mappings are JSON, as a csv file holds them."""
    return frame.assign(**{str(name): [json.dumps(value) if isinstance(value, (list, dict)) else value
                                       for value in frame[name].tolist()]
                           for name in frame if frame[name].dtype == object})


def _of_series(values: pd.Series) -> pa.Array:
    import pyarrow as pa

    if isinstance(values.dtype, pd.CategoricalDtype):
        labels = pa.array(values.cat.categories.tolist(), pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(values.cat.codes.to_numpy(), pa.int32()), labels)
    if values.dtype != object:
        return pa.array(values.to_numpy())
    as_json, column = encode(values.to_numpy())
    if as_json:
        return pa.array([None if text == "null" else text for text in column.to_pylist()], pa.string())
    return column
