"""Parts of figures: style, grid of panels with legend and caption, axes of parameters, labels."""
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
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from src import run_folder
from src.analysis.reading.filters import cell_key, is_missing, is_number, key_column, levels, require_column
from src.analysis.tables import tables
from src.analysis.tables.tables import count
from src.errors import ResultsError

STYLE = os.path.join(os.path.dirname(__file__), "gridiron.mplstyle")
SPREADS = ("standard error", "95% confidence", "standard deviation", "range")
MAX_LEGEND_ENTRIES = 12
MAX_LEGEND_NUMBERS = 8  # more numbers have a color bar
MAX_CATEGORIES = 24  # values that are not numbers, side by side on an axis
LINE_STYLES = ("-", "--", ":", "-.")
GREY, BLUE, ORANGE = "#666666", "#0072B2", "#D55E00"
STRIP = 0.8  # width of a category's strip, of the distance between categories
_PANEL, _ONLY_PANEL = (3.1, 2.4), (4.4, 2.9)  # width and height in inches
_MAX_PANELS = 48
_DIGIT = 0.025  # width of a digit as a fraction of a panel
_UNITS = {"time": "s", "data_time": "s"}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run `draw` in the project's style, layout included: tick labels take the style in force when they are created."""

    @functools.wraps(draw)
    def wrapped(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.style.context(STYLE):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()
            return figure

    return wrapped


class Panel(NamedTuple):
    """A panel and its runs."""

    axes: Axes
    runs: pd.DataFrame


class Line(NamedTuple):
    """Runs that share a line: its color shows their value of the legend, its style that of the style parameter."""

    color: Any
    style: str
    runs: pd.DataFrame


class Grid:
    """The frame of a figure: its panels, the runs in each, a color for each value of the legend, a caption.

    df: big_df, a row per run;
    metric: as in tables.metric_columns; the columns that have a number are drawn;
    rows, columns, legend, style: config columns;
    spread: one of SPREADS, or None;
    shown_apart: parameters that the figure itself separates, beside rows, columns, legend and style;
    panel: width and height in inches.
    ResultsError for unknown columns, too many panels or too many line styles.
    """

    def __init__(self, df: pd.DataFrame, metric: str | None, rows: str | None, columns: str | None, legend: str | None,
                 spread: str | None = None, shown_apart: tuple[str, ...] = (), style: str | None = None,
                 panel: tuple[float, float] | None = None) -> None:
        if spread is not None and spread not in SPREADS:
            raise ResultsError(f"unknown spread '{spread}'", allowed=(*SPREADS, None))
        self.df, self.rows, self.columns, self.spread = df, rows, columns, spread
        self.legend, self.style = legend, style
        self.metrics = drawable_columns(df, metric)
        self.counted, self._is_repeat = tables.counted(df), tables.repeats(df)
        self._group_sizes: list[int] = []
        self.row_levels, self.column_levels, self.legend_levels, self.style_levels = (
            [None] if name is None else levels(require_column(df, name)) for name in (rows, columns, legend, style))
        self._check_styles()
        self.colors = choose_colors(self.legend_levels)
        self._separated = list(dict.fromkeys(name for name in (rows, columns, legend, style, *shown_apart) if name))
        height, width = len(self.row_levels), len(self.column_levels)
        if height * width > _MAX_PANELS:
            raise ResultsError(f"{height} x {width} panels are too many to read", allowed=f"{_MAX_PANELS}",
                               hint="choose fewer runs with filt, or other rows and columns")
        panel_width, panel_height = panel or (_PANEL if height * width > 1 else _ONLY_PANEL)
        legend_width = 1.8 if legend or style or len(self.metrics) > 1 else 0.3
        self.figure = Figure(figsize=(max(width * panel_width, 4) + legend_width, height * panel_height + 0.6),
                             layout="constrained")
        self.axes = self.figure.subplots(height, width, sharex=True, sharey=True, squeeze=False)

    def _check_styles(self) -> None:
        if self.style and len(self.metrics) > 1:
            raise ResultsError(f"line styles show {self.style}, so one column can be drawn", allowed=self.metrics,
                               hint=f"metric='{self.metrics[0]}'")
        if len(self.style_levels) > len(LINE_STYLES):
            raise ResultsError(f"{self.style} has {len(self.style_levels)} values: too many for line styles",
                               allowed=f"{len(LINE_STYLES)}", hint=f"legend='{self.style}' shows them by color")

    def panels(self) -> Iterator[Panel]:
        """Yield each panel with its runs, titled with its values."""
        for i, row in enumerate(self.row_levels):
            runs = group_by(group_by(self.df, self.rows)[cell_key(row)], self.columns)
            for j, col in enumerate(self.column_levels):
                axes = self.axes[i, j]
                titles = [f"{name} = {format_value(value)}"
                          for name, value in ((self.rows, row), (self.columns, col)) if name]
                axes.set_title("\n".join(titles))
                yield Panel(axes, runs.get(cell_key(col), self.df.iloc[:0]))

    def lines(self, runs: pd.DataFrame, diverged: bool = False) -> Iterator[Line]:
        """Yield the lines of a panel, without exact repeats. diverged: include diverged runs."""
        runs = runs[~self._is_repeat[runs.index]]
        if not diverged:
            runs = runs[runs["end"] != run_folder.DIVERGED]
        by_legend = group_by(runs, self.legend)
        for level, color in zip(self.legend_levels, self.colors, strict=True):
            by_style = group_by(by_legend.get(cell_key(level), runs.iloc[:0]), self.style)
            for value, line_style in zip(self.style_levels, LINE_STYLES, strict=False):
                if cell_key(value) in by_style:
                    yield Line(color, line_style, by_style[cell_key(value)])

    def record_mean(self, runs: int) -> None:
        """Record that a mean of so many runs was drawn, for the caption."""
        self._group_sizes.append(runs)

    def finish(self, x_label: str, y_label: str | None = None, *, notes: Sequence[str] = (), spread_as: str = "band",
               diverged: str = "left out", unfinished: str = "left out", metric_styles: bool = True,
               marker: str = "") -> Figure:
        """Return the figure with labels, legend and caption.

        y_label: None names the metrics;
        notes: the beginning of the caption;
        spread_as: how the figure shows the spread;
        diverged, unfinished: how such runs are treated;
        metric_styles: line styles separate the metrics;
        marker: of the legend's entries, instead of lines.
        """
        for axes in self.axes[-1]:
            axes.set_xlabel(x_label)
        for axes in self.axes[:, 0]:
            axes.set_ylabel(y_label or common_label(self.metrics))
        self._add_legend(metric_styles, marker)
        add_caption(self.figure, [*notes, *self._describe_means(spread_as),
                                  *tables.run_counts(self.df).lost(diverged, unfinished)])
        return self.figure

    def _add_legend(self, metric_styles: bool, marker: str) -> None:
        has_bar = len(self.legend_levels) > MAX_LEGEND_NUMBERS and all(map(is_number, self.legend_levels))
        if has_bar:
            self._add_color_bar()
        entries = list(zip(self.legend_levels, self.colors, strict=True)) if self.legend and not has_bar else []
        handles = [Line2D([], [], color=color, label=format_value(level), marker=marker,
                          linestyle="none" if marker else "-") for level, color in thin_out(entries)]
        names: list[tuple[str, str]] = []
        if self.style:
            if handles:
                handles.append(Line2D([], [], linestyle="none", label=self.style))  # a heading within the legend
            names = [(format_value(level), style) for level, style in zip(self.style_levels, LINE_STYLES, strict=False)]
        elif len(self.metrics) > 1 and metric_styles:
            names = list(zip(map(column_label, self.metrics), itertools.cycle(LINE_STYLES), strict=False))
        handles += [Line2D([], [], color="#555555", linestyle=style, label=name) for name, style in names]
        if handles:
            title = (self.legend if entries else self.style) or ""
            if len(entries) > MAX_LEGEND_ENTRIES:
                title += f" ({MAX_LEGEND_ENTRIES} of {len(self.legend_levels)} shown)"
            self.figure.legend(handles=handles, title=title or None, loc="outside right upper", alignment="left")

    def _add_color_bar(self) -> None:
        """Show the numbers of the legend beside the panels, a step for each, with labels for those that have room."""
        number = len(self.legend_levels)
        mappable = ScalarMappable(BoundaryNorm(np.arange(number + 1) - 0.5, number), ListedColormap(self.colors))
        bar = self.figure.colorbar(mappable, ax=self.axes, label=self.legend, aspect=25, pad=0.02)
        positions = np.linspace(0, number - 1, min(number, MAX_LEGEND_ENTRIES)).round().astype(int)
        bar.set_ticks(positions, labels=[format_value(self.legend_levels[position], 10) for position in positions])
        bar.ax.tick_params(length=0, which="both")

    def _describe_means(self, spread_as: str) -> list[str]:
        """Describe the drawn means: the number of runs, in what these differ, and the spread."""
        most, least = max(self._group_sizes, default=0), min(self._group_sizes, default=0)
        if most < 2:
            return []
        differing = [name for name in tables.varying_columns(self.df) if name not in self._separated]
        seeds = [name for name in tables.setting_columns(self.df) if name.startswith("seed")]
        if any(key_column(self.df[name]).nunique() > 1 for name in seeds):
            differing.append("seeds")
        single = ", none for single runs" if least == 1 else ""
        return [f"mean of {least if least == most else f'{least} to {most}'} runs"
                + (f" that differ in {', '.join(differing)}" if differing else "")
                + (f"; {spread_as}: {self.spread}{single}" if self.spread else "")]


class ParameterAxis:
    """The positions of a parameter's values on an axis: numbers to scale, perhaps logarithmic, others side by side.

    ResultsError if more than MAX_CATEGORIES values are not all numbers.
    """

    def __init__(self, values: pd.Series, log: bool | None = None) -> None:
        self.levels = levels(values)
        self.numeric = all(is_number(level) and np.isfinite(level) for level in self.levels)
        if not self.numeric and len(self.levels) > MAX_CATEGORIES:
            raise ResultsError(f"{values.name} has {len(self.levels)} values that are not all numbers, too many for an "
                               "axis", allowed=f"{MAX_CATEGORIES}, or numbers alone",
                               hint="choose fewer runs with filt")
        self.scale, self.smallest = "linear", 1.0
        if self.numeric:
            positive = [level for level in self.levels if level > 0]
            wide = len(positive) > 1 and positive[-1] >= 10 * positive[0] and self.levels[0] >= 0
            if positive and (wide if log is None else log):
                self.scale, self.smallest = "log" if self.levels[0] > 0 else "symlog", positive[0]

    def positions(self, values: pd.Series, lane: int = 0, lanes: int = 1) -> np.ndarray:
        """Return x of each value, (runs,) float. lane: number of this line beside the others of a category."""
        if self.numeric:
            return values.to_numpy(dtype=float)
        position_of = {cell_key(level): float(position) for position, level in enumerate(self.levels)}
        offset = STRIP * ((lane + 0.5) / lanes - 0.5)
        return np.array([position_of[cell_key(value)] for value in values.tolist()]) + offset

    def fractions(self, values: pd.Series) -> np.ndarray:
        """Return the positions as fractions of the axis, (runs,): 0 is the first value; a single value is at 0.5."""
        if self.scale == "log":
            positions, ends = np.log(self.positions(values)), np.log([self.levels[0], self.levels[-1]])
        elif self.scale == "symlog":  # zero is a decade below the smallest
            positions = np.log10(np.maximum(self.positions(values), self.smallest / 10))
            ends = np.log10([self.smallest / 10, self.levels[-1]])
        else:
            positions = self.positions(values)
            ends = np.array([self.levels[0], self.levels[-1]] if self.numeric else [0, len(self.levels) - 1], float)
        return (positions - ends[0]) / (ends[1] - ends[0]) if ends[1] > ends[0] else np.full(len(values), 0.5)

    def format_axis(self, axes: Axes) -> None:
        """Set scale, ticks and their labels of the x axis."""
        if self.scale == "log":
            axes.set_xscale("log")
        elif self.scale == "symlog":  # zero is a decade below the smallest
            axes.set_xscale("symlog", linthresh=self.smallest)
        if self.numeric and len(self.levels) > 8:
            if self.scale != "linear":
                use_plain_numbers(axes.xaxis)
            return
        labelled = self._levels_with_room() if self.numeric else self.levels
        positions = labelled if self.numeric else range(len(labelled))
        axes.xaxis.set_major_locator(FixedLocator(positions))
        axes.xaxis.set_minor_locator(NullLocator())
        label_ticks(axes, positions, labelled)
        if not self.numeric:
            axes.set_xlim(-0.5, len(self.levels) - 0.5)

    def _levels_with_room(self) -> list[Any]:
        """The numbers whose labels do not overlap, from the left."""
        labelled: list[Any] = []
        right_edge = -1.0  # of the last label, as a fraction of the axis
        for level, fraction in zip(self.levels, self.fractions(pd.Series(self.levels)), strict=True):
            half = _DIGIT * (len(format_value(level, 18)) + 1) / 2
            if fraction - half >= right_edge:
                labelled.append(level)
                right_edge = fraction + half
        return labelled


def label_ticks(axes: Axes, positions: Sequence[float], values: Sequence[Any]) -> None:
    """Label the x axis with values, rotated if they are long."""
    labels = [format_value(value, 18) for value in values]
    is_long = sum(map(len, labels)) > 26
    axes.set_xticks(positions, labels, rotation=35 if is_long else 0, ha="right" if is_long else "center",
                    rotation_mode="anchor" if is_long else "default")


def drawable_columns(df: pd.DataFrame, metric: str | None) -> list[str]:
    """Return the columns that `metric` names in which some run has a number. ResultsError if there is none."""
    if df.empty:
        raise ResultsError("there are no runs to draw", hint="does the filter leave any?")
    named = tables.metric_columns(df, metric)
    drawable = [name for name in named if any(np.isfinite(curve.to_numpy()).any() for curve in df[name])]
    if not drawable:
        others = [name for name in tables.stats_columns(df)
                  if "/" in name and any(curve.notna().any() for curve in df[name])]
        raise ResultsError(f"{' and '.join(named)}: not a number in any of {count(len(df), 'run')}",
                           allowed=others or "no stats column yet: no run has finished an epoch",
                           hint="choose another metric" if others else None)
    return drawable


def varying_parameters(df: pd.DataFrame, names: Sequence[str] | None, least: int, most: int,
                       plot: str) -> list[str]:
    """Return the parameters to draw: `names`, or all that vary (seeds apart). plot: its name, for messages.

    ResultsError if they are not `least` to `most`, or one has a single value.
    """
    candidates = tables.varying_columns(df)
    for name in names or ():
        if len(levels(require_column(df, name))) < 2:
            raise ResultsError(f"{name} has a single value in {count(len(df), 'run')}: {plot} needs some that vary",
                               allowed=candidates or "none: all runs have the same settings, seeds apart")
    parameters = list(names) if names else candidates
    if len(parameters) < least:
        raise ResultsError(f"{plot} needs {count(least, 'parameter')} that var{'ies' if least == 1 else 'y'}, seeds "
                           f"apart; {count(len(df), 'run')} have {', '.join(parameters) or 'none'}",
                           hint="read another batch, or draw plots.learning_curves(df)")
    if len(parameters) > most:
        raise ResultsError(f"{len(parameters)} parameters are too many for {plot}",
                           allowed=f"{most} of {', '.join(parameters)}", hint=f"parameters={parameters[:2]}")
    return parameters


def add_caption(figure: Figure, parts: Sequence[str]) -> None:
    """Add a caption below the figure."""
    caption = "; ".join(filter(None, parts))
    text = wrap(caption[:1].upper() + caption[1:], int(figure.get_figwidth() * 17))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7, color=GREY)


