"""Searches by Slurm jobs, of the stand-in and of a real Slurm: workers are killed at random instants, every decision is
made once, no trial runs twice, none is pending for ever, and all decisions computed again are equal.

`make chaos` runs the long form: 100 kills over 10 searches, half of them where nodes see files late.
"""
from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

import experiments
from src.search import definition, summary
from src.submission.status.observe import observe
from tests.conftest import ROOT, Slurm
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.searching import ASHA, assert_sound, processes_of, states_of, wait_for, write
from tests.submission.conftest import Project, project
from tests.test_chaos import CHAOS, SEED
from tests.test_slurm_lag import project as late_project
from tests.test_slurm_lag import shared
from tests.test_slurm_ways import SCRIPT

__all__ = ["fake_slurm", "late_project", "project", "shared"]  # the fixtures

ENTRY = (ROOT / "tests" / "submission" / "search_entry.py").read_text()
SEARCHES, KILLS = (5, 10) if CHAOS else (1, 4)


def prepare(project: Project, search: str = ASHA) -> str:
    (project.folder / "train.py").write_text(ENTRY)
    path = project.folder / "s.sh"
    path.write_text(SCRIPT.format(python=sys.executable))
    write(project, search)
    return str(path)


def is_over(batch: Path) -> bool:
    search = definition.read(batch)
    return search is not None and summary.is_over(batch, search)


def test_workers_of_slurm_run_a_search(project: Project, fake_slurm: FakeSlurm,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    script = prepare(project)
    assert project.submit(project.spec, "-s", script, "-y", "-d") == 0
    assert "workers    3" in capsys.readouterr().out  # parallel alone implies workers
    assert project.submit(project.spec, "-s", script, "-y") == 0
    assert len(fake_slurm.jobs()) == 3
    assert states_of(project.batch) == {"pending": 3}
    fake_slurm.run_all(parallel=3)
    assert_sound(project.batch, 18)
    assert set(states_of(project.batch)) == {"paused", "done"}
    assert experiments.main(["wait", str(project.batch)]) == 0


def test_pending_workers_are_cancelled_and_a_retry_submits_others(project: Project, fake_slurm: FakeSlurm) -> None:
    script = prepare(project)
    assert project.submit(project.spec, "-s", script, "-y", "--workers", "2") == 0
    first = fake_slurm.jobs()[0]
    fake_slurm.set_state(first, "CANCELLED")
    assert experiments.main(["cancel", "-y", str(project.batch)]) == 0
    assert {fake_slurm.job(job)["State"] for job in fake_slurm.jobs()} == {"CANCELLED"}
    assert project.submit("-r", project.batch, "-y") == 0
    assert len(fake_slurm.jobs("PENDING")) == 2
    fake_slurm.run_all(parallel=2)
    assert_sound(project.batch, 18)


def test_worker_near_its_time_limit_hands_over(project: Project, fake_slurm: FakeSlurm,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDIRON_TEST_EPOCH", "0.1")
    script = prepare(project)
    project.spec.write_text(project.spec.read_text() + "  SBATCH: {time: 7}\n")
    assert project.submit(project.spec, "-s", script, "-y", "--workers", "1") == 0
    job, = fake_slurm.jobs()
    fake_slurm.start(job)
    wait_for(lambda: len(list(project.batch.glob("*/stats.csv"))) > 3)
    fake_slurm.signal(job)
    fake_slurm.wait(job)
    successors = fake_slurm.jobs("PENDING")
    assert successors
    assert not is_over(project.batch)
    fake_slurm.run_all()
    assert is_over(project.batch)
    assert_sound(project.batch, 18)


def hunt(project: Project, seed: int) -> None:
    """Run a search on a real Slurm, kill KILLS of its processes at random instants, and continue it to its end."""
    generator = random.Random(seed)
    script = prepare(project, ASHA.replace("trials: 18", "trials: 27"))
    assert project.submit(project.spec, "-s", script, "-y", "--workers", "3") == 0
    batch, kills, end = project.batch, 0, time.monotonic() + 900
    while not is_over(batch):
        assert time.monotonic() < end, f"seed {seed}: {states_of(batch)}"
        time.sleep(0.3 + 1.5 * generator.random())
        victims = processes_of(project)
        if victims and kills < KILLS:
            os.kill(generator.choice(victims), signal.SIGKILL)
            kills += 1
        elif not victims and not is_over(batch):
            project.submit("-r", batch, "-y", "--workers", "3")
            time.sleep(3)
    wait_for(lambda: not processes_of(project), 120)
    assert_sound(batch, 27)
    assert not set(states_of(batch)) - {"paused", "done"}, observe([str(batch)])


@pytest.mark.parametrize("number", range(SEARCHES))
def test_killed_workers_of_a_real_slurm_lose_and_repeat_nothing(number: int, project: Project, slurm: Slurm,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDIRON_TEST_EPOCH", "0.15")
    hunt(project, SEED + number)


@pytest.mark.skipif(not CHAOS, reason="only in make chaos")
@pytest.mark.parametrize("number", range(SEARCHES))
def test_killed_workers_whose_files_are_seen_late(number: int, late_project: Project, slurm: Slurm,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDIRON_TEST_EPOCH", "0.15")
    hunt(late_project, SEED + 100 + number)
