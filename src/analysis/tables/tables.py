"""Which parameters vary, and which runs and settings are best: by val where there is one, diverged runs last"""
from __future__ import annotations

import logging
import re

import numpy as np
import pandas as pd

from src import metrics, run_folder
from src.analysis.reading.curves import CurveType
from src.analysis.reading.filters import cell_key, require_column
from src.analysis.reading.results import IDENTITY, METRIC
from src.config import PER_POINT
from src.errors import ResultsError, did_you_mean
from src.metrics import Metric

# differ from run to run and change nothing
_NO_SETTINGS = (*IDENTITY, "output_dir", "wandb_run_name", *(name for name in PER_POINT if name != "COMMAND"))
_log = logging.getLogger(__name__)


def named_metric(df: pd.DataFrame) -> Metric | None:
    """The metric that the job specs of these runs name, as Results keeps it with its frames."""
    return Metric(*df.attrs[METRIC]) if METRIC in df.attrs else None


def lower_is_better(df: pd.DataFrame, column: str) -> bool:
    """Whether less is better in a stats column, by the job specs' goal or the column's name."""
    return metrics.lower_is_better(column, named_metric(df))


def stats_columns(df: pd.DataFrame) -> list[str]:
    """The columns of big_df that hold curves, in order."""
    if df.empty:
        return []
    return [str(name) for name in df if isinstance(df[name].dtype, CurveType)
            or df[name].dtype == object and isinstance(df[name].iloc[0], pd.Series)]


def setting_columns(df: pd.DataFrame) -> list[str]:
    """The config columns of big_df: neither identity nor facts nor curves, nor what a run is merely called."""
    curves = set(stats_columns(df))
    return [name for name in map(str, df.columns)
            if name not in curves and name not in _NO_SETTINGS and not name.startswith("facts/")]


def varying_columns(df: pd.DataFrame, seeds: bool = False) -> list[str]:
    """The config columns with more than one value, in the order of the config.

    seeds: with the seeds that were chosen (they make repeats); seeds that every run drew for itself are never settings.
    """
    left_out = set(map(str, df.columns)) if not seeds else _drawn_by_all(df)
    return [name for name in setting_columns(df)
            if not (name.startswith("seed") and name in left_out) and _varies(df[name])]


def _varies(values: pd.Series) -> bool:
    """Whether a column has more than one value. Most have one, which is seen without looking at each cell closely."""
    if values.dtype != object:
        return bool(values.nunique(dropna=False) > 1)
    cells = values.tolist()
    first = cell_key(cells[0]) if cells else None
    return any(cell is not cells[0] and cell_key(cell) != first for cell in cells)


def _drawn_by_all(df: pd.DataFrame) -> set[str]:
    drawn = [set(names) if isinstance(names, list) else set() for names in df.get("facts/seeds_drawn", [])]
    return set.intersection(*drawn) if drawn else set()


def metric_columns(df: pd.DataFrame, metric: str | None = None) -> list[str]:
    """The stats columns that `metric` names: one column, or all that a regular expression finds.

    None: what the job spec names, else the columns that runs are judged by, val before others and accuracy before r2
    before loss. Raises ResultsError
    if there is none, or if more is better in one of them and less in another.
    """
    columns = stats_columns(df)
    if metric is None:
        found = metrics.ranking_columns(columns, named_metric(df))
    else:
        found = [metric] if metric in columns else [name for name in columns if re.search(metric, name)]
    if not found:
        what = "there are no stats to judge runs by" if metric is None else f"no stats column matches '{metric}'"
        raise ResultsError(what, allowed=columns or "no stats column: no run has finished an epoch yet",
                           hint=did_you_mean(metric or "", columns))
    if len({lower_is_better(df, name) for name in found}) > 1:
        raise ResultsError(f"'{metric}' matches columns where more is better and where less is", allowed=found,
                           hint="choose one kind")
    return found


def finite_epochs(end: str | None, curve: pd.Series) -> pd.Series:
    """The evaluated epochs of a curve; none if the run diverged, whatever it reached before."""
    return curve.iloc[:0] if end == run_folder.DIVERGED else curve[np.isfinite(curve.to_numpy())]


