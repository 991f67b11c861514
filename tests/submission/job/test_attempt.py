"""Attempts: which process may start a run, what is recorded, and what each way to end leaves behind."""
from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from src import run_folder
from src.errors import BatchError, ConfigError
from src.io import yaml_io
from src.run_folder import RunFolder
from src.submission.batch import claims, heartbeat
from src.submission.job import attempt, external_program, ranks
from src.submission.slurm import client
from src.submission.system import process
from src.submission.system.signals import Stopped, signals
from tests.conftest import ROOT


def train(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
    check()
    if folder:
        with open(os.path.join(folder, "executed"), "a") as file:
            file.write("once\n")
    return "completed"


def requeue(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
    return "requeued"


def stopped(*_: Any, number: int = signal.SIGTERM) -> str:
    raise Stopped(number)


def crash(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
    raise ZeroDivisionError("first\nsecond")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith("SLURM_") or name == "GRIDIRON_TICKET":
            monkeypatch.delenv(name)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handlers
    folder = tmp_path / "batch" / "000_x"
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text("batch_size: 8\n")
    return folder


def start(run: Path, how: attempt.Train = train, ticket: int | None = None, owns_job: bool = True) -> int | None:
    return attempt.run_spec(str(run / "spec.yaml"), how, ticket, owns_job=owns_job)


def as_slurm_job(monkeypatch: pytest.MonkeyPatch, job: str, restart: int = 0) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))


def record(run: Path, name: str = "attempt-1-0.json") -> dict[str, Any]:
    return json.loads((run / name).read_text())


@pytest.fixture
def late_listing() -> Iterator[Callable[[], None]]:
    """A function from whose call on, as on NFS, a folder is listed from a cache until this host changes it."""
    listings: dict[str, list[str]] = {}
    list_folder = os.listdir

    def late(path: str) -> list[str]:
        if any(name.endswith(".tmp") for name in list_folder(path)):
            listings.pop(path, None)
        return list(listings.setdefault(path, list_folder(path)))

    with pytest.MonkeyPatch.context() as patch:
        yield lambda: patch.setattr(os, "listdir", late)


def test_superseded_attempt_that_sees_the_later_one_late_does_not_end_the_run(
        run: Path, late_listing: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    def superseded(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
        late_listing()
        check()
        (run / "attempt-2-0.json").write_text("{}")  # on another host
        (run / "resume-0000000001.pt").touch()  # its checkpoint
        check()  # not seen yet
        return "completed"
    assert start(run, superseded) == 0
    assert "a later attempt has taken over this run" in capsys.readouterr().err
    assert not (run / "done").exists()
    assert (run / "resume-0000000001.pt").exists()
    assert record(run)["how"] is None


@pytest.mark.parametrize("error", [FileNotFoundError("resume-7.pt"), BatchError("rows are missing")])
def test_error_after_a_later_attempt_has_begun_is_none_of_this_attempt(
        run: Path, late_listing: Callable[[], None], capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    """The later attempt removes the files that the earlier one is about to use."""
    def superseded(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
        late_listing()
        check()
        (run / "attempt-2-0.json").write_text("{}")  # on another host
        raise error
    assert start(run, superseded) == 0
    assert capsys.readouterr().err == f"{run}: a later attempt has taken over this run; exiting\n"
    assert record(run)["how"] is None


def test_output_dir_of_a_spec_yaml_is_not_used_and_a_note_says_so(run: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    (run / "spec.yaml").write_text("batch_size: 8\noutput_dir: elsewhere\n")
    assert start(run) == 0
    note = f"spec.yaml: output_dir is not used, as a spec.yaml runs in its own folder, {run};"
    assert note in capsys.readouterr().out
    assert (run / "done").exists()


def test_run_is_claimed_recorded_and_done(run: Path) -> None:
    assert start(run) == 0
    assert {path.name for path in run.iterdir()} == {"attempt-1-0.json", "claim-1", "done", "executed", "spec.yaml"}
    assert (run / "done").read_text() == "completed\n"
    attempt_record = record(run)
    assert attempt_record["how"] == "completed"
    assert attempt_record["start"] <= attempt_record["end"]
    assert attempt_record["who"]["pid"] == os.getpid()


def test_done_run_is_not_started_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(run)
    assert start(run) is None
    assert "ended already (completed)" in capsys.readouterr().out
    assert (run / "executed").read_text() == "once\n"


def test_crash_is_recorded_on_one_line_and_the_run_can_be_restarted(run: Path) -> None:
    assert start(run, crash) == 1
    assert not (run / "done").exists()
    assert (record(run)["how"], record(run)["error"]) == ("failed", "ZeroDivisionError: first\\nsecond")
    assert start(run) == 0  # by hand: the last attempt has ended
    assert RunFolder.read(run).attempts == ((1, 0), (2, 0))


def test_user_error_is_recorded(run: Path) -> None:
    def refuse(*_: object) -> str:
        raise ConfigError("no such thing")
    with pytest.raises(ConfigError):
        start(run, refuse)
    assert record(run)["error"] == "no such thing"


def test_one_of_two_slurm_jobs_with_the_same_ticket_runs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_slurm_job(monkeypatch, "7")
    assert attempt.Attempt.begin(str(run), 4) is not None
    as_slurm_job(monkeypatch, "8")
    assert start(run, ticket=4) is None
    assert RunFolder.read(run).claims == (4,)
    assert not (run / "executed").exists()


def test_attempt_of_a_requeued_job_supersedes_the_earlier_one(
        run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_slurm_job(monkeypatch, "7")
    first = attempt.Attempt.begin(str(run))
    assert first is not None
    first.check_current()
    as_slurm_job(monkeypatch, "7", restart=1)
    assert start(run) == 0
    with pytest.raises(claims.Superseded):
        first.check_current()
    assert first.run({}, train) == 0  # it stops before it writes
    assert (run / "executed").read_text() == "once\n"
    assert record(run)["how"] is None


def test_late_job_leaves_the_run_to_a_later_ticket(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_slurm_job(monkeypatch, "8")
    later = attempt.Attempt.begin(str(run), 2)
    assert later is not None
    as_slurm_job(monkeypatch, "7")  # it was believed lost
    assert start(run, ticket=1) == 0
    assert not (run / "executed").exists()
    later.check_current()


def test_later_ticket_supersedes_a_running_job(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_slurm_job(monkeypatch, "7")
    early = attempt.Attempt.begin(str(run), 1)
    assert early is not None
    as_slurm_job(monkeypatch, "8")
    assert start(run, ticket=2) == 0
    with pytest.raises(claims.Superseded):
        early.check_current()
    assert (run / "executed").read_text() == "once\n"


def test_same_job_may_restart_a_run_only_after_its_attempt_ended(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_slurm_job(monkeypatch, "7")
    attempt.Attempt.begin(str(run))
    assert start(run) is None  # that attempt is this living process
    (run / "attempt-1-0.json").write_text(json.dumps({**record(run), "how": "failed"}))
    assert start(run) == 0


def test_start_by_hand_is_refused_while_running_and_allowed_when_dead(run: Path) -> None:
    attempt.Attempt.begin(str(run))
    with pytest.raises(BatchError, match=f"process {os.getpid()}"):
        start(run)
    dead = {**process.identity(), "pid_start": 1}
    (run / "claim-1").write_text(json.dumps(dead))
    (run / "attempt-1-0.json").write_text(json.dumps({**record(run), "who": dead}))
    assert start(run) == 0
    assert RunFolder.read(run).claims == (1, 2)


def test_start_by_hand_in_an_interactive_slurm_job(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_slurm_job(monkeypatch, "7")
    first = attempt.Attempt.begin(str(run), 1)
    assert first is not None
    as_slurm_job(monkeypatch, "8")
    monkeypatch.setattr(os, "isatty", lambda descriptor: True)
    with pytest.raises(BatchError, match="Slurm job 7 on"):
        start(run)
    first.fail("OSError")
    as_slurm_job(monkeypatch, "9")
    assert start(run, ticket=1) is None  # of the batch, late
    monkeypatch.setattr(os, "isatty", lambda descriptor: False)
    assert start(run) is None  # a submitted job of a site that does not pass the ticket on
    monkeypatch.setattr(os, "isatty", lambda descriptor: True)
    as_slurm_job(monkeypatch, "8")
    assert start(run, crash) == 1
    assert start(run) == 0
    assert RunFolder.read(run).attempts == ((1, 0), (2, 0), (2, 1))


def test_ticket_is_not_inherited_by_child_processes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def look(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
        seen.append(os.environ.get("GRIDIRON_TICKET"))  # a nested submission or an external program would inherit it
        return "completed"
    monkeypatch.setenv("GRIDIRON_TICKET", "4")
    as_slurm_job(monkeypatch, "7")
    assert attempt.main([str(run / "spec.yaml")], train=look, warm_up=lambda _: None) == 0
    assert RunFolder.read(run).claims == (4,)
    assert seen == [None]


def test_run_folder_deleted_while_queued_is_not_created_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run)
    assert attempt.main([str(run / "spec.yaml")], train=train, warm_up=lambda _: None) == 2
    error = capsys.readouterr().err
    assert "this spec, or its run folder, is missing: nothing is run" in error
    assert error.count("\n") == 1
    assert not run.exists()


def test_empty_spec_is_not_run_with_defaults(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "spec.yaml").write_text("")
    assert attempt.main([str(run / "spec.yaml")], train=train, warm_up=lambda _: None) == 2
    assert "empty" in capsys.readouterr().err
    assert os.listdir(run) == ["spec.yaml"]


@pytest.mark.parametrize("deleted", ["folder", "record"])
def test_run_folder_deleted_while_running_ends_the_run_with_an_error(
        deleted: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def lose_folder(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
        if deleted == "folder":
            shutil.rmtree(run)
        else:
            (run / "attempt-1-0.json").unlink()
        check()
        raise AssertionError("the check passed")
    assert start(run, lose_folder) == 1
    error = capsys.readouterr().err
    assert "deleted or moved; nothing more is written" in error
    assert "Traceback" not in error
    assert run.exists() == (deleted == "record")
    assert not (run / "done").exists()


def test_full_disk_is_reported(run: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def train_on(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
        full()
        return ""
    monkeypatch.setattr("src.io.files.atomic_writer", full)
    assert start(run, train_on) == 1
    assert record(run)["how"] == "failed"
    assert record(run)["error"].startswith("disk full: ")  # overwriting the record needs no new block
    assert "Make room, then" in capsys.readouterr().err
    monkeypatch.setattr("src.io.files.overwrite", full)
    assert start(run, train_on) == 1
    assert "No space left on device: the end of this attempt is not recorded (failed)" in capsys.readouterr().err


def test_done_is_not_written_by_a_superseded_attempt(run: Path) -> None:
    def create_later_attempt(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
        (run / "attempt-1-1.json").write_text("{}")
        return "completed"
    assert start(run, create_later_attempt) == 0
    assert not (run / "done").exists()


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, step: int = 0) -> None:
    for name, value in (("PROCID", rank), ("STEP_NUM_TASKS", 2), ("STEP_ID", step)):
        monkeypatch.setenv(f"SLURM_{name}", str(value))


def test_only_the_first_process_writes_records(
        run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_slurm_job(monkeypatch, "7")
    as_rank(monkeypatch, 0)
    first = attempt.Attempt.begin(str(run))
    assert first is not None
    before = record(run)
    as_rank(monkeypatch, 1)
    assert start(run) == 0
    assert (run / "executed").read_text() == "once\n"
    assert not (run / "done").exists()
    assert record(run) == before
    assert start(run, crash) == 1
    assert start(run, requeue) == 0  # on another code srun would end the first process, which requests another start
    assert record(run) == before


def test_first_failure_of_the_processes_is_recorded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_peer(spec: dict[str, Any], folder: str | None, check: Callable[[], None]) -> str:
        raise RuntimeError("Connection closed by peer")
    as_slurm_job(monkeypatch, "7")
    as_rank(monkeypatch, 0)
    first = attempt.Attempt.begin(str(run))
    assert first is not None
    as_rank(monkeypatch, 1)
    assert start(run, crash) == 1
    as_rank(monkeypatch, 0)
    assert first.run({}, lose_peer) == 1
    assert record(run)["error"] == f"process 1 on {os.uname().nodename}: ZeroDivisionError: first\\nsecond"


def test_start_ids_of_torchrun_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2"),
                        ("TORCHELASTIC_RUN_ID", "a/b"), ("MASTER_ADDR", "::1"), ("MASTER_PORT", "29500")):
        monkeypatch.setenv(name, value)
    earlier = ranks.start_id()
    assert re.fullmatch(r"[\w.-]+", earlier), "part of a file's name"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert ranks.start_id() != earlier


def test_other_processes_exit_if_the_first_begins_no_attempt(run: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    as_slurm_job(monkeypatch, "7")
    attempt.Attempt.begin(str(run))  # another Slurm job has it
    as_slurm_job(monkeypatch, "8")
    as_rank(monkeypatch, 0)
    assert start(run, ticket=1) is None
    as_rank(monkeypatch, 1)
    assert start(run, ticket=1) is None
    assert "the first of 2 processes did not start this run" in capsys.readouterr().out
    assert not (run / "executed").exists()


def test_other_processes_ignore_the_attempt_of_an_earlier_step(run: Path, monkeypatch: pytest.MonkeyPatch,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("src.submission.job.ranks.FOLLOW_TIMEOUT", 0.5)
    monkeypatch.setattr("src.submission.job.ranks._SILENCE", 0.1)
    as_slurm_job(monkeypatch, "7")
    as_rank(monkeypatch, 0)
    start(run, crash)
    as_rank(monkeypatch, 1)
    assert start(run) is None  # that attempt has ended
    as_rank(monkeypatch, 1, step=1)
    capsys.readouterr()
    with pytest.raises(BatchError, match="waited 0 minutes for the first process"):
        start(run)
    assert capsys.readouterr().out == (
        f"{run}: rank 1 of 2 processes waits for rank 0 to start the run, at most 0 minutes\n")


def test_several_ranks_require_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_rank(monkeypatch, 0)
    (tmp_path / "mine.yaml").write_text("batch_size: 8\n")
    with pytest.raises(BatchError, match="2 processes were started"):
        attempt.run_spec(str(tmp_path / "mine.yaml"), train)


def test_spec_without_output_dir_writes_nothing(tmp_path: Path) -> None:
    spec = tmp_path / "linear.yaml"
    spec.write_text("batch_size: 8\n")
    assert attempt.run_spec(str(spec), train) == 0
    assert list(tmp_path.iterdir()) == [spec]


def test_spec_with_output_dir_creates_its_run_folder_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = run.parent / "mine.yaml"
    monkeypatch.setenv("WHERE", str(run.parent))
    spec.write_text('batch_size: 8\noutput_dir: "$WHERE/mine"\n')
    assert attempt.run_spec(str(spec), train) == 0
    assert attempt.run_spec(str(spec), train) is None
    spec.write_text('batch_size: 16\noutput_dir: "$WHERE/mine"\n')
    with pytest.raises(BatchError, match="batch_size"):
        attempt.run_spec(str(spec), train)
    spec.write_text('output_dir: "$NO_SUCH_VARIABLE/mine"\n')
    with pytest.raises(ConfigError, match="variable"):
        attempt.run_spec(str(spec), train)


def test_folder_of_a_run_is_printed(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, printed in (("x.yaml", f"run folder {tmp_path / 'out'}\n"),
                          ("spec.yaml", f"a spec.yaml runs in its own folder, {tmp_path}; to use it, give the file "
                           "another name\n")):
        (tmp_path / name).write_text(f"batch_size: 8\noutput_dir: {tmp_path / 'out'}\n")
        assert attempt.run_spec(str(tmp_path / name), train) == 0
        assert capsys.readouterr().out.endswith(printed)
    start(run)
    assert capsys.readouterr().out == ""


def test_config_yaml_repeats_the_run_in_a_new_folder(run: Path) -> None:
    config = run / "config.yaml"
    config.write_text(yaml_io.dump_flat({"batch_size": 8, "output_dir": str(run), "facts": {"host": "x"}}))
    assert attempt.run_spec(str(config), train) == 0
    assert attempt.run_spec(str(config), train) == 0
    for number in (1, 2):
        repeat = run.parent / f"000_x-repeat-{number}"
        assert run_folder.read_spec(repeat / "spec.yaml") == {"batch_size": 8}
        assert (repeat / "done").exists()


@pytest.mark.parametrize(("numbers", "how", "error"), [
    ([signal.SIGTERM], "cancelled", "stopped by SIGTERM"), ([signal.SIGINT], "cancelled", "stopped by SIGINT"),
    ([signal.SIGUSR1, signal.SIGTERM], "timeout", "reached its time limit")])
def test_signals_end_the_run_with_a_record(run: Path, numbers: list[signal.Signals], how: str, error: str) -> None:
    (run / "spec.yaml").write_text("batch_size: 15\n")
    entry = Path(__file__).parents[1] / "entry.py"
    environment = {**os.environ, "GRIDIRON_TEST_ROOT": str(ROOT)}
    child = subprocess.Popen([sys.executable, "-u", entry, run / "spec.yaml"], env=environment, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()  # it is training
    for number in numbers:
        child.send_signal(number)
        if number == signal.SIGUSR1:
            assert "time limit" in child.stderr.readline()
    child.communicate(timeout=300)
    assert child.returncode == 1
    assert (record(run)["how"], record(run)["error"]) == (how, error)


def test_stop_after_the_end_is_ignored(tmp_path: Path) -> None:
    """Also while the resume checkpoints are removed, after `done` is written."""
    (tmp_path / "spec.yaml").write_text("batch_size: 8\n")
    (tmp_path / "resume-0000000001.pt").touch()
    stopping = """import os, signal, sys
from src import run_folder
from src.submission.batch import claims
from src.submission.job import attempt
remove = run_folder.remove_resume_checkpoints
def stopped(folder):
    os.kill(os.getpid(), signal.SIGTERM)
    return remove(folder)
run_folder.remove_resume_checkpoints = stopped
sys.exit(attempt.main(sys.argv[1:], lambda *_: "completed", lambda _: None))"""
    done = subprocess.run([sys.executable, "-c", stopping, tmp_path / "spec.yaml"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert record(tmp_path)["how"] == "completed"
    assert not list(tmp_path.glob("resume*"))


def test_invalid_spec_does_not_stop_the_others(run: Path, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("batchsize: 8\n")
    assert attempt.main([str(bad), str(run / "spec.yaml")], train=train, warm_up=lambda _: None) == 2
    assert (run / "done").exists()
    assert capsys.readouterr().err.startswith(f"error: {bad}: unknown parameter 'batchsize'")


def test_output_dir_that_cannot_be_created_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    spec = tmp_path / "x.yaml"
    spec.write_text(f"batch_size: 8\noutput_dir: {tmp_path}/file/run\n")
    assert attempt.main([str(spec)], train=train, warm_up=lambda _: None) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert attempt.main([], train=train, warm_up=lambda _: None) == 2
    assert attempt.main(["-h"], train=train, warm_up=lambda _: None) == 0
    assert "usage: python train.py [--fresh] SPEC" in capsys.readouterr().out
    assert attempt.main(["/no/such/spec.yaml"], train=train, warm_up=lambda _: None) == 2


def fake_requeue(monkeypatch: pytest.MonkeyPatch, refusal: str | None) -> list[str]:
    """Have each request to requeue a job answered with `refusal`. Return the list of requested jobs."""
    requested: list[str] = []
    monkeypatch.setattr("src.submission.slurm.client.requeue", lambda job: (requested.append(job), refusal)[1])
    return requested


def test_saved_run_is_requeued_after_its_end_is_recorded(run: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    requested: list[Any] = []
    monkeypatch.setattr("src.submission.slurm.client.requeue", lambda job: requested.append((job, record(run)["how"])))
    as_slurm_job(monkeypatch, "7")
    assert start(run, requeue) == 75
    assert requested == [("7", "requeued")]
    assert "Slurm job 7 is requeued" in capsys.readouterr().out
    as_slurm_job(monkeypatch, "7", restart=1)
    assert start(run) == 0
    assert RunFolder.read(run).attempts == ((1, 0), (1, 1))


def test_only_one_process_resumes_a_saved_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_requeue(monkeypatch, None)
    as_slurm_job(monkeypatch, "7")
    start(run, requeue)
    as_slurm_job(monkeypatch, "8")
    claimed = [claims.claim(str(run), 1, in_worker=False) for _ in range(2)]
    assert claimed == [(1, 1), (1, 1)]  # the process that creates that record has the run
    first = attempt.Attempt.begin(str(run), 1)
    assert first is not None
    monkeypatch.setattr(claims, "claim", lambda *_: (1, 1))
    as_slurm_job(monkeypatch, "9")
    assert attempt.Attempt.begin(str(run), 1) is None
    first.check_current()
    monkeypatch.undo()
    as_slurm_job(monkeypatch, "7", restart=1)  # requeued after all, but the successor has it
    assert start(run, ticket=1) is None
    first.check_current()


def test_run_without_a_successor_is_recorded_as_timeout_with_the_reason(run: Path, monkeypatch: pytest.MonkeyPatch,
                                                                        capsys: pytest.CaptureFixture[str]) -> None:
    fake_requeue(monkeypatch, "Requested operation is presently disabled for job 7")
    as_slurm_job(monkeypatch, "7")
    assert start(run, requeue) == 75  # a wrapper script may be able to do what Slurm refused here
    assert record(run)["how"] == "timeout"
    assert "presently disabled for job 7; and no other job could be submitted: " in record(run)["error"]
    assert "was not submitted by submit_multiple.py" in capsys.readouterr().err


@pytest.mark.parametrize(("refusal", "owns_job", "end"), [
    (None, True, ", back in the queue"), (None, False, ", continues in another worker"), ("disabled", True, None)])
def test_training_log_ends_in_the_saved_step_and_what_follows(refusal: str | None, owns_job: bool, end: str | None,
                                                              run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_requeue(monkeypatch, refusal)
    as_slurm_job(monkeypatch, "7")

    def save(*_: Any) -> str:
        (run / "training.log").write_text("before\n")
        for step in (80, 120):
            (run / run_folder.resume_name(step)).touch()
        return run_folder.REQUEUED
    assert start(run, save, owns_job=owns_job) == 75
    lines = (run / "training.log").read_text().splitlines()
    assert [line.split(" | ")[-1] for line in lines] == [
        "before", *([f"time limit near: saved at step 120{end}"] if end else [])]


def test_max_requeues_ends_the_chain_and_a_retry_starts_another(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "spec.yaml").write_text("batch_size: 8\nmax_requeues: 2\n")
    requested = fake_requeue(monkeypatch, None)
    for restart, code in enumerate((75, 75, 1)):
        as_slurm_job(monkeypatch, "7", restart)
        assert start(run, requeue) == code
    assert requested == ["7", "7"]
    assert record(run, "attempt-1-2.json")["how"] == "timeout"
    assert record(run, "attempt-1-2.json")["error"] == (
        "time limit near, and 2 requeues are the maximum of one submission (max_requeues); -r resumes it")
    as_slurm_job(monkeypatch, "8")
    assert start(run, requeue, ticket=2) == 75
    assert requested == ["7", "7", "8"]


@pytest.mark.parametrize(("details", "how", "code"), [
    ({"Restarts": "0", "PreemptTime": "None"}, "cancelled", 1), ({}, "cancelled", 1),
    ({"Restarts": "1", "PreemptTime": "None"}, "preempted", 1),
    ({"Restarts": "0", "PreemptTime": "2026-11-21T08:13:33"}, "requeued", 75)],
    ids=["cancelled", "slurm is silent", "put back", "not put back"])
def test_only_a_preempted_run_is_requeued_after_a_stop(details: dict[str, str], how: str, code: int, run: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    requested = fake_requeue(monkeypatch, None)
    monkeypatch.setattr("src.submission.slurm.client.show_job", lambda job: details)
    as_slurm_job(monkeypatch, "7")
    assert start(run, stopped) == code
    assert record(run)["how"] == how
    assert requested == ["7"] * (how == "requeued")


@pytest.mark.parametrize(("elapsed", "warned", "how", "error"), [
    ("00:05:01", False, "timeout", "reached its time limit of 5:00"),
    ("00:04:10", True, "cancelled", "cancelled by scancel")])
def test_stop_by_slurm_is_recorded_as_what_it_is(elapsed: str, warned: bool, how: str, error: str, run: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """A time limit without a warning, and a cancellation after one."""
    monkeypatch.setattr("src.submission.slurm.client.show_job", lambda job: {
        "Restarts": "0", "PreemptTime": "None", "TimeLimit": "00:05:00", "RunTime": elapsed})
    as_slurm_job(monkeypatch, "7")

    def stop(*_: Any) -> str:
        monkeypatch.setattr(signals, "warned", warned)
        return stopped(*_)
    assert start(run, stop) == 1
    assert (record(run)["how"], record(run)["error"]) == (how, error)


def test_only_the_first_of_several_processes_records_a_stop(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another exit code srun would end the first process, which requests another start."""
    first = attempt.Attempt.begin(str(run))
    assert first is not None
    monkeypatch.setattr(process, "rank", lambda: 1)
    assert first.run({}, stopped) == 0
    assert record(run)["how"] is None


def test_ctrl_c_is_not_taken_for_preemption(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.submission.slurm.client.show_job", lambda job: pytest.fail("Slurm is asked"))
    as_slurm_job(monkeypatch, "7")
    assert start(run, lambda *_: stopped(*_, number=signal.SIGINT)) == 1
    assert record(run)["how"] == "cancelled"


@pytest.mark.parametrize(("requeue_flag", "how"), [("1", "requeued"), ("0", "preempted")])
def test_external_program_is_requeued_only_if_the_job_may_be(requeue_flag: str, how: str, run: Path,
                                                             monkeypatch: pytest.MonkeyPatch,
                                                             ) -> None:
    (run / "spec.yaml").write_text("COMMAND: [sleep, '9']\n")
    fake_requeue(monkeypatch, None)
    monkeypatch.setattr("src.submission.job.external_program.run", stopped)
    monkeypatch.setattr("src.submission.slurm.client.show_job", lambda job: {
        "PreemptTime": "2026-11-21", "Requeue": requeue_flag})
    as_slurm_job(monkeypatch, "7")
    start(run)
    assert record(run)["how"] == how


def test_saved_run_without_slurm_is_recorded_as_timeout(run: Path) -> None:
    assert start(run, requeue) == 75
    assert record(run)["how"] == "timeout"
    assert "but is not restarted automatically outside Slurm" in record(run)["error"]


def test_run_stays_requeued_if_the_answer_of_sbatch_was_lost(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_: object) -> str:
        raise client.SbatchError("ambiguous", "Socket timed out")
    monkeypatch.setattr("src.submission.job.requeue._submit_successor_of_run", lose)
    fake_requeue(monkeypatch, "disabled")
    as_slurm_job(monkeypatch, "7")
    assert start(run, requeue) == 75
    assert record(run)["how"] == "requeued"  # so that the successor, if there is one, may resume it


@pytest.mark.parametrize("spec", ["batch_size: 8\n", "COMMAND: [python3, -c, import time; time.sleep(9)]\n"])
def test_running_attempt_renews_its_heartbeat(spec: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "spec.yaml").write_text(spec)
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.05)
    monkeypatch.setattr(external_program, "_CHECK_INTERVAL", 0.0)
    ages: list[float] = []

    def wait_for_heartbeat(*_: Any) -> str:
        path = run / "attempt-1-0.json"
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and path.stat().st_mtime == 0:
            time.sleep(0.01)
        folder = RunFolder.read(run)
        ages.append(heartbeat.age(folder, folder.last_attempt(), time.time()))
        raise ZeroDivisionError

    checks = iter(range(100))  # of an external program: the third one is made while it runs
    monkeypatch.setattr(attempt.Attempt, "check_current",
                        lambda self: wait_for_heartbeat() if "COMMAND" in spec and next(checks) == 2 else None)
    assert start(run, wait_for_heartbeat) == 1
    assert ages[0] < 20
    folder = RunFolder.read(run)
    assert heartbeat.age(folder, folder.last_attempt(), time.time()) == math.inf  # it has recorded its end


def test_heartbeat_does_not_recreate_a_deleted_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.01)
    with heartbeat.beating([str(run / "attempt-1-0.json")]):
        shutil.rmtree(run)
        time.sleep(0.05)
    assert not run.exists()
