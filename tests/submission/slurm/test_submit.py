"""Calls of sbatch: validation, limits, and how extra options are appended to those of the script."""
from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import JobSpecError, SlurmError
from src.submission.batch.journal import SLURM, Journal, read_history
from src.submission.batch.task_files import WorkerGroup
from src.submission.slurm import client, queue_limits, script_options, submit
from src.submission.slurm.circuit_breaker import CircuitBreaker
from src.submission.slurm.client import SbatchError
from src.submission.slurm.queue_limits import QueueLimiter
from src.submission.slurm.submit import SlurmOptions, SubmissionContext

NAMES = ["000_a", "001_a", "002_a"]


def submission_of(batch: Path, options: SlurmOptions | None = None) -> submit.Submission:
    specs = {name: {"SBATCH": {"mem": "9G"}} if name == "002_a" else {} for name in NAMES}
    options = options or SlurmOptions("/s.sh", script_text="#!/bin/bash\n")
    return submit.plan_single_jobs(dict.fromkeys(NAMES, 1), specs, options, SubmissionContext(str(batch), "t", "/p"))


def test_names_of_arrays_and_workers_begin_with_the_name_of_the_batch() -> None:
    """squeue prints eight characters of a name."""
    options, specs = SlurmOptions("/s.sh", script_text="#!/bin/bash\n"), {name: {} for name in NAMES}

    def job_names(batch: str) -> list[str]:
        context, tickets = SubmissionContext(f"/r/{batch}", "t", "/p"), dict.fromkeys(NAMES, 1)
        calls = (submit.plan_arrays(tickets, specs, options, context, 10, None).calls +
                 submit.plan_workers([WorkerGroup("", 1, tickets)], specs, options, context, 1, {}).calls)
        return [word.removeprefix("--job-name=") for call in calls for word in call.command if "--job-name=" in word]

    assert job_names("26-11-20-lenet-lr") == ["lenet-lr-26-11-20", "lenet-lr-worker-26-11-20"]
    assert job_names("renamed") == ["renamed", "renamed-worker"]


def test_each_set_of_options_is_validated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[str, str | None]] = []
    monkeypatch.setattr(client, "validate", lambda command, text: tried.append((command[-3], text)) or
                        client.Validation("2026-01-02T03:04:05"))
    options = SlurmOptions("/s.sh", script_text="#!/bin/bash\n#SBATCH --time=5 -c2\n")
    submission = submission_of(tmp_path, options)
    assert submit.validate_calls(submission.calls, options) == [
        "starts     2026-01-02 03:04:05 (000_a and 1 more) (Slurm's estimate)",
        "starts     2026-01-02 03:04:05 (002_a) (Slurm's estimate)"]
    assert [text for _, text in tried] == [options.script_text] * 2
    assert tried[1][0] == "--mem=9G"
    assert submit.requested_options(submission.calls[2], options) | {"comment": ""} == {
        "time": "5", "cpus-per-task": "2", "mem": "9G", "parsable": "", "chdir": "/p", "job-name": "002_a",
        "output": f"{tmp_path}/002_a/%j.out", "comment": ""}


@pytest.mark.parametrize(("line", "point", "options"), [
    ("--nodes=1 --exclude=node1", {}, ["--exclude=node1,node2"]), ("-x node1", {}, ["--exclude=node1,node2"]),
    ("--nodes=1", {}, ["--exclude=node2"]), ("-x node1", {"exclude": "node3"}, ["--exclude=node3,node2"]),
    ("-x node1", {"exclude": None}, ["--exclude=node2"])])
def test_extra_options_are_appended_to_the_requested_ones(line: str, point: dict[str, str | None],
                                                          options: list[str]) -> None:
    slurm_options = SlurmOptions("/s.sh", script_text=f"#!/bin/bash\n#SBATCH {line}\n", extra={"exclude": "node2"})
    assert slurm_options.resolve({"SBATCH": point}) == ("/s.sh", options)


def test_dependency_of_a_run_is_added_to_that_of_the_submission() -> None:
    options = SlurmOptions("/s.sh", script_text="#!/bin/bash\n#SBATCH -d singleton\n", extra={"dependency": "after:1"},
                           dependencies={"000_a": "afterok:2"})
    assert options.resolve({}, "000_a")[1] == ["--dependency=singleton,after:1,afterok:2", "--kill-on-invalid-dep=yes"]
    assert options.resolve({}, "001_a")[1] == ["--dependency=singleton,after:1"]


@pytest.mark.parametrize(("line", "point", "message"), [
    ("--nodes=1 --array=0-2", {}, r"s\.sh, line 3: a submit script cannot have the option --array; delete it; --ar"),
    ("-W", {}, r"line 3: a submit script cannot have the option --wait; delete it; `python experiments.py wait BATCH`"),
    ("--mem 4G", {"mem": None}, r"line 3: mem is null, which cannot remove --mem=4G of the script: .*; delete it"),
    ("--gres=gpu:1", {"gres": None}, r"line 3: gres is null, which cannot remove --gres=gpu:1 of the script"),
    ("--requeue", {"requeue": False}, "requeue is false, which cannot remove --requeue of the script"),
    ("--gres=gpu:1", {"gpus": 2}, r"line 3: gpus=2 and --gres=gpu:1 of the script .*--sbatch gres=gpu:2, or del"),
    ("-G a100:1", {"gres": "gpu:2"}, "gres=gpu:2 and --gpus=a100:1 of the script both .*--sbatch gpus=2, or delete")])
