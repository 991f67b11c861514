"""Calls of sbatch made one by one: tried out once per kind, and again when a limit of the cluster was reached."""
from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import SlurmError
from src.submission.batch.journal import SLURM, Journal, read_history
from src.submission.slurm import client, queue_limits, submit
from src.submission.slurm.circuit_breaker import CircuitBreaker
from src.submission.slurm.client import SbatchError
from src.submission.slurm.queue_limits import QueueLimiter
from src.submission.slurm.submit import SlurmOptions, SubmissionContext

NAMES = ["000_a", "001_a", "002_a"]


def made(batch: Path, options: SlurmOptions | None = None) -> submit.Submission:
    specs = {name: {"SBATCH": {"mem": "9G"}} if name == "002_a" else {} for name in NAMES}
    return submit.plan_single_jobs(dict.fromkeys(NAMES, 1), specs, options or SlurmOptions("/s.sh"),
                           SubmissionContext(str(batch), "t", "/p"))


def test_each_kind_is_tried_once_and_its_start_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, str | None]] = []
    monkeypatch.setattr(client, "validate", lambda command, text: tried.append((command[-3], text)) or
                        "2026-01-02T03:04:05")
    options = SlurmOptions("/s.sh", script_text="#!/bin/bash\n#SBATCH --time=5 -c2\n")
    submission = made(tmp_path, options)
    assert submit.validate_calls(submission.calls, options) == [
        "2026-01-02 03:04:05 (000_a and 1 more)", "2026-01-02 03:04:05 (002_a)"]
    assert [text for _, text in tried] == [options.script_text] * 2
    assert tried[1][0] == "--mem=9G"
    assert submit.requested_options(submission.calls[2], options) | {"comment": ""} == {
        "time": "5", "cpus-per-task": "2", "mem": "9G", "parsable": "", "chdir": "/p", "job-name": "002_a",
        "output": f"{tmp_path}/002_a/%j.out", "comment": ""}


@pytest.fixture
def book(tmp_path: Path) -> Journal:
    (tmp_path / "submissions").mkdir()
    book = Journal(str(tmp_path), "t")
    book.record_plan(SLURM, dict.fromkeys(NAMES, 1))
    return book


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What sbatch answers, one after another: a number, or a refusal for a limit."""
    given = ["1", "QOSMaxSubmitJobPerUserLimit", "QOSMaxSubmitJobPerUserLimit", "2", "QOSMaxSubmitJobPerUserLimit", "3"]

    def answer(*_: object) -> str:
        words = given.pop(0)
        if words.isdecimal():
            return words
        raise SbatchError("limit", words)

    monkeypatch.setattr(client, "submit_with_retries", answer)
    return given


def test_with_wait_a_limit_of_the_cluster_is_waited_for(tmp_path: Path, book: Journal, answers: list[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(queue_limits.time, "sleep", pauses.append)
    jobs = submit.submit_all(made(tmp_path), book, "again",
                             QueueLimiter(str(tmp_path), None, True), CircuitBreaker(str(tmp_path), 5))
    assert list(jobs) == ["1", "2", "3"]
    assert pauses == [2, 4, 2]
    tickets = read_history(str(tmp_path)).tickets
    assert [ticket.slurm_jobs for ticket in tickets.values()] == [["1"], ["2"], ["3"]]


def test_without_wait_it_is_an_error_that_says_how_far_it_went(tmp_path: Path, book: Journal,
                                                               answers: list[str]) -> None:
    jobs = submit.submit_all(made(tmp_path), book, "again",
                             QueueLimiter(str(tmp_path), None, False), CircuitBreaker(str(tmp_path), 5))
    assert next(jobs) == "1"
    with pytest.raises(SlurmError, match=r"1 of 3 submitted, stopped at 001_a: sbatch: QOSMax.*`again` continues"):
        next(jobs)
