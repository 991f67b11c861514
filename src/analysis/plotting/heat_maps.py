"""Figures over several parameters: heat maps, parallel coordinates, importance; and confusion matrices."""
from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

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
    describe_metric,
    format_value,
    styled,
)
from src.analysis.plotting.importance import permutation_importance
from src.analysis.reading.arrays import read_array
from src.analysis.reading.filters import cell_key, levels, require_column
from src.analysis.tables import tables
from src.analysis.tables.tables import count
from src.errors import ResultsError

MAX_CELLS = 30  # of a heat map, in a row or column
_MAX_NUMBERS = 12  # with a number in each cell
_MAX_COORDINATES = 10
_MAX_CLASSES = 100


@styled
def heat_map(df: pd.DataFrame, x: str, y: str, metric: str | None = None, *, epoch: str | int = "best",
             rows: str | None = None, columns: str | None = None, log: bool = False) -> Figure:
    """Draw a metric over two parameters: a grid of panels, each with a cell per pair of values, brighter is better.

    df: big_df, a row per run;
    x, y: config columns, their values side by side in order;
    metric, epoch: as in `metric_against`;
    log: colors by the logarithm.
    A cell is the mean of its runs that count, grey without a run, a cross if none of its runs counts. A cell that lost
    runs says how many of all count, as 2/3, or has a dot in its corner if numbers have no room. The best cell is
    framed, dashed if it lost runs. Returns a Figure of (values of rows) x (values of columns) panels. ResultsError for
    an unknown or empty column, and for parameters with one value or more than 30.
    """
    figure_layout.drawable_columns(df, metric)
    across, up = (_levels_of(df, name) for name in (x, y))
    grid = Grid(df, metric, rows, columns, None, shown_apart=(x, y), panel=(
        max(2.3, 0.42 * len(across) + 0.8), max(1.8, 0.3 * len(up) + 0.6)))
    scores = tables.scores(df, grid.metrics, epoch)
    is_repeat = tables.repeats(df)
    panels = [(panel.axes, _cells_of(panel.runs[~is_repeat[panel.runs.index]], scores, (x, across), (y, up)))
              for panel in grid.panels()]
    finite = np.concatenate([cells.means[np.isfinite(cells.means)] for _, cells in panels])
    if not len(finite):
        counts = tables.run_counts(df)
        raise ResultsError(f"no cell can be drawn: no run that counts has a value; {counts.diverged} of "
                           f"{count(counts.total, 'run')} diverged",
                           hint="plots.overview(df) shows their curves")
    descends = tables.lower_is_better(df, grid.metrics[0])
    candidates = np.concatenate([cells.means[cells.can_be_best] for _, cells in panels])
    best = (np.min if descends else np.max)(candidates if len(candidates) else finite)
    colors = {"norm": (LogNorm if log and finite.min() > 0 else Normalize)(finite.min(), finite.max()),
              "cmap": mpl.colormaps["viridis_r" if descends else "viridis"].with_extremes(bad="#dddddd")}
    for axes, cells in panels:
        image = axes.pcolormesh(np.ma.masked_invalid(cells.means), **colors, edgecolors="white", linewidth=0.5)
        _mark_cells(axes, cells, image, (cells.means == best) & (cells.can_be_best | (len(candidates) == 0)))
        for runs in cells.counted[cells.counted > 0]:
            grid.record_mean(int(runs))
        axes.grid(False)
        figure_layout.label_ticks(axes, np.arange(len(across)) + 0.5, across)
        axes.set_yticks(np.arange(len(up)) + 0.5, [format_value(value, 18) for value in up])
    bar = grid.figure.colorbar(image, ax=grid.axes, label=common_label(grid.metrics), aspect=15, pad=0.02)
    bar.outline.set_visible(False)
    if log:
        figure_layout.use_plain_numbers(bar.ax.yaxis)
    notes = _describe_marks([cells for _, cells in panels], some_excluded=0 < len(candidates) < len(finite))
    has_crosses = any(cells.is_lost.any() for _, cells in panels)
    return grid.finish(x, y, notes=[describe_metric(grid.metrics, epoch), *notes], metric_styles=False,
                       diverged="left out" + ", a cross where no run counts" * has_crosses)


