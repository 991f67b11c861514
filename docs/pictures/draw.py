"""The pictures of docs/gallery.md, drawn by plots.py from the batch that `make pictures` trains."""
from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import BinaryIO

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from src.analysis.plotting import plots
from src.analysis.reading.filters import filt
from src.analysis.reading.results import read_experiments
from src.errors import exits_on_user_error
from src.io import files

_FOLDER = os.path.dirname(__file__)
_DOTS = 120  # per inch
_COLOURS = 192  # a palette: a third of the bytes

# name of a file: how it is drawn
PICTURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "metric_against": lambda df: plots.metric_against(
        filt(df, momentum=0.9), "base_lr", "val/.*/loss", columns="model", legend="averaging", log_y=True),
    "metric_against-categories": lambda df: plots.metric_against(df, "model", "val/last/accuracy", legend="base_lr"),
    "overview": lambda df: plots.overview(df, "val/last/accuracy", n=12),
    "learning_curves": lambda df: plots.learning_curves(
        filt(df, model="tiny/lenet"), "val/last/accuracy", columns="averaging", rows="momentum", legend="base_lr"),
    "learning_curves-best-so-far": lambda df: plots.learning_curves(
        filt(df, momentum=0.9), "val/last/loss", columns="model", legend="base_lr", style="averaging", spread=None,
        best_so_far=True, log_y=True),
    "heat_map": lambda df: plots.heat_map(filt(df, model="tiny/lenet"), "base_lr", "momentum", columns="averaging"),
    "parallel_coordinates": plots.parallel_coordinates,
    "importance": plots.importance,
    "ranking": lambda df: plots.ranking(df, n=12),
    "averaged_against_last": lambda df: plots.averaged_against_last(
        df, "val/.*/loss", columns="momentum", legend="model", log=True),
    "pareto": lambda df: plots.pareto(df, legend="model"),
    "pareto-memory": lambda df: plots.pareto(df, "memory", legend="model"),
    "confusion": lambda df: plots.confusion(filt(df, momentum=0.9, base_lr=[0.25, 0.0625]), columns="model"),
}


def small_png(figure: Figure) -> bytes:
    """The picture as a PNG for a page of documentation."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DOTS)
    return with_palette(drawn, _COLOURS)


def with_palette(image_file: str | BinaryIO, colors: int) -> bytes:
    """Return an image as a PNG with a palette of so many colors."""
    packed = io.BytesIO()
    with Image.open(image_file) as image:
        image.convert("RGB").quantize(colors, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return packed.getvalue()


@exits_on_user_error
def main(batches: list[str]) -> None:
    """Draw all pictures of some batches into this folder."""
    df = read_experiments(batches)
    for name, draw in PICTURES.items():
        files.write_atomic(os.path.join(_FOLDER, f"{name}.png"), small_png(draw(df)), sync=False)
        print(f"docs/pictures/{name}.png")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
