"""Two groups of runs compared: which settings changed, which metrics moved, and by how many standard errors."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from src import metrics
from src.analysis.plotting.plots import format_value, levels
from src.analysis.reading.filters import cell_key
from src.analysis.reading.results import Results
from src.analysis.tables.tables import setting_columns, values_table, varying_columns
from src.errors import ResultsError

_MEASURES = ("loss", "accuracy", "mae", "r2", "perplexity", "time")


class SettingChange(NamedTuple):
    """A setting whose values are others."""

    parameter: str
    before: str
    after: str


class MetricChange(NamedTuple):
    """A metric: its means over the points that both have, and how far it moved.

    error: standard error of the change; over points of the grid, or over repeats where there is one point; NaN where
    there is neither. errors: change / error. better: None where it is no question.
    """

    metric: str
    before: float
    after: float
    change: float
    error: float
    errors: float
    better: bool | None


class Comparison(NamedTuple):
    """points: settings that both have; 0: none, and the means of all runs are compared."""

    changes: list[SettingChange]
    points: int
    moves: list[MetricChange]


def compare(before: Results, after: Results) -> Comparison:
    """What differs between two groups of runs, such as two batches.

    Runs are matched by what varies in either of them, without seeds and without what changed altogether: runs of equal
    settings are repeats. Each metric counts with its last value; those that runs are judged by with their best too,
    diverged runs left out. Raises ResultsError if one group has no run.
    """
    frames = [values_table(results.config, results.long) for results in (before, after)]
    if any(frame.empty for frame in frames):
        raise ResultsError("there are no runs to compare", hint="has a run of each begun? `experiments.py status` says")
    settings = [name for name in dict.fromkeys(name for results in (before, after)
                                               for name in setting_columns(results.config))
                if not name.startswith("seed")]
    values = {name: [list(map(cell_key, frame[name].tolist())) if name in frame else [None] for frame in frames]
              for name in settings}
    changes = [SettingChange(name, *(_some(frame, name) for frame in frames))
               for name, (one, other) in values.items() if set(one) != set(other)]
    replaced = {name for name in settings if set(values[name][0]).isdisjoint(values[name][1])}
    varying = [name for name in dict.fromkeys(name for results in (before, after)
                                              for name in varying_columns(results.config))
               if name not in replaced and all(name in frame for frame in frames)]
    groups = [_points(frame, varying) for frame in frames]
    common = [point for point in groups[0] if point in groups[1]]
    pairs = [(groups[0][point], groups[1][point]) for point in common] or [tuple(frames)]
    names = [name for name in frames[0] if name in frames[1] and "/" in name and not name.startswith("facts/")
             and name.rpartition("/")[2] in _MEASURES and pd.api.types.is_float_dtype(frames[0][name])
             and pd.api.types.is_float_dtype(frames[1][name])]
    moves = [_move(name, [(one[name].to_numpy(), other[name].to_numpy()) for one, other in pairs]) for name in names]
    return Comparison(changes, len(common), [move for move in moves if move is not None])


def _points(frame: pd.DataFrame, names: list[str]) -> dict[tuple[object, ...], pd.DataFrame]:
    """The runs of each point of the grid."""
    found: dict[tuple[object, ...], list[int]] = {}
    columns = [list(map(cell_key, frame[name].tolist())) for name in names]
    for position in range(len(frame)):
        found.setdefault(tuple(column[position] for column in columns), []).append(position)
    return {point: frame.iloc[positions] for point, positions in found.items()}


def _some(frame: pd.DataFrame, name: str, most: int = 6) -> str:
    if name not in frame:
        return "(not there)"
    found = levels(frame[name])
    return ", ".join(format_value(value) for value in found[:most]) + (" …" if len(found) > most else "")


def _move(name: str, pairs: list[tuple[np.ndarray, np.ndarray]]) -> MetricChange | None:
    """None where no point has a value on both sides."""
    finite = [(one[np.isfinite(one)], other[np.isfinite(other)]) for one, other in pairs]
    finite = [(one, other) for one, other in finite if len(one) and len(other)]
    if not finite:
        return None
    before, after = (np.array([pair[side].mean() for pair in finite]) for side in (0, 1))
    changes = after - before
    if len(finite) > 1:
        error = changes.std(ddof=1) / np.sqrt(len(finite))
    elif min(map(len, finite[0])) > 1:  # Welch's, over repeats
        error = np.sqrt(sum(values.var(ddof=1) / len(values) for values in finite[0]))
    else:
        error = np.nan
    change = float(changes.mean())
    judged = name.rpartition("/")[2] != "time"
    return MetricChange(name, float(before.mean()), float(after.mean()), change, float(error),
                change / error if error > 0 else 0.0 if change == 0 == error else np.nan if np.isnan(error) else np.inf,
                (change < 0) == metrics.lower_is_better(name) if judged and change else None)
