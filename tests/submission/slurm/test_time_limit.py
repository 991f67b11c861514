"""How much time a Slurm job has left, for whoever asks."""
from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest

from src.submission.slurm import client, time_limit
from src.submission.slurm.time_limit import remaining_time


@pytest.fixture(autouse=True)
def unasked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("SLURM_JOB_ID", "SLURM_JOB_END_TIME"):
        monkeypatch.delenv(name, raising=False)
    time_limit._end.cache_clear()
    yield
    time_limit._end.cache_clear()


def test_remaining_time_is_infinite_outside_slurm() -> None:
    assert remaining_time() == math.inf


@pytest.mark.parametrize("told", [True, False], ids=["by its environment", "by squeue"])
def test_remaining_time_from_the_environment_or_squeue(told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    monkeypatch.setattr(client, "end_time", lambda job: (asked.append(job), 1060.0)[1])
    if told:
        monkeypatch.setenv("SLURM_JOB_END_TIME", "1060")
    assert remaining_time() == 60
    monkeypatch.setattr(time, "time", lambda: 1070.0)
    assert remaining_time() == 0
    assert asked == ([] if told else ["7"])  # once


def test_remaining_time_is_infinite_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(client, "end_time", lambda job: None)
    assert remaining_time() == math.inf
