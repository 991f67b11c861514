"""Figures of a grid, for screens and papers: each function takes big_df and returns a matplotlib Figure."""
from __future__ import annotations

import io
import itertools
import os
from collections.abc import Hashable
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from src import metrics, run_folder
from src.analysis.plotting import figure_layout
from src.analysis.plotting.figure_layout import (
    STYLE,
    Grid,
    ParameterAxis,
    column_label,
    common_label,
    describe_metric,
    format_value,
    styled,
)
from src.analysis.plotting.heat_maps import confusion, heat_map, importance, parallel_coordinates
from src.analysis.plotting.table_figures import overview, ranking
from src.analysis.reading.filters import cell_key, levels, require_column
from src.analysis.reading.steps import curve_column, with_step_curves
from src.analysis.tables import tables
from src.analysis.tables.tables import count
from src.errors import ResultsError, did_you_mean
from src.io import files

__all__ = [
    "STYLE",
    "averaged_against_last",
    "column_label",
    "confusion",
    "format_value",
    "heat_map",
    "importance",
    "learning_curves",
    "levels",
    "metric_against",
    "overview",
    "parallel_coordinates",
    "pareto",
    "ranking",
    "save",
]

_GIB = 2**30
_CUT = " (cut at the lowest run)"
_CLOSE = 12  # points: nearer dots of a front share a label


def save(figure: Figure, path: str | os.PathLike[str], formats: tuple[str, ...] = ("png", "pdf")) -> list[str]:
    """Write a figure as path.png and path.pdf, in the project's style (160 dots per inch). Return the paths.

    A suffix of `path` that is one of the formats is removed. The same figure gives the same bytes.
    """
    stem, suffix = os.path.splitext(os.fspath(path))
    stem = stem if suffix.removeprefix(".") in formats else os.fspath(path)
    for kind in formats:
        undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
        buffer = io.BytesIO()
        with matplotlib.style.context(STYLE):
            figure.savefig(buffer, format=kind, metadata=undated)
        files.write_atomic(f"{stem}.{kind}", buffer.getvalue(), sync=False)
    return [f"{stem}.{kind}" for kind in formats]


@styled
def learning_curves(df: pd.DataFrame, metric: str | None = None, *, rows: str | None = None, columns: str | None = None,
                    legend: str | None = None, style: str | None = None, spread: str | None = "standard error",
                    best_so_far: bool = False, log_x: bool = False, log_y: bool = False, by: str = "epoch") -> Figure:
    """Draw a metric over the epochs or steps: a grid of panels, each with a line per value of `legend` and `style`.

    df: big_df, a row per run;
    metric: a stats column, or a regular expression for several (drawn in different line styles); None: those that runs
        are ranked by. By step, a column of steps.csv, as 'grad_norm'; None: its loss;
    rows, columns, legend, style: config columns; legend (color), style (line style); legend='run' draws each run;
    spread: of the band around a mean: 'standard error', '95% confidence' (Student's t), 'standard deviation', 'range'
        or None;
    best_so_far: each run's best value until each epoch;
    by: 'epoch', or 'step' for runs with `log_steps`.
    Runs that share a line are its replicates, such as runs that differ in their seeds. Their mean and band are drawn
    over the epochs at which all of them have a value; beyond these, and for runs that have not ended, each run is a
    thin line. A single run has no band. Diverged runs and exact repeats are left out. Returns a Figure of (values of
    rows) x (values of columns) panels. ResultsError for an unknown or empty column, and for too many panels or styles.
    """
    if by not in ("epoch", "step"):
        raise ResultsError(f"unknown axis '{by}'", allowed="epoch, step")
    if by == "step":
        df, metric = with_step_curves(df), curve_column(metric)
    grid = Grid(df, metric, rows, columns, legend, spread, style=style)
    cut_lines = without_value = 0
    width = 1.5 if len(grid.colors) <= figure_layout.MAX_LEGEND_ENTRIES else 0.8
    for panel in grid.panels():
        for line in grid.lines(panel.runs):
            for name, metric_style in zip(grid.metrics, itertools.cycle(figure_layout.LINE_STYLES), strict=False):
                curves = _curves_of(line.runs, name, tables.lower_is_better(df, name) if best_so_far else None)
                without_value += len(line.runs) - len(curves) if name == grid.metrics[0] else 0
                counted = [curve for run, curve in curves.items() if grid.counted[run]]
                if best_so_far and not line.runs["end"].isna().all():
                    counted = _hold_last(counted)
                others = [curve for run, curve in curves.items() if not grid.counted[run]]
                cut_lines += _draw_curves(grid, panel.axes, counted, others, log_y, color=line.color, linewidth=width,
                                          linestyle=line.style if style else metric_style)
        panel.axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        figure_layout.set_log_axes(panel.axes, log_x, log_y)
    notes = [f"{count(cut_lines, 'mean line')} end{'s' * (cut_lines == 1)} with the first run, the others continue "
             "as thin lines" if cut_lines else "",
             f"{count(without_value, 'run')} without a value" if without_value else "",
             *(f"runs are ranked by {note}" for note in tables.selection_note(grid.metrics)
               if note != metrics.TEST_NOTE),
             metrics.TEST_NOTE if best_so_far and metrics.chooses_by_test(grid.metrics[0]) else ""]
    return grid.finish(by, f"{common_label(grid.metrics)}, best so far" if best_so_far else None,
                       spread_as=f"band{_CUT * log_y}", unfinished="drawn thin", notes=notes)