def describe_metric(names: Sequence[str], epoch: str | int) -> str:
    """Describe what was measured and when, for a caption: val accuracy (last) at the best epoch."""
    at = f"at the {epoch} epoch" if isinstance(epoch, str) else f"after epoch {epoch}"
    return "; ".join([f"{common_label(names)} {at}", *tables.selection_note(list(names))])


def format_value(value: Any, most: int = 28) -> str:
    """Format a value as a label: floats with up to eight digits if that is exact, else four; long text is shortened."""
    if is_missing(value):
        return "none"
    if isinstance(value, float):
        text = f"{value:.8g}"
        return text if float(text) == value else f"{value:.4g}"
    if isinstance(value, (bool, list, dict)):
        value = json.dumps(value, ensure_ascii=False)
    text = " ".join(str(value).split())
    return text if len(text) <= most else f"{text[:most // 2]}…{text[-(most // 2 - 1):]}"


def column_label(name: str) -> str:
    """Return an axis label: val/av/accuracy → val accuracy (averaged), train/time → train time (s)."""
    parts = name.split("/")
    notes = {"av": "averaged", "last": "last"}.get(parts[1]) if len(parts) == 3 else None
    unit = _UNITS.get(parts[-1])
    if len(parts) not in (2, 3):
        return name
    if parts[0] == "steps":
        return f"{_measure(name)} in training"
    return f"{parts[0]} {_measure(name)}" + (f" ({notes})" if notes else "") + (f" ({unit})" if unit else "")


