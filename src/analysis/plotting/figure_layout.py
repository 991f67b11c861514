"""What pictures are made of: their style, the grid of panels with its legend and caption, axes of parameters, labels"""
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
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from src import run_folder
from src.analysis.reading.filters import cell_key, is_missing, is_number, levels, require_column
from src.analysis.tables import tables
from src.errors import ResultsError

STYLE = os.path.join(os.path.dirname(__file__), "gridiron.mplstyle")
SPREADS = ("standard error", "95% confidence", "standard deviation", "range")
MAX_LEGEND_ENTRIES = 12
MAX_CATEGORIES = 24  # values that are no numbers, side by side on an axis
LINE_STYLES = ("-", "--", ":", "-.")
GREY, BLUE, ORANGE = "#666666", "#0072B2", "#D55E00"
_PANEL, _ONLY_PANEL = (3.1, 2.4), (4.4, 2.9)  # width and height in inches
_MOST_PANELS = 48
_DIGIT = 0.025  # its width as a share of a panel's
_UNITS = {"time": "s", "data_time": "s"}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """`draw` in the project's style. Laid out inside it too: tick labels take the style of the moment they are made."""

    @functools.wraps(draw)
    def wrapped(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.style.context(STYLE):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()
            return figure

    return wrapped


class Panel(NamedTuple):
    axes: Axes
    runs: pd.DataFrame


class Line(NamedTuple):
    """Runs that share a line: colour by their value of the legend, style by that of the style parameter."""

    colour: Any
    style: str
    runs: pd.DataFrame


class Grid:
    """The frame of a picture: its panels, the runs in each, a colour for each value of the legend, a caption.

    metric: as in tables.metric_columns; those of the columns that have a number are drawn. panel: width and height in
    inches. shown_apart: parameters that the picture itself tells apart, beside rows, columns, legend and style.
    """

    def __init__(self, df: pd.DataFrame, metric: str | None, rows: str | None, columns: str | None, legend: str | None,
                 spread: str | None = None, shown_apart: tuple[str, ...] = (), style: str | None = None,
                 panel: tuple[float, float] | None = None) -> None:
        if spread is not None and spread not in SPREADS:
            raise ResultsError(f"unknown spread '{spread}'", allowed=(*SPREADS, None))
        self.df, self.rows, self.columns, self.spread = df, rows, columns, spread
        self.legend, self.style = legend, style
        self.metrics = drawable_columns(df, metric)
        self.row_levels, self.column_levels, self.legend_levels, self.style_levels = (
            [None] if name is None else levels(require_column(df, name)) for name in (rows, columns, legend, style))
        self._check_styles()
        self.colours = choose_colours(self.legend_levels)
        self.apart = list(dict.fromkeys(name for name in (rows, columns, legend, style, *shown_apart) if name))
        height, width = len(self.row_levels), len(self.column_levels)
        if height * width > _MOST_PANELS:
            raise ResultsError(f"{height} x {width} panels are too many to read", allowed=f"{_MOST_PANELS}",
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
                               allowed=f"{len(LINE_STYLES)}", hint=f"legend='{self.style}' shows them by colour")

    def panels(self) -> Iterator[Panel]:
        """Each panel with its runs, titled with its values."""
        for i, row in enumerate(self.row_levels):
            runs = group_by(group_by(self.df, self.rows)[cell_key(row)], self.columns)
            for j, col in enumerate(self.column_levels):
                axes = self.axes[i, j]
                titles = [f"{name} = {format_value(value)}"
                          for name, value in ((self.rows, row), (self.columns, col)) if name]
                axes.set_title("\n".join(titles))
                yield Panel(axes, runs.get(cell_key(col), self.df.iloc[:0]))

    def lines(self, runs: pd.DataFrame, diverged: bool = False) -> Iterator[Line]:
        """The lines of a panel; without the diverged runs unless they are asked for."""
        if not diverged:
            runs = runs[runs["end"] != run_folder.DIVERGED]
        by_legend = group_by(runs, self.legend)
        for level, colour in zip(self.legend_levels, self.colours, strict=True):
            by_style = group_by(by_legend.get(cell_key(level), runs.iloc[:0]), self.style)
            for value, line_style in zip(self.style_levels, LINE_STYLES, strict=False):
                if cell_key(value) in by_style:
                    yield Line(colour, line_style, by_style[cell_key(value)])

    def finished(self, x_label: str, y_label: str | None = None, *, said: Sequence[str] = (), spread_as: str = "band",
                 diverged: str = "left out", metric_styles: bool = True, marker: str = "") -> Figure:
        """The figure, with labels, legend and caption.

        y_label: None names the metrics. said: what the caption begins with; spread_as: how the picture shows the
        spread; diverged: what became of diverged runs. metric_styles: line styles tell the metrics apart. marker: of
        the legend's entries, instead of lines.
        """
        for axes in self.axes[-1]:
            axes.set_xlabel(x_label)
        for axes in self.axes[:, 0]:
            axes.set_ylabel(y_label or common_label(self.metrics))
        self._add_legend(metric_styles, marker)
        add_caption(self.figure, [*said, *self._counts(spread_as, diverged)])
        return self.figure

    def _add_legend(self, metric_styles: bool, marker: str) -> None:
        entries = list(zip(self.legend_levels, self.colours, strict=True)) if self.legend else []
        handles = [Line2D([], [], color=colour, label=format_value(level), marker=marker,
                          linestyle="none" if marker else "-")
                   for level, colour in thin_out(entries)]
        names: list[tuple[str, str]] = []
        if self.style:
            if handles:
                handles.append(Line2D([], [], linestyle="none", label=self.style))  # a heading within the legend
            names = [(format_value(level), style) for level, style in zip(self.style_levels, LINE_STYLES, strict=False)]
        elif len(self.metrics) > 1 and metric_styles:
            names = list(zip(map(column_label, self.metrics), itertools.cycle(LINE_STYLES), strict=False))
        handles += [Line2D([], [], color="#555555", linestyle=style, label=name) for name, style in names]
        if handles:
            title = self.legend or self.style or ""
            if len(self.legend_levels) > MAX_LEGEND_ENTRIES:
                title += f" ({MAX_LEGEND_ENTRIES} of {len(self.legend_levels)} shown)"
            self.figure.legend(handles=handles, title=title or None, loc="outside right upper", alignment="left")

    def _counts(self, spread_as: str, diverged: str) -> list[str]:
        """What a line is: over how many runs, what they differ in, which spread, how many diverged or go on."""
        ended = self.df[self.df["end"] != run_folder.DIVERGED]
        points = pd.DataFrame({name: [str(cell_key(value)) for value in ended[name]] for name in self.apart})
        counts = points.value_counts() if self.apart else pd.Series([len(ended)])
        most, least = counts.max() if len(ended) else 0, counts.min()
        parts = []
        if most > 1:
            differ = [name for name in tables.varying_columns(self.df) if name not in self.apart]
            if any(self.df[name].nunique() > 1 for name in tables.setting_columns(self.df) if name.startswith("seed")):
                differ.append("seeds")
            parts.append(f"mean of {least if least == most else f'{least} to {most}'} runs"
                         + (f" that differ in {', '.join(differ)}" if differ else "")
                         + (f"; {spread_as}: {self.spread}" if self.spread else ""))
        return parts + count_unfinished(self.df, diverged)


class ParameterAxis:
    """Where the values of a parameter stand on an axis: numbers where they are, perhaps on a logarithmic axis; other
    values side by side in order. ResultsError if there are more of those than an axis has room for."""

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

    def places(self, values: pd.Series, step: float = 0) -> np.ndarray:
        """x of each value, (runs,) float. step: how far this line stands aside where values stand side by side."""
        if self.numeric:
            return values.to_numpy(dtype=float)
        place = {cell_key(level): float(position) for position, level in enumerate(self.levels)}
        return np.array([place[cell_key(value)] for value in values.tolist()]) + 0.07 * step

    def shares(self, values: pd.Series) -> np.ndarray:
        """The same as a share of the axis, (runs,) from 0, the first value, to 1; a single value is in the middle."""
        if self.scale == "log":
            places, ends = np.log(self.places(values)), np.log([self.levels[0], self.levels[-1]])
        elif self.scale == "symlog":  # zero a decade below the smallest
            places = np.log10(np.maximum(self.places(values), self.smallest / 10))
            ends = np.log10([self.smallest / 10, self.levels[-1]])
        else:
            places = self.places(values)
            ends = np.array([self.levels[0], self.levels[-1]] if self.numeric else [0, len(self.levels) - 1], float)
        return (places - ends[0]) / (ends[1] - ends[0]) if ends[1] > ends[0] else np.full(len(values), 0.5)

    def dress(self, axes: Axes) -> None:
        """Scale, ticks and their labels, of the x axis."""
        if self.scale == "log":
            axes.set_xscale("log")
        elif self.scale == "symlog":  # zero stands a decade below the smallest
            axes.set_xscale("symlog", linthresh=self.smallest)
        if self.numeric and len(self.levels) > 8:
            if self.scale != "linear":
                use_plain_numbers(axes.xaxis)
            return
        named = self._apart() if self.numeric else self.levels
        places = named if self.numeric else range(len(named))
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_minor_locator(NullLocator())
        label_ticks(axes, places, named)
        if not self.numeric:
            axes.set_xlim(-0.5, len(self.levels) - 0.5)


    def _apart(self) -> list[Any]:
        """The numbers whose labels have room beside each other, from the left."""
        named: list[Any] = []
        taken = -1.0  # share of the axis
        for level, share in zip(self.levels, self.shares(pd.Series(self.levels)), strict=True):
            half = _DIGIT * (len(format_value(level, 18)) + 1) / 2
            if share - half >= taken:
                named.append(level)
                taken = share + half
        return named


def label_ticks(axes: Axes, places: Sequence[float], values: Sequence[Any]) -> None:
    """Values as labels of the x axis, steep where they are long."""
    labels = [format_value(value, 18) for value in values]
    steep = sum(map(len, labels)) > 26
    axes.set_xticks(places, labels, rotation=35 if steep else 0, ha="right" if steep else "center",
                    rotation_mode="anchor" if steep else "default")


def drawable_columns(df: pd.DataFrame, metric: str | None) -> list[str]:
    """The columns that `metric` names in which some run has a number. ResultsError, with those that have, if none."""
    if df.empty:
        raise ResultsError("there are no runs to draw", hint="does the filter leave any?")
    found = tables.metric_columns(df, metric)
    drawn = [name for name in found if any(np.isfinite(curve.to_numpy()).any() for curve in df[name])]
    if not drawn:
        there = [name for name in tables.stats_columns(df)
                 if "/" in name and any(curve.notna().any() for curve in df[name])]
        raise ResultsError(f"{' and '.join(found)}: not a number in any of {count(len(df), 'run')}",
                           allowed=there or "no stats column yet: no run has finished an epoch",
                           hint="choose another metric" if there else None)
    return drawn


def varying_parameters(df: pd.DataFrame, names: Sequence[str] | None, least: int, most: int, what: str) -> list[str]:
    """The parameters to draw: `names`, or all that vary (seeds apart). ResultsError if they are not `least` to `most`,
    or one has a single value. what: the picture that asks, for the message."""
    there = tables.varying_columns(df)
    for name in names or ():
        if len(levels(require_column(df, name))) < 2:
            raise ResultsError(f"{name} has a single value in {count(len(df), 'run')}: {what} needs some that vary",
                               allowed=there or "none: all runs have the same settings, seeds apart")
    found = list(names) if names else there
    if len(found) < least:
        raise ResultsError(f"{what} needs {count(least, 'parameter')} that var{'ies' if least == 1 else 'y'}, seeds "
                           f"apart; {count(len(df), 'run')} have {', '.join(found) or 'none'}",
                           hint="read another batch, or draw plots.learning_curves(df)")
    if len(found) > most:
        raise ResultsError(f"{len(found)} parameters are too many for {what}", allowed=f"{most} of {', '.join(found)}",
                           hint=f"parameters={found[:2]}")
    return found


def add_caption(figure: Figure, parts: Sequence[str]) -> None:
    """Small words below the picture."""
    caption = "; ".join(filter(None, parts))
    text = wrap(caption[:1].upper() + caption[1:], int(figure.get_figwidth() * 17))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=7, color=GREY)


