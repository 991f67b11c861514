"""A running run of the real Slurm that squeue does not show, by a site's or a user's settings, is not started twice."""
from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import experiments
from src.submission.slurm import client
from tests.conftest import ROOT, Slurm
from tests.submission.conftest import Project, project
from tests.submission.planning.test_retry import CLUSTER_WRAPPER
from tests.test_interrupted import attempts, make_run
from tests.test_slurm_ways import all_jobs, counts, script, wait_for

__all__ = ["project", "script"]  # the fixtures

pytestmark = pytest.mark.usefixtures("slurm")


def wrap_squeue(folder: Path, expression: str) -> None:
    """Put a squeue on the PATH that changes the output of the real one by a sed expression."""
    path = folder / "squeue"
    path.write_text(f"#!/bin/sh\n{shutil.which('squeue')} \"$@\" | sed '{expression}'\n")
    path.chmod(0o755)


def make_heterogeneous(script: str) -> None:
    """Give a script a second component, which another part of the cluster runs at the same time."""
    first, _, rest = Path(script).read_text().partition("exec ")
    Path(script).write_text(f"{first}#SBATCH hetjob\n#SBATCH --time=5 --cpus-per-task=1 --mem=100\nexec {rest}")


def wrap_sbatch(folder: Path) -> None:
    """Put an sbatch on the PATH that submits, and loses the answer."""
    real, path = shutil.which("sbatch"), folder / "sbatch"
    path.write_text(f'#!/bin/sh\ncase "$*" in *--test-only*) exec {real} "$@";; esac\n{real} "$@" > {folder}/answer\n'
                    "echo sbatch: error: Batch job submission failed: Socket timed out on send/recv operation >&2\n"
                    "exit 1\n")
    path.chmod(0o755)


def wrap_clusters(folder: Path) -> None:
    """Put commands on the PATH of a site whose jobs run on another cluster, c2, which is the real one."""
    for name in ("sbatch", "squeue", "sacct", "scancel"):
        path = folder / name
        path.write_text(CLUSTER_WRAPPER.replace("NAME", name).replace("{real}", str(shutil.which(name))))
        path.chmod(0o755)


@pytest.fixture
def hidden_partition(slurm: Slurm) -> Iterator[None]:
    slurm.run("scontrol", "update", "PartitionName=cpu-killable", "Hidden=YES")
    yield
    slurm.run("scontrol", "update", "PartitionName=cpu-killable", "Hidden=NO")


@pytest.mark.parametrize("reason", ["environment", "hidden partition", "heterogeneous job", "unknown state",
                                    "other cluster", "no row"])
def test_running_run_is_not_started_again_by_twenty_retries(
        reason: str, project: Project, script: str, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        request: pytest.FixtureRequest) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    if reason == "other cluster":
        wrap_clusters(bin_folder)
    elif reason == "heterogeneous job":
        make_heterogeneous(script)
        wrap_sbatch(bin_folder)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    options = ["--sbatch", "clusters=c2"] if reason == "other cluster" else []
    project.spec.write_text(project.spec.read_text().replace("[8, 32]", "18").replace("[0.1, 1]", "0.1"))
    with monkeypatch.context() as an_hour_ago:  # a new run is not lost for five minutes
        an_hour_ago.setattr("time.time", lambda now=time.time: now() - 3000)
        assert project.submit(project.spec, "-s", script, "-y", *options) == 0
    wait_for((project.runs()[0] / "attempt-1-0.json").exists)
    jobs = all_jobs(project)
    assert all(job.endswith(";c2") for job in jobs) == (reason == "other cluster")
    if reason == "environment":
        for name in ("SQUEUE_PARTITION", "SACCT_PARTITION", "SCANCEL_PARTITION"):
            monkeypatch.setenv(name, "owner")
        monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    elif reason == "hidden partition":  # root sees it; an ordinary user only with --all
        request.getfixturevalue("hidden_partition")
        (bin_folder / "squeue").write_text(
            f'#!/bin/sh\ncase "$*" in *--all*) exec {shutil.which("squeue")} "$@";; esac\n')
        (bin_folder / "squeue").chmod(0o755)
    elif reason == "heterogeneous job":
        job, = jobs
        assert (bin_folder / "answer").read_text() == f"{job}\n"
        assert sorted(slurm.run("squeue", "--noheader", f"--jobs={job}", "--format=%i").split()) == [
            f"{job}+0", f"{job}+1"]
    elif reason != "other cluster":
        wrap_squeue(bin_folder, {"no row": "d", "unknown state": "s/RUNNING/EXPEDITING/"}[reason])
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


