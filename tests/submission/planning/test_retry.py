"""Retries while Slurm does not show a run that is running."""
from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

import experiments
from src.submission.batch import heartbeat
from src.submission.slurm import client
from src.submission.slurm.client import Job, Queue
from src.submission.status import cancel
from src.submission.status.observe import observe
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.conftest import Project

__all__ = ["fake_slurm"]  # the fixture

SCRIPT = """#!/bin/bash
#SBATCH --partition=killable
exec {python} train.py "$@"
"""


@pytest.fixture
def running(project: Project, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that runs in Slurm, and was submitted an hour ago; it ends when its batch has a file `go`."""
    project.write_spec("[18]")
    project.spec.write_text(project.spec.read_text().replace("[0.1, 1]", "0.1"))
    (project.folder / "s.sh").write_text(SCRIPT.format(python=sys.executable))
    with monkeypatch.context() as an_hour_ago:
        an_hour_ago.setattr("time.time", lambda now=time.time: now() - 3600)
        assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    run, = project.runs()
    fake_slurm.start(*fake_slurm.jobs())
    deadline = time.monotonic() + 30
    while not (run / "attempt-1-0.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return run


@pytest.mark.parametrize("reason", ["environment", "hidden partition", "unknown state", "heterogeneous job", "no row"])
def test_running_run_that_slurm_does_not_show_is_not_started_again(
        reason: str, running: Path, project: Project, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason == "environment":
        monkeypatch.setenv("SQUEUE_PARTITION", "owner")
        monkeypatch.setenv("SACCT_PARTITION", "owner")
    elif reason == "hidden partition":
        fake_slurm.set(HiddenPartitions="killable")
    else:
        fake_slurm.reject("accounting_disabled", command="sacct")
        fake_slurm.inject_fault("squeue", stdout={
            "unknown state": "2|EXPEDITING|N/A|N/A|None|(null)\n",
            "heterogeneous job": "2+0|RUNNING|N/A|N/A|None|(null)\n",
            "no row": ""}[reason])
    for _ in range(3):
        project.submit("-r", project.batch, "-y")
    assert len(fake_slurm.calls("sbatch")) == 1
    fake_slurm.clear_faults()
    (project.batch / "go").touch()
    assert fake_slurm.wait(*fake_slurm.jobs()) == "COMPLETED"
    assert project.executed() == [1]


def test_run_with_a_fresh_heartbeat_is_refused_until_forced(
        running: Path, project: Project, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    fake_slurm.inject_fault("squeue", stdout="")
    fake_slurm.reject("accounting_disabled", command="sacct")
    project.submit("-r", project.batch, "-y")
    output = capsys.readouterr().out
    assert "1 run may still be running (000_" in output
    assert "squeue does not list it, but its files changed" in output
    assert "--force" in output
    assert project.submit("-r", project.batch, "--force", "-y") == 0
    assert len(fake_slurm.calls("sbatch")) == 2
    fake_slurm.clear_faults()
    first, second = fake_slurm.jobs()
    fake_slurm.start(second)
    assert fake_slurm.wait(first) == "COMPLETED"  # its attempt was superseded
    (project.batch / "go").touch()
    assert fake_slurm.wait(second) == "COMPLETED"
    assert project.executed() == [1]


def test_dry_run_makes_no_file_to_read_the_clock(
        running: Path, project: Project, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]) -> None:
    fake_slurm.inject_fault("squeue", stdout="")
    fake_slurm.reject("accounting_disabled", command="sacct")
    folder = project.batch / "submissions"
    before = folder.stat().st_mtime_ns
    assert project.submit("-r", project.batch, "-d") == 0
    assert "1 run may still be running (000_" in capsys.readouterr().out
    assert folder.stat().st_mtime_ns == before


def test_run_whose_heartbeat_is_old_is_lost(running: Path, project: Project, fake_slurm: FakeSlurm) -> None:
    fake_slurm.inject_fault("squeue", stdout="")
    fake_slurm.reject("accounting_disabled", command="sacct")
    before = time.time() - heartbeat.TIMEOUT - 1
    os.utime(running / "attempt-1-0.json", (before, before))
    run, = observe([str(project.batch)])[0].runs.values()
    assert run.state.name == "lost"


def test_heartbeat_is_compared_on_the_clock_of_the_file_system(
        running: Path, project: Project, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of this host is two hours ahead."""
    fake_slurm.inject_fault("squeue", stdout="")
    fake_slurm.reject("accounting_disabled", command="sacct")
    monkeypatch.setattr("time.time", lambda now=time.time: now() + 7200)
    run, = observe([str(project.batch)])[0].runs.values()
    assert run.state.name == "unknown"
    assert run.state.why.startswith("squeue does not list it, but its files changed")
    (project.batch / "go").touch()


def test_cancelled_run_that_takes_long_to_end_is_named(
        running: Path, project: Project, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    """By `cancel`, and by the commands that need it to have ended: they do not advise to cancel it again."""
    squeue = client.squeue
    with monkeypatch.context() as ending:
        ending.setattr(client, "scancel", lambda jobs: [])
        ending.setattr(client, "squeue", lambda clusters: Queue(True, {
            name: job._replace(state="COMPLETING") for name, job in squeue(clusters).jobs.items()}))
        ending.setattr(cancel, "_PAUSES", (0, 0.01))
        assert experiments.main(["cancel", str(project.batch), "-y"]) == 0
        assert capsys.readouterr().out.splitlines()[-2] == (
            f"cancellation of 1 run requested; still ending: {running.name}")
        assert experiments.main(["delete", str(project.batch), "-y"]) == 2
        error = capsys.readouterr().err
        assert "their jobs are ending: wait a few seconds, or run `python experiments.py wait " in error
        assert "experiments.py cancel" not in error
    assert experiments.main(["cancel", str(project.batch), "-y"]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "cancelled 1 run"


CLUSTER_WRAPPER = """#!/bin/bash
# the command NAME of a site whose cluster c2 is the fake one, and whose own cluster has no jobs
arguments=() is_c2=
for word; do case "$word" in --clusters=c2) is_c2=1;; *) arguments+=("$word");; esac; done
if [ NAME = sbatch ]; then
  output=$({real} "${arguments[@]}") || exit $?
  echo "$output${output:+;c2}"
elif [ "$is_c2" ]; then exec {real} "${arguments[@]}"; fi
"""


@pytest.mark.parametrize("way", ["option", "environment", "lost answer"])
def test_job_on_another_cluster_is_found_and_cancelled_there(
        way: str, project: Project, fake_slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrappers = tmp_path / "wrappers"
    wrappers.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scancel"):
        text = CLUSTER_WRAPPER.replace("NAME", name).replace("{real}", str(fake_slurm.folder / "bin" / name))
        (wrappers / name).write_text(text)
        (wrappers / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrappers}:{os.environ['PATH']}")
    project.spec.write_text(project.spec.read_text().replace("[0.1, 1]", "0.1"))
    (project.folder / "s.sh").write_text(SCRIPT.format(python=sys.executable))
    if way == "lost answer":
        fake_slurm.lose_reply(1)
    options = [] if way == "environment" else ["--sbatch", "clusters=c2"]
    with monkeypatch.context() as submitting:
        submitting.setenv("SBATCH_CLUSTERS", "c2" if way == "environment" else "")
        assert project.submit(project.spec, "-s", "s.sh", "-y", *options) == 0
    jobs = fake_slurm.jobs()
    assert len(jobs) == 2
    monkeypatch.setenv("SLURM_CLUSTERS", "c3")
    observed = observe([str(project.batch)])[0].runs.values()
    assert [run.state for run in observed] == [("pending", "Priority", f"{job};c2") for job in jobs]
    project.submit("-r", project.batch, "-y")
    assert fake_slurm.jobs() == jobs
    assert experiments.main(["cancel", "-y", str(project.batch)]) == 0
    assert fake_slurm.jobs("CANCELLED") == jobs
    assert {run.state.name for run in observe([str(project.batch)])[0].runs.values()} == {"cancelled"}


def test_run_on_another_cluster_is_found_by_its_claim_alone(
        running: Path, project: Project, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, = (project.batch / "submissions").glob("*.jsonl")
    job, = fake_slurm.jobs()
    journal.write_text(journal.read_text().replace(f'"slurm_job": "{job}"', f'"slurm_job": "{job};c2"'))
    monkeypatch.setattr(client, "squeue", lambda clusters: Queue(clusters == {"c2"}, {
        f"{job};c2": Job(f"{job};c2", "RUNNING")}))
    run, = observe([str(project.batch)])[0].runs.values()
    assert (run.state.name, run.slurm_jobs) == ("running", (f"{job};c2",))
    (project.batch / "go").touch()
