"""Pictures of a grid, for a screen and for a paper: each function takes big_df and returns a matplotlib Figure"""
from __future__ import annotations

import io
import itertools
import os

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from src import run_folder
from src.analysis.plotting import figure_layout
from src.analysis.plotting.figure_layout import (
    STYLE,
    Grid,
    ParameterAxis,
    column_label,
    common_label,
    count,
    describe_metric,
    format_value,
    styled,
)
from src.analysis.plotting.heat_maps import confusion, heat_map, importance, parallel_coordinates
from src.analysis.plotting.table_figures import overview, ranking
from src.analysis.reading.filters import cell_key, levels, require_column
from src.analysis.tables import tables
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
_CLOSE = 12  # dots of a front that are nearer than this, in points, share a label


def save(figure: Figure, path: str | os.PathLike[str], formats: tuple[str, ...] = ("png", "pdf")) -> list[str]:
    """Write a picture as path.png and path.pdf, in the project's style (fonts as text, 160 dots per inch). The paths.

    An ending of `path` that is one of the formats is taken off it. The same picture gives the same bytes.
    """
    stem, ending = os.path.splitext(os.fspath(path))
    stem = stem if ending.removeprefix(".") in formats else os.fspath(path)
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
                    best_so_far: bool = False, log_x: bool = False, log_y: bool = False) -> Figure:
    """A metric over the epochs: a grid of panels, in each a line for each value of `legend` (colour) and `style`.

    df: big_df, a row per run. metric: a stats column or a regular expression for several (drawn in different line
    styles); None: those that runs are judged by. rows, columns, legend, style: config columns; legend='run' draws each
    run. best_so_far: each run's best value until each epoch. Runs that share a line are repeats of it: the line is
    their mean, the band their spread: 'standard error' of the mean, '95% confidence' (Student's t), 'standard
    deviation', 'range' (least to most) or None. Diverged runs are left out; the caption says so, and what the repeats
    differ in. Returns a Figure of (values of rows) x (values of columns) panels. Raises ResultsError for an unknown or
    empty column, and where there are too many panels or styles to read.
    """
    grid = Grid(df, metric, rows, columns, legend, spread, style=style)
    for panel in grid.panels():
        for line in grid.lines(panel.runs):
            for name, of_metric in zip(grid.metrics, itertools.cycle(figure_layout.LINE_STYLES), strict=False):
                mean, low, high = _summary([run for run in line.runs[name] if run.notna().any()], spread,
                                           tables.lower_is_better(df, name) if best_so_far else None, log_y)
                panel.axes.plot(mean.index, mean, line.style if style else of_metric, color=line.colour,
                                marker="o" if len(mean) == 1 else "",
                                linewidth=1.5 if len(grid.colours) <= figure_layout.MAX_LEGEND_ENTRIES else 0.8)
                if low is not None:
                    panel.axes.fill_between(mean.index, low, high, color=line.colour, alpha=0.18, linewidth=0)
        panel.axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        figure_layout.set_log_axes(panel.axes, log_x, log_y)
    y_label = f"{common_label(grid.metrics)}, best so far" if best_so_far else None
    return grid.finished("epoch", y_label, spread_as=f"band{_CUT * log_y}")


def _summary(curves: list[pd.Series], spread: str | None, best_descends: bool | None,
             log: bool) -> tuple[pd.Series, pd.Series | None, pd.Series | None]:
    """Mean, lower and upper end of the spread of curves, by epoch; no spread for a single curve. best_descends: of the
    best so far, where that is asked for: whether less is better."""
    if not curves:
        return pd.Series(dtype=float), None, None
    curves = [curve[np.isfinite(curve.to_numpy())] for curve in curves]
    if best_descends is not None:
        curves = [curve.cummin() if best_descends else curve.cummax() for curve in curves]
    if len(curves) == 1:
        return curves[0], None, None
    table = pd.concat(curves, axis=1).sort_index()
    if best_descends is not None:
        table = table.ffill()  # a run that ended keeps its best
    return (table.mean(axis=1), *(figure_layout.spread_bounds(table, spread, log) if spread else (None, None)))