@pytest.mark.parametrize("has_sacct", [True, False])
def test_runs_of_unseen_workers_are_not_given_to_others(has_sacct: bool, project: Project, script: str, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    """One run is running, and one waits for the worker, which squeue does not list."""
    project.spec.write_text(project.spec.read_text().replace("[8, 32]", "18"))
    with monkeypatch.context() as an_hour_ago:
        an_hour_ago.setattr("time.time", lambda now=time.time: now() - 3000)
        assert project.submit(project.spec, "-s", script, "-y", "--workers", "1") == 0
    wait_for((project.runs()[0] / "attempt-1-0.json").exists)
    jobs = all_jobs(project)
    with monkeypatch.context() as blind:
        wrap_squeue(tmp_path, "d")
        if not has_sacct:
            (tmp_path / "sacct").write_text("#!/bin/sh\necho Slurm accounting storage is disabled >&2; exit 1\n")
            (tmp_path / "sacct").chmod(0o755)
        blind.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        assert counts(project) == {"unknown": 2}
        for _ in range(20):
            project.submit("-r", project.batch, "-y")
        assert all_jobs(project) == jobs
    (project.batch / "go").touch()
    wait_for(lambda: counts(project) == {"done": 2})
    assert project.executed() == [1, 1]


@pytest.fixture
def drained_node(slurm: Slurm) -> Iterator[str]:
    slurm.run("scontrol", "update", "NodeName=node4", "State=DRAIN", "Reason=test")
    yield "node4"
    if "drain" in slurm.run("sinfo", "--noheader", "--nodes=node4", "--format=%T"):
        slurm.run("scontrol", "update", "NodeName=node4", "State=RESUME")


def test_run_that_only_a_drained_node_fits_is_queued_with_a_warning(
        project: Project, script: str, slurm: Slurm, drained_node: str, capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text("""\
job_details: {name: tiny, output_dir: re sults}
parameters:
  LIST: [{batch_size: 1}, {batch_size: 2, SBATCH: {constraint: a5000}}]
""")
    assert project.submit(project.spec, "-s", script, "-y") == 0
    warning, = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert warning.startswith("warning    no start is known yet (001_tiny")
    wait_for(lambda: counts(project) == {"done": 1, "pending": 1})
    slurm.run("scontrol", "update", f"NodeName={drained_node}", "State=RESUME")
    wait_for(lambda: counts(project) == {"done": 2})


def test_scancel_of_an_unknown_id_cancels_the_others(project: Project, script: str, slurm: Slurm) -> None:
    project.spec.write_text(project.spec.read_text().replace("[8, 32]", "15").replace("[0.1, 1]", "0.1"))
    assert project.submit(project.spec, "-s", script, "-y") == 0
    job, = all_jobs(project)
    client.scancel(["999999", job])
    slurm.wait(job)
    wait_for(lambda: sacct_shows(job, "CANCELLED"))


def sacct_shows(job: str, state: str) -> bool:
    row = client.sacct(time.time() - 600).jobs.get(job)
    return row is not None and row.state == state


@pytest.mark.parametrize("way", ["--output", "--error"])
def test_job_whose_output_cannot_be_opened_is_explained(
        way: str, project: Project, script: str, slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text(project.spec.read_text().replace("[8, 32]", "8").replace("[0.1, 1]", "0.1"))
    error = project.folder / "missing" / "%j.err"
    option = f"error={error}" if way == "--error" else "hold=true"
    assert project.submit(project.spec, "-s", script, "-y", "--sbatch", option) == 0
    job, = all_jobs(project)
    output = project.runs()[0] / f"{job}.out"
    if way == "--output":
        output.mkdir()  # Slurm cannot open a folder
        slurm.run("scontrol", "release", job)
    slurm.wait(job, "FAILED")
    capsys.readouterr()
    paths = f"{str(error).replace('%j', job)} or {output}" if way == "--error" else str(output)
    explanation = f"Slurm could not open the job's output (exit code 0:53): {paths}"
    wait_for(lambda: sacct_shows(job, "FAILED"))
    assert experiments.main(["status", "--json", str(project.batch)]) == 0
    run, = json.loads(capsys.readouterr().out)[0]["runs"]
    assert (run["state"], run["why"]) == ("failed", explanation)
    assert experiments.main(["logs", str(project.runs()[0])]) == 2
    assert explanation in capsys.readouterr().err


def test_errors_in_a_file_of_their_own_are_shown(project: Project, script: str, slurm: Slurm,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(script).read_text().replace("#SBATCH", "#SBATCH -e errors/%x-%j.err\n#SBATCH", 1)
    Path(script).write_text(text.replace("exec ", "echo no such module >&2; exit 3; exec "))
    (project.folder / "errors").mkdir()
    project.spec.write_text(project.spec.read_text().replace("[8, 32]", "8").replace("[0.1, 1]", "0.1"))
    assert project.submit(project.spec, "-s", script, "-y") == 0
    job, = all_jobs(project)
    wait_for(lambda: sacct_shows(job, "FAILED"))
    path, = project.folder.glob("errors/*.err")
    capsys.readouterr()
    assert experiments.main(["logs", str(project.runs()[0])]) == 0
    assert capsys.readouterr().out == f"==> {path} <==\nno such module\n"
    assert experiments.main(["status", str(project.batch)]) == 0
    assert f"1 failed: its job ended with exit status 3 ({path})" in capsys.readouterr().out


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.output = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str, seconds: float = 300) -> str:
        """Return the output up to `text`, and forget it."""
        end = time.monotonic() + seconds
        while text not in self.output:
            assert time.monotonic() < end, f"no {text!r} in {self.output!r}"
            if select.select([self._master], [], [], 0.2)[0]:
                self.output += os.read(self._master, 65536).decode(errors="replace")
        before, _, self.output = self.output.partition(text)
        return before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def test_training_by_hand_in_a_shell_of_two_tasks(slurm: Slurm, tmp_path: Path) -> None:
    """A run that failed in another job is started again. It waits for the second task, which is not there, until
    Ctrl-C; then it trains alone and shows its progress.
    """
    spec = make_run(tmp_path / "run", train_length=3)
    (spec.parent / "claim-1").write_text('{"slurm_job": "999999"}')
    failed = {"ticket": 1, "number": 0, "who": {"slurm_job": "999999"}, "how": "failed"}
    (spec.parent / "attempt-1-0.json").write_text(json.dumps(failed))
    train = f"{sys.executable} {ROOT}/train.py {spec}\n"
    terminal = Terminal("srun", "--ntasks=2", "--mem=900", "--pty", "bash", "--norc", "--noprofile")
    try:
        terminal.type(f"cd {tmp_path}; export OMP_NUM_THREADS=1; {train}")
        terminal.expect("rank 0 of 2 processes waits for rank 1 to join")
        pressed = time.monotonic()
        terminal.type("\x03")
        terminal.expect("stopped by SIGINT")
        assert time.monotonic() - pressed < 10
        terminal.type(f"SLURM_STEP_NUM_TASKS=1 {train}")
        terminal.expect("epoch 1/3")
        lines = terminal.expect("completed").splitlines()
        assert [line[:9] for line in lines if line.startswith("epoch")] == ["epoch 2/3", "epoch 3/3"]
        wait_for(lambda: [attempt["how"] for attempt in attempts(spec)] == ["failed", "cancelled", "completed"])
    finally:
        terminal.close()
