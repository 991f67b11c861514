"""The files of a batch name processes and Slurm jobs; `cancel` ends only those that are provably of the batch."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import experiments
from src import run_folder
from src.io import files
from src.submission.batch.journal import LOCAL, Journal
from src.submission.system import process
from tests.analysis.make_batch import make_batch
from tests.security.conftest import OTHER_USER
from tests.submission.conftest import Project, project
from tests.submission.job.test_worker import wait_for
from tests.test_submit_multiple import fake_slurm

__all__ = ["fake_slurm", "project"]  # the fixtures


@pytest.fixture
def bystander(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program of ours that has nothing to do with any batch."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], cwd=folder) as program:
        yield program
        program.kill()


def running_batch(root: Path, who: dict[str, Any]) -> Path:
    """A batch whose first run seems to be executed by a process."""
    batch = Path(make_batch(root))
    run = sorted(batch.glob("0*"))[0]
    (run / run_folder.DONE).unlink()
    files.write_json(run / run_folder.claim_name(1), who)
    files.write_json(run / run_folder.attempt_name(1, 0), {"ticket": 1, "number": 0, "who": who, "start": 1})
    return batch


def is_alive(program: subprocess.Popen[bytes]) -> bool:
    time.sleep(0.1)
    return program.poll() is None


def test_process_that_does_not_work_on_the_run_is_left_alone(
        bystander: subprocess.Popen[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = running_batch(tmp_path, {**process.identity_of(bystander.pid), "slurm_job": None, "restart": 0})
    assert experiments.main(["cancel", "-y", str(batch)]) == 1
    out = capsys.readouterr().out
    assert f"process {bystander.pid} was left alone, as neither its command line nor its open files are in" in out
    assert is_alive(bystander)


def test_submitter_that_is_not_of_the_batch_is_left_alone(
        bystander: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    batch = Path(make_batch(tmp_path))
    run = sorted(batch.glob("0*"))[0]
    (run / run_folder.DONE).unlink()
    (run / run_folder.attempt_name(0, 0)).unlink()
    who = {**process.identity_of(bystander.pid), "slurm_job": None}
    monkeypatch.setattr(process, "identity", lambda: who)
    Journal(str(batch), "261120-100000-abcdef").record_plan(LOCAL, {run.name: 1})
    assert experiments.main(["cancel", "-y", str(batch)]) == 1
    assert f"process {bystander.pid} was left alone" in capsys.readouterr().out
    assert is_alive(bystander)


@pytest.mark.parametrize("pid", [-1, 0, 1, True, "self", "1/../self", 2 ** 40, 1.5, None, [1]])
def test_process_ids_that_name_others_are_not_signalled(pid: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """-1 denotes all processes of the user, 0 this process group; a text could lead out of /proc."""
    def kill(*arguments: object) -> None:
        raise AssertionError(arguments)

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(signal, "pidfd_send_signal", kill)
    identity = {**process.identity_of(os.getpid()), "pid": pid}
    for start in (0, identity["pid_start"]):
        assert not process.is_alive({**identity, "pid_start": start})
        assert not process.terminate({**identity, "pid_start": start}, lambda _: True)


def test_program_that_is_not_python_is_left_alone(tmp_path: Path) -> None:
    """An editor names the run's file on its command line as well."""
    (tmp_path / "spec.yaml").touch()
    with subprocess.Popen(["tail", "-f", tmp_path / "spec.yaml"], stderr=subprocess.DEVNULL) as editor:
        try:
            assert not process.works_on(editor.pid, str(tmp_path))
        finally:
            editor.kill()


def test_process_that_names_the_run_relative_to_its_folder_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "results" / "000_x").mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "results/000_x/spec.yaml"],
                          cwd=tmp_path) as run:
        try:
            wait_for(lambda: process.works_on(run.pid, str(tmp_path / "results" / "000_x")))
            assert process.works_on(run.pid, str(tmp_path / "results"))
            assert not process.works_on(run.pid, str(tmp_path / "results" / "000"))
        finally:
            run.kill()


@pytest.fixture
def cancelled(project: Project, fake_slurm: Path) -> Path:
    """A batch that is submitted to a fake Slurm; the file with the arguments of scancel is returned."""
    (fake_slurm / "scancel").write_text(f'#!/bin/sh\necho "$@" >> "{fake_slurm}/cancelled"\n')
    (fake_slurm / "scancel").chmod(0o755)
    assert project.submit(project.spec, "-s", "s.sh", "-y") == 0
    return fake_slurm / "cancelled"


def test_slurm_job_without_the_comment_is_left_alone(project: Project, fake_slurm: Path, cancelled: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    """The journal names a job of ours that has nothing to do with the batch."""
    queue = (fake_slurm / "queue").read_text().splitlines()
    comment = queue[1].rpartition("|")[2]
    (fake_slurm / "queue").write_text("\n".join([queue[0], queue[1].replace(comment, "my important job"), *queue[2:]])
                                      + "\n")
    assert experiments.main(["cancel", "-y", str(project.batch)]) == 1
    assert "Slurm job 2 was left alone, as its comment is not of a submission of" in capsys.readouterr().out
    assert cancelled.read_text() == "1 3 4\n"


def test_slurm_job_of_another_batch_is_left_alone(project: Project, fake_slurm: Path, cancelled: Path) -> None:
    journal_path, = (project.batch / run_folder.SUBMISSIONS).glob("*.jsonl")
    journal_path.rename(journal_path.with_name("261120-100000-abcdef.jsonl"))
    assert experiments.main(["cancel", "-y", str(project.batch)]) == 2
    assert experiments.main(["cancel", "-y", str(project.batch), "--by-id"]) == 1
    assert not cancelled.exists()


def test_slurm_jobs_in_a_journal_of_another_user_are_left_alone(
        project: Project, fake_slurm: Path, cancelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user has copied our journal, with the comments of our jobs."""
    monkeypatch.setattr(os, "geteuid", lambda: OTHER_USER)
    assert experiments.main(["cancel", "-y", str(project.batch)]) == 1
    assert not cancelled.exists()
    (fake_slurm / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert experiments.main(["cancel", "-y", str(project.batch), "--by-id"]) == 1
    assert not cancelled.exists()


def test_by_id_cancels_only_jobs_in_a_journal_of_this_user(project: Project, fake_slurm: Path, cancelled: Path) -> None:
    (fake_slurm / "squeue").write_text("#!/bin/sh\nexit 1\n")
    run = project.runs()[0]
    (run / "claim-1").write_text(json.dumps({"slurm_job": "99"}))  # not from the journal
    assert experiments.main(["cancel", "-y", str(project.batch), "--by-id"]) == 1
    assert "99" not in cancelled.read_text().split()
