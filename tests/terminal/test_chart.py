"""Curves of braille characters."""
from __future__ import annotations

import math

from src.terminal import chart


def test_line_from_corner_to_corner() -> None:
    rows = chart.draw([1.0, 9.0], [0.0, 1.0], 20, 5)
    assert rows[0].startswith("       1┤") and rows[0].endswith("⠊") and rows[3].startswith("       0┤⡠")
    assert rows[4] == "        └1─────────9"
    assert len(rows) == 5 and all(len(row) <= 20 for row in rows)


def test_logarithmic_axis_and_gaps() -> None:
    values = [1.0, math.nan, 100.0, -1.0, math.inf, 10.0]
    rows = chart.draw(list(map(float, range(6))), values, 30, 6, log=True)
    assert "100┤" in rows[0] and "1┤" in rows[4]
    dots = [row[9:] for row in rows[:-1]]
    assert sum(character not in " " for row in dots for character in row) == 3, "three points, no line across a gap"


def test_without_values_or_space() -> None:
    assert chart.draw([1.0], [math.nan], 40, 8) == ["no values to draw"]
    assert chart.draw([1.0], [2.0], 5, 8) == ["no va"]
    assert len(chart.draw([1.0], [2.0], 40, 8)) == 8
    assert len(chart.draw([1.0, 2.0], [3.0, 3.0], 40, 8)) == 8
