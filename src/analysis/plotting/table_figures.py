"""Tables as figures, with columns of text, small curves and dots: an overview of a grid, and its ranking."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.analysis.plotting import figure_layout
from src.analysis.plotting.figure_layout import (
    BLUE,
    GREY,
    ORANGE,
    add_caption,
    column_label,
    common_label,
    describe_metric,
    format_value,
    styled,
)
from src.analysis.tables import tables
from src.analysis.tables.tables import count
from src.errors import ResultsError

_MARGIN, _GAP, _LINE = 0.1, 0.16, 0.16  # inches
_MAX_WIDTH = 24.0  # inches


@styled
def overview(df: pd.DataFrame, metric: str | None = None, *, n: int = 40) -> Figure:
    """Draw a table with a row per setting, best first: what varies, how many runs count, small curves of all its runs.

    df: big_df, a row per run;
    metric: as in `learning_curves`; the training loss is beside it.
    Curves of a column share one scale. Returns a Figure of at most `n` rows. ResultsError for an unknown or empty
    column.
    """
    names = figure_layout.drawable_columns(df, metric)
    table = tables.ranking(df, metric)
    shown = table.head(n)
    members = [df.loc[labels] for labels in shown["members"]]
    sheet = _Sheet(len(shown), head_lines=2)
    for name in tables.ranked_parameters(table):
        sheet.add_text(name, [format_value(value) for value in shown[name]])
    sheet.add_text("counted", _counted_of_total(shown, always=True), numbers=True)
    for name in dict.fromkeys([*names, "train/loss"]):
        if name in tables.stats_columns(df) and any(np.isfinite(curve).any() for curve in df[name]):
            _small_curves(sheet, name, members)
    sheet.add_text(f"best {common_label(names)}", format_means(shown), numbers=True)
    return sheet.finish([f"{len(shown)} of {count(len(table), 'setting')}, best first" if len(table) > n else "",
                         "best: mean" + (" ± standard deviation of the runs" if (shown["runs"] > 1).any() else "")
                         + ", each run at its best epoch", *tables.selection_note(names),
                         *tables.run_counts(df).lost()])


def _counted_of_total(table: pd.DataFrame, always: bool = False) -> list[str]:
    """The runs of each setting that count, as 2/3 where some do not. always: also where all do."""
    return [f"{runs}/{total}" if always or runs < total else f"{runs}"
            for runs, total in zip(table["runs"], table["total"], strict=True)]


def _small_curves(sheet: _Sheet, name: str, members: list[pd.DataFrame]) -> None:
    """Add a column with the curves of each row's runs, on one scale from 1 % to 99 % of the values."""
    curves = [[curve[np.isfinite(curve)] for curve in runs[name]] for runs in members]
    values = np.concatenate([curve for row in curves for curve in row] or [np.zeros(1)])
    low, high = np.quantile(values, [0.01, 0.99]) if len(values) else (0.0, 1.0)
    last = max((curve.index.max() for row in curves for curve in row if len(curve)), default=1)
    log = bool(low > 0 and high > 30 * low)
    left, right = sheet.add_space(f"{column_label(name)}\n{low:.3g} to {high:.3g}" + ", log" * log, 1.3)
    scale: Normalize = (LogNorm if log else Normalize)(low, high if high > low else low + 1, clip=True)
    for number, row in enumerate(curves):
        for curve in row:
            height = np.asarray(scale(curve.to_numpy()))
            sheet.axes.plot(left + (right - left) * (curve.index - 1) / max(last - 1, 1),
                            sheet.middle(number) + 0.16 * (0.5 - height), color=BLUE, alpha=0.7, linewidth=0.8,
                            marker="." if len(curve) == 1 else "")


def format_intervals(table: pd.DataFrame) -> list[str]:
    """Return the 95 % interval of each setting of a ranking, as text; "–" of a single run."""
    digits = _digits(table)
    form = ".4g" if digits is None else f".{digits}f"
    return ["–" if low != low else f"{low:{form}} to {high:{form}}"
            for low, high in zip(table["low"], table["high"], strict=True)]


