"""The rows of a training as a DataFrame."""
from __future__ import annotations

import pytest

from src.training.output.table import StatsTable


def test_frames_share_memory_and_are_read_only() -> None:
    table = StatsTable(["epoch", "train/loss"])
    frames = [table.add({"epoch": epoch, "train/loss": None}) for epoch in range(1, 200)]
    assert [len(frame) for frame in frames] == list(range(1, 200))
    assert frames[40]["epoch"].tolist() == list(range(1, 42))
    with pytest.raises(ValueError, match="read-only"):
        frames[-1].loc[0, "epoch"] = 7
    copy = frames[-1].copy()
    copy.loc[0, "epoch"] = 7
    assert table.add({"epoch": 200, "train/loss": None}).loc[0, "epoch"] == 1
