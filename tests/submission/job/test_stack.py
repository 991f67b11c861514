"""Stacks in workers: each run has its claim, attempt and end, and a fault of one member ends no other run."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import experiments
from src.submission.batch import task_files
from src.submission.batch.task_files import Tasks
from src.submission.status.observe import observe
from tests.submission.conftest import Project
from tests.submission.job.test_worker import wait_for

JOB_SPEC = """\
job_details: {{name: tiny, output_dir: re sults{details}}}
parameters:
  batch_size: 8
  seed_model: {seeds}
  momentum: {momentum}
"""


def write_grid(project: Project, seeds: str, momentum: str = "0.9", details: str = "") -> None:
    project.spec.write_text(JOB_SPEC.format(seeds=seeds, momentum=momentum, details=details))


def states_of(project: Project) -> list[str]:
    return [run.state.name for run in observe([str(project.batch)])[0].runs.values()]


def executed(project: Project) -> list[list[str]]:
    """The record of each run: `stacked`, or `once` by itself."""
    return [(run / "executed").read_text().splitlines() if (run / "executed").exists() else []
            for run in project.runs()]


def stacks(project: Project) -> list[str]:
    """The numbers of the members of each stack that was trained."""
    path = project.batch / "stacks"
    return path.read_text().splitlines() if path.exists() else []


def log_of(run: Path) -> str:
    return (run / "local.out").read_text()


def start_worker(project: Project, count: int, **arguments: object) -> subprocess.Popen[bytes]:
    """Start one worker for the first runs of the batch, in one stack, as Slurm job 12 or by `environment`."""
    names = [run.name for run in project.runs()][:count]
    path = project.batch / "submissions" / "1-a.tasks.json"
    task_files.write(str(path), Tasks(task_files.WORKER, str(project.batch), dict.fromkeys(names, 1),
                                      stacks=[list(range(count))]))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    return subprocess.Popen([sys.executable, "train.py", str(path)], cwd=project.folder,
                            env={**environment, **arguments})  # type: ignore[dict-item]


def test_members_are_recorded_as_runs_of_their_own(project: Project) -> None:
    write_grid(project, "[10, 11, 12, 2]")
    assert project.submit(project.spec, "--local", "--workers", "1", "--stack", "auto", "-y") == 0
    assert stacks(project) == ["000 001 002 003"]
    assert executed(project) == [["stacked"]] * 4
    assert states_of(project) == ["done"] * 3 + ["diverged"]
    records = [json.loads((run / "attempt-1-0.json").read_text()) for run in project.runs()]
    assert [record["how"] for record in records] == ["completed"] * 3 + ["diverged"]
    assert len({record["who"]["pid"] for record in records}) == 1
    assert [(run / "claim-1").exists() for run in project.runs()] == [True] * 4
    first, second, *_ = map(log_of, project.runs())
    note = "trained in a stack of 4; its output is in the log of its first run that has not ended\n"
    assert first.startswith(f"{note}member 000_") and second.startswith(f"{note}member 001_")


def test_size_limits_a_stack_and_the_rest_are_stacked_next(project: Project) -> None:
    write_grid(project, "[10, 11, 12, 13, 14]", "0.2")  # it chooses two at once
    assert project.submit(project.spec, "--local", "--workers", "1", "--stack", "auto", "-y") == 0
    assert stacks(project) == ["000 001", "002 003"]
    assert executed(project) == [["stacked"]] * 4 + [["once"]]
    assert set(states_of(project)) == {"done"}


def test_runs_that_are_faster_alone_run_alone_with_the_reason_in_their_logs(project: Project) -> None:
    write_grid(project, "[10, 11]", "0.1")
    assert project.submit(project.spec, "--local", "--workers", "1", "--stack", "auto", "-y") == 0
    assert stacks(project) == []
    assert executed(project) == [["once"]] * 2
    assert log_of(project.runs()[0]).startswith("trained alone, not in a stack: single runs are faster\n")
    log, = (project.batch / "submissions").glob("*.workers.log")
    assert log.read_text() == "2 runs of a stack train one by one: single runs are faster\n"


def test_kill_while_measuring_leaves_single_runs(project: Project) -> None:
    write_grid(project, "[10, 11]", "0.3")
    assert project.submit(project.spec, "--local", "--workers", "1", "--stack", "auto", "-y") == 0
    assert executed(project) == [["once"]] * 2
    assert "killed by signal 9" in log_of(project.runs()[0])


def test_fault_of_a_member_ends_no_other(project: Project) -> None:
    write_grid(project, "[10, 1, 11, 7, 12]")
    assert project.submit(project.spec, "--local", "--workers", "1", "--stack", "auto", "-y") == 1
    assert states_of(project) == ["done", "failed", "done", "failed", "done"]
    failed, wrong = project.runs()[1], project.runs()[3]
    assert json.loads((failed / "attempt-1-0.json").read_text())["error"] == "RuntimeError: unlucky member"
    assert "RuntimeError: unlucky member" in log_of(failed)
    assert "unlucky" not in log_of(project.runs()[0])
    assert log_of(wrong).endswith("error: seed_model: wrong\n")


def test_member_that_no_stack_ends_runs_alone(project: Project) -> None:
    write_grid(project, "[10, 3, 11]")
    assert project.submit(project.spec, "--local", "--workers", "1", "--stack", "auto", "-y") == 0
    assert executed(project) == [["stacked"], ["once"], ["stacked"]]
    assert set(states_of(project)) == {"done"}


def test_members_of_a_stack_that_fails_as_a_whole_run_alone(project: Project) -> None:
    write_grid(project, "[10, 4, 11]")
    assert project.submit(project.spec, "--local", "--workers", "1", "--stack", "auto", "-y") == 0
    assert executed(project) == [["stacked"], ["once"], ["once"]]
    assert "RuntimeError: the stack fails" in log_of(project.runs()[1])
    assert set(states_of(project)) == {"done"}


def test_killed_stack_fails_its_members_and_retry_repeats_only_those(project: Project) -> None:
    write_grid(project, "[10, 6, 11]")
    assert project.submit(project.spec, "--local", "--workers", "1", "--stack", "auto", "-y") == 1
    assert states_of(project) == ["done", "failed", "failed"]
    for run in project.runs()[1:]:
        assert "killed by signal 9" in json.loads((run / "attempt-1-0.json").read_text())["error"]
    spec = project.runs()[1] / "spec.yaml"
    spec.write_text(spec.read_text().replace("seed_model: 6", "seed_model: 10"))
    assert project.submit("-r", project.batch, "-y") == 0  # --stack auto is repeated too
    assert stacks(project)[1:] == ["001 002"]
    assert set(states_of(project)) == {"done"}


def test_run_that_somebody_else_has_is_left_out(project: Project) -> None:
    write_grid(project, "[10, 11, 12]")
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    taken = project.runs()[1]
    identity = {"host": "elsewhere", "boot_id": "b", "pid_space": "p", "pid": 1, "pid_start": 1, "slurm_job": None,
                "restart": 0, "time": 1}
    (taken / "claim-1").write_text(json.dumps(identity))
    assert start_worker(project, 3).wait(60) == 0
    assert stacks(project) == ["000 002"]
    assert [path.name for path in taken.iterdir() if path.name.startswith("attempt")] == []


def test_broken_member_is_left_out_and_reported_once(project: Project) -> None:
    write_grid(project, "[10, 11, 12]")
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    (project.runs()[0] / "spec.yaml").write_text("")
    (project.runs()[2] / "spec.yaml").unlink()
    assert start_worker(project, 3).wait(60) == 1
    assert executed(project) == [[], ["once"], []]
    assert log_of(project.runs()[0]).count("this spec is empty") == 1
    assert log_of(project.runs()[2]).count("this spec, or its run folder, is missing") == 1


def test_two_workers_train_each_run_once(project: Project) -> None:
    write_grid(project, "range(10, 30)", "0.2")
    assert project.submit(project.spec, "--local", "--workers", "2", "--slots", "2", "--stack", "7", "-y") == 0
    assert list(map(len, executed(project))) == [1] * 20
    assert all(len(stack.split()) == 2 for stack in stacks(project))
    assert set(states_of(project)) == {"done"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_stop_saves_all_members_and_the_next_start_continues(project: Project, number: signal.Signals) -> None:
    write_grid(project, "[10, 5, 11]")
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    worker = start_worker(project, 3, SLURM_JOB_ID="12")
    wait_for((project.runs()[0] / "done").exists)
    worker.send_signal(number)
    assert worker.wait(30) == (1 if number == signal.SIGTERM else 0)
    records = [json.loads((run / "attempt-1-0.json").read_text()) for run in project.runs()]
    how = "cancelled" if number == signal.SIGTERM else "requeued"
    assert [record["how"] for record in records] == ["completed", how, how]
    assert [(run / "saved").exists() for run in project.runs()] == [True] * 3
    # Slurm restarts the job: the members continue together
    assert start_worker(project, 3, SLURM_JOB_ID="12", SLURM_RESTART_COUNT="1").wait(30) == 0
    assert stacks(project) == ["000 001 002", "001 002"]
    assert executed(project) == [["stacked"]] * 3
    assert (project.runs()[1] / "attempt-1-1.json").exists()


def test_warned_stack_is_continued_by_a_successor_of_any_slurm_job(project: Project) -> None:
    write_grid(project, "[10, 5, 11]")
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    worker = start_worker(project, 3, SLURM_JOB_ID="12")
    wait_for((project.runs()[0] / "done").exists)
    worker.send_signal(signal.SIGUSR1)
    assert worker.wait(30) == 0
    assert start_worker(project, 3, SLURM_JOB_ID="13").wait(30) == 0
    assert executed(project) == [["stacked"]] * 3


def test_stacks_wait_for_their_canary(project: Project) -> None:
    write_grid(project, "[10, 11]")
    assert project.submit(project.spec, "--local", "--workers", "1", "--stack", "auto", "--canary", "-y") == 0
    assert len(list(project.batch.glob("canary/*/done"))) == 1
    assert stacks(project) == ["000 001"]


def test_extension_is_stacked_with_its_new_points(project: Project) -> None:
    write_grid(project, "[10, 11]", details=", stack: auto")
    assert project.submit(project.spec, "--local", "--workers", "1", "-y") == 0
    write_grid(project, "[10, 11, 12, 13]", details=", stack: auto")
    assert project.submit(project.spec, "--local", "--workers", "1", "--extend", "-y") == 0
    assert stacks(project) == ["000 001", "002 003"]


def test_train_py_without_stacks_trains_single_runs(project: Project) -> None:
    """As that of a project that was forked before there were stacks."""
    entry = project.folder / "train.py"
    text = entry.read_text()
    entry.write_text(text[:text.rindex(", run_stack=")] + "))\n")
    write_grid(project, "[10, 11]")
    assert project.submit(project.spec, "--local", "--workers", "1", "--stack", "auto", "-y") == 0
    assert executed(project) == [["once"]] * 2


def test_stack_continues_if_its_worker_is_killed(project: Project) -> None:
    write_grid(project, "[10, 5, 11]")
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    worker = start_worker(project, 3)
    wait_for((project.runs()[0] / "done").exists)
    worker.kill()
    worker.wait()
    (project.runs()[1] / "saved").touch()  # it need not wait any longer
    wait_for(lambda: all((run / "done").exists() for run in project.runs()))
    assert executed(project) == [["stacked"]] * 3


def test_cancel_of_one_member_is_refused_and_of_the_batch_saves_all(
        project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    write_grid(project, "[10, 5, 11]")
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    worker = start_worker(project, 3)
    wait_for((project.runs()[0] / "done").exists)
    assert experiments.main(["cancel", "-y", str(project.runs()[1])]) == 2
    assert "the process of this run trains a stack that has 1 other run too" in capsys.readouterr().err
    worker.kill()  # the stack continues
    worker.wait()
    assert experiments.main(["cancel", "-y", str(project.batch)]) == 0
    wait_for(lambda: set(states_of(project)) == {"done", "cancelled"})
    assert [(run / "saved").exists() for run in project.runs()] == [True] * 3


def test_retried_member_supersedes_the_one_in_a_stack(project: Project) -> None:
    """A later ticket of one member takes it out of the stack; the others continue."""
    write_grid(project, "[5, 10, 11]")
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    worker = start_worker(project, 3)
    wait_for((project.batch / "stacks").exists)
    run = project.runs()[1]
    record = {"ticket": 2, "number": 0, "who": {}, "start": time.time(), "end": None, "how": None, "error": None}
    (run / "claim-2").write_text("{}")
    (run / "attempt-2-0.json").write_text(json.dumps(record))
    (project.runs()[0] / "saved").touch()
    assert worker.wait(30) == 0
    assert executed(project) == [["stacked"], [], ["stacked"]]
    assert not (run / "done").exists()
    assert "a later attempt has taken over" in log_of(run)
