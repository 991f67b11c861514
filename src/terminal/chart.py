"""Curves in a terminal, drawn with braille characters: two dots across and four down in each cell."""
from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

# bits of the dots of a cell, by column and row
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BLANK = 0x2800
_MIN_LABEL = 8  # cells of the labels at the left


def draw(x: Sequence[float], y: Sequence[float], columns: int, lines: int, log: bool = False) -> list[str]:
    """Return a curve with its axes as `lines` lines of at most `columns` cells.

    Points that are not finite, and on a logarithmic axis those that are not positive, leave a gap.
    """
    points = [(a, math.log10(b) if log else b) if math.isfinite(b) and (b > 0 or not log) else None
              for a, b in zip(x, y, strict=True)]
    finite = [point for point in points if point]
    if not finite or lines < 3 or columns < _MIN_LABEL + 4:
        return ["no values to draw"[:columns]]
    low, high = min(value for _, value in finite), max(value for _, value in finite)
    labels = {row: _format(10 ** value if log else value)
              for row, value in ((0, high), (lines - 2, low)) if row == 0 or high > low}
    margin = max(_MIN_LABEL, *map(len, labels.values()))
    canvas = _Canvas(columns - margin - 1, lines - 1)
    left, right = finite[0][0], finite[-1][0]
    to_x = (canvas.width - 1) / (right - left) if right > left else 0.0
    to_y = (canvas.height - 1) / (high - low) if high > low else 0.0
    dots = [point and (round((point[0] - left) * to_x), round((high - point[1]) * to_y)) for point in points]
    for dot, following in pairwise([*dots, None]):
        if dot:
            canvas.line(dot, following or dot)
    rows = [f"{labels.get(row, '').rjust(margin)}{'┤' if row in labels else '│'}{text}"
            for row, text in enumerate(canvas.rows())]
    first, last = _format(left), _format(right)
    return [*rows, f"{' ' * margin}└{first}{last.rjust(max(0, columns - margin - 1 - len(first)), '─')}"]


class _Canvas:
    """Dots in `columns` × `lines` cells."""

    def __init__(self, columns: int, lines: int) -> None:
        self.width, self.height = 2 * columns, 4 * lines
        self._cells = [[0] * columns for _ in range(lines)]

    def line(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Draw a straight line between two dots."""
        steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for step in range(steps + 1):
            x = start[0] + round((end[0] - start[0]) * step / steps)
            y = start[1] + round((end[1] - start[1]) * step / steps)
            self._cells[y // 4][x // 2] |= _DOTS[x % 2][y % 4]

    def rows(self) -> list[str]:
        """Return the lines of the canvas as text."""
        return ["".join(chr(_BLANK + bits) if bits else " " for bits in row).rstrip() for row in self._cells]


def _format(value: float) -> str:
    return f"{value:.4g}"