def _draw_curves(grid: Grid, axes: Axes, counted: list[pd.Series], others: list[pd.Series], log: bool,
                 **line: Any) -> bool:
    """Draw the mean of the curves that count, with its band, and each other curve, or rest of a curve, as a thin line.

    line: color, width and style. Return whether a curve that counts goes on after the mean.
    """
    values, rest = _mean_of(counted)
    if len(values):
        grid.record_mean(len(counted))
        axes.plot(values.index, values.mean(axis=1), **line, marker="o" if len(values) == 1 else "")
        if grid.spread and len(counted) > 1:
            axes.fill_between(values.index, *figure_layout.spread_bounds(values, grid.spread, log),
                              color=line["color"], alpha=0.18, linewidth=0)
    for curve in rest + others:
        axes.plot(curve.index, curve, **{**line, "linewidth": 0.6}, alpha=0.5, marker="." if len(curve) == 1 else "")
    return bool(len(values)) and any(curve.index[-1] > values.index[-1] for curve in counted)


def _curves_of(runs: pd.DataFrame, name: str, descends: bool | None) -> dict[Hashable, pd.Series]:
    """The evaluated epochs of each run that has some, by label.

    descends: whether less is better, if each curve is to be replaced by its best value so far; else None.
    """
    curves = {run: curve[np.isfinite(curve.to_numpy())] for run, curve in runs[name].items()}
    if descends is not None:
        curves = {run: curve.cummin() if descends else curve.cummax() for run, curve in curves.items()}
    return {run: curve for run, curve in curves.items() if len(curve)}


def _hold_last(curves: list[pd.Series]) -> list[pd.Series]:
    """Extend the best values so far of ended runs to all epochs of the line."""
    if len(curves) < 2:
        return curves
    table = pd.concat(curves, axis=1).sort_index().ffill()
    return [table.iloc[:, number].dropna() for number in range(len(curves))]


def _mean_of(curves: list[pd.Series]) -> tuple[pd.DataFrame, list[pd.Series]]:
    """The values at the epochs that all curves have, (epochs, runs), and what single curves have beyond these."""
    if not curves:
        return pd.DataFrame(), []
    table = pd.concat(curves, axis=1, join="inner").sort_index()
    if table.empty:
        return table, curves
    beyond = [curve[curve.index >= table.index[-1]] for curve in curves]
    return table, [curve for curve in beyond if len(curve) > 1]