def common_label(names: Sequence[str]) -> str:
    """Return an axis label for several columns: what they have in common."""
    if len(names) == 1:
        return column_label(names[0])
    splits = {name.partition("/")[0] for name in names}
    measures = " / ".join(dict.fromkeys(map(_measure, names)))
    return f"{splits.pop()} {measures}" if len(splits) == 1 else measures


def _measure(name: str) -> str:
    return name.rpartition("/")[2].replace("_", " ")


def group_by(df: pd.DataFrame, name: str | None) -> dict[Any, pd.DataFrame]:
    """Group rows by the `cell_key` of a column; without a column, all under the key of None."""
    if name is None:
        return {cell_key(None): df} if len(df) else {}
    positions: dict[Any, list[int]] = {}
    for position, value in enumerate(df[name].tolist()):
        positions.setdefault(cell_key(value), []).append(position)
    return {value: df.iloc[rows] for value, rows in positions.items()}


def choose_colors(values: Sequence[Any]) -> list[Any]:
    """Return distinct colors for a few values, or a ramp from dark to light for many values or ordered numbers."""
    if len(values) <= 7 and not (len(values) > 2 and all(map(is_number, values))):
        return mpl.rcParams["axes.prop_cycle"].by_key()["color"][:len(values)]
    return list(mpl.colormaps["viridis"](np.linspace(0, 0.9, len(values))))


