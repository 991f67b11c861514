"""Intervals, tests and ranks against scipy and textbook formulas, and simulated error rates of the ranks.

`python -m benchmarks.ranks` runs the simulation at full size; docs/statistics.md reports it.
"""
from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.ranks import error_rates
from src.analysis.tables import inference


def holm_by_hand(p: list[float]) -> list[float]:
    """Step down: the r-th smallest p value times the number of hypotheses left, never below the one before."""
    adjusted, largest = [0.0] * len(p), 0.0
    for step, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, p[index] * (len(p) - step)))
        adjusted[index] = largest
    return adjusted


def test_mean_has_students_interval() -> None:
    random = np.random.default_rng(0)
    for count in (2, 3, 10):
        before, after = random.normal(size=(2, count))
        reference = stats.ttest_rel(after, before)
        result = inference.mean(after - before)
        interval = reference.confidence_interval(0.95)
        assert result.p == pytest.approx(reference.pvalue)
        assert (result.low, result.high) == pytest.approx((interval.low, interval.high))


def test_welch_difference_is_welchs() -> None:
    random = np.random.default_rng(1)
    for count, other in ((2, 2), (3, 5), (10, 4)):
        before, after = random.normal(size=count), random.normal(1, 3, size=other)
        reference = stats.ttest_ind(after, before, equal_var=False)
        result = inference.welch_difference(before, after)
        interval = reference.confidence_interval(0.95)
        assert result.p == pytest.approx(reference.pvalue)
        assert (result.low, result.high) == pytest.approx((interval.low, interval.high))


def test_what_one_value_says_is_unknown_and_no_noise_is_certain() -> None:
    assert math.isnan(inference.mean(np.array([0.5])).p)
    assert math.isnan(inference.welch_difference(np.array([0.5]), np.array([1.0, 2.0])).low)
    assert inference.mean(np.array([0.5, 0.5])).p == 0
    assert inference.mean(np.zeros(2)).p == 1


def test_holm_is_the_step_down_procedure() -> None:
    random = np.random.default_rng(2)
    for _ in range(50):
        p = random.random(random.integers(1, 12)) ** 3
        assert inference.holm(p).tolist() == pytest.approx(holm_by_hand(p.tolist()))
    assert inference.holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])


def ranks_by_hand(groups: list[np.ndarray]) -> list[int]:
    """Ranks from scipy's Welch test of each pair. groups: the best mean first, several values each."""
    pairs = [(i, j) for i in range(len(groups)) for j in range(i + 1, len(groups))]
    adjusted = holm_by_hand([stats.ttest_ind(groups[i], groups[j], equal_var=False).pvalue for i, j in pairs])
    return [1 + sum(p <= 0.05 for (_, worse), p in zip(pairs, adjusted, strict=True) if worse == place)
            for place in range(len(groups))]


def test_ranks_are_those_of_scipys_test_and_holms_correction() -> None:
    random = np.random.default_rng(3)
    differing = 0
    for _ in range(60):
        groups = [random.normal(random.choice([0, 1, 2]), random.uniform(0.02, 0.2), random.integers(2, 6))
                  for _ in range(random.integers(2, 7))]
        groups.sort(key=lambda values: -values.mean())
        result = inference.ranks(np.array([values.mean() for values in groups]),
                                np.array([values.std(ddof=1) for values in groups]), np.array([*map(len, groups)]))
        assert result.tolist() == ranks_by_hand(groups)
        differing += len(set(result.tolist())) > 1
    assert differing > 20


def test_single_run_is_given_the_pooled_deviation() -> None:
    deviations = np.array([0.01, np.nan, 0.03])
    pooled = math.sqrt((2 * 0.01**2 + 3 * 0.03**2) / 5)
    error = pooled**2 + 0.01**2 / 3
    degrees = error**2 / (pooled**4 / 5 + (0.01**2 / 3)**2 / 2)
    limit = math.sqrt(error) * stats.t.isf(0.05 / 2, degrees)  # the largest of three p values
    for factor, rank in ((0.99, 1), (1.01, 2)):
        means = np.array([0.9, 0.9 - factor * limit, 0.0])
        assert inference.ranks(means, deviations, np.array([3, 1, 4])).tolist() == [1, rank, 3]


@pytest.mark.parametrize("spread", [1.0, 10.0])
def test_equal_settings_rarely_get_more_than_one_rank(spread: float) -> None:
    # the largest rate that 400 simulations of a true rate of 5 % exceed once in a thousand
    assert error_rates(settings=10, seeds=3, spread=spread, simulations=400) <= stats.binom.ppf(0.999, 400, 0.05) / 400
