"""experiments.py from the command line."""
from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from tests.analysis.make_batch import DIGITS, make_batch
from tests.conftest import ROOT
from tests.submission.conftest import Project, project
from tests.submission.job.test_worker import both_run, states_of, submit_in_background, wait_for

__all__ = ["project"]  # the fixture


@pytest.fixture
def done(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a batch with two done and two failed runs, under `results`."""
    project.results = project.folder / "results"
    project.spec.write_text(project.spec.read_text().replace("re sults", "results").replace("[8, 32]", "[8, 13]"))
    assert project.submit(project.spec, "--local", "-y") == 1
    return project


def test_status_of_all_and_of_one(done: Project, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for arguments in (["status"], ["status", str(done.batch)]):
        assert experiments.main(arguments) == 0
        out = capsys.readouterr().out
        assert out.splitlines()[0].split() == ["batch", "runs", "done", "failed"]
        assert "RuntimeError: unlucky\\nnumber" in out
        assert out.count("000_tiny") == 1


def test_status_json(done: Project, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    experiments.main(["status", "--json", str(done.batch)])
    batch, = json.loads(capsys.readouterr().out)
    assert batch["counts"] == {"done": 2, "failed": 2}


def test_watch_ends_when_the_last_run_has_ended(done: Project, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert experiments.main(["watch", "--every", "0.01"]) == 0
    assert "failed" in capsys.readouterr().out


def test_watch_draws_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                            capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results").mkdir()
    batch = make_batch(tmp_path / "results", [DIGITS])
    monkeypatch.chdir(tmp_path)
    assert experiments.main(["watch", batch, "--every", "0.01"]) == 0
    line, = (line for line in capsys.readouterr().out.splitlines() if line.startswith("000_"))
    falls, rises = re.findall("[▁▂▃▄▅▆▇█]{12}", line)
    assert falls[0] == "█" and falls[-1] in "▁▂" and rises[0] == "▁" and rises[-1] in "▇█"
    experiments.main(["status", batch])
    assert "▁" not in capsys.readouterr().out


def test_logs_print_the_output_of_a_run(done: Project, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert experiments.main(["logs", str(done.runs()[2])]) == 0
    out = capsys.readouterr().out
    assert "training 13" in out
    assert "RuntimeError: unlucky" in out
    assert experiments.main(["logs", "-f", str(done.runs()[0])]) == 0
    assert capsys.readouterr().out.endswith("state: done\n")


def test_logs_show_earlier_starts_of_a_run(done: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """Also if the run prints nothing: one start was killed without a record, the next one failed."""
    run = done.runs()[0]
    (run / "done").unlink()
    (run / "local.out").unlink()
    first = json.loads((run / "attempt-1-0.json").read_text())
    (run / "attempt-1-0.json").write_text(json.dumps({**first, "end": None, "how": None}))
    (run / "attempt-2-0.json").write_text(json.dumps(
        {**first, "ticket": 2, "end": first["start"] + 20, "how": "failed", "error": "no luck", "slurm_job": "7"}))
    capsys.readouterr()
    assert experiments.main(["logs", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    pid = first["who"]["pid"]
    assert re.fullmatch(rf"start 1: \w+ \d\d:\d\d on \S+ \(pid {pid}\), left no record of its end "
                        r"\(killed, or its node failed\)", lines[0])
    assert re.fullmatch(rf"start 2: \w+ \d\d:\d\d on \S+ \(Slurm job 7, pid {pid}\), failed after 0:20: no luck",
                        lines[1])
    assert lines[2].startswith("no log; its state: ")
    assert experiments.main(["logs", str(run), "--json"]) == 0
    starts = json.loads(capsys.readouterr().out)["starts"]
    assert [(start["number"], start["how"]) for start in starts] == [(1, "lost"), (2, "failed")]


def test_cancel_stops_a_local_batch(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_spec("[15, 8]")
    process = submit_in_background(project)
    wait_for(lambda: both_run(project))
    assert experiments.main(["cancel", "-y", str(project.batch)]) == 0
    assert process.wait(20) == 130
    assert states_of(project) == ["cancelled", "cancelled", "new", "new"]
    capsys.readouterr()
    assert experiments.main(["cancel", "-y", str(project.batch)]) == 0
    assert capsys.readouterr().out == "nothing is pending or running\n"


def test_cancel_without_standard_input_is_an_error(project: Project, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    project.write_spec("[15, 8]")
    process = submit_in_background(project)
    wait_for(lambda: both_run(project))
    with open(os.devnull, encoding="utf-8") as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        assert experiments.main(["cancel", str(project.batch)]) == 2
    assert "pass -y to continue without a question" in capsys.readouterr().err
    assert "running" in states_of(project)
    process.send_signal(signal.SIGTERM)
    process.wait(20)


def test_watch_all_shows_every_run(done: Project, capsys: pytest.CaptureFixture[str],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((80, 9)))
    capsys.readouterr()
    experiments.main(["watch"])
    assert "… and 1 more; --all shows every run" in capsys.readouterr().out
    experiments.main(["watch", "--all"])
    out = capsys.readouterr().out
    assert out.count("_tiny+") == 5  # four runs, and the log of the failures
    assert "2 failed: RuntimeError: unlucky" in out
    assert "] 2/4 runs  2 failed" in out


def test_cancel_of_one_run_keeps_the_others(project: Project) -> None:
    project.write_spec("[15, 8]")
    process = submit_in_background(project)
    wait_for(lambda: both_run(project))
    assert experiments.main(["cancel", "-y", str(project.runs()[0])]) == 0
    wait_for(lambda: states_of(project)[0] == "cancelled" and states_of(project)[2:] == ["done", "done"])
    assert states_of(project)[1] == "running"
    process.send_signal(signal.SIGTERM)
    process.wait(20)


@pytest.mark.parametrize(("arguments", "expected"), [
    (["status"], "submit one"), (["status", "nowhere"], "no such folder"),
    (["logs", "nowhere"], "no such run"), (["cancel", "nowhere"], "Slurm job id"),
    (["report", "nowhere"], "no such folder"), (["prefetch", "nowhere.yaml"], "cannot be read")])
def test_mistakes_are_told(arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert experiments.main(arguments) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_closed_pipe_is_not_an_error(done: Project) -> None:
    process = subprocess.Popen([sys.executable, ROOT / "experiments.py", "status"], cwd=done.folder,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.wait(10)


def test_status_imports_no_heavy_library(done: Project) -> None:
    program = "import sys, experiments; experiments.main(['status']); print(*sys.modules, sep='\\n')"
    out = subprocess.run([sys.executable, "-c", program], cwd=done.folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
                         capture_output=True, text=True, check=True).stdout
    assert not set(out.split("\n")) & {"torch", "numpy", "pandas", "matplotlib", "loguru", "dataclasses", "inspect",
                                     "pathlib", "shutil", "urllib.parse", "subprocess"}


def test_clean_removes_saved_states_of_ended_runs(done: Project, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    ended, failed = done.runs()[0], done.runs()[2]
    for run in (ended, failed):
        (run / "resume-0000000003.pt").write_bytes(b"x" * 2**20)
    capsys.readouterr()
    monkeypatch.setattr("builtins.input", lambda *_: "n")
    assert experiments.main(["clean"]) == 2
    assert "1.0 MiB in 1 run" in capsys.readouterr().out
    assert experiments.main(["clean", "-y", str(done.batch)]) == 0
    assert "removed 1.0 MiB" in capsys.readouterr().out
    assert [list(run.glob("resume-*")) != [] for run in (ended, failed)] == [False, True]
    assert experiments.main(["clean", "-y"]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert experiments.main(["clean", "-y", "--unfinished"]) == 0
    assert not list(failed.glob("resume-*"))


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        experiments.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, command in experiments.COMMANDS.items():
        assert f" {name} {command.help}" in text


@pytest.mark.parametrize("program", ["experiments.py", "submit_multiple.py", "train.py"])
@pytest.mark.parametrize("problem", ["lacks the project's packages", "is older than 3.11"])
def test_unsuitable_python_ends_with_one_line_that_names_the_environment(program: str, problem: str) -> None:
    """Such as the system's Python, where somebody has not activated the environment."""
    script = f"import runpy, sys; sys.version_info = (3, 9, 18); runpy.run_path('{program}', run_name='__main__')"
    arguments = ["-S", program] if "packages" in problem else ["-c", script]  # -S: without site-packages
    answer = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False, text=True, capture_output=True)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.count("\n") == 1
    assert answer.stderr.startswith(f"error: {sys.executable}: Python 3.")
    assert f" {problem}; in {ROOT}, run `" in answer.stderr
    assert answer.stderr.endswith("`source .venv/bin/activate`\n")
    answer = subprocess.run([sys.executable, *arguments, "--json"], cwd=ROOT, check=False, text=True,
                            capture_output=True)
    document = json.loads(answer.stdout)
    assert (answer.returncode, answer.stderr, document["where"]) == (2, "", sys.executable)
    assert document["error"].endswith(problem)
    assert document["hint"].endswith("`source .venv/bin/activate`")


@pytest.mark.parametrize("name", ["logs", "compare", "query"])
def test_help_begins_with_command_lines_that_can_be_typed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    examples = experiments.COMMANDS[name].examples
    assert len(examples) == 3
    with pytest.raises(SystemExit):
        experiments.main([name, "--help"])
    text = capsys.readouterr().out
    for arguments, explanation in examples:
        line = next(line for line in text.splitlines() if f"experiments.py {name} {arguments} " in line)
        assert line.endswith(explanation)
        assert text.index(line) < text.index("positional arguments")
        experiments.parse([name, *shlex.split(arguments)])