@styled
def metric_against(df: pd.DataFrame, parameter: str, metric: str | None = None, *, epoch: str | int = "best",
                   rows: str | None = None, columns: str | None = None, legend: str | None = None,
                   spread: str | None = "standard error", log_x: bool | None = None, log_y: bool = False) -> Figure:
    """A metric against a hyperparameter: a grid of panels, in each a line per value of `legend` and a dot per run.

    df: big_df, a row per run. metric, spread: as in `learning_curves`; a run counts with its best of several columns.
    epoch: 'best', 'last' or a number. log_x: None chooses a logarithmic axis where the values span a factor of 10 or
    more (zero has its place beside it). The line joins the means of runs with equal values, its bars show their spread.
    Diverged runs are crosses at the worse edge. Returns a Figure of (values of rows) x (values of columns) panels.
    Raises ResultsError for an unknown or empty column, and for more words than an axis has room for.
    """
    grid = Grid(df, metric, rows, columns, legend, spread, shown_apart=(parameter,))
    scores = tables.scores(df, grid.metrics, epoch)
    axis = ParameterAxis(require_column(df, parameter), log_x)
    worst = 0.97 if tables.lower_is_better(df, grid.metrics[0]) else 0.03  # of the panel's height
    for panel in grid.panels():
        for number, line in enumerate(grid.lines(panel.runs, diverged=True)):
            x = axis.places(line.runs[parameter], number - (len(grid.colours) - 1) / 2)
            y = scores[line.runs.index].to_numpy()
            diverged = (line.runs["end"] == run_folder.DIVERGED).to_numpy()
            panel.axes.plot(x, y, "o", color=line.colour, alpha=0.5, markersize=4.5, markeredgewidth=0,
                            rasterized=len(df) > 500)
            if diverged.any():
                panel.axes.plot(x[diverged], np.full(diverged.sum(), worst), "x", color=line.colour,
                                transform=panel.axes.get_xaxis_transform())
            _draw_means(panel.axes, x, y, line.colour, "-" if axis.numeric else "", spread, log_y)
        figure_layout.set_log_axes(panel.axes, False, log_y)
        axis.dress(panel.axes)
    return grid.finished(parameter, said=[describe_metric(grid.metrics, epoch)], spread_as=f"bars{_CUT * log_y}",
                         diverged="shown as crosses", metric_styles=False)


def _draw_means(axes: Axes, x: np.ndarray, y: np.ndarray, colour: object, line: str, spread: str | None,
                log: bool) -> None:
    """The mean of y at each x, joined by a line, with bars for the spread."""
    groups = [(place, pd.Series(y[(x == place) & np.isfinite(y)])) for place in np.unique(x)]
    groups = [(place, values) for place, values in groups if len(values)]
    if not groups:
        return
    places, means = [place for place, _ in groups], [values.mean() for _, values in groups]
    axes.plot(places, means, line or "_", color=colour, markersize=9)
    if spread and any(len(values) > 1 for _, values in groups):
        low, high = zip(*(figure_layout.spread_bounds(values.to_frame().T, spread, log) for _, values in groups),
                        strict=True)
        axes.vlines(places, [float(one.iloc[0]) for one in low], [float(one.iloc[0]) for one in high], color=colour,
                    linewidth=1)