@styled
def metric_against(df: pd.DataFrame, parameter: str, metric: str | None = None, *, epoch: str | int = "best",
                   rows: str | None = None, columns: str | None = None, legend: str | None = None,
                   spread: str | None = "standard error", log_x: bool | None = None, log_y: bool = False) -> Figure:
    """Draw a metric against a hyperparameter: a grid of panels, each with a line per value of `legend`, a dot per run.

    df: big_df, a row per run;
    metric, spread: as in `learning_curves`; of several columns, a run counts with the first one in which it has a
        value, those of averaged weights before the others (`metrics.by_preference`);
    epoch: 'best', 'last' or a number;
    log_x: None chooses a logarithmic axis if the values span a factor of 10 or more (zero has a place beside it).
    The line joins the means of runs with equal values, its bars show their spread. Values that are not numbers have a
    strip each, in which runs are spread out beside each other and a bar shows their mean. Diverged runs are crosses
    at the worse edge. Returns a Figure of (values of rows) x (values of columns) panels. ResultsError for an unknown or
    empty column, and for more categories than an axis has room for.
    """
    grid = Grid(df, metric, rows, columns, legend, spread, shown_apart=(parameter,))
    scores = tables.scores(df, grid.metrics, epoch)
    axis = ParameterAxis(require_column(df, parameter), log_x)
    worse_edge = 0.97 if tables.lower_is_better(df, grid.metrics[0]) else 0.03  # fraction of the panel's height
    for panel in grid.panels():
        for number, line in enumerate(grid.lines(panel.runs, diverged=True)):
            x = axis.positions(line.runs[parameter], number, len(grid.colors))
            strip = 0.0 if axis.numeric else figure_layout.STRIP / len(grid.colors)
            y = scores[line.runs.index].to_numpy()
            diverged = (line.runs["end"] == run_folder.DIVERGED).to_numpy()
            panel.axes.plot(x + strip * _spread_out(len(x)), y, "o", color=line.color, alpha=0.5, markersize=4.5,
                            markeredgewidth=0, rasterized=len(df) > 500)
            if diverged.any():
                panel.axes.plot(x[diverged], np.full(diverged.sum(), worse_edge), "x", color=line.color,
                                transform=panel.axes.get_xaxis_transform())
            for values in _draw_means(panel.axes, x, y, line.color, strip, spread, log_y):
                grid.record_mean(len(values))
        figure_layout.set_log_axes(panel.axes, False, log_y)
        axis.format_axis(panel.axes)
    return grid.finish(parameter, notes=[describe_metric(grid.metrics, epoch)], spread_as=f"bars{_CUT * log_y}",
                       diverged="shown as crosses", metric_styles=False)


def _spread_out(number: int) -> np.ndarray:
    """Return so many offsets within ± 0.3 whose neighbors are far apart, (number,): multiples of the golden ratio."""
    return 0.6 * (np.arange(number) * 0.618034 % 1 - 0.5)


def _draw_means(axes: Axes, x: np.ndarray, y: np.ndarray, color: object, strip: float, spread: str | None,
                log: bool) -> list[pd.Series]:
    """Draw the mean of y at each x, with bars for the spread. Return the values of each mean.

    strip: width of a bar for each mean; 0: a line joins them.
    """
    groups = [(position, pd.Series(y[(x == position) & np.isfinite(y)])) for position in np.unique(x)]
    groups = [(position, values) for position, values in groups if len(values)]
    if not groups:
        return []
    positions, means = np.array([position for position, _ in groups]), [values.mean() for _, values in groups]
    if strip:
        axes.hlines(means, positions - 0.4 * strip, positions + 0.4 * strip, color=color, linewidth=2.2)
    else:
        axes.plot(positions, means, "-", color=color)
    several = [(position, values) for position, values in groups if len(values) > 1]
    if spread and several:
        bounds = [figure_layout.spread_bounds(values.to_frame().T, spread, log) for _, values in several]
        axes.vlines([position for position, _ in several], [float(low.iloc[0]) for low, _ in bounds],
                    [float(high.iloc[0]) for _, high in bounds], color=color, linewidth=1)
    return [values for _, values in groups]