def value_at(curve: pd.Series, epoch: str | int, less: bool) -> tuple[float, float]:
    """(value, epoch) of the 'best', the 'last' or a given epoch of an evaluated curve; NaN where there is none."""
    if isinstance(epoch, str) and epoch not in ("best", "last"):
        raise ResultsError(f"'{epoch}' is no epoch", allowed="best, last, or a number")
    if curve.empty:
        return np.nan, np.nan
    at = {"best": curve.idxmin if less else curve.idxmax, "last": lambda: curve.index[-1]}[epoch]() \
        if isinstance(epoch, str) else epoch
    return (float(curve[at]), at) if at in curve.index else (np.nan, np.nan)


def best_runs(df: pd.DataFrame, metric: str | None = None, n: int | None = 10,
              epoch: str | int = "best") -> pd.DataFrame:
    """The `n` best runs of big_df (None: all), a row each, best first. Ties keep the order of `df`.

    metric: as in `metric_columns`; where it names several columns (last and av), a run counts with its best of them.
    epoch: 'best', 'last' or a number. Runs that diverged or have no value come last, as NaN. Columns: run, value,
    metric (the column it was reached in), epoch, the same measure of the other splits at that epoch (as test/accuracy),
    the varying parameters, end, folder. Logs a warning where a test metric ranks. Errors as in `metric_columns`.
    """
    columns = metric_columns(df, metric)
    if columns[0].startswith("test"):
        _log.warning("runs are ranked by %s, a test metric: what is chosen by it is no fair estimate. A val split of "
                     "train is better: data_splits_map: {train: 'train[:90%%]', val: 'train[90%%:]', test: test}",
                     columns[0])
    less = lower_is_better(df, columns[0])
    others = list(dict.fromkeys(name for chosen in columns for name in _counterparts(chosen, stats_columns(df))))
    rows = []
    for _, run in df[["run", "end", *columns, *(name for name in others if name not in columns)]].iterrows():
        value, at, name = _best_of(run, columns, epoch, less)
        row = {"run": run["run"], "value": value, "metric": name, "epoch": at}
        for other in _counterparts(name, others):
            split, *_, measure = other.split("/")
            row[f"{split}/{measure}"] = run[other].get(at, np.nan)
        rows.append(row)
    table = pd.DataFrame(rows, index=df.index)
    settings = df[[*varying_columns(df, seeds=True), "end", "folder"]]
    table = pd.concat([table, settings], axis=1)
    table = table.sort_values("value", ascending=less, kind="stable", na_position="last", ignore_index=True)
    table["epoch"] = table["epoch"].astype("Int64")
    return table if n is None else table.head(n)


def values_table(config: pd.DataFrame, long: pd.DataFrame) -> pd.DataFrame:
    """A row per run without a curve in it: `config` of Results, then the number of epochs, the last value of each stats
    column, and as best/NAME the best of those that runs are judged by (NaN where a run diverged)."""
    by_run = long.groupby("run", observed=False, sort=True)
    names = [name for name in long.columns[2:] if long[name].dtype != object]
    last = by_run[names].last().set_axis(config.index)
    table = pd.concat([config, by_run.size().rename("epochs").set_axis(config.index),
                       last[[name for name in names if name not in config]]], axis=1)
    finite = long[names].where(np.isfinite(long[names]))
    for name in metrics.ranking_columns(names, named_metric(config)):
        best = finite[name].groupby(long["run"], observed=False).agg("min" if lower_is_better(config, name) else "max")
        table[f"best/{name}"] = best.set_axis(config.index).where(config["end"] != run_folder.DIVERGED)
    return table


def _best_of(run: pd.Series, columns: list[str], epoch: str | int, less: bool) -> tuple[float, float, str]:
    best = (np.nan, np.nan, columns[0])
    for name in columns:
        value, at = value_at(finite_epochs(run["end"], run[name]), epoch, less)
        if value == value and (best[0] != best[0] or (value < best[0] if less else value > best[0])):
            best = (value, at, name)
    return best


def _counterparts(name: str, columns: list[str]) -> list[str]:
    """The same measure of other splits: val/av/accuracy → test/av/accuracy."""
    measure = name.partition("/")[2]
    return [other for other in columns if measure and other != name and other.partition("/")[2] == measure]


