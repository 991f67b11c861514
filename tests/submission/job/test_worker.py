"""Workers without Slurm: every run once, a crash ends only its run, stopping loses nothing."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import experiments
from src.errors import BatchError
from src.submission.batch import task_files
from src.submission.batch.task_files import Tasks
from src.submission.status import states
from src.submission.status.observe import observe
from tests.conftest import ROOT
from tests.submission.conftest import INTERRUPT_FROM_A_THREAD, Project


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def submit_in_background(project: Project, before: str = "") -> subprocess.Popen[bytes]:
    """Do the same as project.submit in a new process, which executes the lines `before` first."""
    program = (f"{before}\nimport submit_multiple as s, sys; s.PROJECT = {str(project.folder)!r}; "
               "sys.exit(s.main(sys.argv[1:]))")
    return subprocess.Popen([sys.executable, "-c", program, str(project.spec), "--local", "--workers", "2", "-y"],
                            cwd=project.folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def both_run(project: Project) -> bool:
    batches = list(project.results.glob("*-tiny"))
    return bool(batches) and len(list(batches[0].glob("*/attempt-1-0.json"))) == 2


def states_of(project: Project) -> list[str]:
    return [run.state.name for run in observe([str(project.batch)])[0].runs.values()]


def test_each_run_is_executed_once(project: Project) -> None:
    project.write_spec("[1, 2, 3, 4, 5, 6]")
    assert project.submit(project.spec, "--local", "--workers", "3", "-y") == 0
    assert project.executed() == [1] * 12
    assert set(states_of(project)) == {"done"}
    log = (project.runs()[0] / "local.out").read_text()
    assert log.startswith("training 1 with ")


def test_retry_repeats_only_the_failed_runs(project: Project) -> None:
    project.write_spec("[8, 13, 14]")
    assert project.submit(project.spec, "--local", "-y") == 1
    assert states_of(project) == ["done", "done", "failed", "failed", "diverged", "diverged"]
    (project.batch / "mended").touch()
    assert project.submit("-r", project.batch, "--local", "-y") == 0
    assert project.executed() == [1] * 6
    assert states_of(project)[2:4] == ["done", "done"]
    assert [(run / "attempt-2-0.json").exists() for run in project.runs()] == [False, False, True, True, False, False]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_or_ctrl_c_stops_cleanly_and_retry_resumes(project: Project, number: signal.Signals) -> None:
    project.write_spec("[15, 8]")
    process = submit_in_background(project)
    wait_for(lambda: both_run(project))
    pids = [json.loads(path.read_text())["who"]["pid"] for path in project.batch.glob("*/attempt-1-0.json")]
    assert [os.getsid(pid) for pid in pids] == pids  # each has its own session: only the worker signals it
    process.send_signal(number)
    assert process.wait(20) == 130
    assert states_of(project) == ["cancelled", "cancelled", "new", "new"]
    record = json.loads((project.runs()[0] / "attempt-1-0.json").read_text())
    assert "SIGTERM" in record["error"]
    for run in project.runs()[:2]:
        (run / "spec.yaml").write_text("batch_size: 1\n")
    assert project.submit("-r", project.batch, "--local", "-y") == 0
    assert project.executed() == [1] * 4


def test_ctrl_c_stops_the_workers_if_another_thread_takes_the_signal(project: Project) -> None:
    """As if it arrived right before the main thread sleeps: the signal does not interrupt its system call."""
    project.write_spec("[15]")
    process = submit_in_background(project, before=INTERRUPT_FROM_A_THREAD.format(file=str(project.folder / "stop")))
    wait_for(lambda: both_run(project))
    time.sleep(0.2)  # the main thread sleeps
    (project.folder / "stop").touch()
    assert process.wait(20) == 130
    assert states_of(project) == ["cancelled", "cancelled"]


def test_run_that_a_signal_kills_is_failed_while_its_worker_goes_on(project: Project) -> None:
    project.write_spec("[15, 8]")
    process = submit_in_background(project)
    wait_for(lambda: both_run(project))
    pids = [json.loads((run / "attempt-1-0.json").read_text())["who"]["pid"] for run in project.runs()[:2]]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    assert process.wait(20) == 1
    killed, *_ = observe([str(project.batch)])[0].runs.values()
    assert (killed.state.name, killed.state.why) == ("failed", "killed by signal 9 (out of memory, or by hand)")
    assert states_of(project) == ["failed", "failed", "done", "done"]


def test_killed_runs_are_lost_and_retry_resumes_them(project: Project) -> None:
    project.write_spec("[15, 8]")
    process = submit_in_background(project)
    wait_for(lambda: both_run(project))
    pids = [json.loads((run / "attempt-1-0.json").read_text())["who"]["pid"] for run in project.runs()[:2]]
    workers = [int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in pids]
    process.kill()  # as in a power cut: no process can record its end
    process.wait()
    for pid in (*workers, *pids):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: states_of(project) == ["lost", "lost", "new", "new"])
    for run in project.runs()[:2]:
        (run / "spec.yaml").write_text("batch_size: 1\n")
    assert project.submit("-r", project.batch, "--local", "-y") == 0
    assert project.executed() == [1] * 4
    assert set(states_of(project)) == {states.DONE}


# the worker is stopped until the run is dead, so that it neither records the run's end nor ends before it
KILL_RUN_AND_WORKER = """
    import signal
    worker, run = os.getppid(), os.getpid()
    os.kill(worker, signal.SIGSTOP)
    if os.fork() == 0:
        os.kill(run, signal.SIGKILL)
        while b") Z" not in open(f"/proc/{run}/stat", "rb").read():
            pass
        os.kill(worker, signal.SIGKILL)
        os._exit(0)
    signal.pause()