def count_unfinished(df: pd.DataFrame, diverged: str) -> list[str]:
    """What a caption says of runs that diverged, and of those that still go on."""
    lost, going = int((df["end"] == run_folder.DIVERGED).sum()), int(df["end"].isna().sum())
    return [*([f"{count(lost, 'diverged run')} {diverged}"] if lost else []),
            *([f"{count(going, 'run')} not ended"] if going else [])]


def describe_metric(names: Sequence[str], epoch: str | int) -> str:
    """What was measured, and when: val accuracy (last) at the best epoch."""
    return " / ".join(map(column_label, names)) + (f" at the {epoch} epoch" if isinstance(epoch, str) else
                                            f" after epoch {epoch}")


def format_value(value: Any, most: int = 28) -> str:
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


def column_label(name: str) -> str:
    """A stats column as an axis label: val/av/accuracy → val accuracy (averaged), train/time → train time (s)."""
    parts = name.split("/")
    notes = {"av": "averaged", "last": "last"}.get(parts[1]) if len(parts) == 3 else None
    unit = _UNITS.get(parts[-1])
    if len(parts) not in (2, 3):
        return name
    return f"{parts[0]} {_measure(name)}" + (f" ({notes})" if notes else "") + (f" ({unit})" if unit else "")


def common_label(names: Sequence[str]) -> str:
    """An axis label for several columns: what they have in common."""
    if len(names) == 1:
        return column_label(names[0])
    splits = {name.partition("/")[0] for name in names}
    measures = " / ".join(dict.fromkeys(map(_measure, names)))
    return f"{splits.pop()} {measures}" if len(splits) == 1 else measures


