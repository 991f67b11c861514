"""Compare two groups of runs: which settings changed, by how much each metric changed, and how certain that is."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from src import metrics
from src.analysis.plotting.figure_layout import format_value
from src.analysis.reading.filters import cell_key, is_missing, levels
from src.analysis.reading.frames import SEEDS
from src.analysis.reading.results import METRIC, Results
from src.analysis.tables import inference, tables
from src.errors import ResultsError
from src.metrics import Metric

# last parts of columns that describe the progress of training, not its result
_PROGRESS = ("data_time", "examples_per_second", "tokens_per_second", "seen_examples", "seen_tokens", "learning_rate",
             "trainable_parameters", "step", "timestamp")
_Setting = tuple[object, ...]


class SettingChange(NamedTuple):
    """A parameter that both groups have, with other values in the second one."""

    parameter: str
    before: str
    after: str


class MetricChange(NamedTuple):
    """The change of a metric.

    metric: a stats column, of which the last value counts; best/COLUMN: its best value;
    before, after: means over the compared settings;
    change: after - before, with standard error, 95 % interval and p value, NaN where the noise is unknown;
    basis: what the interval rests on, as "3 settings", "4 seeds in both", "2 + 3 runs";
    better: whether the change is an improvement; None where that is not defined.
    """

    metric: str
    before: float
    after: float
    change: inference.Estimate
    basis: str
    better: bool | None


class BestRun(NamedTuple):
    """The best run of a group by the ranking metric.

    position: its row; metric: the column of `value`; others: number of runs that count and have the same value.
    """

    position: int
    run: str
    metric: str
    value: float
    others: int


class BestSetting(NamedTuple):
    """The setting of a group with the best mean by the ranking metric, as `tables.ranking` defines it.

    setting: the parameters that vary in the group, as text; mean: of its `runs` that count, of `total`, each at its
    best epoch, with the standard error and the 95 % interval; others: number of settings that share its rank.
    """

    setting: str
    mean: inference.Estimate
    runs: int
    total: int
    others: int


class Comparison(NamedTuple):
    """The difference of two groups of runs.

    changes: parameters that both groups have, with other values;
    only_before, only_after: parameters that only one group has;
    settings: number of settings that both have, which are compared; 0: none, and the best runs are compared instead;
    lost_settings: number of settings that both have, of which one group has no run that counts;
    counts: which runs of each group count;
    best: the best run of each group; None if none has a value;
    best_settings: the best setting of each group; None if none has a value;
    metrics: the change of each metric, the named one first;
    note: what a reader must know about the choice of the best values, or "".
    """

    changes: list[SettingChange]
    only_before: list[str]
    only_after: list[str]
    settings: int
    lost_settings: int
    counts: tuple[tables.RunCounts, tables.RunCounts]
    best: tuple[BestRun | None, BestRun | None]
    best_settings: tuple[BestSetting | None, BestSetting | None]
    metrics: list[MetricChange]
    note: str


def compare(before: Results, after: Results) -> Comparison:
    """Compare two groups of runs, such as two batches.

    Runs that do not count (`tables.counted`) are left out. The others are matched by the parameters that vary within a
    group: a setting is one combination of their values. A parameter that has a single value per group may differ, as it
    is what changed. The change of a metric is the mean change over the settings that both groups have;
    docs/statistics.md defines its interval. Without a common setting, the best run is compared with the best run.
    ResultsError if one group has no run.
    """
    configs = (before.config, after.config)
    if any(config.empty for config in configs):
        raise ResultsError("there are no runs to compare", hint="`experiments.py status` shows whether a run has begun")
    metric = _common_metric(configs)
    names = [[name for name in tables.setting_columns(config) if not name.startswith("seed")] for config in configs]
    common = [name for name in names[0] if name in names[1]]
    changes = [SettingChange(name, *(_format_levels(config[name]) for config in configs)) for name in common
               if len({frozenset(map(cell_key, config[name].tolist())) for config in configs}) > 1]
    values = [tables.values_table(results.config, results.long) for results in (before, after)]
    frames = [results.big_df() for results in (before, after)]
    for df in frames if metric else ():
        df.attrs[METRIC] = metric
    best = _best_run(frames[0]), _best_run(frames[1])
    shared = _match_settings(configs, common)
    matches = [match for match in shared if len(match.before) and len(match.after)]
    compared = matches
    if not matches:
        runs = [[run.position] for run in best if run] if all(best) else [
            np.flatnonzero(tables.counted(config)) for config in configs]
        compared = [_Match(np.array(runs[0]), np.array(runs[1]), is_paired=False)]
    columns = _metric_columns(before, after, values, metric)
    metric_changes = [_metric_change(name, values, compared, metric) for name in columns]
    ranked = metrics.ranking_columns(columns, metric)
    only_before, only_after = ([name for name in first if name not in second]
                               for first, second in (names, names[::-1]))
    return Comparison(changes, only_before, only_after, len(matches), len(shared) - len(matches),
                      (tables.run_counts(before.config), tables.run_counts(after.config)), best,
                      (_best_setting(frames[0]), _best_setting(frames[1])),
                      [change for change in metric_changes if change is not None],
                      "; ".join(tables.selection_note(ranked)) if ranked else "")


def _common_metric(configs: Sequence[pd.DataFrame]) -> Metric | None:
    """The metric that the job specs name; None if they name different ones."""
    named = {config.attrs[METRIC] for config in configs if METRIC in config.attrs}
    return Metric(*named.pop()) if len(named) == 1 else None


def _best_run(df: pd.DataFrame) -> BestRun | None:
    """The best run that counts. df: big_df."""
    try:
        runs = tables.best_runs(df[tables.counted(df)], n=None)
    except ResultsError:  # nothing to rank by
        return None
    if runs.empty or runs["value"].isna().all():
        return None
    best = runs.iloc[0]
    position = int(np.flatnonzero(df["run"] == best["run"])[0])
    others = int((runs["value"] == best["value"]).sum()) - 1
    return BestRun(position, best["run"], best["metric"], best["value"], others)


def _best_setting(df: pd.DataFrame) -> BestSetting | None:
    """The best setting. df: big_df."""
    try:
        ranking = tables.ranking(df)
    except ResultsError:  # nothing to rank by
        return None
    if pd.isna(ranking["value"].iloc[0]):
        return None
    best = ranking.iloc[0]
    setting = ", ".join(f"{name} {format_value(best[name])}" for name in tables.ranked_parameters(ranking))
    values = tables.scores(df, metrics.by_preference(tables.metric_columns(df)))[best["members"]].dropna().to_numpy()
    others = 0 if best["rank"] is pd.NA else int((ranking["rank"] == best["rank"]).sum()) - 1
    return BestSetting(setting or "all runs", inference.mean(values), int(best["runs"]), int(best["total"]), others)


class _Match(NamedTuple):
    """The rows of one setting in both groups, those that count. is_paired: row i of both has the same seeds."""

    before: np.ndarray
    after: np.ndarray
    is_paired: bool


def _match_settings(configs: tuple[pd.DataFrame, pd.DataFrame], common: list[str]) -> list[_Match]:
    """The settings that both groups have; none if a group varies in something that the other one lacks."""
    varying = list(dict.fromkeys(name for config in configs for name in tables.varying_columns(config)))
    if not set(varying) <= set(common):
        return []
    rows = [_rows_by_setting(config, varying) for config in configs]
    return [_match_seeds(configs, (rows[0][point], rows[1][point])) for point in rows[0] if point in rows[1]]


def _rows_by_setting(config: pd.DataFrame, names: list[str]) -> dict[_Setting, list[int]]:
    """The rows of each setting, without exact repeats."""
    columns = [list(map(cell_key, config[name].tolist())) for name in names]
    rows: dict[_Setting, list[int]] = {}
    for row in np.flatnonzero(~tables.repeats(config)).tolist():
        rows.setdefault(tuple(column[row] for column in columns), []).append(row)
    return rows


def _match_seeds(configs: tuple[pd.DataFrame, pd.DataFrame], rows: tuple[list[int], list[int]]) -> _Match:
    """Pair the runs of a setting if both groups have the same seeds; a pair counts if both of its runs do."""
    counted = [np.array([row for row in own if is_counted[row]], int) for own, is_counted in zip(
        rows, (tables.counted(config).tolist() for config in configs), strict=True)]
    seeds = [_rows_by_seeds(config, own) for config, own in zip(configs, rows, strict=True)]
    if not seeds[0] or set(seeds[0]) != set(seeds[1]):
        return _Match(counted[0], counted[1], is_paired=False)
    pairs = [(seeds[0][seed], seeds[1][seed]) for seed in seeds[0]
             if seeds[0][seed] in counted[0] and seeds[1][seed] in counted[1]]
    return _Match(np.array([row for row, _ in pairs], int), np.array([row for _, row in pairs], int), is_paired=True)


def _rows_by_seeds(config: pd.DataFrame, rows: list[int]) -> dict[tuple[Any, ...], int]:
    """The row of each pair of seeds; empty if seeds are unknown or occur twice."""
    if not set(SEEDS) <= set(config):
        return {}
    seeds = list(zip(*(map(cell_key, config[name].iloc[rows].tolist()) for name in SEEDS), strict=True))
    is_unique = len(set(seeds)) == len(seeds) and not any(is_missing(seed) for pair in seeds for seed in pair)
    return dict(zip(seeds, rows, strict=True)) if is_unique else {}


def _metric_columns(before: Results, after: Results, values: list[pd.DataFrame], metric: Metric | None) -> list[str]:
    """The columns to compare: those that rank first, with their best values, then the others, times last."""
    names = [name for name in before.long.columns[2:]
             if name in after.long.columns and name.rpartition("/")[2] not in _PROGRESS
             and not name.startswith("system/")
             and all(name in table and pd.api.types.is_float_dtype(table[name]) for table in values)]
    ranked = metrics.ranking_columns(names, metric)
    best = [f"best/{name}" for name in ranked if all(f"best/{name}" in table for table in values)]
    others = sorted((name for name in names if name not in ranked), key=lambda name: name.endswith("/time"))
    return [*best, *ranked, *others]


def _metric_change(name: str, values: list[pd.DataFrame], matches: list[_Match], metric: Metric | None
                   ) -> MetricChange | None:
    """The change over the settings in which both groups have a value; None if there is none."""
    columns = [table[name].to_numpy(float) for table in values]
    pairs = []
    for match in matches:
        earlier, later = columns[0][match.before], columns[1][match.after]
        if match.is_paired:
            finite = np.isfinite(earlier) & np.isfinite(later)
            earlier, later = earlier[finite], later[finite]
        else:
            earlier, later = earlier[np.isfinite(earlier)], later[np.isfinite(later)]
        if len(earlier) and len(later):
            pairs.append((earlier, later, match.is_paired))
    if not pairs:
        return None
    before, after = np.array([(earlier.mean(), later.mean()) for earlier, later, _ in pairs]).T
    if len(pairs) > 1:
        change, basis = inference.mean(after - before), f"{len(pairs)} settings"
    else:
        (earlier, later, is_paired), = pairs
        change = inference.mean(later - earlier) if is_paired else inference.welch_difference(earlier, later)
        basis = (f"{tables.count(len(earlier), 'seed')} in both" if is_paired else
                 f"{len(earlier)} + {len(later)} runs")
    is_result = name.rpartition("/")[2] != "time"
    goal = metrics.direction(name, metric) if is_result and change.value else None
    return MetricChange(name, float(before.mean()), float(after.mean()), change, basis,
                        (change.value < 0) == (goal == metrics.MINIMIZE) if goal else None)


def _format_levels(values: pd.Series) -> str:
    distinct = levels(values)
    return ", ".join(format_value(value) for value in distinct[:6]) + (" …" if len(distinct) > 6 else "")
