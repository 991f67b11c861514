"""How much time a Slurm job has left, for whoever asks."""
from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import pytest

from src.submission.slurm import client, time_limit
from src.submission.slurm.time_limit import SaveTimer, remaining_time


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


@pytest.mark.parametrize(("saving", "left", "delay", "warning"), [
    (2, 100, None, False), (20, 100, 60, True), (20, 1000, 960, False), (80, 100, 0, True)])
def test_run_exits_early_enough_to_save_a_large_state(saving: float, left: float, delay: float | None, warning: bool,
                                                      monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    delays = []

    def request_exit() -> None:
        pass

    class Timer:
        def __init__(self, seconds: float, function: Callable[[], None]) -> None:
            delays.append((seconds, function))

        def start(self) -> None:
            pass

        cancel = start
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    monkeypatch.setattr(client, "end_time", lambda job: 1000.0 + left)
    monkeypatch.setattr("threading.Timer", Timer)
    timer = SaveTimer(request_exit)
    timer.set(saving)
    timer.set(saving)  # the newest save counts
    assert delays == ([] if delay is None else [(delay, request_exit)] * 2)
    assert capsys.readouterr().err.count("warning: saving the state takes") == warning


def test_no_exit_is_requested_without_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.Timer", lambda *_: pytest.fail("a timer is set"))
    SaveTimer(lambda: None).set(100)