def scores(df: pd.DataFrame, columns: list[str], epoch: str | int = "best") -> pd.Series:
    """Each run's value, (runs,): the best of some columns at an epoch, as in `best_runs`; NaN for a diverged run."""
    less = lower_is_better(df, columns[0])
    values = [[value_at(finite_epochs(end, curve), epoch, less)[0]
               for end, curve in zip(df["end"], df[name], strict=True)] for name in columns]
    best = np.fmin if less else np.fmax
    return pd.Series(best.reduce(np.array(values), axis=0), index=df.index)


def ranking(df: pd.DataFrame, metric: str | None = None, epoch: str | int = "best") -> pd.DataFrame:
    """A row per setting (runs that differ in seeds alone), best mean first; those that seeds cannot tell apart tie.

    Columns: rank, the varying parameters, value (mean), deviation (standard, of the runs), runs (that have a value),
    diverged, members (index labels of df). A setting has the rank of the first one above it from which it does not
    differ by Welch's t-test (1947) at 5 %; a setting of a single run is given the pooled deviation of the others. One
    pair at a time, at 5 % each: a first look, not a proof. Metric, epoch and errors as in `best_runs`.
    """
    names = metric_columns(df, metric)
    settings = varying_columns(df)
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, point in enumerate(zip(*(map(cell_key, df[name].tolist()) for name in settings), strict=True)
                                     if settings else [()] * len(df)):
        groups.setdefault(point, []).append(position)
    values, diverged = scores(df, names, epoch).to_numpy(), (df["end"] == run_folder.DIVERGED).to_numpy()
    rows = []
    for positions in groups.values():
        there = values[positions][np.isfinite(values[positions])]
        rows.append({"value": there.mean() if len(there) else np.nan,
                     "deviation": there.std(ddof=1) if len(there) > 1 else np.nan, "runs": len(there),
                     "diverged": int(diverged[positions].sum()), "members": df.index[positions].tolist()})
    table = pd.concat([df[settings].iloc[[positions[0] for positions in groups.values()]].reset_index(drop=True),
                       pd.DataFrame(rows)], axis=1)
    table = table.sort_values("value", ascending=lower_is_better(df, names[0]), kind="stable", ignore_index=True)
    table.insert(0, "rank", _ranks(table))
    return table


def _ranks(table: pd.DataFrame) -> list[int]:
    """1 for the best setting and those that tie with it; the next has its place as rank, and so on."""
    from scipy.special import stdtrit

    value, runs = table["value"].to_numpy(), table["runs"].to_numpy()
    variance, freedom = table["deviation"].to_numpy() ** 2, runs - 1.0
    several = runs > 1
    if several.any():
        pooled = (variance[several] * freedom[several]).sum() / freedom[several].sum()
        variance, freedom = np.where(several, variance, pooled), np.where(several, freedom, freedom[several].sum())
    else:
        variance, freedom = np.zeros(len(table)), np.ones(len(table))  # nothing is known of the noise
    error = variance / np.maximum(runs, 1)  # squared, of the mean
    leader, ranks = 0, []
    for place in range(len(table)):
        both = error[leader] + error[place]
        degrees = both**2 / (error[leader]**2 / freedom[leader] + error[place]**2 / freedom[place]) if both > 0 else 1
        if not abs(value[place] - value[leader]) <= stdtrit(degrees, 0.975) * np.sqrt(both):
            leader = place
        ranks.append(leader + 1)
    return ranks


def runs_table(df: pd.DataFrame) -> pd.DataFrame:
    """A row per run: index, run, end, epochs done, the varying parameters, the last value of each judging column."""
    table = df[["index", "run", "end"]].copy()
    curves = stats_columns(df)
    table["epochs"] = [len(curve) for curve in df[curves[0]]] if curves else 0
    for name in varying_columns(df, seeds=True):
        table[name] = df[name]
    for name in metrics.ranking_columns(curves, named_metric(df)):
        table[name] = [value_at(curve.dropna(), "last", False)[0] for curve in require_column(df, name)]
    return table
