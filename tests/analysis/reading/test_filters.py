"""filt against a loop over rows, and the matches of each kind of condition."""
from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.analysis.reading.filters import Interval, cell_key, cells_equal, distinguishes_floats, filt
from src.errors import ResultsError

DF = pd.DataFrame({
    "run": list("abcde"),
    "base_lr": [0.1, 0.2, 0.1 + 0.2, 1.0, np.nan],
    "batch_size": [8, 8, 16, 32, 64],
    "averaging": pd.Series([None, "poly_8", "ema_0.9", None, "poly"], dtype=object),
    "wandb": [True, False, True, False, True],
    "mixed": pd.Series([1, 1.0, True, "1", None], dtype=object),
    "splits": pd.Series([{"train": "train"}, {"train": "x"}, [1, 2], (1, 2), None], dtype=object),
    "shape": pd.Series([[1, 8, 8], [1, 8, 8], [3, 32, 32], None, []], dtype=object),
    "limit_train_batches": pd.Series([1, 1.0, None, 1, 0.5], dtype=object),
    "momentum": pd.Series([0.9, "0.9,0.99", 0.5, 0.9, None], dtype=object),
    "facts/host": list("xxyyz"),
    "val/loss": pd.Series([pd.Series([i, 2.0], index=[1, 2]) for i in range(5)], dtype=object),
})


def runs(*args: Any, **conditions: Any) -> str:
    return "".join(filt(DF, *args, **conditions)["run"])


@pytest.mark.parametrize(("conditions", "kept"), [
    ({}, "abcde"),
    ({"batch_size": 8}, "ab"),
    ({"batch_size": 8.0}, "ab"),
    ({"momentum": "0.9"}, "ad"),  # Config takes numbers and strings
    ({"momentum": ["0.90", "0.9,0.99"]}, "abd"),
    ({"batch_size": np.int64(16)}, "c"),
    ({"batch_size": [8, 64]}, "abe"),
    ({"batch_size": range(8, 33)}, "abcd"),
    ({"batch_size": []}, ""),
    ({"base_lr": 0.3}, "c"),
    ({"base_lr": None}, "e"),
    ({"base_lr": math.nan}, "e"),
    ({"base_lr": Interval(0.1, 0.2)}, "ab"),
    ({"base_lr": Interval(0.2)}, "bcd"),
    ({"base_lr": Interval(high=0.2)}, "ab"),
    ({"base_lr": [Interval(high=0.1), None]}, "ae"),
    ({"averaging": None}, "ad"),
    ({"averaging": [None, "poly"]}, "ade"),
    ({"averaging": re.compile("^poly")}, "be"),
    ({"wandb": True}, "ace"),
    ({"wandb": 1}, ""),
    ({"mixed": 1}, "a"),
    ({"mixed": 1.0}, "b"),
    ({"mixed": True}, "c"),
    ({"mixed": "1"}, "d"),
    ({"mixed": Interval(0, 2)}, "ab"),
    ({"splits": {"train": "train"}}, "a"),
    ({"splits": [[1, 2]]}, "cd"),
    ({"splits": [1, 2]}, "cd"),
    ({"splits": [{"train": "x"}, None]}, "be"),
    ({"shape": [1, 8, 8]}, "ab"),
    ({"shape": (1, 8, 8)}, "ab"),
    ({"shape": [[1, 8, 8], None]}, "abd"),
    ({"shape": [1, 8]}, ""),
    ({"shape": lambda shape: 32 in (shape or ())}, "c"),
    ({"batch_size": np.array([8, 64])}, "abe"),
    ({"limit_train_batches": 1}, "ad"),
    ({"limit_train_batches": 1.0}, "b"),
    ({"limit_train_batches": [1.0, None]}, "bc"),
    ({"limit_train_batches": Interval(1, 1)}, "abd"),
    ({"batch_size": lambda size: size % 3 == 1}, "ce"),
    ({"val/loss": lambda curve: curve.min() < 1}, "a"),
    ({"facts/host": "y", "wandb": False}, "d"),
])
def test_filt_keeps_matching_rows(conditions: dict[str, Any], kept: str) -> None:
    assert runs(conditions) == kept


def test_keywords_and_mapping_are_combined() -> None:
    assert runs({"facts/host": "x"}, base_lr=0.1) == "a"
    assert filt(DF, batch_size=64).index.tolist() == [4]


def test_unknown_column_suggests_the_nearest() -> None:
    with pytest.raises(ResultsError, match="did you mean 'batch_size'"):
        runs(batchsize=8)


@pytest.mark.parametrize("value", [8, "adam", 0.5])
def test_single_value_in_a_column_of_lists_is_an_error(value: Any) -> None:
    with pytest.raises(ResultsError, match="the cells of shape are lists, which no single value equals"):
        runs(shape=value)


def test_fraction_and_a_count_differ_even_where_only_one_of_them_occurs() -> None:
    df = pd.DataFrame({"limit_train_batches": [1.0, 0.5], "base_lr": [1.0, 0.5]})
    assert len(filt(df, limit_train_batches=1)) == 0, "1 is one batch, 1.0 is all of them"
    assert len(filt(df, base_lr=1)) == 1, "a learning rate of 1 is 1.0"


def test_single_value_in_a_column_of_curves_is_an_error() -> None:
    with pytest.raises(ResultsError, match="function of the curve"):
        runs({"val/loss": 1.0})


settings_of_runs = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.text("ab", max_size=2)


@given(st.lists(settings_of_runs, min_size=1, max_size=8), settings_of_runs)
def test_rows_match_a_value_or_its_negation(values: list[Any], wanted: Any) -> None:
    df = pd.DataFrame({"x": pd.Series(values, dtype=object)})
    kept = filt(df, x=wanted)
    strict = distinguishes_floats("x", values)
    rest = filt(df, x=lambda cell: not cells_equal(wanted, cell, strict))
    assert sorted([*kept.index, *rest.index]) == list(range(len(values)))
    assert all(cell_key(cell) == cell_key(wanted) or not strict and math.isclose(cell, wanted, rel_tol=1e-12)
               for cell in kept["x"])
