"""The circuit breaker: trips when the first runs all fail alike, and otherwise never again looks."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from src.errors import BatchError
from src.submission.slurm import circuit_breaker, client
from src.submission.slurm.circuit_breaker import CircuitBreaker


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "_PAUSE", 0)
    monkeypatch.setattr(circuit_breaker, "_SLURM_PAUSE", 0)


def end(batch: Path, name: str, how: str = "failed", error: str | None = "OSError: no /a/b7") -> None:
    (batch / name).mkdir(exist_ok=True)
    (batch / name / "spec.yaml").touch()
    (batch / name / "attempt-1-0.json").write_text(json.dumps({"ticket": 1, "how": how, "error": error}))


def look(batch: Path, max_failures: int, *ends: tuple[str, str | None]) -> CircuitBreaker:
    """A breaker that looks after each end."""
    breaker = CircuitBreaker(str(batch), max_failures)
    for number, (how, error) in enumerate(ends):
        end(batch, str(number), how, error)
        breaker.add(str(number), 1)
        breaker.check()
    return breaker


def test_breaker_trips_after_like_failures(tmp_path: Path) -> None:
    with pytest.raises(BatchError) as error:
        look(tmp_path, 3, *(("failed", f"OSError: no /data/{number}") for number in range(3)))
    for text in ("first 3 runs", "OSError: no /data/2", f"logs {tmp_path}/0", f"cancel {tmp_path}", f"-r {tmp_path}"):
        assert text in str(error.value)


@pytest.mark.parametrize("ends", [
    [("completed", None), *[("failed", "x")] * 5],
    [("failed", "x"), ("diverged", None), *[("failed", "x")] * 5],
    [("failed", "x"), ("failed", "y"), *[("failed", "x")] * 5],
    [("failed", "x"), ("timeout", "x"), *[("failed", "x")] * 5],
    [("failed", "x")] * 2])
def test_breaker_does_not_trip_after_other_ends(tmp_path: Path, ends: list[tuple[str, str | None]]) -> None:
    look(tmp_path, 3, *ends)


def test_zero_disables_the_breaker(tmp_path: Path) -> None:
    look(tmp_path, 0, *[("failed", "x")] * 9)


def test_end_of_an_earlier_ticket_does_not_count(tmp_path: Path) -> None:
    end(tmp_path, "0")
    breaker = CircuitBreaker(str(tmp_path), 1)
    breaker.add("0", 2)
    breaker.check()


def test_job_that_fails_before_python_starts_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [client.Queue(True, {"8": client.Job("8", "RUNNING")}), client.Queue(),
               client.Queue(True, {"8": client.Job("8", "RUNNING")})]
    monkeypatch.setattr(client, "squeue", lambda clusters: answers.pop(0))
    breaker = CircuitBreaker(str(tmp_path), 1)
    for job in ("7", "8", "9"):
        (tmp_path / job).mkdir()
        (tmp_path / job / "spec.yaml").touch()
        breaker.add(job, 1, job)
    (tmp_path / "8" / "8.out").write_text("it begins\n")
    breaker.check()
    (tmp_path / "7" / "7.out").write_text("hello\nactivate.sh: no conda\n")
    breaker.check()  # Slurm does not answer
    with pytest.raises(BatchError, match=r"activate\.sh: no conda"):
        breaker.check()


def test_slurm_is_queried_at_most_every_30_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries: list[float] = []
    now = 100.0
    monkeypatch.undo()
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(client, "squeue", lambda clusters: queries.append(now) or client.Queue())
    breaker = CircuitBreaker(str(tmp_path), 1)
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "spec.yaml").touch()
    (tmp_path / "7" / "7.out").touch()
    breaker.add("7", 1, "7")
    for _ in range(80):
        now += 1
        breaker.check()
    assert queries == [103, 133, 163]


def test_local_runs_are_counted_as_they_end(tmp_path: Path) -> None:
    breaker = CircuitBreaker(str(tmp_path), 2)
    (tmp_path / "0").mkdir()  # ended before its attempt
    breaker.record_end("0")
    end(tmp_path, "1")
    breaker.record_end("1")
    end(tmp_path, "2")
    breaker.record_end("2")
    other = CircuitBreaker(str(tmp_path), 2)
    other.record_end("1")
    with pytest.raises(BatchError):
        other.record_end("2")
