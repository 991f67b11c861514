"""The page about batches inside a notebook: a frame that holds all of it, beside the static plots."""
from __future__ import annotations

import html
from typing import NamedTuple

from src.analysis.page import curves, document, write
from src.analysis.reading.results import Results
from src.errors import ResultsError

MAX_BYTES = 8_000_000  # of a page: the notebook keeps it as the output of a cell
_FEWEST_POINTS = 20_000  # of curves; fewer would show nothing


class Frame(NamedTuple):
    """A page that a notebook shows as the output of a cell. height: in pixels."""

    page: str
    height: int

    def _repr_html_(self) -> str:
        # without allow-same-origin: the page cannot reach the notebook, nor the server that it came from
        return (f'<iframe srcdoc="{html.escape(self.page)}" width="100%" height="{self.height}" '
                'sandbox="allow-scripts allow-downloads" style="border: 0"></iframe>')


def frame(results: Results, height: int = 900, most: int = MAX_BYTES) -> Frame:
    """Return the interactive page about results, for the output of a cell.

    most: bytes of the page: curves are sampled until it is smaller, and the page says so. ResultsError if they are
    sampled as far as makes sense and the page is still larger.
    """
    points = curves.MAX_POINTS
    while points >= _FEWEST_POINTS:
        page = write.page(document.build(results, curve_points=points))
        if len(page) <= most:
            return Frame(page, height)
        points //= 2
    size = f"{len(page) / 1e6:.1f} MB"
    raise ResultsError(f"the page of {len(results.config):,} runs has {size}: too much for a notebook",
                       allowed=f"{most / 1e6:g} MB",
                       hint="read fewer batches, or open the report that `python experiments.py report BATCH` writes")
