"""Output of a submission: axes and progress bars fit into one row of the terminal."""
from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from src.submission.planning import preview
from src.submission.system import terminal


def test_axes_show_whole_values_and_quote_commas() -> None:
    specs = [{"base_lr": 1 / 3 + index, "momentum": "0.9,0.99"} for index in range(100)]
    lines = preview.grid_lines(specs, [("base_lr", 100)], ["base_lr", "momentum"], ["first", "last"])
    assert lines[0] == "100 runs: 100 base_lr"
    values = lines[1].split(maxsplit=2)[2].split(", ")
    assert values.count("…") == 1
    assert {float(value) for value in values if value != "…"} < {spec["base_lr"] for spec in specs}
    assert values[0] == repr(1 / 3)
    assert values[-1] == repr(1 / 3 + 99)
    assert lines[2].split() == ["momentum", "1", "'0.9,0.99'"]


@given(st.lists(st.text("abc", max_size=120), min_size=1, max_size=60))
def test_row_of_values_fits_its_width(values: list[str]) -> None:
    text = preview._abbreviated(values, 88)
    assert len(text) <= 88 or len(values) == 1
    assert text == ", ".join(values) or "…" in text


@given(columns=st.integers(1, 200), done=st.integers(0, 20), failed=st.integers(0, 20))
def test_progress_bar_fits_into_a_row(columns: int, done: int, failed: int) -> None:
    bar = terminal.Progress(20, "runs", io.StringIO())
    bar.done, bar.failed = done, failed
    line = bar.line(columns)
    assert len(line) <= max(columns - 1, 1)
    assert f"{done}/20 runs" in line or columns < 30
