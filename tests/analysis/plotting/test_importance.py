"""Importance: high for what matters, near zero for what does not, no better than chance on noise."""
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


def test_important_parameter_is_first_and_idle_one_near_zero() -> None:
    df = settings()
    values = df["mixed"].map(lambda value: 1.0 if value == "auto" else 0.0).to_numpy() + 0.2 * df["rate"].eq(1.0)
    result = permutation_importance(df, values.to_numpy())
    assert result.table["parameter"].tolist() == ["mixed", "rate", "idle"]
    assert abs(result.table["importance"].iloc[2]) < 0.1
    assert result.table["importance"].iloc[0] > 1
    assert result.r2 > 0.8 and result.is_above_chance
    assert permutation_importance(df, values.to_numpy()).table.equals(result.table), "the same each time"


def random_search(points: int, seeds: int, random: np.random.Generator) -> pd.DataFrame:
    """Random points, several seeds of each."""
    return pd.DataFrame({name: np.repeat(random.random(points), seeds) for name in ("rate", "decay", "width")})


def test_seeds_of_a_setting_are_not_on_both_sides() -> None:
    # each point has a value of its own that no parameter explains; folds of runs would find it by its seeds
    random = np.random.default_rng(2)
    df = random_search(30, 3, random)
    values = np.repeat(random.normal(size=30), 3) + random.normal(0, 0.1, size=90)
    result = permutation_importance(df, values)
    assert result.r2 < 0.1 and not result.is_above_chance
    assert result.settings == 30


def test_noise_is_rarely_above_chance() -> None:
    random = np.random.default_rng(3)
    above = [permutation_importance(random_search(12, 2, random), np.repeat(random.normal(size=12), 2)).is_above_chance
             for _ in range(6)]
    assert sum(above) <= 1


def test_permuted_parameter_doubles_the_variance() -> None:
    # a forest that has learned everything errs by the difference of two draws: twice the variance
    random = np.random.default_rng(4)
    df = pd.DataFrame({"x": np.tile(np.arange(40), 5), "y": random.random(200)})
    values = (df["x"] >= 20).to_numpy(float)
    result = permutation_importance(df, values)
    assert result.table["parameter"].iloc[0] == "x"
    assert result.table["importance"].iloc[0] == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(("values", "message"), [
    (np.full(80, np.nan), "0 runs of 0 settings"), (np.ones(80), "all 80 runs have the same value"),
    (np.r_[np.arange(9.0), np.full(71, np.nan)], "9 runs of .* allowed: 10 runs and 10 settings, or more")])
def test_too_few_runs_are_an_error(values: np.ndarray, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        permutation_importance(settings(), values)


def test_too_few_settings_are_an_error() -> None:
    with pytest.raises(ResultsError, match="20 runs of 2 settings"):
        permutation_importance(pd.DataFrame({"x": np.tile([0, 1], 10)}), np.arange(20.0))
