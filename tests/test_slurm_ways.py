"""One job per run, arrays and workers on a real Slurm: the same folders, states and retry, each run once."""
from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from src.submission.batch import journal
from src.submission.status import status
from src.submission.status.observe import observe
from tests.conftest import Slurm
from tests.submission.conftest import Project, project

__all__ = ["project"]  # the fixture

pytestmark = pytest.mark.usefixtures("slurm")

SCRIPT = """#!/bin/bash
#SBATCH --time=5 --requeue --open-mode=append --cpus-per-task=1 --mem=100
exec {python} train.py "$@"
"""


@pytest.fixture
def script(project: Project) -> str:
    path = project.folder / "s.sh"
    path.write_text(SCRIPT.format(python=sys.executable))
    return str(path)


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.3)


def counts(project: Project) -> dict[str, int]:
    return status.counts(observe([str(project.batch)])[0])


def all_jobs(project: Project) -> set[str]:
    tickets = journal.read_history(str(project.batch)).tickets
    return {job.partition("_")[0] for ticket in tickets.values() for job in ticket.slurm_jobs}


@pytest.mark.parametrize("way", [[], ["--array"], ["--array", "--max-running", "3"], ["--workers", "2"],
                                 ["--workers", "2", "--slots", "3"], ["--workers", "2", "--slots", "auto"]],
                         ids=" ".join)
def test_every_submission_mode_runs_each_run_once(way: list[str], project: Project, script: str) -> None:
    project.write_spec("[1, 2, 3, 4, 13]")
    assert project.submit(project.spec, "-s", script, "-y", *way) == 0
    wait_for(lambda: counts(project) == {"done": 8, "failed": 2})
    assert project.executed() == [1] * 8 + [0] * 2
    assert len(all_jobs(project)) == {"--array": 1, "--workers": 2}.get("".join(way[:1]), 10)
    for run in project.runs():
        log, = run.glob("*.out")
        assert "training" in log.read_text()
        assert (run / "attempt-1-0.json").exists()
    (project.batch / "mended").touch()
    assert project.submit("-r", project.batch, "-y") == 0  # in the same way
    wait_for(lambda: counts(project) == {"done": 10})
    assert project.executed() == [1] * 10


def test_stacks_have_a_job_each_and_continue_in_successors(project: Project, script: str, slurm: Slurm) -> None:
    project.spec.write_text("""\
job_details: {name: tiny, output_dir: re sults, stack: auto}
parameters:
  batch_size: [1, 2]
  seed_model: [10, 5, 11]  # the second of each stack waits until it is told to save itself
""")
    assert project.submit(project.spec, "-s", script, "-y") == 0
    jobs = all_jobs(project)
    assert len(jobs) == 2
    wait_for(lambda: counts(project) == {"done": 2, "running": 4})
    for job in jobs:
        slurm.run("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: counts(project) == {"done": 6})
    assert project.executed() == [1] * 6
    assert len(all_jobs(project)) == 4
    assert sorted((project.batch / "stacks").read_text().splitlines()) == ["000 001 002", "001 002", "003 004 005",
                                                                           "004 005"]
    assert [len(list(run.glob("attempt-1-*.json"))) for run in project.runs()] == [1, 2, 2] * 2


def test_arrays_are_split_by_size_limit_and_options(project: Project, script: str, monkeypatch: pytest.MonkeyPatch,
                                                    slurm: Slurm) -> None:
    project.spec.write_text("""\
job_details: {name: tiny, output_dir: re sults}
parameters:
  base_lr: [0.1, 1]
  LIST:
    - {batch_size: [1, 2, 3]}
    - {batch_size: [4, 5], SBATCH: {mem: 200}}
""")
    monkeypatch.setattr("src.submission.slurm.client.max_array_size", lambda: 4)
    assert project.submit(project.spec, "-s", script, "-y", "--array") == 0
    wait_for(lambda: counts(project) == {"done": 10})
    assert project.executed() == [1] * 10
    plan = journal.read_history(str(project.batch)).recorded_plans[0]
    assert plan["bounds"] == [0, 4, 6, 10]
    asked = {re.search(r"MinMemoryNode=(\d+M)", slurm.run("scontrol", "show", "job", job))[1]  # type: ignore[index]
             for job in all_jobs(project)}
    assert asked == {"100M", "200M"}


def test_max_array_size_is_read_from_the_cluster(slurm: Slurm) -> None:
    from src.submission.slurm.client import max_array_size

    assert f"MaxArraySize            = {max_array_size()}" in slurm.run("scontrol", "show", "config")


def test_worker_submits_a_successor_before_its_time_limit(project: Project, script: str, slurm: Slurm) -> None:
    """Runs of a second or so, and a worker that believes that they take 4 minutes of its 5."""
    project.write_spec("[1, 2, 3]")
    assert project.submit(project.spec, "-s", script, "-y", "--no-submit") == 0
    first = project.runs()[0]
    (first / "done").write_text("completed\n")
    (first / "executed").write_text("once\n")
    (first / "attempt-1-0.json").write_text(json.dumps({"ticket": 1, "number": 0, "start": 0, "end": 290,
                                                        "how": "completed"}))
    assert project.submit("-r", project.batch, "-s", script, "-y", "--workers", "1") == 0
    tokens = [path.name for path in sorted((project.batch / "submissions").glob("*.jsonl"))]
    wait_for(lambda: len(list((project.batch / "submissions").glob("*.jsonl"))) > len(tokens))
    (first / "attempt-1-0.json").write_text("{}")  # from now on runs fit again
    wait_for(lambda: counts(project) == {"done": 6})
    assert project.executed() == [1] * 6


def test_requeued_worker_resumes_its_runs(project: Project, script: str, slurm: Slurm) -> None:
    project.write_spec("[15, 1]")
    assert project.submit(project.spec, "-s", script, "-y", "--workers", "1", "--slots", "4") == 0
    wait_for(lambda: counts(project) == {"running": 2, "done": 2})
    job, = all_jobs(project)
    for run in project.runs()[:2]:
        (run / "spec.yaml").write_text("batch_size: 1\n")
    slurm.run("scontrol", "requeue", job)
    slurm.restart(job, lambda: counts(project) == {"done": 4})
    assert project.executed() == [1] * 4


def test_points_with_different_options_cannot_share_workers(project: Project, script: str,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text("""\
job_details: {name: tiny}
parameters:
  LIST: [{batch_size: 1}, {batch_size: 2, SBATCH: {mem: 200}}]
""")
    assert project.submit(project.spec, "-s", script, "-y", "--workers", "2") == 2
    assert "--array" in capsys.readouterr().err
    assert not Path("results").exists()
