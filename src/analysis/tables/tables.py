"""Find the parameters that vary, the best runs and the best settings. docs/statistics.md defines all values."""
from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from src import metrics, run_folder, stats_csv
from src.analysis.reading.curves import CurveType
from src.analysis.reading.filters import cell_key, key_column, require_column
from src.analysis.reading.frames import FACTS, NO_SETTINGS, REPEAT_OF, varies
from src.analysis.reading.results import METRIC
from src.analysis.tables import inference
from src.errors import ResultsError, did_you_mean
from src.metrics import Metric

CAPTION = "caption"  # key in the attrs of tables that rank: what a reader must know
_log = logging.getLogger(__name__)


def named_metric(df: pd.DataFrame) -> Metric | None:
    """Return the metric that the job specs of these runs name, which Results stores with its frames."""
    return Metric(*df.attrs[METRIC]) if METRIC in df.attrs else None


def with_goal(df: pd.DataFrame, metric: str, goal: str) -> pd.DataFrame:
    """Return big_df with the metric that ranks its runs, instead of that of the job specs.

    metric: a stats column, or a regular expression. goal: maximize or minimize.
    """
    result = df.copy()
    result.attrs[METRIC] = metrics.parse({"name": metric, "goal": goal}, "with_goal")
    return result


def lower_is_better(df: pd.DataFrame, column: str) -> bool:
    """Return whether less is better in a stats column, by the job specs' goal or the column's name.

    ResultsError if neither is known.
    """
    goal = metrics.direction(column, named_metric(df))
    if goal is None:
        raise ResultsError(f"whether more or less is better is not known for {column}",
                           hint=f"{metrics.GOAL_HINT}, or use tables.with_goal(big_df, '{column}', 'minimize')")
    return goal == metrics.MINIMIZE


def stats_columns(df: pd.DataFrame) -> list[str]:
    """Return the columns of big_df that hold curves of numbers, in order."""
    words = set(_columns_of_words(df))
    return [name for name in _curve_columns(df) if name not in words]


def _curve_columns(df: pd.DataFrame) -> list[str]:
    if df.empty:
        return []
    return [str(name) for name, kind in zip(df.columns, df.dtypes, strict=True) if isinstance(kind, CurveType)
            or kind == np.dtype(object) and isinstance(df[name].iloc[0], pd.Series)]


def setting_columns(df: pd.DataFrame) -> list[str]:
    """Return the config columns of big_df: without identity, facts, curves, and names that change no result."""
    curves = set(_curve_columns(df))
    return [name for name in map(str, df.columns)
            if name not in curves and name not in NO_SETTINGS and not name.startswith(FACTS)]


def varying_columns(df: pd.DataFrame, seeds: bool = False) -> list[str]:
    """Return the config columns with more than one value, in the order of the config.

    seeds: include seeds that the job spec sets. Seeds that every run drew for itself are never included.
    """
    all_seeds = {name for name in map(str, df.columns) if name.startswith("seed")}
    hidden_seeds = all_seeds & _drawn_seeds(df) if seeds else all_seeds
    return [name for name in setting_columns(df) if name not in hidden_seeds and varies(df[name])]


