"""Pictures over several parameters: heat maps, parallel coordinates, importance; and confusion of classes"""
from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from src import run_folder
from src.analysis.plotting import figure_layout
from src.analysis.plotting.figure_layout import (
    BLUE,
    ORANGE,
    Grid,
    ParameterAxis,
    common_label,
    count,
    describe_metric,
    format_value,
    styled,
)
from src.analysis.plotting.importance import permutation_importance
from src.analysis.reading.arrays import read_array
from src.analysis.reading.filters import cell_key, levels, require_column
from src.analysis.tables import tables
from src.errors import ResultsError

MAX_CELLS = 30  # of a heat map, in a row or column
_MOST_NUMBERS = 12  # of them with a number in each
_MOST_COORDINATES = 10
_MOST_CLASSES = 100


@styled
def heat_map(df: pd.DataFrame, x: str, y: str, metric: str | None = None, *, epoch: str | int = "best",
             rows: str | None = None, columns: str | None = None, log: bool = False) -> Figure:
    """A metric over two parameters: a grid of panels, in each a cell for each pair of values, the brighter the better.

    df: big_df, a row per run. x, y: config columns, their values side by side in order. metric, epoch: as in
    `metric_against`; a cell is the mean of its runs that did not diverge, grey if there is no run, a cross if all of
    them diverged. log: colours by the logarithm. The best cell is framed. Returns a Figure of (values of rows) x
    (values of columns) panels. Raises ResultsError for an unknown or empty column, and for parameters with one value or
    more than 30.
    """
    figure_layout.drawable_columns(df, metric)
    across, up = (_cells_of(df, name) for name in (x, y))
    grid = Grid(df, metric, rows, columns, None, shown_apart=(x, y), panel=(
        max(2.3, 0.42 * len(across) + 0.8), max(1.8, 0.3 * len(up) + 0.6)))
    scores = tables.scores(df, grid.metrics, epoch)
    panels = [(panel.axes, *_cell_means(panel.runs, scores, (x, across), (y, up))) for panel in grid.panels()]
    found = np.concatenate([means[np.isfinite(means)] for _, means, _ in panels])
    if not len(found):
        raise ResultsError(f"none of {count(len(df), 'run')} has a value to map: all diverged",
                           hint="plots.overview(df) shows their curves")
    descends = tables.lower_is_better(df, grid.metrics[0])
    best = found.min() if descends else found.max()
    norm = (LogNorm if log and found.min() > 0 else Normalize)(found.min(), found.max())
    colours = mpl.colormaps["viridis_r" if descends else "viridis"].with_extremes(bad="#dddddd")
    for axes, means, lost in panels:
        image = axes.pcolormesh(np.ma.masked_invalid(means), norm=norm, cmap=colours, edgecolors="white", linewidth=0.5)
        if max(means.shape) <= _MOST_NUMBERS:
            _write_numbers(axes, means, image)
        for row, place in np.argwhere(lost):
            axes.plot(place + 0.5, row + 0.5, "x", color="black")
        for row, place in np.argwhere(means == best)[:1]:
            axes.add_patch(Rectangle((place, row), 1, 1, fill=False, edgecolor=ORANGE, linewidth=2))
        axes.grid(False)
        figure_layout.label_ticks(axes, np.arange(len(across)) + 0.5, across)
        axes.set_yticks(np.arange(len(up)) + 0.5, [format_value(value, 18) for value in up])
    bar = grid.figure.colorbar(image, ax=grid.axes, label=common_label(grid.metrics), aspect=15, pad=0.02)
    bar.outline.set_visible(False)
    if log:
        figure_layout.use_plain_numbers(bar.ax.yaxis)
    return grid.finished(x, y, said=[describe_metric(grid.metrics, epoch), "the best cell is framed"],
                         diverged="left out, a cross where all of a cell did", metric_styles=False)


