"""Which parameters matter: by how much a random forest that has learned the metric errs more where one is shuffled"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from src.analysis.reading.filters import cell_key, levels
from src.errors import ResultsError

MIN_RUNS = 10
_FOLDS, _TREES, _SHUFFLES = 5, 100, 5


class Importance(NamedTuple):
    """table: a row per parameter, the most important first: parameter, importance, error (standard, over the folds);
    r2: of the forest on runs that it has not seen, where 0 is no better than the mean."""

    table: pd.DataFrame
    r2: float


def permutation_importance(settings: pd.DataFrame, values: np.ndarray) -> Importance:
    """The permutation importance of each parameter (Breiman, Random Forests, 2001, section 10).

    settings: (runs, parameters), any cells, each parameter with its values coded in order, which is all that a tree
    sees of them. values: (runs,). A forest learns four fifths of the runs and predicts the last fifth, as they are and
    with a parameter's values drawn anew from those of all runs; importance is the growth of the mean squared error,
    over all five fifths, in units of the variance: 0 for what does not matter, up to 2; for parameters that matter only
    together, high for each. Random numbers are fixed. Runs without a value are left out. ResultsError if too few are
    left, or all values are equal.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    there = np.isfinite(values)
    if there.sum() < MIN_RUNS:
        raise ResultsError(f"{there.sum()} runs with a value are too few to tell which parameters matter",
                           allowed=f"{MIN_RUNS} and more")
    if np.ptp(values[there]) == 0:
        raise ResultsError(f"all {there.sum()} runs have the same value: no parameter matters",
                           hint="choose another metric")
    y = values[there]
    x = np.stack([_codes(settings[name])[there] for name in settings], axis=1)
    random = np.random.default_rng(0)
    errors, growths = [], []
    for train, test in KFold(_FOLDS, shuffle=True, random_state=0).split(x):
        forest = RandomForestRegressor(_TREES, random_state=0).fit(x[train], y[train])
        shuffled = np.tile(x[test], (x.shape[1], _SHUFFLES, 1, 1))  # (parameters, shuffles, runs, parameters)
        for number in range(x.shape[1]):
            shuffled[number, ..., number] = random.choice(x[:, number], shuffled.shape[1:3])
        error = ((forest.predict(x[test]) - y[test]) ** 2).mean()
        predicted = forest.predict(shuffled.reshape(-1, x.shape[1])).reshape(shuffled.shape[:3])
        growths.append((((predicted - y[test]) ** 2).mean(axis=(1, 2)) - error) / y.var())
        errors.append(error / y.var())
    table = pd.DataFrame({"parameter": list(settings), "importance": np.mean(growths, axis=0),
                          "error": np.std(growths, axis=0, ddof=1) / np.sqrt(_FOLDS)})
    return Importance(table.sort_values("importance", ascending=False, kind="stable", ignore_index=True),
                      float(1 - np.mean(errors)))


def _codes(values: pd.Series) -> np.ndarray:
    """(runs,) float: the place of each value among the different ones: numbers in order, others as they come."""
    place = {cell_key(level): number for number, level in enumerate(levels(values))}
    return np.array([place[cell_key(value)] for value in values.tolist()], float)