def _drawn_seeds(df: pd.DataFrame) -> set[str]:
    """The seeds that every run drew for itself."""
    drawn = [{name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
             for names in df.get("facts/seeds_drawn", [])]
    return set.intersection(*drawn) if drawn else set()


class RunCounts(NamedTuple):
    """The number of runs of a selection that count in means, and of those that do not, by reason.

    total: all runs but repeats;
    counted: runs that count;
    diverged, unfinished: runs that do not count;
    repeats: exact repeats of other runs of the selection, which are in none of the other numbers;
    is_preliminary: no run has ended yet, so that unfinished ones count with the epochs so far.
    """

    total: int
    counted: int
    diverged: int
    unfinished: int
    repeats: int
    is_preliminary: bool

    def lost(self, diverged: str = "left out", unfinished: str = "left out") -> list[str]:
        """Return a phrase for each kind of runs that do not count. diverged, unfinished: how they are treated."""
        phrases = [f"{count(self.diverged, 'diverged run')} {diverged}"] if self.diverged else []
        if self.unfinished:
            phrases.append(f"{count(self.unfinished, 'run')} not ended, {unfinished}")
        if self.repeats:
            phrases.append(f"{count(self.repeats, 'exact repeat')} left out")
        if self.is_preliminary:
            phrases.append("no run has ended: preliminary values")
        return phrases


def count(number: int, noun: str) -> str:
    """Format a number with its noun: 1 run, 3 runs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def repeats(df: pd.DataFrame) -> pd.Series:
    """Return which runs repeat another run of `df` exactly, (runs,) bool.

    `df.assign(repeat_of=None)` makes them count as independent runs.
    """
    if REPEAT_OF not in df:
        return pd.Series(False, index=df.index)
    return df[REPEAT_OF].isin(set(df["run"])) & df[REPEAT_OF].notna()


def counted(df: pd.DataFrame) -> pd.Series:
    """Return which runs count in means, (runs,) bool: those that ended without diverging, without exact repeats.

    While no run of `df` has ended so, those that have not ended count with the epochs so far.
    """
    candidates = (df["end"] != run_folder.DIVERGED) & ~repeats(df)
    ended = candidates & df["end"].notna()
    return ended if ended.any() else candidates


def run_counts(df: pd.DataFrame) -> RunCounts:
    """Count the runs of a selection by whether they count in means."""
    is_repeat, counts = repeats(df), counted(df)
    diverged = int(((df["end"] == run_folder.DIVERGED) & ~is_repeat).sum())
    total = int((~is_repeat).sum())
    return RunCounts(total, int(counts.sum()), diverged, total - diverged - int(counts.sum()), int(is_repeat.sum()),
                     bool(counts.any() and df["end"][counts].isna().any()))


def ranking_columns(df: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the columns that runs are ranked by, and a sentence for each column of words that would come first.

    The metric of the job spec, else val before others, accuracy before r2 before loss.
    """
    columns, words = stats_columns(df), _columns_of_words(df)
    first = metrics.ranking_columns([*columns, *words], named_metric(df))
    return metrics.ranking_columns(columns, named_metric(df)), _words_messages(df, [name for name in first
                                                                                    if name in words])


def _columns_of_words(df: pd.DataFrame) -> list[str]:
    return [str(name) for name, kind in zip(df.columns, df.dtypes, strict=True)
            if isinstance(kind, CurveType) and kind.holds_words]


def _words_messages(df: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """A sentence for each column of words, with an example."""
    return [stats_csv.words_message(name, next(
        (cell for curve in df[name] for cell in curve if isinstance(cell, str)), "")) for name in names]


def metric_columns(df: pd.DataFrame, metric: str | None = None) -> list[str]:
    """Return the stats columns that `metric` names: one column, or all that a regular expression matches.

    None: as in `ranking_columns`. ResultsError if there is none that holds numbers, or if more is better in one of them
    and less in another.
    """
    columns = stats_columns(df)
    if metric is None:
        matching, problems = ranking_columns(df)
    else:
        words = _columns_of_words(df)
        named = [metric] if metric in (*columns, *words) else [
            name for name in (*columns, *words) if re.search(metric, name)]
        matching = [name for name in named if name in columns]
        problems = _words_messages(df, [name for name in named if name in words])
    if problems and not matching:
        raise ResultsError(problems[0], where=run_folder.STATS)
    if not matching:
        message = "no stats to rank runs by" if metric is None else f"no stats column matches '{metric}'"
        raise ResultsError(message, allowed=columns or None, hint=did_you_mean(metric or "", columns) if columns else
                           f"no run has a row in {run_folder.STATS} yet")
    if len({metrics.direction(name, named_metric(df)) for name in matching}) > 1:
        raise ResultsError(f"'{metric}' matches columns where more is better and where less is", allowed=matching,
                           hint="choose one kind")
    return matching


def selection_note(columns: list[str]) -> list[str]:
    """Return the notes of a caption about choosing by these columns: about test splits, and about averaged weights."""
    notes = ["averaged weights where a run has them, else the last"] if len(columns) > 1 and any(
        "/av/" in name for name in columns) else []
    return notes + [metrics.TEST_NOTE] * metrics.chooses_by_test(columns[0])


def best_runs(df: pd.DataFrame, metric: str | None = None, n: int | None = 10,
              epoch: str | int = "best", by: str | Sequence[str] = ()) -> pd.DataFrame:
    """Return the `n` best runs of big_df (None: all), a row each, best first. Ties keep the order of `df`.

    by: columns, as 'model': the best run of each of their values (of each combination), the best of these first;
    metric: as in `metric_columns`; of several columns, a run counts with the first one in which it has a value, those
        of averaged weights before the others (`metrics.by_preference`);
    epoch: 'best', 'last' or a number.
    Columns: run, value, metric (the column of the value), epoch, the same metric of the other splits at that epoch (as
    test/accuracy), the varying parameters, end, folder; attrs["caption"] has what a reader must know. Runs that
    diverged or have no value come last, as NaN. Logs a warning if a test split ranks. Errors as in `metric_columns`.
    """
    columns = metrics.by_preference(metric_columns(df, metric))
    if metrics.chooses_by_test(columns[0]):
        _log.warning("runs are ranked by %s, a test split: the best value is an optimistic estimate. Use a val split "
                     "of train: data_splits_map: {train: 'train[:90%%]', val: 'train[90%%:]', test: test}", columns[0])
    less = lower_is_better(df, columns[0])
    values, epochs, names = zip(*_values(df, columns, epoch, less), strict=True)
    table = pd.DataFrame({"value": values, "epoch": epochs, "metric": names})
    table = table.sort_values("value", ascending=less, kind="stable", na_position="last")
    table = _first_of_each(table, [df[name].iloc[table.index] for name in _column_names(df, by)])
    chosen = df.iloc[table.index[:n]].reset_index(drop=True)
    table = table[:n].reset_index(drop=True)
    others = _at_other_splits(chosen, table, list(dict.fromkeys(names)), stats_columns(df))
    table = pd.concat([chosen["run"], table[["value", "metric", "epoch"]], others], axis=1)
    settings = chosen[varying_columns(df, seeds=True)].rename(columns=_apart_from(table))
    table = pd.concat([table, settings, chosen[["end", "folder"]]], axis=1)
    table["epoch"] = table["epoch"].astype("Int64")
    table.attrs[CAPTION] = "; ".join(selection_note(columns))
    return table


def _values(df: pd.DataFrame, columns: list[str], epoch: str | int, less: bool) -> Iterator[tuple[float, float, str]]:
    """Yield (value, epoch, column) of each run, of the first column in which it has a value."""
    for end, *curves in zip(df["end"], *(df[name] for name in columns), strict=True):
        result = (np.nan, np.nan, columns[-1])
        for name, curve in zip(columns, curves, strict=True):
            value, at = _run_value(end, curve, epoch, less)
            if value == value:
                result = value, at, name
                break
        yield result


def _run_value(end: str | None, curve: pd.Series, epoch: str | int, less: bool) -> tuple[float, float]:
    """Return (value, epoch) of a run at its 'best', its 'last' or a given evaluated epoch.

    NaN if there is none, or if the run diverged, whatever it reached before. less: whether less is better.
    """
    if isinstance(epoch, str) and epoch not in ("best", "last"):
        raise ResultsError(f"invalid epoch '{epoch}'", allowed="best, last, or a number")
    if end == run_folder.DIVERGED:
        return np.nan, np.nan
    values = curve.to_numpy()
    evaluated = np.flatnonzero(np.isfinite(values))
    if not isinstance(epoch, str):
        evaluated = evaluated[curve.index[evaluated] == epoch]
    if not len(evaluated):
        return np.nan, np.nan
    row = evaluated[(np.argmin if less else np.argmax)(values[evaluated]) if epoch == "best" else -1]
    return float(values[row]), curve.index[row]


def _at_other_splits(chosen: pd.DataFrame, table: pd.DataFrame, names: list[str], stats: list[str]) -> pd.DataFrame:
    """The same metric of other splits, as test/accuracy, at the epoch of each run.

    chosen, table: the runs, and their metric and epoch; names: all metrics that rank runs; stats: stats columns.
    """
    sources: dict[str, dict[str, str]] = {}  # column of stats by new column and metric
    for name in names:
        for column in _other_splits(name, stats):
            split, *_, measure = column.split("/")
            sources.setdefault(f"{split}/{measure}", {})[name] = column
    curves = {column: list(chosen[column]) for by_metric in sources.values() for column in by_metric.values()}
    epochs = list(zip(table["metric"], table["epoch"], strict=True))
    return pd.DataFrame({new_column: [
        curves[by_metric[name]][row].get(epoch, np.nan) if name in by_metric else np.nan
        for row, (name, epoch) in enumerate(epochs)] for new_column, by_metric in sources.items()}, index=table.index)


def _column_names(df: pd.DataFrame, by: str | Sequence[str]) -> list[str]:
    """The columns of `by`. ResultsError if there is no such column."""
    return [str(require_column(df, name).name) for name in ([by] if isinstance(by, str) else by)]


def _first_of_each(table: pd.DataFrame, values: list[pd.Series]) -> pd.DataFrame:
    """The first row of each combination of values, a cell per row of the table each; all rows without any."""
    if not values:
        return table
    is_later = pd.Series(list(zip(*map(key_column, values), strict=True))).duplicated()
    return table[~is_later.to_numpy()]


def _other_splits(name: str, columns: list[str]) -> list[str]:
    """The same metric of other splits: val/av/accuracy → test/av/accuracy."""
    measure = name.partition("/")[2]
    return [other for other in columns if measure and other != name and other.partition("/")[2] == measure]


def values_table(config: pd.DataFrame, long: pd.DataFrame) -> pd.DataFrame:
    """Return a row per run without curves: `config` of Results, then the number of epochs, the last value of each stats
    column, and as best/NAME the best one of the columns that runs are ranked by (NaN where a run diverged)."""
    by_run = long.groupby("run", observed=False, sort=True)
    names = [name for name in long.columns[2:] if long[name].dtype != object]  # the others hold words
    last = by_run[list(long.columns[2:])].last().set_axis(config.index)
    epochs = "stats/epochs" if "epochs" in config else "epochs"  # an external program may have such a parameter
    table = pd.concat([config, by_run.size().rename(epochs).set_axis(config.index),
                       last[[name for name in last if name not in config]]], axis=1)
    finite = long[names].where(np.isfinite(long[names]))
    for name in metrics.ranking_columns(names, named_metric(config)):
        best = finite[name].groupby(long["run"], observed=False).agg("min" if lower_is_better(config, name) else "max")
        table[f"best/{name}"] = best.set_axis(config.index).where(config["end"] != run_folder.DIVERGED)
    table.attrs = dict(config.attrs)
    return table


def scores(df: pd.DataFrame, columns: list[str], epoch: str | int = "best") -> pd.Series:
    """Return each run's value at an epoch, (runs,).

    Of several columns, a run counts with the first one in which it has a value, those of averaged weights before the
    others (`metrics.by_preference`).
    NaN for runs that do not count (`counted`) or have no value.
    """
    less = lower_is_better(df, columns[0])
    values = np.full(len(df), np.nan)
    for name in metrics.by_preference(columns):
        of_column = [_run_value(end, curve, epoch, less)[0] for end, curve in zip(df["end"], df[name], strict=True)]
        values = np.where(np.isnan(values), of_column, values)
    return pd.Series(values, index=df.index).where(counted(df))


def ranking(df: pd.DataFrame, metric: str | None = None, epoch: str | int = "best",
            by: str | Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per setting (runs that differ in seeds alone), best mean first.

    metric, epoch: as in `best_runs`;
    by: columns, as 'model': the best setting of each of their values (of each combination), the best of these first.
    Columns: rank, the varying parameters (`ranked_parameters`), value (mean), deviation (standard, of the runs), low
    and high (95 % interval of the mean, NaN of a single run), runs (that count and have a value), total (all runs but
    exact repeats), diverged, left_out (why runs do not count, as '17 of 20 diverged'), members (index labels of df,
    without exact repeats).
    Rank r: r − 1 settings are significantly better, as `inference.ranks` defines it; with few seeds most settings share
    rank 1. Settings of which at least as many runs diverged as count have no rank (NA) and come after the others, those
    without a value last. attrs["caption"] has what a reader must know. Errors as in `metric_columns`.
    """
    names = metrics.by_preference(metric_columns(df, metric))
    settings = varying_columns(df)
    groups = _settings_of(df, settings)
    summaries = _summaries(df, groups, scores(df, names, epoch).to_numpy())
    firsts = df[settings].iloc[[positions[0] for positions in groups]].reset_index(drop=True)
    table = pd.concat([firsts.rename(columns=_apart_from(("rank", *summaries))), summaries], axis=1)
    has_rank = (table["runs"] > 0) & ~is_mostly_diverged(table["diverged"], table["runs"])
    table = table.assign(rank=has_rank).sort_values(  # in two steps: both sorts are stable
        "value", ascending=lower_is_better(df, names[0]), kind="stable").sort_values(
        "rank", ascending=False, kind="stable", ignore_index=True)
    has_rank = table.pop("rank").to_numpy(bool)
    rank = pd.Series(pd.NA, table.index, "Int64")
    rank[has_rank] = inference.ranks(*(table.loc[has_rank, name].to_numpy() for name in ("value", "deviation", "runs")))
    table.insert(0, "rank", rank)
    table.attrs[CAPTION] = "; ".join([*selection_note(names), *run_counts(df).lost()])
    return _first_of_each(table, [df[name][[labels[0] for labels in table["members"]]] for name in _column_names(
        df, by)]).reset_index(drop=True)


def ranked_parameters(ranking: pd.DataFrame) -> list[str]:
    """Return the columns of a ranking that hold the parameters of its settings."""
    names = list(map(str, ranking))
    return names[1:names.index("value")]


def _apart_from(reserved: Iterable[str]) -> dict[str, str]:
    """New names for parameters of own programs that are named like another column of the table."""
    return {name: f"parameter/{name}" for name in reserved}


def is_mostly_diverged(diverged: Any, counted: Any) -> Any:
    """Return whether at least as many runs of a setting diverged as count, so that it is not one of the best ones.

    diverged, counted: numbers, or arrays of them.
    """
    return (diverged > 0) & (diverged >= counted)


def _settings_of(df: pd.DataFrame, settings: list[str]) -> list[list[int]]:
    """The positions of the runs of each setting, without exact repeats, in the order of their first runs."""
    is_repeat = repeats(df).to_numpy()
    points = zip(*(map(cell_key, df[name].tolist()) for name in settings), strict=True) if settings else [()] * len(df)
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, point in enumerate(points):
        if not is_repeat[position]:
            groups.setdefault(point, []).append(position)
    return list(groups.values())


def _summaries(df: pd.DataFrame, groups: list[list[int]], values: np.ndarray) -> pd.DataFrame:
    """A row per setting: the columns of `ranking` from value on. values: of each run, NaN if it does not count."""
    diverged, counts = (df["end"] == run_folder.DIVERGED).to_numpy(), counted(df).to_numpy()
    rows = []
    for positions in groups:
        finite = values[positions][np.isfinite(values[positions])]
        estimate = inference.mean(finite)
        total, lost = len(positions), int(diverged[positions].sum())
        reasons = ((lost, "diverged"), (total - lost - int(counts[positions].sum()), "not ended"),
                   (int(counts[positions].sum()) - len(finite), "without a value"))
        rows.append({"value": estimate.value, "deviation": finite.std(ddof=1) if len(finite) > 1 else np.nan,
                     "low": estimate.low, "high": estimate.high, "runs": len(finite), "total": total, "diverged": lost,
                     "left_out": ", ".join(f"{number} of {total} {reason}" for number, reason in reasons if number),
                     "members": df.index[positions].tolist()})
    return pd.DataFrame(rows)


def uncounted_runs(df: pd.DataFrame) -> dict[str, list[str]]:
    """Return the names of the runs that do not count in means, by the reason: diverged, not ended, exact repeat."""
    is_repeat, counts = repeats(df), counted(df)
    is_diverged = (df["end"] == run_folder.DIVERGED) & ~is_repeat
    reasons = {"diverged": is_diverged, "not ended": ~counts & ~is_diverged & ~is_repeat, "exact repeat": is_repeat}
    return {reason: df["run"][chosen].tolist() for reason, chosen in reasons.items() if chosen.any()}


def runs_table(df: pd.DataFrame) -> pd.DataFrame:
    """Return a row per run: index, run, end, epochs, the varying parameters, the last value of each ranking column."""
    table = df[["index", "run", "end", *([REPEAT_OF] if REPEAT_OF in df else [])]].copy()
    curves = stats_columns(df)
    table["epochs"] = [len(curve) for curve in df[curves[0]]] if curves else 0
    last = {name: [curve.dropna().iloc[-1] if curve.notna().any() else np.nan for curve in require_column(df, name)]
            for name in ranking_columns(df)[0]}
    return pd.concat([table, df[varying_columns(df, seeds=True)], pd.DataFrame(last, index=df.index)], axis=1)
