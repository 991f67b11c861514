"""A running run of the real Slurm that squeue does not show, by a site's or a user's settings, is not started twice."""
from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

import experiments
from tests.conftest import Slurm
from tests.submission.conftest import Project, project
from tests.test_slurm_ways import all_jobs, counts, script, wait_for

__all__ = ["project", "script"]  # the fixtures

pytestmark = pytest.mark.usefixtures("slurm")


def wrap_squeue(folder: Path, expression: str) -> None:
    """Put a squeue on the PATH that changes the output of the real one by a sed expression."""
    path = folder / "squeue"
    path.write_text(f"#!/bin/sh\n{shutil.which('squeue')} \"$@\" | sed '{expression}'\n")
    path.chmod(0o755)


@pytest.mark.parametrize("reason", ["environment", "heterogeneous job", "unknown state", "no row"])
def test_running_run_is_not_started_again_by_twenty_retries(
        reason: str, project: Project, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.spec.write_text(project.spec.read_text().replace("[8, 32]", "18").replace("[0.1, 1]", "0.1"))
    with monkeypatch.context() as an_hour_ago:  # a new run is not lost for five minutes
        an_hour_ago.setattr("time.time", lambda now=time.time: now() - 3000)
        assert project.submit(project.spec, "-s", script, "-y") == 0
    wait_for((project.runs()[0] / "attempt-1-0.json").exists)
    jobs = all_jobs(project)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    if reason == "environment":
        for name in ("SQUEUE_PARTITION", "SACCT_PARTITION", "SCANCEL_PARTITION"):
            monkeypatch.setenv(name, "owner")
        monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    else:
        wrap_squeue(bin_folder, {"heterogeneous job": "s/^\\([0-9]*\\)|/\\1+0|/", "no row": "d",
                                 "unknown state": "s/RUNNING/EXPEDITING/"}[reason])
        monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    for _ in range(20):
        project.submit("-r", project.batch, "-y")
    assert all_jobs(project) == jobs
    if reason == "environment":
        assert experiments.main(["cancel", "-y", str(project.batch)]) == 0
        wait_for(lambda: counts(project) == {"cancelled": 1})
        return
    (project.batch / "go").touch()
    wait_for(lambda: counts(project) == {"done": 1})
    assert project.executed() == [1]


def test_scancel_of_an_unknown_id_cancels_the_others(project: Project, script: str, slurm: Slurm) -> None:
    from src.submission.slurm import client

    project.spec.write_text(project.spec.read_text().replace("[8, 32]", "15").replace("[0.1, 1]", "0.1"))
    assert project.submit(project.spec, "-s", script, "-y") == 0
    job, = all_jobs(project)
    client.scancel(["999999", job])
    slurm.wait(job)
    assert client.sacct(time.time() - 600)[job].state == "CANCELLED"
