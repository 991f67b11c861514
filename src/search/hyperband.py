"""Early termination as W&B sweeps define it: `early_terminate: {type: hyperband}`, with bands and thresholds.

A trial that has logged as many values as a band says ends there if it is not among the best 1/eta of all trials that
have logged so many. docs/sweeps.md lists what differs from W&B.
"""
from __future__ import annotations

import math
from collections.abc import Iterable

_MAX_BANDS = 100  # of W&B


def bands_from_min(min_iter: float, eta: float, length: int) -> tuple[int, ...]:
    """Return the bands min_iter · eta^k that are below the length of a trial."""
    bands, band = set(), float(min_iter)
    for _ in range(_MAX_BANDS):
        if int(band) >= length:
            break
        bands.add(int(band))
        band *= eta
    return tuple(sorted(bands - {0}))


def bands_from_max(max_iter: float, s: int, eta: float, length: int | None = None) -> tuple[int, ...]:
    """Return the bands max_iter / eta^k for k = 1, …, s that are at least 1, and below the length of a trial."""
    bands, band = set(), float(max_iter)
    for _ in range(s):
        band /= eta
        if band < 1:
            break
        if length is None or int(band) < length:
            bands.add(int(band))
    return tuple(sorted(bands))


def threshold(losses: Iterable[float], eta: float) -> float:
    """Return the loss at a band that a trial must not exceed; inf if no trial has reached the band."""
    ranked = sorted(losses)
    return ranked[int(1.0 / eta * len(ranked))] if ranked else math.inf


def is_stopped(value: float, best: float, limit: float, strict: bool) -> bool:
    """Return whether a trial ends at a band.

    value: its loss at the band; best: its least loss up to it, which counts unless `strict`
    limit: the threshold of the band
    """
    return (value if strict else best) > limit
