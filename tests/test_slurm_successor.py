"""A run that outlives its time limit: requeued, or in a successor job, by the stand-in and by a real Slurm."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from src.errors import retry_command
from src.submission.batch import journal, task_files
from src.submission.batch.task_files import Tasks
from src.submission.job import requeue, worker
from src.submission.slurm import client
from src.submission.status.observation import Run
from src.submission.status.observe import observe
from tests.conftest import Slurm
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.conftest import Project, project
from tests.test_slurm_ways import counts, wait_for

__all__ = ["fake_slurm", "project"]  # the fixtures

SCRIPT = """#!/bin/bash
#SBATCH --open-mode=append --mem=100 --cpus-per-task=1 {options}
exec {python} train.py "$@"
"""
FOREIGN = """import os, signal, sys, time
os.chdir(sys.argv[1])
told = []
signal.signal(signal.SIGUSR1, lambda *_: told.append(1))
with open("steps", "a+") as file:
    file.write("step\\n")
    file.seek(0)
    left = 3 - len(file.readlines())
while left and not told:
    time.sleep(0.05)
if left:
    sys.exit(75)
open("executed", "a").write("once\\n")
"""


def script(project: Project, options: str = "--no-requeue") -> str:
    path = project.folder / "s.sh"
    path.write_text(SCRIPT.format(python=sys.executable, options=options))
    return str(path)


def only_run(project: Project) -> Run:
    run, = observe([str(project.batch)])[0].runs.values()
    return run


def one_run(project: Project) -> None:
    project.write_spec("16")
    project.spec.write_text(project.spec.read_text().replace("[0.1, 1]", "1\n  SBATCH: {time: 7}"))


def run_out_of_time(project: Project, fake: FakeSlurm, start: int) -> str:
    """Run the only run's job, for the start-th time, until it is told that its time is nearly up; the job's id."""
    job, = only_run(project).slurm_jobs
    fake.start(job)
    steps = project.runs()[0] / "steps"
    wait_for(lambda: steps.exists() and len(steps.read_text().split()) == start)
    fake.signal(job)
    assert fake.wait(job) == "FAILED"
    assert fake.job(job)["ExitCode"] == "75:0"
    return job


@pytest.mark.parametrize("way", [[], ["--array"]], ids=["one each", "array"])
def test_successor_continues_where_requeue_is_refused(way: list[str], project: Project, fake_slurm: FakeSlurm,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    one_run(project)
    assert project.submit(project.spec, "-s", script(project), "-y", "--sbatch", "mem=200", *way) == 0
    for start in (1, 2):
        ended = run_out_of_time(project, fake_slurm, start)
        run = only_run(project)
        assert (run.state.name, run.ticket, counts(project)) == ("pending", 1, {"pending": 1})
        assert run.slurm_jobs == (str(int(ended.partition("_")[0]) + 1),)
        argv = fake_slurm.calls("sbatch")[-1].argv
        assert {"--mem=200", "--time=7", f"--chdir={project.folder}"} <= set(argv)
        assert argv[-1] == str(project.runs()[0] / "spec.yaml")
    assert project.submit("-r", project.batch, "-y") == 0  # it is pending: nothing to submit
    calls = len(fake_slurm.calls("sbatch"))
    fake_slurm.run_all()
    assert (counts(project), project.executed()) == ({"done": 1}, [1])
    assert len(fake_slurm.calls("sbatch")) == calls == 3
    assert {path.name for path in project.runs()[0].glob("attempt*")} == {f"attempt-1-{n}.json" for n in range(3)}
    experiments.main(["logs", str(project.runs()[0])])
    assert f"Slurm job {run.slurm_jobs[0]} will resume it (Requested operation is presently disabled" in (
        capsys.readouterr().out)


@pytest.mark.parametrize("way", [[], ["--workers", "1", "--slots", "2"]], ids=["one each", "workers"])
def test_preempted_run_continues_in_a_successor(way: list[str], project: Project, fake_slurm: FakeSlurm) -> None:
    project.write_spec("18")
    project.submit(project.spec, "-s", script(project), "-y", *way)
    first, *others = fake_slurm.jobs("PENDING")
    fake_slurm.start(first)
    wait_for(lambda: len(list(project.batch.glob("*/attempt-1-0.json"))) == (2 if way else 1))
    fake_slurm.preempt(first)
    assert fake_slurm.wait(first) == "PREEMPTED"
    assert counts(project) == {"pending": 2}
    assert len(fake_slurm.jobs("PENDING")) == len(others) + 1
    (project.batch / "go").touch()
    fake_slurm.run_all()
    assert (counts(project), project.executed()) == ({"done": 2}, [1, 1])


@pytest.mark.parametrize(("reason", "successors"), [("requeued", 1), ("preempted", 0), ("cancelled", 0)])
def test_preempted_worker_gets_a_successor_for_the_other_runs(reason: str, successors: int,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[str] = []
    monkeypatch.setattr(requeue, "classify_stop", lambda: requeue.Stop(reason, ""))
    monkeypatch.setattr(requeue, "submit_successor", lambda path, *_: submitted.append(path))
    stopped = worker.Worker("tasks", Tasks("worker", "batch", {}), lambda *_: "", lambda *_: None, stop_count=1)
    stopped._submit_successor_for_saved()
    assert len(submitted) == successors


def test_successor_can_be_cancelled_and_retried(project: Project, fake_slurm: FakeSlurm) -> None:
    one_run(project)
    project.submit(project.spec, "-s", script(project), "-y")
    run_out_of_time(project, fake_slurm, 1)
    job, = only_run(project).slurm_jobs
    experiments.main(["cancel", "-y", f"{project.batch}:0"])
    assert fake_slurm.job(job)["State"] == "CANCELLED"
    assert counts(project) == {"cancelled": 1}
    assert project.submit("-r", project.batch, "-y") == 0
    assert (only_run(project).ticket, counts(project)) == (2, {"pending": 1})


def test_successor_is_found_after_a_lost_answer(project: Project, fake_slurm: FakeSlurm) -> None:
    one_run(project)
    project.submit(project.spec, "-s", script(project), "-y")
    fake_slurm.lose_reply(1)
    run_out_of_time(project, fake_slurm, 1)
    assert counts(project) == {"pending": 1}
    assert len(fake_slurm.jobs("PENDING")) == 1


@pytest.mark.parametrize(("is_lost", "message"), [
    (True, "another Slurm job may have been submitted for the rest, but the answer was lost: "),
    (False, "no other Slurm job was submitted for the rest: ")])
def test_worker_records_a_refusal_of_its_successor_only_if_there_is_none(
        is_lost: bool, message: str, project: Project, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    project.submit(project.spec, "-s", script(project), "-y", "--workers", "1")
    job, = fake_slurm.jobs()
    fake_slurm.set_state(job, "TIMEOUT")
    if is_lost:
        fake_slurm.lose_reply()
        fake_slurm.inject_fault("squeue", accept=False, code=1)
    else:
        fake_slurm.reject("invalid_partition")
    monkeypatch.setattr(client.submit_with_retries, "__defaults__", ((0,),))
    path = str(*project.batch.glob("submissions/*.tasks.json"))
    with monkeypatch.context() as in_job:
        in_job.setenv("SLURM_JOB_ID", job)
        stopped = worker.Worker(path, task_files.read(path), lambda *_: "", lambda *_: None)
        assert stopped._hand_over() is None
        assert stopped.is_refused is not is_lost
    assert message in capsys.readouterr().out
    records = journal.read_records(str(*project.batch.glob(f"submissions/*.{job}-0.jsonl")))
    assert ("refused" in [record["kind"] for record in records]) is not is_lost
    assert counts(project) == ({"unknown": 4} if is_lost else {"new": 4})
    fake_slurm.clear_faults()
    assert counts(project) == ({"pending": 4} if is_lost else {"new": 4})
    assert project.submit("-r", project.batch, "-y") == 0  # submits another worker only if there is no successor
    assert len(fake_slurm.jobs("PENDING")) == 1
    fake_slurm.run_all()
    assert (counts(project), project.executed()) == ({"done": 4}, [1] * 4)


def test_rejected_successor_is_a_timeout_with_the_message_of_sbatch(project: Project, fake_slurm: FakeSlurm) -> None:
    one_run(project)
    project.submit(project.spec, "-s", script(project), "-y")
    fake_slurm.reject("invalid_partition")
    run_out_of_time(project, fake_slurm, 1)
    state = only_run(project).state
    assert state.name == "timeout"
    assert "no other job could be submitted: " in state.why
    assert "invalid partition" in state.why


def test_exit_status_requests_a_requeue_without_slurm_commands(project: Project, fake_slurm: FakeSlurm) -> None:
    """In a container, say."""
    one_run(project)
    path = Path(script(project))
    path.write_text(path.read_text().replace("exec", "PATH=/nowhere exec"))
    project.submit(project.spec, "-s", str(path), "-y")
    run_out_of_time(project, fake_slurm, 1)  # and its exit status is 75
    state = only_run(project).state
    assert (state.name, state.why) == ("timeout", "time limit near; scontrol is not on the PATH; and no other job "
                                       "could be submitted: sbatch is not on the PATH")


def test_external_program_is_signalled_and_requeued_after_exit_status_75(project: Project,
                                                                         fake_slurm: FakeSlurm) -> None:
    (project.folder / "mine.py").write_text(FOREIGN)
    project.spec.write_text(f"job_details: {{name: tiny, output_dir: re sults, command: '{sys.executable} mine.py "
                            "{folder}'}\nparameters: {a: 1}\n")
    project.submit(project.spec, "-s", script(project, "--requeue"), "-y")
    job, = only_run(project).slurm_jobs
    steps = project.runs()[0] / "steps"
    for start in (1, 2):
        fake_slurm.start(job)
        wait_for(lambda start=start: steps.exists() and len(steps.read_text().split()) == start)
        fake_slurm.signal(job)
        wait_for(lambda start=start: fake_slurm.job(job)["Restarts"] == str(start))
        assert counts(project) == {"pending": 1}
        assert only_run(project).state.why == f"continues (start {start + 1})"
    fake_slurm.run_all()
    assert (counts(project), project.executed()) == ({"done": 1}, [1])
    assert len(fake_slurm.jobs()) == 1


def start_until_all_are_warned(project: Project, fake: FakeSlurm, job: str, start: int) -> None:
    """Start a job, and warn it once each run has begun for the start-th time."""
    fake.start(job)
    wait_for(lambda: all((run / "steps").exists() and len((run / "steps").read_text().split()) == start
                         for run in project.runs()))
    fake.signal(job)


def test_worker_passes_saved_runs_to_its_successor(project: Project, fake_slurm: FakeSlurm) -> None:
    project.write_spec("16")
    project.submit(project.spec, "-s", script(project), "-y", "--workers", "1", "--slots", "2")
    for start in (1, 2):
        job, = fake_slurm.jobs("PENDING")
        start_until_all_are_warned(project, fake_slurm, job, start)
        fake_slurm.wait(job)
        assert counts(project) == {"pending": 2}
    fake_slurm.run_all()
    assert (counts(project), project.executed()) == ({"done": 2}, [1, 1])
    assert len(fake_slurm.jobs()) == 3


def test_worker_whose_successor_is_refused_is_requeued(project: Project, fake_slurm: FakeSlurm) -> None:
    """The limit on submitted jobs counts the worker's own job, which has to end first."""
    fake_slurm.set(MaxSubmitJobs=1)
    project.write_spec("16")
    project.submit(project.spec, "-s", script(project, "--requeue"), "-y", "--workers", "1", "--slots", "2")
    job, = fake_slurm.jobs("PENDING")
    output, message = project.batch / "submissions" / f"{job}.out", f"Slurm job {job} is requeued and runs the rest"
    for start in (1, 2):
        start_until_all_are_warned(project, fake_slurm, job, start)
        wait_for(lambda start=start: output.read_text().count(message) == start)
        wait_for(lambda start=start: fake_slurm.job(job)["Restarts"] == str(start))
        assert counts(project) == {"pending": 2}
    assert "no other Slurm job was submitted for the rest: sbatch: error: AssocMaxSubmitJobLimit" in output.read_text()
    fake_slurm.run_all()
    assert (counts(project), project.executed()) == ({"done": 2}, [1, 1])
    assert len(fake_slurm.jobs()) == 1