def _describe_marks(panels: list[_Cells], some_excluded: bool) -> list[str]:
    """Return the meaning of frames, numbers and dots. some_excluded: some cells cannot be the best one."""
    lossy = sum(int(cells.is_lossy.sum()) for cells in panels)
    sign = "n/N: runs that count of all" if max(panels[0].means.shape) <= _MAX_NUMBERS else "dots"
    return ["the best cell is framed" + (", dashed if it lost runs" if lossy else ""),
            "never one of which as many runs diverged as count" if some_excluded else "",
            f"{count(lossy, 'cell')} lost runs ({sign})" if lossy else ""]


def _levels_of(df: pd.DataFrame, name: str) -> list[object]:
    """The values of a parameter, if a heat map can show them."""
    values = levels(require_column(df, name))
    if not 2 <= len(values) <= MAX_CELLS:
        candidates = [other for other in tables.varying_columns(df) if 2 <= len(levels(df[other])) <= MAX_CELLS]
        raise ResultsError(f"{name} has {count(len(values), 'value')}, and a heat map shows 2 to {MAX_CELLS}",
                           allowed=candidates or "none of the parameters that vary",
                           hint=f"plots.metric_against(df, '{name}') shows many" if len(values) > 1 else None)
    return values


class _Cells(NamedTuple):
    """The cells of a panel, (values of y, values of x) each.

    means: of the runs that count, NaN without one;
    counted, total, diverged: number of runs that count and have a value, of all, and of those that diverged.
    """

    means: np.ndarray
    counted: np.ndarray
    total: np.ndarray
    diverged: np.ndarray

    @property
    def can_be_best(self) -> np.ndarray:
        """Where a mean is not that of the rest of a setting that mostly diverged."""
        return np.isfinite(self.means) & ~tables.is_mostly_diverged(self.diverged, self.counted)

    @property
    def is_lossy(self) -> np.ndarray:
        """Where some of the runs count and others do not."""
        return (self.counted > 0) & (self.counted < self.total)

    @property
    def is_lost(self) -> np.ndarray:
        """Where there are runs, of which none counts."""
        return (self.counted == 0) & (self.total > 0)


def _cells_of(runs: pd.DataFrame, scores: pd.Series, x: tuple[str, list[object]],
              y: tuple[str, list[object]]) -> _Cells:
    numbers = [{cell_key(value): number for number, value in enumerate(values)} for _, values in (y, x)]
    shape = (len(y[1]), len(x[1]))
    cells = _Cells(np.full(shape, np.nan), *(np.zeros(shape, int) for _ in range(3)))
    at = [[number[cell_key(value)] for value in runs[name].tolist()]
          for number, (name, _) in zip(numbers, (y, x), strict=True)]
    for cell, members in runs.groupby(at, sort=False):
        values = scores[members.index].dropna()
        cells.counted[cell], cells.total[cell] = len(values), len(members)
        cells.diverged[cell] = (members["end"] == run_folder.DIVERGED).sum()
        if len(values):
            cells.means[cell] = values.mean()
    return cells


def _mark_cells(axes: Axes, cells: _Cells, image: mpl.cm.ScalarMappable, is_best: np.ndarray) -> None:
    """Write the numbers, and mark a best cell, cells that lost runs, and cells without a run that counts."""
    has_numbers = max(cells.means.shape) <= _MAX_NUMBERS
    if has_numbers:
        _write_numbers(axes, cells.means, image, notes={
            (row, col): f"{cells.counted[row, col]}/{cells.total[row, col]}"
            for row, col in np.argwhere(cells.is_lossy).tolist()})
    else:
        rows, cols = np.nonzero(cells.is_lossy)
        axes.plot(cols + 0.85, rows + 0.85, "o", color="white", markeredgecolor="black", markersize=2.5,
                  markeredgewidth=0.5)
    for row, col in np.argwhere(cells.is_lost):
        axes.plot(col + 0.5, row + 0.5, "x", color="black")
    for row, col in np.argwhere(is_best)[:1]:
        axes.add_patch(Rectangle((col, row), 1, 1, fill=False, edgecolor=ORANGE, linewidth=2,
                                 linestyle="--" if cells.is_lossy[row, col] else "-"))


