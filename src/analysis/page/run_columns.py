"""Columns of the page document with an entry per run: identity, state, times, value, parameters and last metrics."""
from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from src import metrics, run_folder
from src.analysis.page import failures, plain
from src.analysis.reading.filters import is_missing
from src.analysis.reading.frames import FACTS, REPEAT_OF
from src.analysis.reading.results import Results
from src.analysis.tables import tables
from src.metrics import Metric

_SEEDS = ("seed_training", "seed_model")
_DONE = "done"  # the state of the end `completed`


class Value(NamedTuple):
    """The values that rank some runs, (runs,) each: value, epoch, and column; None where a run does not count."""

    value: list[float | int | None]
    epoch: list[int | None]
    column: list[str | None]


def identity(results: Results, batch_of_run: Sequence[int], status: Mapping[str, Mapping[str, Any]],
             errors: Mapping[str, str]) -> dict[str, list[Any]]:
    """Return name, state, progress and times of each run.

    batch_of_run: index of its batch; status: rows by absolute path of the run; errors: of runs that failed, likewise.
    """
    config = results.config
    paths = list(map(os.path.abspath, config["folder"]))
    rows = [status.get(path, {}) for path in paths]
    ends = [None if end is None else str(end) for end in config["end"]]
    times = pd.DataFrame(_times(results), index=config.index)
    started, ended = ([_time(row.get(name, time)) for row, time in zip(rows, times[name], strict=True)]
                      for name in ("started", "ended"))
    columns = {
        "key": _unique([f"{batch}:{plain.text(os.path.basename(path))}"
                        for batch, path in zip(batch_of_run, paths, strict=True)]),
        "batch": list(batch_of_run), "index": config["index"].tolist(),
        "name": [plain.text(os.path.basename(path)) for path in paths],
        "state": [plain.text(row.get("state") or _state(end, path in errors))
                  for row, end, path in zip(rows, ends, paths, strict=True)],
        "why": [plain.text(row.get("why") or errors.get(path, "")) for row, path in zip(rows, paths, strict=True)],
        "end": [end and plain.text(end) for end in ends],
        "started": started, "ended": ended,
        "seconds": [None if start is None or end is None else plain.number(max(0.0, end - start))
                    for start, end in zip(started, ended, strict=True)],
        "seed": _seeds(config),
        "epochs": results.long.groupby("run", observed=False, sort=True).size().tolist(),
        "epochs_planned": list(map(plain.value, config[f"{FACTS}epochs"])) if f"{FACTS}epochs" in config else [
            row.get("epochs") for row in rows],
        "left": [plain.value(row.get("left")) for row in rows],
        "slurm_job": [plain.value(row.get("slurm_job")) for row in rows]}
    if REPEAT_OF in config:
        columns["repeat_of"] = list(map(plain.value, config[REPEAT_OF]))
    return columns


def _time(seconds: float | None) -> float | None:
    return None if seconds is None or is_missing(seconds) else round(float(seconds), 2)


def _state(end: str | None, has_error: bool) -> str:
    """Return the state by the files alone."""
    if end is not None:
        return state_of_end(end)
    return failures.FAILED if has_error else failures.NOT_ENDED


def state_of_end(end: str) -> str:
    """Return the state of a run that has ended, by the content of its file `done`."""
    return _DONE if end == run_folder.COMPLETED else end


def _seeds(config: pd.DataFrame) -> list[Any]:
    name = next((name for name in _SEEDS if name in config), None)
    return [None] * len(config) if name is None else list(map(plain.value, config[name]))


def _times(results: Results) -> dict[str, np.ndarray]:
    """Return when each run started and ended, in unix seconds, by the times of its rows; NaN if unknown."""
    long, runs = results.long, len(results.config)
    missing = np.full(runs, np.nan)
    if "timestamp" not in long or long["timestamp"].dtype == object or long.empty:
        return {"started": missing, "ended": missing}
    by_run = long.groupby("run", observed=False, sort=True)
    first, last = (by_run["timestamp"].agg(name).to_numpy() for name in ("first", "last"))
    if "train/time" in long and long["train/time"].dtype != object:
        first = first - by_run["train/time"].first().fillna(0.0).to_numpy()
    return {"started": first, "ended": np.where(results.config["end"].notna(), last, np.nan)}


def _unique(keys: list[str]) -> list[str]:
    """Return the keys, with a number where two names differ in control characters alone."""
    numbers: dict[str, int] = {}
    unique = []
    for key in keys:
        numbers[key] = number = numbers.get(key, 0) + 1
        unique.append(key if number == 1 else f"{key}#{number}")
    return unique


def parameters(config: pd.DataFrame, names: Iterable[str]) -> dict[str, list[Any]]:
    """Return the values of parameters; null where the runs have none of that name."""
    return {plain.text(name): list(map(plain.parameter, config[name].tolist())) if name in config else [None] * len(
        config) for name in names}


def constants(config: pd.DataFrame, varying: Sequence[str]) -> dict[str, Any]:
    """Return the parameters that have the same value in all runs. Seeds that every run drew for itself are left out."""
    return {} if config.empty else {
        plain.text(name): plain.parameter(config[name].iloc[0]) for name in _constant_names(config, varying)}


def has_constants(config: pd.DataFrame, varying: Sequence[str], constant: Mapping[str, Any]) -> bool:
    """Return whether all runs have these values of the parameters that do not vary."""
    values = parameters(config, _constant_names(config, varying))
    return all(name in constant and constant[name] == cell for name, cells in values.items() for cell in cells)


def _constant_names(config: pd.DataFrame, varying: Sequence[str]) -> list[str]:
    return [name for name in tables.setting_columns(config) if name not in varying and not name.startswith("seed")]


def last_metrics(results: Results) -> dict[str, list[Any]]:
    """Return the last value of each stats column but the time; as best/NAME, the best one of those that rank."""
    values = tables.values_table(results.config, results.long)
    names = [name for name in values if name not in (*results.config, "epochs", "stats/epochs", "timestamp")]
    return {plain.text(name): plain.numbers(values[name]) if values[name].dtype != object else list(
        map(plain.value, values[name])) for name in names}


def values(results: Results, columns: Sequence[str], metric: Metric | None) -> Value:
    """Return the value that ranks each run, as `tables.best_runs` does: the best epoch of the first of the columns in
    which the run has one."""
    runs = len(results.config)
    best, epochs, column = np.full(runs, np.nan), np.zeros(runs, np.int64), np.full(runs, -1)
    long = results.long
    run_of_row, epoch_of_row = long["run"].cat.codes.to_numpy(), long["epoch"].to_numpy()
    has_diverged = (results.config["end"] == run_folder.DIVERGED).to_numpy()
    for number, name in enumerate(columns):
        if name not in long:
            continue
        cells = long[name].to_numpy(np.float64)
        is_open = np.isfinite(cells) & (np.isnan(best) & ~has_diverged)[run_of_row]
        by_run = pd.Series(cells[is_open], np.flatnonzero(is_open)).groupby(run_of_row[is_open])
        rows = by_run.idxmin() if metrics.lower_is_better(name, metric) else by_run.idxmax()
        best[rows.index], epochs[rows.index], column[rows.index] = cells[rows], epoch_of_row[rows], number
    has_value = column >= 0
    return Value(plain.numbers(best), np.where(has_value, epochs, None).tolist(),
                 [plain.text(columns[number]) if number >= 0 else None for number in column.tolist()])
