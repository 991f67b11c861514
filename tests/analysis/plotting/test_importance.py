"""Importance: high for what matters, near zero for what does not, whatever kind its values are."""
from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from src.analysis.plotting.importance import permutation_importance
from src.errors import ResultsError


def settings(runs: int = 80) -> pd.DataFrame:
    random = np.random.default_rng(1)
    mixed = [0.1, "auto", None, [1, 2]]
    return pd.DataFrame({"rate": random.choice([0.01, 0.1, 1.0, np.nan], runs), "idle": random.integers(0, 3, runs),
                         "mixed": pd.Series([mixed[i] for i in random.integers(0, 4, runs)], dtype=object)})


def test_what_matters_is_first_and_what_does_not_is_near_zero() -> None:
    df = settings()
    values = df["mixed"].map(lambda value: 1.0 if value == "auto" else 0.0).to_numpy() + 0.2 * df["rate"].eq(1.0)
    found = permutation_importance(df, values.to_numpy())
    assert found.table["parameter"].tolist() == ["mixed", "rate", "idle"]
    assert abs(found.table["importance"].iloc[2]) < 0.05
    assert found.table["importance"].iloc[0] > 1
    assert found.r2 > 0.9
    assert permutation_importance(df, values.to_numpy()).table.equals(found.table), "the same each time"


def test_noise_cannot_be_predicted() -> None:
    found = permutation_importance(settings(), np.random.default_rng(2).normal(size=80))
    assert found.r2 < 0.1
    assert found.table["importance"].max() < 0.5


def test_a_parameter_drawn_anew_doubles_the_variance() -> None:
    # a forest that has learned all of it errs by the difference of two draws: twice the variance
    df = pd.DataFrame({"x": np.tile([0, 1], 100)})
    found = permutation_importance(df, df["x"].to_numpy(float))
    assert found.table["importance"].iloc[0] == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(("values", "says"), [
    (np.full(80, np.nan), "0 runs with a value are too few"), (np.ones(80), "all 80 runs have the same value"),
    (np.r_[np.arange(9.0), np.full(71, np.nan)], "9 runs .* allowed: 10 and more")])
def test_too_little_to_tell(values: np.ndarray, says: str) -> None:
    with pytest.raises(ResultsError, match=says):
        permutation_importance(settings(), values)