def _write_numbers(axes: Axes, values: np.ndarray, image: mpl.cm.ScalarMappable, form: str = "#.3g",
                   notes: Mapping[tuple[int, int], str] | None = None) -> None:
    """Write each cell's number, in black or white for contrast. notes: a second line for some cells."""
    for (row, col), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = image.to_rgba(value)
            light = 0.299 * red + 0.587 * green + 0.114 * blue
            note = (notes or {}).get((row, col))
            axes.text(col + 0.5, row + 0.5, format(value, form).removesuffix(".") + (f"\n{note}" if note else ""),
                      fontsize=6.5 if note else 7, ha="center", va="center", linespacing=0.95,
                      color="black" if light > 0.5 else "white")


@styled
def parallel_coordinates(df: pd.DataFrame, metric: str | None = None, *, epoch: str | int = "best",
                         parameters: list[str] | None = None) -> Figure:
    """Draw a line for each setting across its parameters and on to its metric, the brighter the better.

    df: big_df, a row per run;
    metric, epoch: as in `metric_against`; a setting has the mean of its runs that count, and is dashed if it lost runs;
    parameters: 2 to 10 config columns that vary; None: all that vary, seeds apart.
    Lines that share a value are spread by their metric. Returns a Figure of one panel. ResultsError for unknown or
    empty columns, and for fewer or more parameters.
    """
    drawn = figure_layout.drawable_columns(df, metric)
    names = _coordinates(df, parameters)
    table = tables.ranking(df, metric, epoch)
    table = table[np.isfinite(table["value"])].iloc[::-1]  # the best are drawn last
    if table.empty:
        raise ResultsError(f"none of {count(len(df), 'run')} has a value to draw: all diverged")
    figure = Figure(figsize=(1.15 * (len(names) + 1) + 0.9, 3.2), layout="constrained")
    axes = figure.subplots()
    low, high = sorted((table["value"].min(), table["value"].max()))
    height = ((table["value"] - low) / (high - low) if high > low else table["value"] * 0 + 0.5).to_numpy()
    coordinates = [ParameterAxis(require_column(df, name)) for name in names]
    columns = dict(zip(tables.varying_columns(df), tables.ranked_parameters(table), strict=True))
    heights = [axis.fractions(table[columns[name]]) + 0.05 * (height - 0.5) * (len(axis.levels) <= 12)
               for name, axis in zip(names, coordinates, strict=True)]
    lines = np.stack([np.tile(np.arange(len(names) + 1.0), (len(table), 1)), np.stack([*heights, height], 1)], 2)
    is_lossy = (table["runs"] < table["total"]).to_numpy()
    ramp = mpl.colormaps["viridis"](np.linspace(0, 0.92, 256))  # the brightest yellow is lost on paper
    colors = ListedColormap(ramp[::-1] if tables.lower_is_better(df, drawn[0]) else ramp)
    axes.add_collection(LineCollection(lines, array=table["value"].to_numpy(), cmap=colors, linewidth=1.1, alpha=0.8,
                                       linestyles=np.where(is_lossy, "--", "-").tolist(),
                                       rasterized=len(table) > 500))
    for position, (name, axis) in enumerate(zip(names, coordinates, strict=True)):
        _draw_coordinate(axes, position, name, *_ticks_of(axis, df[name]))
    ticks = MaxNLocator(5).tick_values(low, high) if high > low else np.array([low])
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    _draw_coordinate(axes, len(names), common_label(drawn), [f"{tick:.4g}" for tick in ticks],
                     (ticks - low) / (high - low) if high > low else [0.5])
    axes.set(xlim=(-0.15, len(names) + 0.55), ylim=(-0.06, 1.06))
    axes.set_axis_off()
    figure_layout.add_caption(figure, [
        describe_metric(drawn, epoch),
        count(len(table), "setting") + (", means of their runs" if (table["runs"] > 1).any() else ""),
        f"dashed: lost runs ({is_lossy.sum()} of them)" if is_lossy.any() else "", *tables.run_counts(df).lost()])
    return figure


