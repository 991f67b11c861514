"""Pictures of a grid: learning curves, and a metric against a hyperparameter; each function returns a Figure."""
from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from src import metrics, run_folder
from src.analysis import tables
from src.analysis.filters import column, is_missing, key
from src.errors import ResultsError

STYLE = os.path.join(os.path.dirname(__file__), "gridiron.mplstyle")
SPREADS = ("standard error", "range")
_PANEL, _ONLY_PANEL = (3.1, 2.4), (4.4, 2.9)  # width and height in inches
_MOST_PANELS = 48
_MOST_LEGEND_ENTRIES = 12
_LINE_STYLES = ("-", "--", ":", "-.")
_UNITS = {"time": "s", "data_time": "s"}


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """`draw` in the project's style. Laid out inside it too: tick labels take the style of the moment they are made."""

    @functools.wraps(draw)
    def wrapped(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.style.context(STYLE):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()
            return figure

    return wrapped


@_styled
def learning_curves(df: pd.DataFrame, metric: str | None = None, *, rows: str | None = None, columns: str | None = None,
                    legend: str | None = None, spread: str | None = "standard error", log_x: bool = False,
                    log_y: bool = False) -> Figure:
    """A metric over the epochs: a grid of panels, in each a line for each value of `legend`.

    df: big_df, a row per run. metric: a stats column or a regular expression for several (drawn in different line
    styles); None: those that runs are judged by. rows, columns, legend: config columns; legend='run' draws each run.
    Runs that share a line are repeats of it: the line is their mean, the band their spread: 'standard error' of the
    mean, 'range' (least to most) or None. Diverged runs are left out; the caption says so, and what the repeats differ
    in. Returns a Figure of (values of rows) x (values of columns) panels. Raises ResultsError for an unknown column.
    """
    grid = _Grid(df, metric, rows, columns, legend, spread)
    for panel in grid.panels():
        for colour, runs in grid.lines(panel.runs):
            for name, line_style in zip(grid.metrics, itertools.cycle(_LINE_STYLES), strict=False):
                mean, low, high = _summary([run for run in runs[name] if run.notna().any()], spread)
                panel.axes.plot(mean.index, mean, line_style, color=colour, marker="o" if len(mean) == 1 else "",
                                linewidth=1.5 if len(grid.colours) <= _MOST_LEGEND_ENTRIES else 0.8)
                if low is not None:
                    panel.axes.fill_between(mean.index, low, high, color=colour, alpha=0.18, linewidth=0)
        panel.axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        _log_axes(panel.axes, log_x, log_y)
    return grid.finished("epoch")


@_styled
def metric_against(df: pd.DataFrame, parameter: str, metric: str | None = None, *, epoch: str | int = "best",
                   rows: str | None = None, columns: str | None = None, legend: str | None = None,
                   spread: str | None = "standard error", log_x: bool | None = None, log_y: bool = False) -> Figure:
    """A metric against a hyperparameter: a grid of panels, in each a line per value of `legend` and a dot per run.

    df: big_df, a row per run. metric: as in `learning_curves`; a run counts with its best of several columns. epoch:
    'best', 'last' or a number. log_x: None chooses a logarithmic axis where the values span a factor of 10 or more
    (zero has its place beside it). The line joins the means of runs with equal values, its bars show their spread.
    Diverged runs are crosses at the worse edge. Returns a Figure of (values of rows) x (values of columns) panels.
    Raises ResultsError for an unknown column.
    """
    grid = _Grid(df, metric, rows, columns, legend, spread, drawn_apart=(parameter,))
    scores = _scores(df, grid.metrics, epoch)
    axis = _ParameterAxis(column(df, parameter), log_x)
    worst = 0.97 if metrics.descends(grid.metrics[0]) else 0.03  # of the panel's height
    for panel in grid.panels():
        for number, (colour, runs) in enumerate(grid.lines(panel.runs, diverged=True)):
            x = axis.places(runs[parameter], number - (len(grid.colours) - 1) / 2)
            y = scores[runs.index].to_numpy()
            diverged = (runs["end"] == run_folder.DIVERGED).to_numpy()
            panel.axes.plot(x, y, "o", color=colour, alpha=0.5, markersize=4.5, markeredgewidth=0,
                            rasterized=len(df) > 500)
            if diverged.any():
                panel.axes.plot(x[diverged], np.full(diverged.sum(), worst), "x", color=colour,
                                transform=panel.axes.get_xaxis_transform())
            _draw_means(panel.axes, x, y, colour, spread, "-" if axis.numeric else "")
        _log_axes(panel.axes, False, log_y)
        axis.dress(panel.axes)
    return grid.finished(parameter, f"at the {epoch} epoch" if isinstance(epoch, str) else f"after epoch {epoch}")


def _draw_means(axes: Axes, x: np.ndarray, y: np.ndarray, colour: Any, spread: str | None, line: str) -> None:
    """The mean of y at each x, joined by a line, with bars for the spread."""
    groups = [(place, pd.Series(y[(x == place) & np.isfinite(y)])) for place in np.unique(x)]
    groups = [(place, values) for place, values in groups if len(values)]
    if not groups:
        return
    places, means = [place for place, _ in groups], [values.mean() for _, values in groups]
    axes.plot(places, means, line or "_", color=colour, markersize=9)
    if spread and any(len(values) > 1 for _, values in groups):
        low, high = zip(*(_band(values.to_frame().T, spread) for _, values in groups), strict=True)
        axes.vlines(places, [float(one.iloc[0]) for one in low], [float(one.iloc[0]) for one in high], color=colour,
                    linewidth=1)


class _Panel(NamedTuple):
    axes: Axes
    runs: pd.DataFrame


class _Grid:
    """The frame of a picture: its panels, the runs in each, a colour for each value of the legend, a caption."""

    def __init__(self, df: pd.DataFrame, metric: str | None, rows: str | None, columns: str | None, legend: str | None,
                 spread: str | None, drawn_apart: tuple[str, ...] = ()) -> None:
        if df.empty:
            raise ResultsError("there are no runs to draw", hint="does the filter leave any?")
        if spread is not None and spread not in SPREADS:
            raise ResultsError(f"unknown spread '{spread}'", allowed=(*SPREADS, None))
        self.df, self.rows, self.columns, self.legend, self.spread = df, rows, columns, legend, spread
        found = tables.metric_columns(df, metric)
        self.metrics = [name for name in found if any(curve.notna().any() for curve in df[name])] or found[:1]
        self.row_levels, self.column_levels, self.legend_levels = (
            [None] if name is None else levels(column(df, name)) for name in (rows, columns, legend))
        self.colours = _colours(self.legend_levels)
        self.drawn_apart = {*drawn_apart, rows, columns, legend}
        height, width = len(self.row_levels), len(self.column_levels)
        if height * width > _MOST_PANELS:
            raise ResultsError(f"{height} x {width} panels are too many to read", allowed=f"{_MOST_PANELS}",
                               hint="choose fewer runs with filt, or other rows and columns")
        panel_width, panel_height = _PANEL if height * width > 1 else _ONLY_PANEL
        legend_width = 1.8 if legend or len(self.metrics) > 1 else 0.3
        self.figure = Figure(figsize=(max(width * panel_width, 4) + legend_width, height * panel_height + 0.6),
                             layout="constrained")
        self.axes = self.figure.subplots(height, width, sharex=True, sharey=True, squeeze=False)

    def panels(self) -> Iterator[_Panel]:
        """Each panel with its runs, titled with its values."""
        for i, row in enumerate(self.row_levels):
            runs = _groups(_groups(self.df, self.rows)[key(row)], self.columns)
            for j, col in enumerate(self.column_levels):
                axes = self.axes[i, j]
                titles = [f"{name} = {show(value)}" for name, value in ((self.rows, row), (self.columns, col)) if name]
                axes.set_title("\n".join(titles))
                yield _Panel(axes, runs.get(key(col), self.df.iloc[:0]))

    def lines(self, runs: pd.DataFrame, diverged: bool = False) -> Iterator[tuple[Any, pd.DataFrame]]:
        """Colour and runs of each line of a panel; without the diverged runs unless they are asked for."""
        if not diverged:
            runs = runs[runs["end"] != run_folder.DIVERGED]
        groups = _groups(runs, self.legend)
        for level, colour in zip(self.legend_levels, self.colours, strict=True):
            if key(level) in groups:
                yield colour, groups[key(level)]

    def finished(self, x_label: str, note: str = "") -> Figure:
        """The figure, with labels, legend and caption."""
        for axes in self.axes[-1]:
            axes.set_xlabel(x_label)
        for axes in self.axes[:, 0]:
            axes.set_ylabel(_common_label(self.metrics))
        self._add_legend(styles=not note)
        self.figure.supxlabel(self._caption(note), x=0.01, ha="left", fontsize=7, color="#666666")
        return self.figure

    def _add_legend(self, styles: bool) -> None:
        entries = list(zip(self.legend_levels, self.colours, strict=True)) if self.legend else []
        handles = [Line2D([], [], color=colour, label=show(level)) for level, colour in _thinned(entries)]
        if len(self.metrics) > 1 and styles:
            handles += [Line2D([], [], color="#555555", linestyle=style, label=label(name))
                        for name, style in zip(self.metrics, itertools.cycle(_LINE_STYLES), strict=False)]
        if handles:
            title = (self.legend or "") + (f" ({_MOST_LEGEND_ENTRIES} of {len(self.legend_levels)} shown)"
                                           if len(self.legend_levels) > _MOST_LEGEND_ENTRIES else "")
            self.figure.legend(handles=handles, title=title or None, loc="outside right upper", alignment="left")

    def _caption(self, note: str) -> str:
        """What a line is: over how many runs, what they differ in, which spread, how many diverged or go on."""
        settings = [name for name in (self.rows, self.columns, self.legend, *self.drawn_apart) if name]
        settings = list(dict.fromkeys(settings))
        ended = self.df[self.df["end"] != run_folder.DIVERGED]
        points = pd.DataFrame({name: [str(key(value)) for value in ended[name]] for name in settings})
        counts = points.value_counts() if settings else pd.Series([len(ended)])
        most, least = counts.max() if len(ended) else 0, counts.min()
        parts = [" / ".join(map(label, self.metrics)) + f" {note}"] if note else []
        if most > 1:
            differ = [name for name in tables.varying_columns(self.df) if name not in settings]
            if any(self.df[name].nunique() > 1 for name in tables.setting_columns(self.df) if name.startswith("seed")):
                differ.append("seeds")
            parts.append(f"mean of {least if least == most else f'{least} to {most}'} runs"
                         + (f" that differ in {', '.join(differ)}" if differ else "")
                         + (f"; {'bars' if note else 'band'}: {self.spread}" if self.spread else ""))
        diverged = len(self.df) - len(ended)
        if diverged:
            parts.append(f"{diverged} diverged run{'s' * (diverged > 1)} {'shown as crosses' if note else 'left out'}")
        if going := int(self.df["end"].isna().sum()):
            parts.append(f"{going} run{'s' * (going > 1)} not ended")
        caption = "; ".join(parts)
        return _wrapped(caption[:1].upper() + caption[1:], int(self.figure.get_figwidth() * 17))


class _ParameterAxis:
    """Where the values of a parameter stand on the x axis: numbers where they are, perhaps on a logarithmic axis; other
    values side by side in order."""

    def __init__(self, values: pd.Series, log: bool | None) -> None:
        self.levels = levels(values)
        self.numeric = all(_is_number(level) and np.isfinite(level) for level in self.levels)
        self.scale, self.smallest = "linear", 1.0
        if self.numeric:
            positive = [level for level in self.levels if level > 0]
            wide = len(positive) > 1 and positive[-1] >= 10 * positive[0] and self.levels[0] >= 0
            if positive and (wide if log is None else log):
                self.scale, self.smallest = "log" if self.levels[0] > 0 else "symlog", positive[0]

    def places(self, values: pd.Series, step: float) -> np.ndarray:
        """x of each value, (runs,) float. step: how far this line stands aside where values stand side by side."""
        if self.numeric:
            return values.to_numpy(dtype=float)
        place = {key(level): float(position) for position, level in enumerate(self.levels)}
        return np.array([place[key(value)] for value in values.tolist()]) + 0.07 * step

    def dress(self, axes: Axes) -> None:
        """Scale, ticks and their labels."""
        if self.scale == "log":
            axes.set_xscale("log")
        elif self.scale == "symlog":  # zero stands a decade below the smallest
            axes.set_xscale("symlog", linthresh=self.smallest)
        if self.numeric and len(self.levels) > 8:
            if self.scale != "linear":
                _plain_numbers(axes.xaxis)
            return
        labels = [show(level, 18) for level in self.levels]
        axes.xaxis.set_major_locator(FixedLocator(self.levels if self.numeric else range(len(self.levels))))
        axes.xaxis.set_minor_locator(NullLocator())
        steep = sum(map(len, labels)) > 26
        axes.set_xticks(self.levels if self.numeric else range(len(self.levels)), labels, rotation=35 if steep else 0,
                        ha="right" if steep else "center", rotation_mode="anchor" if steep else "default")
        if not self.numeric:
            axes.set_xlim(-0.5, len(self.levels) - 0.5)


def levels(values: pd.Series) -> list[Any]:
    """The different values of a config column: numbers in order, others as they come, a missing one first."""
    found = {key(value): None if is_missing(value) else value for value in values.tolist()}
    missing = [value for value in found.values() if value is None]
    there = [value for value in found.values() if value is not None]
    return missing + (sorted(there) if all(map(_is_number, there)) else there)


def show(value: Any, most: int = 28) -> str:
    """A value as a label: all of a float if eight digits do, else four; null as none; long text cut in its middle."""
    if is_missing(value):
        return "none"
    if isinstance(value, float):
        text = f"{value:.8g}"
        return text if float(text) == value else f"{value:.4g}"
    if isinstance(value, (bool, list, dict)):
        value = json.dumps(value, ensure_ascii=False)
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[:most // 2]}…{text[-(most // 2 - 1):]}"


def label(name: str) -> str:
    """A stats column as an axis label: val/av/accuracy → val accuracy (averaged), train/time → train time (s)."""
    parts = name.split("/")
    notes = {"av": "averaged", "last": "last"}.get(parts[1]) if len(parts) == 3 else None
    unit = _UNITS.get(parts[-1])
    if len(parts) not in (2, 3):
        return name
    return f"{parts[0]} {_measure(name)}" + (f" ({notes})" if notes else "") + (f" ({unit})" if unit else "")


def _common_label(names: list[str]) -> str:
    """An axis label for several columns: what they have in common."""
    if len(names) == 1:
        return label(names[0])
    splits = {name.partition("/")[0] for name in names}
    measures = " / ".join(dict.fromkeys(map(_measure, names)))
    return f"{splits.pop()} {measures}" if len(splits) == 1 else measures


def _measure(name: str) -> str:
    return name.rpartition("/")[2].replace("_", " ")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _groups(df: pd.DataFrame, name: str | None) -> dict[Any, pd.DataFrame]:
    """The rows by the `key` of their value of a column; all under None's if there is no column."""
    if name is None:
        return {key(None): df} if len(df) else {}
    positions: dict[Any, list[int]] = {}
    for position, value in enumerate(df[name].tolist()):
        positions.setdefault(key(value), []).append(position)
    return {value: df.iloc[chosen] for value, chosen in positions.items()}


def _colours(values: Sequence[Any]) -> list[Any]:
    """Distinct colours for a few values; a ramp from dark to light for many, or where numbers have an order."""
    if len(values) <= 7 and not (len(values) > 2 and all(map(_is_number, values))):
        return mpl.rcParams["axes.prop_cycle"].by_key()["color"][:len(values)]
    return list(mpl.colormaps["viridis"](np.linspace(0, 0.9, len(values))))


def _thinned(entries: list[Any]) -> list[Any]:
    """At most so many entries as a legend can show, evenly chosen, the first and the last among them."""
    if len(entries) <= _MOST_LEGEND_ENTRIES:
        return entries
    return [entries[i] for i in np.linspace(0, len(entries) - 1, _MOST_LEGEND_ENTRIES).round().astype(int)]


def _scores(df: pd.DataFrame, names: list[str], epoch: str | int) -> pd.Series:
    """Each run's value: the best of some columns at an epoch; NaN for a diverged run."""
    descends = metrics.descends(names[0])
    values = [[tables.pick(tables.usable(end, curve), epoch, descends)[0]
               for end, curve in zip(df["end"], df[name], strict=True)] for name in names]
    best = np.fmin if descends else np.fmax
    return pd.Series(best.reduce(np.array(values), axis=0), index=df.index)


def _summary(curves: list[pd.Series], spread: str | None) -> tuple[pd.Series, pd.Series | None, pd.Series | None]:
    """Mean, lower and upper end of the spread of curves, by epoch; no spread for a single curve."""
    if not curves:
        return pd.Series(dtype=float), None, None
    curves = [curve[np.isfinite(curve.to_numpy())] for curve in curves]
    if len(curves) == 1:
        return curves[0], None, None
    table = pd.concat(curves, axis=1).sort_index()
    return (table.mean(axis=1), *(_band(table, spread) if spread else (None, None)))


def _band(table: pd.DataFrame, spread: str) -> tuple[pd.Series, pd.Series]:
    """Ends of the spread of each row's values: mean ± standard deviation / √n (0 for one value), or least and most."""
    if spread == "range":
        return table.min(axis=1), table.max(axis=1)
    mean, error = table.mean(axis=1), table.sem(axis=1).fillna(0)
    return mean - error, mean + error


def _log_axes(axes: Axes, log_x: bool, log_y: bool) -> None:
    if log_x:
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
    if log_y:
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)


def _plain_numbers(axis: Any) -> None:
    """Ticks as 0.01 rather than as formulas: formulas are off, since names may hold dollar signs."""
    low, high = sorted(axis.get_view_interval())
    span = high / low if low > 0 else np.inf
    between = "235" if span < 30 else "3" if span < 1000 else ""  # few decades: label some minor ticks too
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(
        lambda value, _: f"{value:g}" if f"{value:e}"[0] in between else ""))


def _wrapped(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width and lines[-1]:
            lines.append("")
        lines[-1] += word + " "
    return "\n".join(line.rstrip() for line in lines)
