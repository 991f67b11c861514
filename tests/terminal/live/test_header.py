"""The lines above the runs on the live screen."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from src.terminal.live import header

COUNTS = {"failed": 1000, "lost": 1000, "new": 2000, "done": 4000, "early_stopped": 1000, "diverged": 1000}


@pytest.mark.parametrize(("columns", "number"), [(130, 1), (80, 3), (40, 4)])
def test_number_of_each_state_is_shown_at_any_width(columns: int, number: int) -> None:
    batch: Any = SimpleNamespace(counts=COUNTS)
    lines = header._counts(batch, columns)
    assert len(lines) == number
    assert all(line.cell_len <= columns for line in lines)
    text = " ".join(" ".join(line.plain for line in lines).split())
    assert "6,000/10,000 runs" in text
    assert text.endswith("1,000 failed 1,000 lost 2,000 new 4,000 done 1,000 early stopped 1,000 diverged")
