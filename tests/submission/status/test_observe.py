"""What is seen of a batch while others change it."""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from src import run_folder
from src.submission.batch import journal
from src.submission.batch.journal import LOCAL, SLURM, Journal
from src.submission.slurm import client
from src.submission.slurm.client import Accounting, Queue
from src.submission.status.observe import observe
from src.submission.system import process

RUNS = ("000_a", "001_a")


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    (tmp_path / run_folder.SUBMISSIONS).mkdir()
    (tmp_path / run_folder.JOB_SPEC).touch()
    for name in RUNS:
        (tmp_path / name).mkdir()
        (tmp_path / name / run_folder.SPEC).write_text("batch_size: 1\n")
    return tmp_path


def states(batch: Path) -> list[str]:
    return [run.state.name for run in observe([str(batch)])[0].runs.values()]


def test_run_that_ends_during_the_observation_is_not_lost(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Journal(str(batch), "1-a")
    monkeypatch.setattr("time.time", lambda: 1e9)
    book.record_plan(SLURM, dict.fromkeys(RUNS, 1))
    for unit in range(len(RUNS)):
        book.record_job(unit, "7")
    book.record_end()
    monkeypatch.undo()

    def squeue(clusters: set[str]) -> Queue:  # by now the first run has ended and its job is gone
        (batch / RUNS[0] / "done").write_text("completed\n")
        return Queue(True)
    monkeypatch.setattr(client, "squeue", squeue)
    monkeypatch.setattr(client, "sacct", lambda *_: Accounting())
    assert states(batch) == ["done", "lost"]


def test_claim_decides_if_the_attempt_record_is_incomplete(batch: Path) -> None:
    Journal(str(batch), "1-a").record_plan(LOCAL, dict.fromkeys(RUNS, 1))
    dead = {**process.identity(), "pid_start": 1}
    for name, who in zip(RUNS, (dead, process.identity()), strict=True):
        (batch / name / "claim-1").write_text(json.dumps(who))
        (batch / name / "attempt-1-0.json").write_text('{"ticket": 1, "who')
    assert states(batch) == ["lost", "running"]


def test_empty_claim_does_not_block_a_run(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Journal(str(batch), "1-a").record_plan(LOCAL, dict.fromkeys(RUNS, 1))
    (batch / RUNS[0] / "claim-1").touch()
    monkeypatch.setattr(process, "is_alive", lambda who: False)
    assert states(batch) == ["new", "new"]


def test_other_folders_are_ignored_and_deleted_runs_are_listed(batch: Path) -> None:
    (batch / "plots").mkdir()
    Journal(str(batch), "1-a").record_plan(LOCAL, dict.fromkeys((*RUNS, "002_gone"), 1))
    runs = observe([str(batch)])[0].runs
    assert list(runs) == [*RUNS, "002_gone"]
    assert runs["002_gone"].files is None


def test_slurm_is_queried_once_for_all_runs(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Journal(str(batch), "1-a")
    book.record_plan(SLURM, dict.fromkeys(RUNS, 1))
    for unit in range(len(RUNS)):
        book.record_job(unit, "7")
    asked: list[str] = []
    monkeypatch.setattr(client, "squeue", lambda clusters: asked.append("squeue") or Queue(True))
    monkeypatch.setattr(client, "sacct", lambda *_: asked.append("sacct") or Accounting())
    states(batch)
    assert asked == ["squeue", "sacct"]
    for name in RUNS:
        (batch / name / "done").touch()
    states(batch)
    assert asked == ["squeue", "sacct"]


def test_batch_is_observed_through_a_symbolic_link(batch: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("x") / "link"
    link.symlink_to(batch)
    Journal(str(batch), "1-a").record_plan(LOCAL, dict.fromkeys(RUNS, 1))
    assert list(observe([str(link)])[0].runs) == list(RUNS)
    assert os.path.samefile(observe([str(link)])[0].runs[RUNS[0]].path, batch / RUNS[0])
    assert list(journal.read_history(str(link)).tickets) == list(RUNS)
