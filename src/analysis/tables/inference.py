"""Intervals and tests for means over seeds: Student's interval, Welch's test, Holm's correction (docs/statistics.md)"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

LEVEL = 0.05  # probability of an error of the first kind, and of a value outside an interval


class Estimate(NamedTuple):
    """A mean or a difference of means: its value, standard error, 95 % interval, and two-sided p value of being zero.

    NaN where unknown.
    """

    value: float
    error: float
    low: float
    high: float
    p: float


def estimate(value: float, error: float, degrees: float) -> Estimate:
    """Return the estimate of a mean or a difference with `degrees` of freedom. error: NaN for an unknown interval."""
    from scipy.special import stdtr, stdtrit

    if not np.isfinite(error):
        return Estimate(value, np.nan, np.nan, np.nan, np.nan)
    half = stdtrit(degrees, 1 - LEVEL / 2) * error
    p = 2 * stdtr(degrees, -abs(value) / error) if error > 0 else float(value == 0)
    return Estimate(value, float(error), float(value - half), float(value + half), float(p))


def mean(values: np.ndarray) -> Estimate:
    """Return the mean of values, (n,), as of runs or of paired differences, with n − 1 degrees of freedom (Student,
    1908). Without a value, all is NaN; of a single one, all but the mean.
    """
    count = len(values)
    error = values.std(ddof=1) / np.sqrt(count) if count > 1 else np.nan
    return estimate(float(values.mean()) if count else np.nan, error, count - 1)


def welch_difference(before: np.ndarray, after: np.ndarray) -> Estimate:
    """Return the difference of two means, with Welch's degrees of freedom (1947). before, after: (n,), (m,)."""
    value = float(after.mean() - before.mean())
    if min(len(before), len(after)) < 2:
        return estimate(value, np.nan, 1)
    squared = [values.var(ddof=1) / len(values) for values in (before, after)]
    total = sum(squared)
    degrees = total**2 / sum(square**2 / (len(values) - 1) for square, values in zip(
        squared, (before, after), strict=True)) if total > 0 else 1.0
    return estimate(value, float(np.sqrt(total)), degrees)


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values adjusted for testing all of them (Holm, 1979), (n,)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def ranks(means: np.ndarray, deviations: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Return the rank of each setting: one more than the number of settings that are significantly better, (n,) int.

    means, deviations, runs: (n,), the best setting first; runs: at least one each; deviations: NaN for a single run.
    All pairs are compared by Welch's test, with Holm's correction: the probability that any of the pairs is said to
    differ wrongly is at most 5 %. A setting of one run is given the pooled deviation of the others. If all settings
    have one run, nothing is known about noise, and only equal means share a rank.
    """
    from scipy.special import stdtr

    several = runs > 1
    if not several.any():
        return np.array([1 + int((means[:place] != mean).sum()) for place, mean in enumerate(means)], int)
    variance, degrees = deviations**2, runs - 1.0
    pooled = (variance[several] * degrees[several]).sum() / degrees[several].sum()
    variance = np.where(several, variance, pooled)
    degrees = np.where(several, degrees, degrees[several].sum())
    error = variance / runs  # squared, of the mean
    better, worse = np.triu_indices(len(means), 1)
    difference, both = np.abs(means[better] - means[worse]), error[better] + error[worse]
    with np.errstate(divide="ignore", invalid="ignore"):
        pair_degrees = both**2 / (error[better]**2 / degrees[better] + error[worse]**2 / degrees[worse])
        p = 2 * stdtr(pair_degrees, -difference / np.sqrt(both))
    p = np.where(both > 0, p, (difference == 0).astype(float))
    is_better = holm(p) <= LEVEL
    return 1 + np.bincount(worse[is_better], minlength=len(means))