@styled
def averaged_against_last(df: pd.DataFrame, metric: str | None = None, *, epoch: str | int = "best",
                          rows: str | None = None, columns: str | None = None, legend: str | None = None,
                          log: bool = False) -> Figure:
    """What averaging gives: a dot for each run, its averaged weights (y) against its last ones (x), and the diagonal.

    df: big_df, a row per run; those without averaged weights are left out. metric: a stats column of either kind, or a
    regular expression for them; None: what runs are judged by. epoch: as in `metric_against`, for both kinds alone.
    log: both axes. Returns a Figure of (values of rows) x (values of columns) panels. Raises ResultsError for an
    unknown column, and if no run has both kinds.
    """
    found = figure_layout.drawable_columns(df, metric)
    last = found[0].replace("/av/", "/last/")
    averaged = last.replace("/last/", "/av/")
    both = {name for name in (averaged, last) if name in tables.stats_columns(df)}
    table = pd.DataFrame({name: tables.scores(df, [name], epoch) for name in both}).dropna()
    if len(both) < 2 or table.empty:
        raise ResultsError(f"no run has {found[0]} of its averaged weights beside its last ones",
                           hint="runs with averaging, as `averaging: poly_8` in the job spec, have both")
    grid = Grid(df.loc[table.index], last, rows, columns, legend, shown_apart=("run",), panel=(2.9, 2.7))
    low, high = table.min().min(), table.max().max()
    margin = 0.04 * (high - low) or 0.01
    for panel in grid.panels():
        panel.axes.axline((low, low), (high, high) if high > low else (low + 1, low + 1), color=figure_layout.GREY,
                          linestyle="--", linewidth=0.8)
        for line in grid.lines(panel.runs):
            panel.axes.plot(table[last][line.runs.index], table[averaged][line.runs.index], "o", color=line.colour,
                            alpha=0.6, markersize=4.5, markeredgewidth=0, rasterized=len(df) > 500)
        figure_layout.set_log_axes(panel.axes, log and low > 0, log and low > 0)
        ends = (low / 1.1, high * 1.1) if log and low > 0 else (low - margin, high + margin)
        panel.axes.set(xlim=ends, ylim=ends, box_aspect=1)
    gain = (table[averaged] - table[last]) * (-1 if tables.lower_is_better(df, averaged) else 1)
    error = f" ± {gain.sem():.2g}" if len(gain) > 1 else ""
    side = "below" if tables.lower_is_better(df, averaged) else "above"
    return grid.finished(column_label(last), column_label(averaged), said=[
        f"at the {epoch} epoch of each" if isinstance(epoch, str) else f"after epoch {epoch}",
        f"{side} the diagonal averaging is better: by {gain.mean():.2g}{error} on average, in {(gain > 0).sum()} of "
        f"{count(len(gain), 'run')}"], marker="o")


@styled
def pareto(df: pd.DataFrame, cost: str = "time", metric: str | None = None, *, epoch: str | int = "best",
           legend: str | None = None, log_x: bool | None = None, log_y: bool = False) -> Figure:
    """What a metric costs: a dot for each setting, and the front of those that none beats in both at once.

    df: big_df, a row per run. cost: 'time' (seconds of training), 'memory' (the most that a run held, GiB: of its GPU
    where there is one; needs system_metrics), a stats column (summed over the epochs) or a column of numbers, as
    facts/parameters. metric, epoch: as in `metric_against`; a setting has the means of its runs. log_x: None chooses as
    in `metric_against`. The legend names the settings of the front. Returns a Figure of one panel. Raises ResultsError
    for an unknown or empty column, and if no run has such a cost.
    """
    drawn = figure_layout.drawable_columns(df, metric)
    costs, x_label = _costs(df, cost)
    table = tables.ranking(df, metric, epoch)
    table["cost"] = [costs[members].mean() for members in table["members"]]
    table = table[np.isfinite(table["value"]) & np.isfinite(table["cost"])]
    if table.empty:
        raise ResultsError(f"none of {count(len(df), 'run')} has both {common_label(drawn)} and {x_label}")
    descends = tables.lower_is_better(df, drawn[0])
    table = table.sort_values(["cost", "value"], ascending=[True, descends], ignore_index=True)
    best = table["value"].cummin() if descends else table["value"].cummax()
    front = table[(table["value"] == best) & (best != best.shift())]
    figure = Figure(figsize=(7.0, 3.3), layout="constrained")
    axes = figure.subplots()
    handles = _dots(axes, table, df[require_column(df, legend).name] if legend else None)
    axes.step(front["cost"], front["value"], color="#333333", linewidth=1, where="post", zorder=1)
    settings = tables.varying_columns(df)
    axis = ParameterAxis(table["cost"].rename(x_label), log_x)
    figure_layout.set_log_axes(axes, axis.scale == "log", log_y)
    axes.margins(0.06, 0.08)  # room for the numbers
    handles += _numbered(axes, front, settings)
    axes.set(xlabel=x_label, ylabel=common_label(drawn))
    figure.legend(handles=handles, title=legend, loc="outside right upper", alignment="left")
    figure_layout.add_caption(figure, [describe_metric(drawn, epoch), count(len(table), "setting") + (
        ", means of their runs" if (table["runs"] > 1).any() else ""), *figure_layout.count_unfinished(df, "left out")])
    return figure