def _cells_of(df: pd.DataFrame, name: str) -> list[object]:
    """The values of a parameter, if a heat map can show them."""
    values = levels(require_column(df, name))
    if not 2 <= len(values) <= MAX_CELLS:
        can = [other for other in tables.varying_columns(df) if 2 <= len(levels(df[other])) <= MAX_CELLS]
        raise ResultsError(f"{name} has {count(len(values), 'value')}, and a heat map shows 2 to {MAX_CELLS}",
                           allowed=can or "none of the parameters that vary",
                           hint=f"plots.metric_against(df, '{name}') shows many" if len(values) > 1 else None)
    return values


def _cell_means(runs: pd.DataFrame, scores: pd.Series, x: tuple[str, list[object]],
                y: tuple[str, list[object]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean score of each pair of values, (values of y, values of x), NaN if there is none; and where runs are that
    all diverged."""
    places = [{cell_key(value): number for number, value in enumerate(values)} for _, values in (y, x)]
    means = np.full((len(y[1]), len(x[1])), np.nan)
    lost = np.zeros(means.shape, bool)
    at = [[place[cell_key(value)] for value in runs[name].tolist()]
          for place, (name, _) in zip(places, (y, x), strict=True)]
    for cell, members in runs.groupby(at, sort=False):
        values = scores[members.index].dropna()
        if len(values):
            means[cell] = values.mean()
        lost[cell] = (members["end"] == run_folder.DIVERGED).all()
    return means, lost


def _write_numbers(axes: Axes, values: np.ndarray, image: mpl.cm.ScalarMappable, form: str = "#.3g") -> None:
    """Each cell's number in black or white, whichever is read more easily on its colour."""
    for (row, place), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = image.to_rgba(value)
            light = 0.299 * red + 0.587 * green + 0.114 * blue
            axes.text(place + 0.5, row + 0.5, format(value, form).removesuffix("."), fontsize=7,
                      ha="center", va="center", color="black" if light > 0.5 else "white")


@styled
def parallel_coordinates(df: pd.DataFrame, metric: str | None = None, *, epoch: str | int = "best",
                         parameters: list[str] | None = None) -> Figure:
    """A line for each setting across its parameters and on to its metric, the brighter the better.

    df: big_df, a row per run. metric, epoch: as in `metric_against`; a setting has the mean of its runs. parameters:
    2 to 10 config columns that vary; None: all that vary, seeds apart. Lines that share a value are fanned out by their
    metric. Returns a Figure of one panel. Raises ResultsError for unknown or empty columns, and for fewer or more.
    """
    drawn = figure_layout.drawable_columns(df, metric)
    names = figure_layout.varying_parameters(df, parameters, 2, _MOST_COORDINATES, "parallel coordinates")
    table = tables.ranking(df, metric, epoch)
    table = table[np.isfinite(table["value"])].iloc[::-1]  # the best are drawn last
    if table.empty:
        raise ResultsError(f"none of {count(len(df), 'run')} has a value to draw: all diverged")
    figure = Figure(figsize=(1.15 * (len(names) + 1) + 0.9, 3.2), layout="constrained")
    axes = figure.subplots()
    low, high = sorted((table["value"].min(), table["value"].max()))
    metric_place = ((table["value"] - low) / (high - low) if high > low else table["value"] * 0 + 0.5).to_numpy()
    coordinates = [ParameterAxis(require_column(df, name)) for name in names]
    places = [axis.shares(table[name]) + 0.05 * (metric_place - 0.5) * (len(axis.levels) <= 12)
              for name, axis in zip(names, coordinates, strict=True)]
    lines = np.stack([np.tile(np.arange(len(names) + 1.0), (len(table), 1)), np.stack([*places, metric_place], 1)], 2)
    ramp = mpl.colormaps["viridis"](np.linspace(0, 0.92, 256))  # the brightest yellow is lost on paper
    colours = ListedColormap(ramp[::-1] if tables.lower_is_better(df, drawn[0]) else ramp)
    axes.add_collection(LineCollection(lines, array=table["value"].to_numpy(), cmap=colours, linewidth=1.1, alpha=0.8,
                                       rasterized=len(table) > 500))
    for place, (name, axis) in enumerate(zip(names, coordinates, strict=True)):
        _coordinate(axes, place, name, *_ticks_of(axis, df[name]))
    ticks = MaxNLocator(5).tick_values(low, high) if high > low else np.array([low])
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    _coordinate(axes, len(names), f"{common_label(drawn)}", [f"{tick:.4g}" for tick in ticks],
                (ticks - low) / (high - low) if high > low else [0.5])
    axes.set(xlim=(-0.15, len(names) + 0.55), ylim=(-0.06, 1.06))
    axes.set_axis_off()
    figure_layout.add_caption(figure, [describe_metric(drawn, epoch), f"{count(len(table), 'setting')}"
                                 + (", means of their runs" if (table["runs"] > 1).any() else ""),
                                 *figure_layout.count_unfinished(df, "left out")])
    return figure


def _ticks_of(axis: ParameterAxis, values: pd.Series) -> tuple[list[str], np.ndarray]:
    """Some of the values of a parameter, and where they stand on its axis."""
    some = axis.levels if len(axis.levels) <= 12 else [axis.levels[i] for i in np.linspace(
        0, len(axis.levels) - 1, 5).round().astype(int)]
    return [format_value(value, 14) for value in some], axis.shares(
        pd.Series(some, dtype=values.dtype, name=values.name))


def _coordinate(axes: Axes, place: float, name: str, labels: list[str], heights: np.ndarray | list[float]) -> None:
    """A vertical axis with its name above and its values at its right, on white so that lines do not hide them."""
    axes.plot([place, place], [-0.03, 1.03], color="#555555", linewidth=0.8)
    axes.text(place, 1.08, figure_layout.wrap(name, 14), ha="center", va="bottom", fontsize=9)
    for text, height in zip(labels, heights, strict=True):
        axes.text(place + 0.04, height, text, va="center", fontsize=7.5, bbox={
            "facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 0.8})


@styled
def importance(df: pd.DataFrame, metric: str | None = None, *, epoch: str | int = "best",
               parameters: list[str] | None = None) -> Figure:
    """How much each parameter matters: bars of its permutation importance, with standard errors.

    df: big_df, a row per run. metric, epoch: as in `metric_against`; diverged runs count as the worst of the others.
    parameters: config columns; None: all that vary, seeds apart. The formula and its source:
    `importance.by_permutation`, which takes a random forest; the caption has its R² on runs that it has not seen: where
    that is near zero, the bars say nothing. Returns a Figure of one panel. Raises ResultsError for unknown or empty
    columns, fewer than 10 runs, or equal values.
    """
    drawn = figure_layout.drawable_columns(df, metric)
    names = figure_layout.varying_parameters(df, parameters, 1, 30, "parameter importance")
    scores = tables.scores(df, drawn, epoch).to_numpy(copy=True)
    diverged = (df["end"] == run_folder.DIVERGED).to_numpy()
    if np.isfinite(scores).any():
        scores[diverged] = (np.nanmax if tables.lower_is_better(df, drawn[0]) else np.nanmin)(scores)
    table, r2 = permutation_importance(df[names], scores)
    figure = Figure(figsize=(4.6, max(0.26 * len(table), 0.7) + 1.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(table))[::-1]
    axes.barh(places, table["importance"], xerr=table["error"], height=0.62, color=BLUE,
              error_kw={"elinewidth": 1, "ecolor": "#333333"})
    axes.set_yticks(places, [format_value(name) for name in table["parameter"]])
    axes.set(xlabel="permutation importance\n(growth of the squared error / variance)",
             xlim=(min(0, (table["importance"] - table["error"]).min()), None))
    axes.grid(False, axis="y")
    lost = [f"{count(diverged.sum(), 'diverged run')} taken as the worst"] if diverged.any() else []
    figure_layout.add_caption(figure, [describe_metric(drawn, epoch),
                                       f"random forest on {np.isfinite(scores).sum()} runs, R² = "
                                 f"{r2:.2f} on runs it has not seen; bars: standard error", *lost])
    return figure


@styled
def confusion(df: pd.DataFrame, name: str | None = None, *, epoch: int | None = None, columns: str | None = None,
              classes: list[str] | None = None) -> Figure:
    """Which classes are taken for which: for each true class, the percentage of each class that the model said.

    df: big_df, a row per run; the matrices of its runs are added up, so choose runs that belong together, or `columns`,
    a config column with a panel for each value. name: of the side files' arrays, [true class, predicted class]; None:
    val/last/confusion_matrix, or that of the first split that has one. epoch: None is each run's last. classes: their
    names. Beside each row is the share of the class that was found (its recall). Returns a Figure of a panel for each
    value. Raises ResultsError if no run has such an array, or names are too few.
    """
    if df.empty:
        raise ResultsError("there are no runs to draw", hint="does the filter leave any?")
    panels = [(value, _summed(runs, name, epoch)) for value, runs in (
        [(None, df)] if columns is None else
        [(level, figure_layout.group_by(df, columns)[cell_key(level)])
         for level in levels(require_column(df, columns))])]
    matrices = [matrix for _, (matrix, _, _) in panels]
    size = len(matrices[0])
    if any(matrix.shape != (size, size) for matrix in matrices) or not 2 <= size <= _MOST_CLASSES:
        raise ResultsError(f"matrices of {', '.join(sorted({str(len(matrix)) for matrix in matrices}))} classes",
                           allowed=f"one number of classes, 2 to {_MOST_CLASSES}", hint="choose runs of one data set")
    names = classes or [str(number) for number in range(size)]
    if len(names) != size:
        raise ResultsError(f"{len(names)} names for {size} classes", where="classes")
    side = max(2.6, min(0.33 * size, 8.0))
    figure = Figure(figsize=(len(panels) * (side + 1.1) + 0.6, side + 1.2), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (value, (matrix, used, runs)) in zip(all_axes, panels, strict=True):
        image = _draw_confusion(axes, matrix, names)
        what = f"{figure_layout.column_label(used)}, {count(runs, 'run')}".replace("confusion matrix ", "")
        axes.set_title(f"{columns} = {format_value(value)}\n{what}" if columns else what)
    bar = figure.colorbar(image, ax=figure.axes, label="share of the true class (%)", aspect=20, pad=0.02)
    bar.outline.set_visible(False)
    figure_layout.add_caption(figure, ["rows add up to 100 %; at the right, the share of each class that was found"])
    return figure


def _summed(df: pd.DataFrame, name: str | None, epoch: int | None) -> tuple[np.ndarray, str, int]:
    """The sum of the runs' matrices (classes, classes), its name, and how many runs there are."""
    asked = [name] if name else [f"{split}/{which}/confusion_matrix" for split in ("val", "test")
                                 for which in ("last", "av")]
    problem: ResultsError | None = None
    for one in asked:
        found = []
        for folder in df["folder"]:
            try:
                found.append(read_array(folder, one, epoch))
            except ResultsError as error:
                problem = problem or error
        if found:
            if len({matrix.shape for matrix in found}) > 1:
                raise ResultsError(f"the runs have {one} of different sizes", hint="choose runs of one data set")
            return np.sum(found, axis=0), one, len(found)
    raise problem or ResultsError(f"no run has {asked[0]}")


def _draw_confusion(axes: Axes, matrix: np.ndarray, names: list[str]) -> mpl.cm.ScalarMappable:
    """One matrix, in percent of its rows, with the diagonal's share at the right. matrix: (classes, classes)."""
    size = len(matrix)
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.pcolormesh(shares, norm=Normalize(0, 100), cmap="Blues", edgecolors="#eeeeee",
                            linewidth=0.5 * (size <= 30))
    if size <= 15:
        _write_numbers(axes, np.where(shares >= 0.5, shares, np.nan), image, ".0f")
    step = int(np.ceil(size / 25))
    ticks = np.arange(0, size, step)
    figure_layout.label_ticks(axes, ticks + 0.5, [names[tick] for tick in ticks])
    axes.set_yticks(ticks + 0.5, [format_value(names[tick], 18) for tick in ticks])
    if step == 1:
        for row in range(size):
            axes.text(size + 0.15, row + 0.5, f"{shares[row, row]:.1f}", va="center", fontsize=7,
                      color=figure_layout.GREY)
    axes.grid(False)
    axes.set(xlabel="predicted class", ylabel="true class", box_aspect=1, ylim=(size, 0))
    return image