def _digits(table: pd.DataFrame) -> int | None:
    """The decimals that show two digits of the median deviation of settings; None if no deviation is known."""
    deviations = table["deviation"][table["deviation"] > 1e-9 * table["value"].abs()]
    return int(np.clip(1 - np.floor(np.log10(deviations.median())), 0, 8)) if len(deviations) else None


def format_means(table: pd.DataFrame) -> list[str]:
    """Return the mean of each setting of a ranking, and the deviation of its runs: two digits of the median one."""
    digits = _digits(table)
    return ["–" if value != value else f"{value:.4g}" if digits is None else f"{value:.{digits}f}"
            + (f" ± {deviation:.{digits}f}" if deviation == deviation else "")
            for value, deviation in zip(table["value"], table["deviation"], strict=True)]


@styled
def ranking(df: pd.DataFrame, metric: str | None = None, *, epoch: str | int = "best", n: int = 15) -> Figure:
    """Draw the best settings as a table: rank, what varies, a dot for each run, and the mean with its 95 % interval.

    df: big_df, a row per run;
    metric, epoch: as in `metric_against`.
    Rank r means that r − 1 settings are significantly better (tables.ranking returns the numbers); a shared rank is
    marked by =, and settings of rank 1 are orange. Settings that lost runs show n/N; without a rank (–) are those of
    which at least as many runs diverged as count. Returns a Figure of at most `n` rows. ResultsError for an unknown or
    empty column.
    """
    drawn = figure_layout.drawable_columns(df, metric)
    settings = tables.ranking(df, metric, epoch)
    table = settings[np.isfinite(settings["value"])].head(n)
    if table.empty:
        raise ResultsError(f"none of {count(len(df), 'run')} has a value to rank: all diverged")
    ties = settings["rank"].value_counts()
    has_rank = table["rank"].notna().to_numpy()
    sheet = _Sheet(len(table))
    sheet.add_text("rank", [f"{rank}{'=' if ties[rank] > 1 else ''}" if is_ranked else "–"
                            for rank, is_ranked in zip(table["rank"], has_rank, strict=True)])
    for name in tables.ranked_parameters(table):
        sheet.add_text(name, [format_value(value) for value in table[name]])
    _draw_dots(sheet, common_label(drawn), table, tables.scores(df, drawn, epoch))
    sheet.add_text("mean", format_means(table), numbers=True)
    if table["low"].notna().any():
        sheet.add_text("95 % interval", format_intervals(table), numbers=True)
    sheet.add_text("runs", _counted_of_total(table), numbers=True)
    has_repeats = (settings["runs"] > 1).any()
    lossy = int((table["runs"] < table["total"]).sum())
    return sheet.finish([
        f"the best {len(table)} of {count(len(settings), 'setting')}" if len(settings) > len(table) else "",
        describe_metric(drawn, epoch), "mean ± standard deviation; bar: 95 % interval of the mean, up to the edge"
        if has_repeats else "",
        "rank r: r − 1 settings are better beyond the noise of seeds (Welch's test of all pairs, Holm's correction: at "
        f"most 5 % chance of any wrong difference); {ties.get(1, 0)} of {count(len(settings), 'setting')} have rank 1"
        if has_repeats else
        "one run each: nothing is known about the noise of seeds",
        f"{count(lossy, 'setting')} lost runs (n/N: runs that count of all)" if lossy else "",
        "without a rank (–): as many runs diverged as count, or more" if not has_rank.all() else "",
        *tables.run_counts(df).lost()], below=0.2)


