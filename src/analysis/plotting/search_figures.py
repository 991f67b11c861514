"""Figures of an adaptive search: the best value so far, learning curves cut at rungs, and where good trials are."""
from __future__ import annotations

import math
import os
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.analysis.plotting import figure_layout
from src.analysis.plotting.figure_layout import BLUE, GREY, ORANGE, column_label, format_value, styled
from src.analysis.tables.tables import count
from src.errors import ResultsError
from src.search import definition
from src.search.definition import Search
from src.search.history import History
from src.search.ledger import Ledger, Trial, loss_of
from src.search.settings import UNKNOWN_LENGTH
from src.search.space import CHOICE, Dimension

_GOOD_SHARE = 0.2  # of the trials, at least _MIN_GOOD, are drawn as the good ones
_MIN_GOOD = 3
_BINS = 12
_COLUMNS = 4  # panels side by side


class UsedResult(NamedTuple):
    """A result of a search, in the order in which it was used.

    trials: that had been started by then; epochs: that all trials had spent until then; value: of the metric
    """

    trials: int
    epochs: int
    value: float


@styled
def best_so_far(batch: str | os.PathLike[str]) -> Figure:
    """Draw the best value of a search against the trials that were started, and against the epochs that they took.

    ResultsError if the batch is no search, or has no result yet. Returns a Figure of one or two panels.
    """
    search, ledger, history = read_search(batch)
    results = _results_in_order(search, history)
    if not results:
        raise ResultsError("this search has no result yet", where=os.fspath(batch))
    best = np.array([result.value for result in results])
    best = np.maximum.accumulate(best) if search.maximize else np.minimum.accumulate(best)
    axes_of = [("trials started", [result.trials for result in results])]
    if search.length != UNKNOWN_LENGTH:
        axes_of.append(("epochs spent", [result.epochs for result in results]))
    figure = Figure(figsize=(3.6 * len(axes_of) + 0.4, 2.9), layout="constrained")
    for axes, (label, x) in zip(np.atleast_1d(figure.subplots(1, len(axes_of), sharey=True)), axes_of, strict=True):
        axes.step(x, best, where="post", color=BLUE)
        axes.plot(x, [result.value for result in results], ".", color=GREY, markersize=3, alpha=0.5)
        axes.set(xlabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    figure.axes[0].set_ylabel(column_label(search.metric))
    figure_layout.add_caption(figure, [f"line: the best value so far, of {count(len(ledger.trials), 'trial')}",
                                       "dots: each result at a rung or at the end of a trial"])
    return figure


@styled
def rung_curves(df: pd.DataFrame, batch: str | os.PathLike[str]) -> Figure:
    """Draw the learning curve of each trial of a search, which is cut where it pauses. Vertical lines are the rungs.

    df: big_df. ResultsError if the batch is no search, or the metric is in no run. Returns a Figure of one panel.
    """
    search, ledger, _ = read_search(batch)
    names = figure_layout.drawable_columns(df, search.metric)
    figure = Figure(figsize=(4.8, 3.1), layout="constrained")
    axes = figure.subplots()
    best = ledger.best_trial()
    for folder, curve in zip(df["folder"], df[names[0]], strict=True):
        curve = curve[np.isfinite(curve.to_numpy())]
        is_best = best is not None and os.path.basename(folder) == best.run
        axes.plot(curve.index, curve, color=ORANGE if is_best else BLUE, linewidth=1.5 if is_best else 0.6,
                  alpha=1 if is_best else 0.5, marker="o" if len(curve) == 1 else "", markersize=2)
    for rung in search.rungs[:-1]:
        axes.axvline(rung, color=GREY, linewidth=0.6, linestyle=":")
    axes.set(xlabel="epoch", ylabel=column_label(names[0]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    figure_layout.add_caption(figure, [f"{count(len(df), 'trial')}; the best one orange",
                                       "dotted lines: rungs" if len(search.rungs) > 1 else ""])
    return figure


@styled
def space(batch: str | os.PathLike[str]) -> Figure:
    """Draw where the good trials of a search are in its space: a histogram of all trials, and of the good ones.

    Good are the best fifth by the value at the highest rung that each has reached, a higher rung first. ResultsError
    if the batch is no search, or has fewer than three results. Returns a Figure of one panel per parameter.
    """
    search, ledger, _ = read_search(batch)
    ranked = _ranked(search, ledger)
    if len(ranked) < _MIN_GOOD:
        raise ResultsError(f"a search with {count(len(ranked), 'result')} does not show where the good ones are",
                           where=os.fspath(batch))
    good = {trial.number for trial in ranked[:max(_MIN_GOOD, round(_GOOD_SHARE * len(ranked)))]}
    items = list(search.space.walk())
    columns = min(_COLUMNS, len(items))
    rows = -(-len(items) // columns)
    figure = Figure(figsize=(2.4 * columns + 0.3, 1.9 * rows + 0.5), layout="constrained")
    panels = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axes, item in zip(panels, items, strict=False):
        having = [trial for trial in ranked if item.name in trial.point]
        everything = np.array([trial.point[item.name] for trial in having], dtype=float)
        chosen = np.array([trial.point[item.name] for trial in having if trial.number in good], dtype=float)
        if isinstance(item, Dimension) and item.kind != CHOICE:
            _draw_density(axes, item, everything, chosen)
        else:
            labels = list(map(format_value, item.choices)) if isinstance(item, Dimension) else [
                _branch_label(alternative.constants, index) for index, alternative in enumerate(item.alternatives)]
            _draw_counts(axes, labels, everything, chosen)
        axes.set_title(item.name, fontsize=8)
    for axes in panels[len(items):]:
        axes.set_axis_off()
    figure_layout.add_caption(figure, [f"grey: share of all {count(len(ranked), 'trial')} with a result",
                                       f"orange: of the best {len(good)}"])
    return figure


def read_search(batch: str | os.PathLike[str]) -> tuple[Search, Ledger, History]:
    """Return the definition, the trials and the decisions of a search. ResultsError if the batch is no search."""
    search = definition.read(batch)
    if search is None:
        raise ResultsError("this batch is not a search", where=os.fspath(batch))
    history = History(os.fspath(batch), search)
    history.refresh()
    return search, history.current, history


def results_in_order(batch: str | os.PathLike[str]) -> tuple[str, list[UsedResult]]:
    """Return the metric of a search, and its finite results in the order in which decisions used them."""
    search, _, history = read_search(batch)
    return search.metric, _results_in_order(search, history)


def _results_in_order(search: Search, history: History) -> list[UsedResult]:
    """Return the finite results in the order in which decisions used them, then those that none has used yet."""
    used = []
    trials = epochs = 0
    spent: dict[int, int] = {}
    for results, is_new in [*((decision.results, decision.kind == "new") for decision in history.decisions),
                            (history.results, False)]:
        for result in results:
            epochs += search.rungs[result.rung] - spent.get(result.trial, 0)
            spent[result.trial] = search.rungs[result.rung]
            loss = loss_of(result, search)
            if loss < math.inf:
                used.append(UsedResult(trials, epochs, search.loss(loss)))  # twice negated
        trials += is_new
    return used


def _ranked(search: Search, ledger: Ledger) -> list[Trial]:
    """Return the trials with a finite result, the best first: a higher rung before a lower one."""
    losses = {trial.number: (-result.rung, loss_of(result, search)) for trial in ledger.trials
              if (result := trial.last_result)}
    return [ledger.trials[number] for number in sorted(losses, key=lambda number: (*losses[number], number))
            if losses[number][1] < math.inf]


def _draw_density(axes: Axes, dimension: Dimension, everything: np.ndarray, good: np.ndarray) -> None:
    limits = (dimension.low, dimension.high)
    bins = np.geomspace(*limits, _BINS + 1) if dimension.log else np.linspace(*limits, _BINS + 1)
    for values, color, alpha in ((everything, GREY, 0.35), (good, ORANGE, 0.7)):
        if len(values):
            axes.hist(values, bins, weights=np.full(len(values), 1 / len(values)), color=color, alpha=alpha)
    figure_layout.set_log_axes(axes, dimension.log, False)
    axes.set(ylabel="share")


def _draw_counts(axes: Axes, labels: list[str], everything: np.ndarray, good: np.ndarray) -> None:
    positions = np.arange(len(labels))
    for values, color, shift in ((everything, "#bbbbbb", -0.2), (good, ORANGE, 0.2)):
        shares = [float((values == position).mean()) if len(values) else 0.0 for position in positions]
        axes.bar(positions + shift, shares, width=0.4, color=color)
    axes.set_xticks(positions, labels, fontsize=7)
    axes.set(ylabel="share")


def _branch_label(constants: object, index: int) -> str:
    values = list(constants.values()) if isinstance(constants, dict) else []
    return format_value(values[0]) if values else str(index)
