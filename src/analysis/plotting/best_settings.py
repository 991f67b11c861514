"""The best settings as a table for people: rank, mean, 95 % interval over seeds, and which runs do not count."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from src import metrics
from src.analysis.plotting.figure_layout import common_label, describe_metric, format_value
from src.analysis.plotting.table_figures import format_intervals, format_means
from src.analysis.tables import tables
from src.analysis.tables.tables import count
from src.errors import listed


class BestSettings(NamedTuple):
    """The settings of some runs, as `tables.ranking` orders them.

    table: the ranking, of which a caller may drop rows;
    settings: number of settings before `by` chose some of them;
    metric: the columns that rank, the first of which a run has a value in counts;
    uncounted: names of the runs that do not count, by reason;
    note: what a reader must know.
    """

    table: pd.DataFrame
    settings: int
    metric: list[str]
    uncounted: dict[str, list[str]]
    note: str


def find(df: pd.DataFrame, metric: str | None = None, epoch: str | int = "best",
         by: str | Sequence[str] = ()) -> BestSettings:
    """Rank the settings of big_df. Arguments and errors as in `tables.ranking`."""
    columns = metrics.by_preference(tables.metric_columns(df, metric))
    table = tables.ranking(df, metric, epoch)
    chosen = tables.ranking(df, metric, epoch, by) if by else table
    has_seeds = (table["runs"] > 1).any()
    notes = [describe_metric(columns, epoch),
             "rank r: r − 1 settings are significantly better (docs/statistics.md)" if has_seeds else
             "one run each: nothing is known about the noise of seeds",
             "no rank (–): as many runs diverged as count, or more" if (
                 table["rank"].isna() & (table["diverged"] > 0)).any() else "",
             "no run has ended: preliminary values" if tables.run_counts(df).is_preliminary else ""]
    return BestSettings(chosen, len(table), columns, tables.uncounted_runs(df), "; ".join(filter(None, notes)))


def to_text(best: BestSettings) -> pd.DataFrame:
    """Return the settings as texts, a row each: rank, parameters, mean ± deviation, interval, runs, why some are left
    out. Columns that would be empty are left out."""
    table = best.table
    ties = table["rank"].value_counts()
    columns = {"rank": ["–" if rank is pd.NA else f"{rank}{'=' * bool(ties[rank] > 1)}" for rank in table["rank"]]}
    for name in tables.ranked_parameters(table):
        columns[name] = [format_value(value, 60) for value in table[name]]
    has_deviation = table["deviation"].notna().any()
    columns[f"{common_label(best.metric)}: mean{' ± s' * bool(has_deviation)}"] = format_means(table)
    if has_deviation:
        columns["95 % interval"] = format_intervals(table)
    columns["runs"] = list(map(str, table["runs"]))
    if table["left_out"].any():
        columns["left out"] = table["left_out"].tolist()
    return pd.DataFrame(columns)


def name_uncounted(best: BestSettings) -> list[str]:
    """Return a line for each reason why runs do not count, with the names of some of them."""
    return [f"not counted, {reason} ({count(len(names), 'run')}): {listed(names, 5)}"
            for reason, names in best.uncounted.items()]
