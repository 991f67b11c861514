"""The thread that reads batches for the live screen: what it reads before the first screen, and after it."""
from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from src.archive import run_files
from src.submission.status.observation import Observation
from src.submission.status.observe import SlurmView, observe
from src.terminal.live import reader as reader_module
from src.terminal.live.reader import Reader
from tests.terminal import live_batch

SIZE, STATES = 300, ("done", "done", "failed", "pending")


def run_until(reader: Reader, event: threading.Event) -> None:
    """Let a reader read until an event."""
    reader.start()
    try:
        assert event.wait(300)
    finally:
        reader.stop()
        reader.join(300)


def test_first_screen_reads_the_attempts_of_few_ended_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Throughput reads a sample of them; the cost, which reads all, is shown later."""
    batch = str(live_batch.make(tmp_path, SIZE, states=STATES))
    read_json = run_files.read_json
    attempts: list[str] = []

    def record(folder: str, name: str) -> Any:
        attempts.append(folder)
        return read_json(folder, name)

    monkeypatch.setattr(run_files, "read_json", record)
    shown: list[tuple[str, set[str]]] = []
    has_cost = threading.Event()

    def wake() -> None:
        assert reader.snapshot is not None
        shown.append((reader.snapshot.batches[0].cost, set(attempts)))
        if shown[-1][0]:
            has_cost.set()

    reader = Reader(lambda slurm: observe([batch], slurm), 0.1, None, wake)
    run_until(reader, has_cost)
    ended = {run.path for run in reader.snapshot.batches[0].observation.runs.values() if run.state.name == "done"}  # type: ignore[union-attr]
    assert shown[0][0] == ""
    assert len(ended) == SIZE / 2 and shown[-1][1] >= ended
    assert len(shown[0][1] & ended) <= 60
    assert shown[-1][0].endswith("hours of runs so far")


def test_slow_files_are_read_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading takes at most a share of the time, whatever --every says."""
    assert reader_module._MAX_SHARE == 1 / 20, "docs/submission.md says so"
    monkeypatch.setattr(reader_module, "_MAX_SHARE", 0.25)
    batch = str(live_batch.make(tmp_path, 2, states=("pending",)))
    starts: list[float] = []
    has_read = threading.Event()

    def read(slurm: SlurmView) -> list[Observation]:
        starts.append(time.monotonic())
        if len(starts) > 2:
            has_read.set()
        time.sleep(0.2)
        return observe([batch], slurm)

    reader = Reader(read, 0.01, None, lambda: None)
    run_until(reader, has_read)
    assert starts[1] - starts[0] >= 0.8 <= starts[2] - starts[1]