def count(number: int, what: str) -> str:
    """1 run, 3 runs."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _measure(name: str) -> str:
    return name.rpartition("/")[2].replace("_", " ")


def group_by(df: pd.DataFrame, name: str | None) -> dict[Any, pd.DataFrame]:
    """The rows by the `key` of their value of a column; all under None's if there is no column."""
    if name is None:
        return {cell_key(None): df} if len(df) else {}
    positions: dict[Any, list[int]] = {}
    for position, value in enumerate(df[name].tolist()):
        positions.setdefault(cell_key(value), []).append(position)
    return {value: df.iloc[chosen] for value, chosen in positions.items()}


def choose_colours(values: Sequence[Any]) -> list[Any]:
    """Distinct colours for a few values; a ramp from dark to light for many, or where numbers have an order."""
    if len(values) <= 7 and not (len(values) > 2 and all(map(is_number, values))):
        return mpl.rcParams["axes.prop_cycle"].by_key()["color"][:len(values)]
    return list(mpl.colormaps["viridis"](np.linspace(0, 0.9, len(values))))


def thin_out(entries: list[Any]) -> list[Any]:
    """At most so many entries as a legend can show, evenly chosen, the first and the last among them."""
    if len(entries) <= MAX_LEGEND_ENTRIES:
        return entries
    return [entries[i] for i in np.linspace(0, len(entries) - 1, MAX_LEGEND_ENTRIES).round().astype(int)]