@styled
def averaged_against_last(df: pd.DataFrame, metric: str | None = None, *, epoch: str | int = "best",
                          rows: str | None = None, columns: str | None = None, legend: str | None = None,
                          log: bool = False) -> Figure:
    """Draw the effect of averaging: a dot for each run, its averaged weights (y) against its last ones (x).

    df: big_df, a row per run; only runs that count and have averaged weights are drawn;
    metric: a stats column of either kind, or a regular expression for them; None: what runs are ranked by;
    epoch: as in `metric_against`, for both kinds separately;
    log: both axes.
    Returns a Figure of (values of rows) x (values of columns) panels. ResultsError for an unknown column, and if no run
    has both kinds.
    """
    named = figure_layout.drawable_columns(df, metric)
    last = named[0].replace("/av/", "/last/")
    averaged = last.replace("/last/", "/av/")
    both = {name for name in (averaged, last) if name in tables.stats_columns(df)}
    table = pd.DataFrame({name: tables.scores(df, [name], epoch) for name in both}).dropna()
    if len(both) < 2 or table.empty:
        raise ResultsError(f"no run has {named[0]} of its averaged weights beside its last ones",
                           hint="runs with averaging, as `averaging: poly_8` in the job spec, have both")
    grid = Grid(df.loc[table.index], last, rows, columns, legend, shown_apart=("run",), panel=(2.9, 2.7))
    low, high = table.min().min(), table.max().max()
    margin = 0.04 * (high - low) or 0.01
    for panel in grid.panels():
        panel.axes.axline((low, low), (high, high) if high > low else (low + 1, low + 1), color=figure_layout.GREY,
                          linestyle="--", linewidth=0.8)
        for line in grid.lines(panel.runs):
            panel.axes.plot(table[last][line.runs.index], table[averaged][line.runs.index], "o", color=line.color,
                            alpha=0.6, markersize=4.5, markeredgewidth=0, rasterized=len(df) > 500)
        figure_layout.set_log_axes(panel.axes, log and low > 0, log and low > 0)
        limits = (low / 1.1, high * 1.1) if log and low > 0 else (low - margin, high + margin)
        panel.axes.set(xlim=limits, ylim=limits, box_aspect=1)
    gain = (table[averaged] - table[last]) * (-1 if tables.lower_is_better(df, averaged) else 1)
    error = f" ± {gain.sem():.2g} (standard error)" if len(gain) > 1 else ""
    side = "below" if tables.lower_is_better(df, averaged) else "above"
    return grid.finish(column_label(last), column_label(averaged), notes=[
        f"at the {epoch} epoch of each" if isinstance(epoch, str) else f"after epoch {epoch}",
        *tables.selection_note([last]),
        f"{side} the diagonal averaging is better: by {gain.mean():.2g}{error} on average, in {(gain > 0).sum()} of "
        f"{count(len(gain), 'run')}"], marker="o")


@styled
def pareto(df: pd.DataFrame, cost: str = "time", metric: str | None = None, *, epoch: str | int = "best",
           legend: str | None = None, log_x: bool | None = None, log_y: bool = False) -> Figure:
    """Draw a metric against its cost: a dot for each setting, and the front of settings that none beats in both.

    df: big_df, a row per run;
    cost: 'time' (seconds of training), 'memory' (maximum of a run in GiB, of its GPU if it has one; needs
        system_metrics), a stats column (summed over the epochs), or a column of numbers such as facts/parameters;
    metric, epoch: as in `metric_against`; a setting has the means of its runs that count, in both directions;
    log_x: as in `metric_against`.
    Settings that lost runs are hollow. The legend names the settings of the front, with the number of their runs if
    they lost some. Returns a Figure of one panel. ResultsError for an unknown or empty column, and if no run has such a
    cost.
    """
    drawn = figure_layout.drawable_columns(df, metric)
    costs, x_label = _costs(df, cost)
    costs = costs.where(tables.scores(df, drawn, epoch).notna())
    table = tables.ranking(df, metric, epoch)
    table["cost"] = [costs[members].mean() for members in table["members"]]
    table = table[np.isfinite(table["value"]) & np.isfinite(table["cost"])]
    if table.empty:
        raise ResultsError(f"none of {count(len(df), 'run')} has both {common_label(drawn)} and {x_label}")
    descends = tables.lower_is_better(df, drawn[0])
    table = table.sort_values(["cost", "value"], ascending=[True, descends], ignore_index=True)
    candidates = table[table["rank"].notna()] if table["rank"].notna().any() else table
    front = _front(candidates, descends)
    figure = Figure(figsize=(7.0, 3.3), layout="constrained")
    axes = figure.subplots()
    handles = _draw_dots(axes, table, df[require_column(df, legend).name] if legend else None)
    axes.step(front["cost"], front["value"], color="#333333", linewidth=1, where="post", zorder=1)
    settings = tables.ranked_parameters(table)
    axis = ParameterAxis(table["cost"].rename(x_label), log_x)
    figure_layout.set_log_axes(axes, axis.scale == "log", log_y)
    axes.margins(0.06, 0.08)  # room for the numbers
    handles += _number_front(axes, front, settings)
    axes.set(xlabel=x_label, ylabel=common_label(drawn))
    figure.legend(handles=handles, title=legend, loc="outside right upper", alignment="left")
    lossy = int((table["runs"] < table["total"]).sum())
    figure_layout.add_caption(figure, [
        describe_metric(drawn, epoch),
        count(len(table), "setting") + (", means of their runs" if (table["runs"] > 1).any() else ""),
        "not on the front: settings of which as many runs diverged as count" if len(candidates) < len(table) else "",
        f"hollow: lost runs ({lossy} of them)" if lossy else "",
        *tables.run_counts(df).lost()])
    return figure