"""


def test_run_whose_worker_was_killed_counts_as_failed(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_spec("[1]")
    entry = (project.folder / "train.py").read_text()
    (project.folder / "train.py").write_text(entry.replace(
        "\n    check()\n", KILL_RUN_AND_WORKER))
    assert project.submit(project.spec, "--local", "--workers", "2", "-y") == 1
    assert states_of(project) == ["lost", "lost"]
    assert "2 runs failed" in capsys.readouterr().out


def test_worker_waits_if_no_process_can_be_started(
        project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write_spec("[1, 2, 3]")
    entry = (project.folder / "train.py").read_text()
    (project.folder / "train.py").write_text(entry.replace("import sys\n", """import sys
real_fork, forks = os.fork, []
def fork():
    forks.append(1)
    if len(forks) % 2 == 0:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return real_fork()
os.fork = fork
""", 1))
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    path = project.batch / "submissions" / "1-a.tasks.json"
    task_files.write(str(path), Tasks(task_files.WORKER, str(project.batch), {run.name: 1 for run in project.runs()},
                                      slots=2))
    assert subprocess.run([sys.executable, "train.py", path], cwd=project.folder, timeout=300).returncode == 0
    assert project.executed() == [1] * 6


def test_worker_that_can_start_no_process_is_an_error(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    entry = (project.folder / "train.py").read_text()
    (project.folder / "train.py").write_text(entry.replace("import sys\n", """import sys
def fork():
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = fork
""", 1))
    assert project.submit(project.spec, "--local", "-y") == 2
    assert "the workers ended before 4 runs started" in capsys.readouterr().err
    log, = (project.batch / "submissions").glob("*.workers.log")
    assert "cannot start a process: Resource temporarily unavailable" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_second_signal_kills_runs_that_do_not_end(project: Project) -> None:
    project.write_spec("[15]")
    entry = (project.folder / "train.py").read_text()
    (project.folder / "train.py").write_text(entry.replace("            time.sleep(0.1)\n", """\
            try:
                time.sleep(0.1)
            except BaseException:
                pass