def _draw_dots(sheet: _Sheet, header: str, table: pd.DataFrame, scores: pd.Series) -> None:
    """Add a column with a dot for each run, the mean and its 95 % interval within the axis, and an axis below."""
    left, right = sheet.add_space(header, 2.6)
    values = [scores[members].dropna().to_numpy() for members in table["members"]]
    low, high = min(map(np.min, values)), max(map(np.max, values))
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    low, high = low - margin, high + margin

    def x_of(value: float | np.ndarray) -> float | np.ndarray:
        return left + (right - left) * (value - low) / (high - low)

    bottom = sheet.middle(len(table) - 0.5)
    for tick in MaxNLocator(4).tick_values(low, high):
        if low <= tick <= high:
            sheet.axes.plot([x_of(tick)] * 2, [sheet.middle(-0.5), bottom], color="#e4e4e4", linewidth=0.6, zorder=0)
            sheet.axes.text(x_of(tick), bottom + 0.04, f"{tick:.6g}", fontsize=7, ha="center", va="top")
    for row, row_values in enumerate(values):
        rank, mean, *ends = table.iloc[row][["rank", "value", "low", "high"]]
        color, height = ORANGE if rank is not pd.NA and rank == 1 else BLUE, sheet.middle(row)
        sheet.axes.plot(x_of(row_values), np.full(len(row_values), height), "o", color=color, alpha=0.4,
                        markersize=4.5, markeredgewidth=0)
        sheet.axes.plot(x_of(np.clip(np.array(ends, float), low, high)), [height] * 2, color=color, linewidth=1.4)
        sheet.axes.plot(x_of(mean), height, "|", color=color, markersize=9, markeredgewidth=1.8)


class _Sheet:
    """A table to which columns are added from left to right. Lengths are in inches, from the upper left corner."""

    def __init__(self, rows: int, head_lines: int = 1) -> None:
        self._rows, self._height, self._right, self._head = rows, 0.24, _MARGIN, _MARGIN + head_lines * _LINE
        self.figure = Figure()
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_axis_off()

    def middle(self, row: float) -> float:
        """Return the height of the middle of a row, counted from 0."""
        return self._head + (row + 0.5) * self._height

    def add_text(self, header: str, cells: Sequence[str], numbers: bool = False) -> None:
        """Add a column of text, aligned to its left edge, or to its right edge for numbers."""
        edge = "right" if numbers else "left"
        texts = [self.axes.text(0, self.middle(row), cell, fontsize=8, ha=edge, va="center")
                 for row, cell in enumerate(cells)]
        head = self.axes.text(0, self._head - 0.06, header, fontsize=8, fontweight="bold", ha=edge, va="bottom")
        longest = sorted(texts, key=lambda text: len(text.get_text()))[-5:]  # measuring all of them is slow
        width = max(text.get_window_extent().width for text in (head, *longest)) / self.figure.dpi
        for text in (head, *texts):
            text.set_x(self._right + (width if numbers else 0))
        self._right += width + _GAP
        if self._right > _MAX_WIDTH:
            raise ResultsError(f"the table is wider than {_MAX_WIDTH:.0f} inches: too many parameters vary",
                               hint="choose runs that differ in fewer with filt")

    def add_space(self, header: str, width: float) -> tuple[float, float]:
        """Add an empty column to draw into. Return its left and right edge."""
        head = self.axes.text(self._right, self._head - 0.06, header, fontsize=8, fontweight="bold", va="bottom")
        width = max(width, head.get_window_extent().width / self.figure.dpi)
        left, self._right = self._right, self._right + width + _GAP
        return left, left + width

    def finish(self, caption: Sequence[str], below: float = 0.0) -> Figure:
        """Return the figure, as large as its columns. below: space under the rows, for an axis."""
        width = max(self._right - _GAP + _MARGIN, 4.0)
        lines = figure_layout.wrap("; ".join(filter(None, caption)), int(width * 17)).count("\n") + 1
        height = self.middle(self._rows) - self._height / 2 + below + lines * _LINE + _MARGIN
        self.figure.set_size_inches(width, height)
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.axes.plot([_MARGIN, width - _MARGIN], [self._head] * 2, color=GREY, linewidth=0.7)
        add_caption(self.figure, caption)
        return self.figure