def spread_bounds(table: pd.DataFrame, spread: str, log: bool = False) -> tuple[pd.Series, pd.Series]:
    """Ends of the spread of each row's values, (rows,) each; of one value, itself. log: not below the least value, as a
    logarithmic axis has no room for zero.

    range: least and most. standard deviation: mean ± s; standard error: mean ± s / √n; 95% confidence: mean ± t s / √n,
    t the 97.5 % quantile of Student's distribution with n − 1 degrees of freedom (Student, 1908).
    """
    if spread == "range":
        return table.min(axis=1), table.max(axis=1)
    half = table.std(axis=1) if spread == "standard deviation" else table.sem(axis=1)
    if spread == "95% confidence":
        from scipy.special import stdtrit

        half = half * stdtrit(np.maximum(table.count(axis=1) - 1, 1), 0.975)
    mean, half = table.mean(axis=1), half.fillna(0)
    low = mean - half
    return low.clip(lower=table.min(axis=1)) if log else low, mean + half


def set_log_axes(axes: Axes, log_x: bool, log_y: bool) -> None:
    if log_x:
        axes.set_xscale("log")
        use_plain_numbers(axes.xaxis)
    if log_y:
        axes.set_yscale("log")
        use_plain_numbers(axes.yaxis)


def use_plain_numbers(axis: Any) -> None:
    """Ticks as 0.01 rather than as formulas: formulas are off, since names may hold dollar signs."""
    low, high = sorted(axis.get_view_interval())
    span = high / low if low > 0 else np.inf
    between = "235" if span < 30 else "3" if span < 1000 else ""  # few decades: label some minor ticks too
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(
        lambda value, _: f"{value:g}" if f"{value:e}"[0] in between else ""))


def wrap(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width and lines[-1]:
            lines.append("")
        lines[-1] += word + " "
    return "\n".join(line.rstrip() for line in lines)