def _coordinates(df: pd.DataFrame, parameters: list[str] | None) -> list[str]:
    """The parameters to draw: those given, or all that vary. ResultsError for one that is the same in a setting."""
    names = figure_layout.varying_parameters(df, parameters, 2, _MAX_COORDINATES, "parallel coordinates")
    varying = tables.varying_columns(df)
    if others := [name for name in names if name not in varying]:
        raise ResultsError(f"{others[0]} is no parameter by which settings differ", allowed=varying,
                           hint="seeds and facts differ between the runs of a setting")
    return names


def _ticks_of(axis: ParameterAxis, values: pd.Series) -> tuple[list[str], np.ndarray]:
    """Labels for some of the values of a parameter, and their positions on its axis."""
    labelled = axis.levels if len(axis.levels) <= 12 else [axis.levels[i] for i in np.linspace(
        0, len(axis.levels) - 1, 5).round().astype(int)]
    return [format_value(value, 14) for value in labelled], axis.fractions(
        pd.Series(labelled, dtype=values.dtype, name=values.name))


def _draw_coordinate(axes: Axes, position: float, name: str, labels: list[str], heights: np.ndarray | list[float]
                     ) -> None:
    """Draw a vertical axis, its name above and its values to the right, on white so that lines do not hide them."""
    axes.plot([position, position], [-0.03, 1.03], color="#555555", linewidth=0.8)
    axes.text(position, 1.08, figure_layout.wrap(name, 14), ha="center", va="bottom", fontsize=9)
    for text, height in zip(labels, heights, strict=True):
        axes.text(position + 0.04, height, text, va="center", fontsize=7.5, bbox={
            "facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 0.8})


@styled
def importance(df: pd.DataFrame, metric: str | None = None, *, epoch: str | int = "best",
               parameters: list[str] | None = None) -> Figure:
    """Draw the permutation importance of each parameter as bars, with standard errors.

    df: big_df, a row per run;
    metric, epoch: as in `metric_against`; diverged runs count as the worst of the others, unfinished ones not at all;
    parameters: config columns; None: all that vary, seeds apart.
    `importance.permutation_importance` has the definition. If the forest does not predict unseen settings better than
    chance, the bars are grey, and title and caption say so. Returns a Figure of one panel.
    ResultsError for unknown or empty columns, fewer than 10 runs or settings, or equal values.
    """
    drawn = figure_layout.drawable_columns(df, metric)
    names = figure_layout.varying_parameters(df, parameters, 1, 30, "parameter importance")
    scores = tables.scores(df, drawn, epoch).to_numpy(copy=True)
    diverged = ((df["end"] == run_folder.DIVERGED) & ~tables.repeats(df)).to_numpy()
    if np.isfinite(scores).any():
        scores[diverged] = (np.nanmax if tables.lower_is_better(df, drawn[0]) else np.nanmin)(scores)
    estimate = permutation_importance(df[names], scores)
    table = estimate.table
    figure = Figure(figsize=(4.6, max(0.26 * len(table), 0.7) + 1.2), layout="constrained")
    axes = figure.subplots()
    positions = np.arange(len(table))[::-1]
    axes.barh(positions, table["importance"], xerr=table["error"], height=0.62,
              color=BLUE if estimate.is_above_chance else "#bbbbbb",
              error_kw={"elinewidth": 1, "ecolor": "#333333"})
    axes.set_yticks(positions, [format_value(name) for name in table["parameter"]])
    axes.set(xlabel="permutation importance\n(growth of the squared error / variance)",
             xlim=(min(0, (table["importance"] - table["error"]).min()), None))
    axes.grid(False, axis="y")
    verdict = "" if estimate.is_above_chance else ": not above chance, so the bars do not show what matters"
    if verdict:
        axes.set_title("not above chance")
    figure_layout.add_caption(figure, [
        describe_metric(drawn, epoch),
        f"random forest on {np.isfinite(scores).sum()} runs of {count(estimate.settings, 'setting')}, "
        f"R² = {estimate.r2:.2f} on settings that it has not seen (p = {estimate.p:.2g}){verdict}",
        "bars: standard error",
        *tables.run_counts(df).lost(diverged="taken as the worst")])
    return figure


@styled
def confusion(df: pd.DataFrame, name: str | None = None, *, epoch: int | None = None, columns: str | None = None,
              classes: list[str] | None = None) -> Figure:
    """Draw a confusion matrix: for each true class, the percentage that was predicted as each class.

    df: big_df, a row per run; the matrices of its runs are added up, so choose runs that belong together;
    name: of an array, [true class, predicted class]; None: val/last/confusion_matrix, or that of the first split that
        has one;
    epoch: None is each run's last;
    columns: a config column with a panel for each value;
    classes: their names.
    The recall of each class is beside its row. Returns a Figure of a panel for each value. ResultsError if no run has
    such an array, or the number of names is wrong.
    """
    if df.empty:
        raise ResultsError("there are no runs to draw", hint="does the filter leave any?")
    values = [None] if columns is None else levels(require_column(df, columns))
    groups = figure_layout.group_by(df, columns)
    panels = [(value, _sum_matrices(groups[cell_key(value)], name, epoch)) for value in values]
    matrices = [matrix for _, (matrix, _, _) in panels]
    size = len(matrices[0])
    if any(matrix.shape != (size, size) for matrix in matrices) or not 2 <= size <= _MAX_CLASSES:
        raise ResultsError(f"matrices of {', '.join(sorted({str(len(matrix)) for matrix in matrices}))} classes",
                           allowed=f"one number of classes, 2 to {_MAX_CLASSES}", hint="choose runs of one data set")
    names = classes or [str(number) for number in range(size)]
    if len(names) != size:
        raise ResultsError(f"{len(names)} names for {size} classes", where="classes")
    side = max(2.6, min(0.33 * size, 8.0))
    figure = Figure(figsize=(len(panels) * (side + 1.1) + 0.6, side + 1.2), layout="constrained")
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (value, (matrix, array_name, runs)) in zip(all_axes, panels, strict=True):
        image = _draw_confusion(axes, matrix, names)
        title = f"{figure_layout.column_label(array_name)}, {count(runs, 'run')}".replace("confusion matrix ", "")
        axes.set_title(f"{columns} = {format_value(value)}\n{title}" if columns else title)
    bar = figure.colorbar(image, ax=figure.axes, label="share of the true class (%)", aspect=20, pad=0.02)
    bar.outline.set_visible(False)
    figure_layout.add_caption(figure, ["rows add up to 100 %; at the right, the recall of each class"])
    return figure


def _sum_matrices(df: pd.DataFrame, name: str | None, epoch: int | None) -> tuple[np.ndarray, str, int]:
    """The sum of the runs' matrices, (classes, classes), its name, and the number of runs that have it."""
    names = [name] if name else [f"{split}/{which}/confusion_matrix" for split in ("val", "test")
                                 for which in ("last", "av")]
    first_error: ResultsError | None = None
    for array_name in names:
        matrices = []
        for folder in df["folder"]:
            try:
                matrices.append(read_array(folder, array_name, epoch))
            except ResultsError as error:
                first_error = first_error or error
        if matrices:
            if len({matrix.shape for matrix in matrices}) > 1:
                raise ResultsError(f"the runs have {array_name} of different sizes", hint="choose runs of one data set")
            return np.sum(matrices, axis=0), array_name, len(matrices)
    raise first_error or ResultsError(f"no run has {names[0]}")


def _draw_confusion(axes: Axes, matrix: np.ndarray, names: list[str]) -> mpl.cm.ScalarMappable:
    """Draw a matrix in percent of its rows, with the recall at the right. matrix: (classes, classes)."""
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
