"""ASHA: which trial goes on to the next rung. Pure functions of the losses that the rungs hold.

Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020 (arXiv 1810.05934), Algorithm 2.
"""
from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence


def next_promotion(rungs: Sequence[Mapping[int, float]], closed: Sequence[Container[int]],
                   eta: float) -> tuple[int, int] | None:
    """Return the trial to promote and the index of its next rung; None if there is none.

    rungs: for each rung, the lowest first, the loss of each trial that has reached it; inf if it diverged
    closed: for each rung, the trials that do not go on from it: they were promoted already, or have ended

    The highest rung comes first, and in a rung the best trial; of equal ones the one that was started first.
    """
    for rung in reversed(range(len(rungs) - 1)):
        for trial in best(rungs[rung], math.floor(len(rungs[rung]) / eta)):
            if trial not in closed[rung]:
                return trial, rung + 1
    return None


def best(losses: Mapping[int, float], count: int) -> list[int]:
    """Return the best trials in order, at most `count`, without those that diverged."""
    ranked = sorted(losses, key=lambda trial: (losses[trial], trial))[:count]
    return [trial for trial in ranked if losses[trial] < math.inf]


def may_continue(losses: Mapping[int, float], trial: int, eta: float) -> bool:
    """Return whether a trial that has just reached a rung, and cannot pause there, goes on instead of being stopped.

    It goes on if it is among the best 1/eta so far; the best one always does.
    """
    return trial in best(losses, max(1, math.floor(len(losses) / eta)))