def test_option_of_a_script_that_would_stay_is_refused_with_its_line(line: str, point: dict[str, object], message: str,
                                                                     tmp_path: Path) -> None:
    (tmp_path / "s.sh").write_text(f"#!/bin/bash\n\n#SBATCH {line}\n")
    with pytest.raises(JobSpecError, match=message):
        SlurmOptions(str(tmp_path / "s.sh"), batch=point).resolve({})


def test_null_over_generated_resources_refers_to_them() -> None:
    options = SlurmOptions("/b/s.sh", {"mem": None}, script_text="#!/bin/bash\n#SBATCH --mem=8G\n")
    with pytest.raises(JobSpecError, match=r"job_details.resources: mem is null, .*; set `mem: null` there"):
        options.resolve({})


def test_options_that_the_submission_overrides_are_noted() -> None:
    text = "#!/bin/bash\n#SBATCH -J mine -p x\n#SBATCH --output=a.txt --parsable -d after:1\n"
    assert script_options.notes(text) == [
        "line 2, --job-name=mine, is overridden: the job has the name of its run",
        "line 3, --output=a.txt, is overridden: the output is in the run's folder"]


@pytest.mark.parametrize(("line", "point", "signal"), [
    ("--time=2 --signal=B:USR1@180", {}, ["--signal=B:USR1@24"]),  # a fifth
    ("--time=2-0 --signal=B:USR1@180", {"time": "00:10:00"}, ["--time=00:10:00", "--signal=B:USR1@120"]),
    ("--time=2 --signal=USR1", {}, ["--signal=USR1@24"]),  # a minute, by Slurm's default
    ("--time=15 --signal=B:USR1@180", {}, []), ("--signal=B:USR1@180", {}, []), ("--time=2", {}, []),
    ("--time=2 --signal=B:USR1@180", {"signal": "B:USR1@100"}, ["--signal=B:USR1@100"]),
    ("--time=0 --signal=B:USR1@180", {}, [])])
def test_signal_of_the_script_is_sent_at_most_a_fifth_of_the_time_limit_early(
        line: str, point: dict[str, str], signal: list[str]) -> None:
    options = SlurmOptions("/s.sh", script_text=f"#!/bin/bash\n#SBATCH {line}\n")
    assert options.resolve({"SBATCH": point}) == ("/s.sh", signal)


@pytest.mark.parametrize(("time", "signal", "lines"), [
    ("2", "B:USR1@24", ["line 2, --signal=B:USR1@180, becomes --signal=B:USR1@24: a fifth of the time limit of 2:00",
                        "warning: of the time limit of 2:00, runs may train for 0:36, since Slurm sends "
                        "--signal=B:USR1@24 up to a minute early; with more than 7:30, less than a third is lost"]),
    ("10", "B:USR1@120", ["line 2, --signal=B:USR1@180, becomes --signal=B:USR1@120: a fifth of the time limit of "
                          "10:00"]),
    ("10", "B:USR1@500", ["warning: of the time limit of 10:00, runs may train for 0:40, since Slurm sends "
                          "--signal=B:USR1@500 up to a minute early; with more than 28:00, less than a third is "
                          "lost"]),
    ("60", "B:USR1@180", []), ("", "B:USR1@180", []), ("2", "", [])])
def test_plan_notes_a_scaled_signal_and_warns_if_a_third_of_the_time_is_lost(time: str, signal: str,
                                                                           lines: list[str]) -> None:
    text = "#!/bin/bash\n#SBATCH --signal=B:USR1@180\n"
    assert script_options.signal_notes(text, {"time": time, "signal": signal}) == lines
    # a program of the user's own may run to its end
    assert script_options.signal_notes(text, {"time": time, "signal": signal}, is_external=True) == [
        line for line in lines if not line.startswith("warning")]


@pytest.fixture
def book(tmp_path: Path) -> Journal:
    (tmp_path / "submissions").mkdir()
    book = Journal(str(tmp_path), "t")
    book.record_plan(SLURM, dict.fromkeys(NAMES, 1))
    return book


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replies of sbatch, in order: a job id, or the message of a limit."""
    limit = "QOSMaxSubmitJobPerUserLimit"
    replies = ["1", limit, limit, "2", limit, "3"]

    def answer(*_: object) -> str:
        message = replies.pop(0)
        if message.isdecimal():
            return message
        raise SbatchError("limit", message)

    monkeypatch.setattr(client, "submit_with_retries", answer)
    return replies


def test_with_wait_submission_continues_below_the_limit(tmp_path: Path, book: Journal, answers: list[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(queue_limits.time, "sleep", pauses.append)
    jobs = submit.submit_all(submission_of(tmp_path), book, "again",
                             QueueLimiter(str(tmp_path), None, True), CircuitBreaker(str(tmp_path), 5))
    assert list(jobs) == ["1", "2", "3"]
    assert pauses == [30, 30, 30]
    tickets = read_history(str(tmp_path)).tickets
    assert [ticket.slurm_jobs for ticket in tickets.values()] == [["1"], ["2"], ["3"]]


def test_without_wait_a_limit_is_an_error_with_the_number_submitted(tmp_path: Path, book: Journal,
                                                                    answers: list[str]) -> None:
    jobs = submit.submit_all(submission_of(tmp_path), book, "again",
                             QueueLimiter(str(tmp_path), None, False), CircuitBreaker(str(tmp_path), 5))
    assert next(jobs) == "1"
    with pytest.raises(SlurmError, match=r"1 of 3 submitted, stopped at 001_a: sbatch: QOSMax.*`again` continues"):
        next(jobs)