def _costs(df: pd.DataFrame, cost: str) -> tuple[pd.Series, str]:
    """What each run cost, (runs,), and its label with the unit."""
    curves = tables.stats_columns(df)
    if cost == "time":
        return _of_curves(df, "train/time", "sum", "no run has finished an epoch yet"), "training (s)"
    if cost == "memory":
        on_gpu = "system/gpu_memory" in curves and any(curve.notna().any() for curve in df["system/gpu_memory"])
        name = "system/gpu_memory" if on_gpu else "system/memory"
        found = _of_curves(df, name, "max", "`system_metrics: 5` in the job spec measures it every five seconds") / _GIB
        return found, f"{'GPU ' * on_gpu}memory at most (GiB)"
    if cost in curves:
        return _of_curves(df, cost, "sum", None), f"{column_label(cost)}, all epochs"
    if cost not in df:
        raise ResultsError(f"there is no cost '{cost}'", allowed="time, memory, a stats column, a column of numbers",
                           hint=did_you_mean(cost, ("time", "memory", *map(str, df.columns))))
    values = pd.to_numeric(df[cost], errors="coerce")
    if not np.isfinite(values.to_numpy(float)).any():
        raise ResultsError(f"{cost} is a number in no run", allowed="time, memory, a stats column, a column of numbers")
    return values, cost.removeprefix("facts/")


def _of_curves(df: pd.DataFrame, name: str, what: str, hint: str | None) -> pd.Series:
    """The sum or max of each run's curve; ResultsError, with a hint, if none has a number."""
    curves = df[name] if name in tables.stats_columns(df) else []
    found = pd.Series([curve.agg(what) if curve.notna().any() else np.nan for curve in curves], dtype=float)
    if not found.notna().any():
        raise ResultsError(f"no run has measured {name}", hint=hint)
    return found.set_axis(df.index)


def _dots(axes: Axes, table: pd.DataFrame, values: pd.Series | None) -> list[Line2D]:
    """A dot for each row, coloured by its first run's value; the entries of the legend."""
    several = [None] if values is None else levels(values)
    colours = figure_layout.choose_colours(several)
    handles = []
    of_row = [None if values is None else cell_key(values[members[0]]) for members in table["members"]]
    for level, colour in zip(several, colours, strict=True):
        rows = table[[value == cell_key(level) for value in of_row]]
        axes.plot(rows["cost"], rows["value"], "o", color=colour, alpha=0.65, markeredgewidth=0, markersize=5)
        handles.append(Line2D([], [], color=colour, marker="o", linestyle="none", label=format_value(level)))
    if values is None:
        return []
    return figure_layout.thin_out(handles)


def _numbered(axes: Axes, front: pd.DataFrame, settings: list[str]) -> list[Line2D]:
    """Numbers beside the dots of the front, 2–4 where they are close; the entries of the legend that say what they are,
    under a heading."""
    names = ["front", *(f"{number}  " + ", ".join(format_value(value, 14) for value in point)
                        for number, point in enumerate(
        front[settings].itertuples(index=False), 1))]
    if settings:
        names[0] = figure_layout.wrap(f"front: {', '.join(settings)}", 30)
    axes.figure.draw_without_rendering()  # now the axes have their limits
    places = axes.transData.transform(front[["cost", "value"]].to_numpy())
    close = np.hypot(*np.diff(places, axis=0).T) < _CLOSE * axes.figure.dpi / 72
    for several in np.split(np.arange(len(front)), np.flatnonzero(~close) + 1):
        first, last = several[0] + 1, several[-1] + 1
        axes.annotate(str(first) if first == last else f"{first}–{last}", front[["cost", "value"]].iloc[several[0]],
                      (0, 5), textcoords="offset points", ha="center", fontsize=8)
    return [Line2D([], [], linestyle="none", label=name) for name in names]