def _front(table: pd.DataFrame, descends: bool) -> pd.DataFrame:
    """The settings, sorted by cost, that are better than all cheaper ones. descends: less is better."""
    best = table["value"].cummin() if descends else table["value"].cummax()
    return table[(table["value"] == best) & (best != best.shift())]


def _costs(df: pd.DataFrame, cost: str) -> tuple[pd.Series, str]:
    """The cost of each run, (runs,), and its label with the unit."""
    curves = tables.stats_columns(df)
    if cost == "time":
        return _aggregate(df, "train/time", "sum", "no run has finished an epoch yet"), "training (s)"
    if cost == "memory":
        on_gpu = "system/gpu_memory" in curves and any(curve.notna().any() for curve in df["system/gpu_memory"])
        name = "system/gpu_memory" if on_gpu else "system/memory"
        used = _aggregate(df, name, "max", "`system_metrics: 5` in the job spec measures it every five seconds") / _GIB
        return used, f"{'GPU ' * on_gpu}memory at most (GiB)"
    if cost in curves:
        return _aggregate(df, cost, "sum", None), f"{column_label(cost)}, all epochs"
    if cost not in df:
        raise ResultsError(f"unknown cost '{cost}'", allowed="time, memory, a stats column, a column of numbers",
                           hint=did_you_mean(cost, ("time", "memory", *map(str, df.columns))))
    values = pd.to_numeric(df[cost], errors="coerce")
    if not np.isfinite(values.to_numpy(float)).any():
        raise ResultsError(f"{cost} is a number in no run", allowed="time, memory, a stats column, a column of numbers")
    return values, cost.removeprefix("facts/")


def _aggregate(df: pd.DataFrame, name: str, function: str, hint: str | None) -> pd.Series:
    """The sum or max of each run's curve. ResultsError, with a hint, if none has a number."""
    curves = df[name] if name in tables.stats_columns(df) else []
    values = pd.Series([curve.agg(function) if curve.notna().any() else np.nan for curve in curves], dtype=float)
    if not values.notna().any():
        raise ResultsError(f"no run has measured {name}", hint=hint)
    return values.set_axis(df.index)


def _draw_dots(axes: Axes, table: pd.DataFrame, values: pd.Series | None) -> list[Line2D]:
    """Draw a dot for each row, colored by its first run's value, hollow if it lost runs. Return the legend entries."""
    distinct = [None] if values is None else levels(values)
    keys = [None if values is None else cell_key(values[members[0]]) for members in table["members"]]
    handles = []
    for level, color in zip(distinct, figure_layout.choose_colors(distinct), strict=True):
        rows = table[[key == cell_key(level) for key in keys]]
        is_lossy = rows["runs"] < rows["total"]
        for part, fill, edge in ((rows[~is_lossy], color, 0.0), (rows[is_lossy], "none", 1.0)):
            axes.plot(part["cost"], part["value"], "o", color=color, alpha=0.65, markersize=5, markerfacecolor=fill,
                      markeredgewidth=edge)
        handles.append(Line2D([], [], color=color, marker="o", linestyle="none", label=format_value(level)))
    return [] if values is None else figure_layout.thin_out(handles)


def _number_front(axes: Axes, front: pd.DataFrame, settings: list[str]) -> list[Line2D]:
    """Number the dots of the front, as 2–4 where they are close. Return the legend entries that name them."""
    heading = figure_layout.wrap(f"front: {', '.join(settings)}", 30) if settings else "front"
    names = [f"{number}  " + ", ".join(format_value(value, 14) for value in point)
             + ("" if runs == total else f" ({runs}/{total} runs)")
             for number, (point, runs, total) in enumerate(zip(
                 front[settings].itertuples(index=False), front["runs"], front["total"], strict=True), 1)]
    axes.figure.draw_without_rendering()  # sets the limits of the axes
    positions = axes.transData.transform(front[["cost", "value"]].to_numpy())
    is_close = np.hypot(*np.diff(positions, axis=0).T) < _CLOSE * axes.figure.dpi / 72
    for group in np.split(np.arange(len(front)), np.flatnonzero(~is_close) + 1):
        first, last = group[0] + 1, group[-1] + 1
        axes.annotate(str(first) if first == last else f"{first}–{last}", front[["cost", "value"]].iloc[group[0]],
                      (0, 5), textcoords="offset points", ha="center", fontsize=8)
    return [Line2D([], [], linestyle="none", label=name) for name in (heading, *names)]