""").replace("import sys\n", "import sys, signal\n", 1).replace(
        '    if spec["batch_size"] == 15:', '    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
        '    open(os.path.join(folder, "ignores TERM"), "w")\n    if spec["batch_size"] == 15:'))
    process = submit_in_background(project)
    wait_for(lambda: len(list(project.results.glob("*-tiny/*/ignores TERM"))) == 2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert states_of(project) == ["lost", "lost"]


def test_workers_of_a_killed_command_start_no_more_runs(project: Project) -> None:
    project.write_spec("[15, 8]")
    process = submit_in_background(project)
    wait_for(lambda: both_run(project))
    process.kill()
    process.wait()
    time.sleep(1.5)  # workers check once a second
    for run in project.runs()[:2]:
        os.kill(json.loads((run / "attempt-1-0.json").read_text())["who"]["pid"], signal.SIGKILL)
    time.sleep(0.5)
    assert project.executed() == [0] * 4


def test_worker_that_cannot_start_is_an_error(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.folder / "train.py").write_text("raise SystemExit('broken')\n")
    assert project.submit(project.spec, "--local", "-y") == 2
    assert "the workers ended before 4 runs started" in capsys.readouterr().err
    log, = (project.batch / "submissions").glob("*.workers.log")
    assert log.read_text() == "broken\n"


def test_external_program(project: Project, tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = f"import sys; open({str(out)!r}, 'a').write(repr(sys.argv[1:]) + chr(10)); print('hello')"
    command = f'{sys.executable} -c "{program}" {{args}} "a b; $(echo no)"'
    assert project.submit(project.spec, "--local", "-y", "--command", command) == 0
    lines = sorted(out.read_text().splitlines())
    assert lines[0] == repr(["--batch_size=32", "--base_lr=0.1", "a b; $(echo no)"])
    assert len(lines) == 4
    assert set(states_of(project)) == {"done"}
    assert (project.runs()[0] / "local.out").read_text() == "hello\n"


def test_empty_output_of_runs_that_ended_well_is_removed(project: Project) -> None:
    project.write_spec("[8, 32]")
    program = "import sys; sys.exit('--batch_size=32' in sys.argv)"
    command = f'{sys.executable} -c "{program}" {{args}}'
    assert project.submit(project.spec, "--local", "-y", "--command", command, "--set", "base_lr=0.1") == 1
    well, failed = project.runs()
    assert states_of(project) == ["done", "failed"]
    assert not (well / "local.out").exists() and "exit status 1" in (failed / "local.out").read_text()
    assert sorted(os.listdir(well)) == ["attempt-1-0.json", "claim-1", "done", "facts.json", "spec.yaml"]


def test_different_errors_of_external_programs_do_not_stop_a_batch(
        project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_spec("[8, 32, 64]")
    program = "import sys; raise {True: KeyError, False: ValueError}['=8' in sys.argv[1]]('x')"
    arguments = ["--local", "-y", "--command", f'{sys.executable} -c "{program}" {{args}}', "--max-failures", "3"]
    assert project.submit(project.spec, *arguments) == 1
    assert set(states_of(project)) == {"failed"}
    experiments.main(["status", str(project.batch)])
    out = capsys.readouterr().out
    assert "2 failed: KeyError: 'x' (exit status 1)" in out and "4 failed: ValueError: x (exit status 1)" in out


def test_array_task_runs_its_run_with_output_in_its_folder(project: Project) -> None:
    assert project.submit(project.spec, "--no-submit", "-y") == 0
    names = [run.name for run in project.runs()]
    path = project.batch / "submissions" / "1-a.tasks.json"
    task_files.write(str(path), Tasks(task_files.ARRAY, str(project.batch), dict.fromkeys(names, 1)))
    environment = {**os.environ, "SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run([sys.executable, "train.py", str(path)], env=environment, cwd=project.folder)
    assert done.returncode == 0
    assert project.executed() == [0, 0, 1, 0]
    assert (project.runs()[2] / "10_2.out").read_text().startswith("training 32")


def test_invalid_task_file_is_an_error(project: Project) -> None:
    path = project.folder / "x.tasks.json"
    path.write_text("[]")
    done = subprocess.run([sys.executable, "train.py", str(path)], cwd=project.folder, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {path}: not a task file; submit_multiple.py writes task files\n"


@pytest.mark.parametrize("changes", [
    {"tickets": []}, {"tickets": {"../x": 1}}, {"tickets": {"a": "x"}}, {"slots": "2"}, {"stacks": [[5]]},
    {"gpus": [1]}, {"canaries": {"a": "../b"}}, {"kind": 5}, {"other": 1}])
def test_a_task_file_of_another_form_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    path = tmp_path / "t.tasks.json"
    content = {"kind": "worker", "batch": "b", "tickets": {"a": 1}, "slots": 1, "stacks": []}
    path.write_text(json.dumps(content))
    assert task_files.read(str(path)).tickets == {"a": 1}
    path.write_text(json.dumps({**content, **changes}))
    with pytest.raises(BatchError, match="not a task file"):
        task_files.read(str(path))
