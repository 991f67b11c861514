"""The picture of docs/search.md: the best value of a search and of a grid against the epochs that both have spent.

    python -m docs.pictures.search SEARCH_BATCH GRID_BATCH
"""
from __future__ import annotations

import os
import sys

import numpy as np
from matplotlib.figure import Figure

from docs.pictures.draw import small_png
from src import metrics
from src.analysis.plotting.figure_layout import BLUE, ORANGE, add_caption, column_label, styled
from src.analysis.plotting.search_figures import results_in_order
from src.analysis.reading.results import read_experiments
from src.errors import exits_on_user_error
from src.io import files

_PICTURE = os.path.join(os.path.dirname(__file__), "search.png")


@styled
def against_grid(search: str, grid: str) -> Figure:
    """Draw the best value so far of a search, and of a grid whose runs are taken in order."""
    name, results = results_in_order(search)
    df = read_experiments(grid)
    column = metrics.by_preference(metrics.Metric(name).find(df.columns))[0]
    curves = [curve.dropna() for curve in df[column]]
    figure = Figure(figsize=(4.8, 3.0), layout="constrained")
    axes = figure.subplots()
    for label, color, epochs, values in (
            ("search", BLUE, [result.epochs for result in results], [result.value for result in results]),
            ("grid", ORANGE, np.cumsum([len(curve) for curve in curves]), [curve.iloc[-1] for curve in curves])):
        axes.step(epochs, np.maximum.accumulate(values), where="post", color=color, label=label)
    axes.set(xlabel="epochs spent", ylabel=f"{column_label(column)}, best so far")
    axes.legend()
    add_caption(figure, [f"search: {os.path.basename(search)}", f"grid: {len(df)} runs to their end"])
    return figure


@exits_on_user_error
def main(arguments: list[str]) -> None:
    """Draw the picture of two batches."""
    files.write_atomic(_PICTURE, small_png(against_grid(*arguments)))
    print(_PICTURE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
