"""Estimate which parameters matter: how much more a random forest errs when a parameter's values are permuted."""
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from src.analysis.reading.filters import cell_key, levels
from src.analysis.tables import inference
from src.errors import ResultsError

MIN_RUNS = MIN_SETTINGS = 10
_FOLDS, _TREES, _PERMUTATIONS = 5, 100, 5


class Importance(NamedTuple):
    """The importance of each parameter.

    table: a row per parameter, the most important first: parameter, importance, error (standard, over the folds);
    r2: of the forest on settings that it has not seen; 0 is no better than the mean of the others;
    p: probability of such an r2, or a larger one, by chance;
    settings: number of distinct settings.
    """

    table: pd.DataFrame
    r2: float
    p: float
    settings: int

    @property
    def is_above_chance(self) -> bool:
        """Whether the forest predicts unseen settings better than their mean does. If not, the table is meaningless."""
        return self.p <= inference.LEVEL


def permutation_importance(settings: pd.DataFrame, values: np.ndarray) -> Importance:
    """Estimate the permutation importance of each parameter (Breiman, Random Forests, 2001, section 10).

    settings: (runs, parameters), any cells; a tree sees the order of a parameter's values only;
    values: (runs,); runs without a value are left out.
    The folds are made of settings: runs that differ in seeds alone are in the same fold. A forest learns four fifths of
    the settings and predicts the remaining fifth twice: unchanged, and with one parameter permuted among all runs.
    Importance is the growth of the mean squared error in units of the variance: 0 for what does not matter, about 2 at
    most; parameters that matter only together are both important. Random numbers are fixed. ResultsError if there are
    too few runs or settings, or all values are equal.
    """
    from sklearn import inspection
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import GroupKFold

    finite = np.isfinite(values)
    x = np.stack([_codes(settings[name])[finite] for name in settings], axis=1)
    y = values[finite]
    setting = np.unique(x, axis=0, return_inverse=True)[1].ravel() if len(x) else np.zeros(0, int)
    count = int(setting.max(initial=-1)) + 1
    if len(y) < MIN_RUNS or count < MIN_SETTINGS:
        raise ResultsError(f"{len(y)} runs of {count} settings with a value are too few to estimate the importance of "
                           "parameters", allowed=f"{MIN_RUNS} runs and {MIN_SETTINGS} settings, or more")
    if np.ptp(y) == 0:
        raise ResultsError(f"all {len(y)} runs have the same value: no parameter matters", hint="choose another metric")
    forests, baseline = [], np.empty(len(y))
    folds = list(GroupKFold(_FOLDS, shuffle=True, random_state=0).split(x, groups=setting))
    for train, test in folds:
        forests.append(RandomForestRegressor(_TREES, random_state=0).fit(x[train], y[train]))
        baseline[test] = y[train].mean()

    def scores(_: Any, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        """The negative error of each fold, predicted by the forest that has not learned it."""
        return {str(number): -((forest.predict(x[test]) - y[test]) ** 2).mean()
                for number, (forest, (_, test)) in enumerate(zip(forests, folds, strict=True))}

    permuted = inspection.permutation_importance(forests[0], x, y, scoring=scores, n_repeats=_PERMUTATIONS,
                                                 random_state=0)
    growth = np.array([permuted[str(number)].importances_mean for number in range(_FOLDS)]) / y.var()
    predicted = np.empty(len(y))
    for forest, (_, test) in zip(forests, folds, strict=True):
        predicted[test] = forest.predict(x[test])
    errors, baseline_errors = (predicted - y) ** 2, (baseline - y) ** 2
    table = pd.DataFrame({"parameter": list(settings), "importance": growth.mean(axis=0),
                          "error": growth.std(axis=0, ddof=1) / np.sqrt(_FOLDS)})
    return Importance(table.sort_values("importance", ascending=False, kind="stable", ignore_index=True),
                      float(1 - errors.mean() / baseline_errors.mean()),
                      _chance(baseline_errors - errors, setting), count)


def _chance(gain: np.ndarray, setting: np.ndarray) -> float:
    """The p value of a mean gain above zero, one-sided, with the settings as independent samples."""
    gains = pd.Series(gain).groupby(setting).mean().to_numpy()
    gain_over_mean = inference.mean(gains)
    return gain_over_mean.p / 2 if gain_over_mean.value > 0 else 1 - gain_over_mean.p / 2


def _codes(values: pd.Series) -> np.ndarray:
    """The rank of each value among the distinct ones, (runs,) float: numbers in order, others as they occur."""
    code = {cell_key(level): number for number, level in enumerate(levels(values))}
    return np.array([code[cell_key(value)] for value in values.tolist()], float)