def thin_out(entries: list[Any]) -> list[Any]:
    """Return at most MAX_LEGEND_ENTRIES entries, evenly spaced, with the first and the last."""
    if len(entries) <= MAX_LEGEND_ENTRIES:
        return entries
    return [entries[i] for i in np.linspace(0, len(entries) - 1, MAX_LEGEND_ENTRIES).round().astype(int)]


def spread_bounds(table: pd.DataFrame, spread: str, log: bool = False) -> tuple[pd.Series, pd.Series]:
    """Return the ends of the spread of each row's values, (rows,) each; NaN for fewer than two values.

    spread: range: minimum and maximum; standard deviation: mean ± s; standard error: mean ± s / √n; 95% confidence:
        mean ± t s / √n, t the 97.5 % quantile of Student's distribution with n − 1 degrees of freedom (Student, 1908);
    log: the lower end is at least the minimum, as a logarithmic axis has no room for zero.
    """
    if spread == "range":
        several = table.count(axis=1) > 1
        return table.min(axis=1).where(several), table.max(axis=1).where(several)
    half = table.std(axis=1) if spread == "standard deviation" else table.sem(axis=1)
    if spread == "95% confidence":
        from scipy.special import stdtrit

        half = half * stdtrit(np.maximum(table.count(axis=1) - 1, 1), 0.975)
    mean = table.mean(axis=1)
    low = mean - half
    return low.clip(lower=table.min(axis=1)) if log else low, mean + half


def set_log_axes(axes: Axes, log_x: bool, log_y: bool) -> None:
    """Make axes logarithmic, with plain numbers as labels."""
    if log_x:
        axes.set_xscale("log")
        use_plain_numbers(axes.xaxis)
    if log_y:
        axes.set_yscale("log")
        use_plain_numbers(axes.yaxis)


def use_plain_numbers(axis: Any) -> None:
    """Label ticks as 0.01, not as a formula: formulas are disabled, since names may contain dollar signs."""
    low, high = sorted(axis.get_view_interval())
    span = high / low if low > 0 else np.inf
    between = "235" if span < 30 else "3" if span < 1000 else ""  # few decades: label some minor ticks too
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(
        lambda value, _: f"{value:g}" if f"{value:e}"[0] in between else ""))


def wrap(text: str, width: int) -> str:
    """Break text into lines of at most `width` characters, where words are not longer."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width and lines[-1]:
            lines.append("")
        lines[-1] += word + " "
    return "\n".join(line.rstrip() for line in lines)