def test_worker_that_can_neither_be_succeeded_nor_requeued_says_what_to_type(project: Project,
                                                                             fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(MaxSubmitJobs=1)
    project.write_spec("16")
    project.submit(project.spec, "-s", script(project), "-y", "--workers", "1", "--slots", "2")
    job, = fake_slurm.jobs("PENDING")
    start_until_all_are_warned(project, fake_slurm, job, 1)
    fake_slurm.wait(job)
    output = (project.batch / "submissions" / f"{job}.out").read_text()
    assert "nothing runs the rest: Requested operation is presently disabled" in output
    assert f"`{retry_command(os.path.realpath(project.batch))}` submits it" in output
    assert project.submit("-r", project.batch, "-y") == 0
    job, = fake_slurm.jobs("PENDING")
    fake_slurm.set(MaxSubmitJobs="")
    start_until_all_are_warned(project, fake_slurm, job, 2)
    fake_slurm.wait(job)
    fake_slurm.run_all()
    assert (counts(project), project.executed()) == ({"done": 2}, [1, 1])


def test_run_that_saves_while_its_worker_is_warned_gets_one_successor(project: Project, fake_slurm: FakeSlurm,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has just saved its state may be started, but the worker submits a successor for it at its end."""
    project.submit(project.spec, "-s", script(project), "-y", "--workers", "1", "--max-runs", "1")
    run, = project.runs()
    (run / "claim-1").write_text("{}")
    (run / "attempt-1-0.json").write_text('{"how": "requeued"}')
    path = str(*project.batch.glob("submissions/*.tasks.json"))
    monkeypatch.setenv("SLURM_JOB_ID", fake_slurm.jobs()[0])
    assert requeue.submit_successor(path, task_files.read(path), [run.name]) is None
    assert requeue.submit_successor(path, task_files.read(path), [run.name], is_last=True) == fake_slurm.jobs()[1]


@pytest.mark.usefixtures("slurm")
def test_successor_continues_on_a_real_slurm(project: Project, slurm: Slurm) -> None:
    project.write_spec("16")
    options = ["-s", script(project, "--no-requeue --time=2"), "--sbatch", "signal=B:USR1@110"]  # of a script: a fifth
    assert project.submit(project.spec, *options, "-y") == 0
    wait_for(lambda: counts(project) == {"done": 2}, 180)
    assert project.executed() == [1, 1]
    for run in project.runs():
        assert len(set((run / "steps").read_text().split())) == 3
        assert {path.name for path in run.glob("attempt*")} == {f"attempt-1-{number}.json" for number in range(3)}


def test_preempted_run_continues_on_a_real_slurm(project: Project, slurm: Slurm) -> None:
    """PreemptMode=CANCEL, and sbatch was told no-requeue: another Slurm job goes on."""
    slurm.run("scontrol", "create", "partitionname=scavenge", "nodes=ALL", "prioritytier=1", "preemptmode=cancel")
    project.write_spec("18")
    project.spec.write_text(project.spec.read_text().replace("[0.1, 1]", "1"))
    options = "--no-requeue --partition=scavenge --nodelist=node4 --cpus-per-task=8"
    try:
        assert project.submit(project.spec, "-s", script(project, options), "-y") == 0
        wait_for(lambda: list(project.runs()[0].glob("attempt-1-0.json")) != [])
        higher = slurm.run("sbatch", "--parsable", "--partition=owner", "--nodelist=node4", "--cpus-per-task=8",
                           "--mem=100", "--output=/dev/null", "--wrap=true", cwd=project.folder)
        assert slurm.wait(higher) == "COMPLETED"
        wait_for(lambda: list(project.runs()[0].glob("attempt-1-1.json")) != [])
        (project.batch / "go").touch()
        wait_for(lambda: counts(project) == {"done": 1})
    finally:
        subprocess.run(["scontrol", "delete", "partitionname=scavenge"], check=False)  # in use if the test failed
    assert project.executed() == [1]
    first, second = (json.loads((project.runs()[0] / f"attempt-1-{number}.json").read_text()) for number in (0, 1))
    assert (first["how"], second["how"]) == ("requeued", "completed")
    assert first["slurm_job"] != second["slurm_job"]
