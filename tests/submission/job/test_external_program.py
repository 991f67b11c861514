"""An external program gets its argument list as written, never through a shell."""
from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import JobSpecError
from src.submission.job import external_program
from src.submission.spec import command_template
from tests.conftest import ROOT

HOSTILE = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=300)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), HOSTILE, max_size=5),
       HOSTILE.map(lambda text: text.lstrip("/")))
def test_each_value_is_one_argument(spec: dict[str, str], folder: str) -> None:
    run = os.path.join("/r", folder)
    arguments = command_template.fill_command(["tool", "{args}", "x={spec}", "{folder}"], spec, run)
    assert arguments == ["tool", *(f"--{key}={value}" for key, value in spec.items()),
                         f"x={os.path.join(run, 'spec.yaml')}", run]


def test_values_other_than_strings_are_json_and_bookkeeping_is_left_out() -> None:
    spec = {"a": 1e-5, "b": None, "c": [1, "x"], "SBATCH": {"mem": "1G"}, "TAGS": ["t"]}
    assert command_template.fill_command(["{args}"], spec, "f") == ["--a=1.0e-05", "--b=null", '--c=[1, "x"]']


@given(st.lists(HOSTILE.filter(bool), min_size=1, max_size=5))
def test_command_string_is_split_as_a_shell_would(words: list[str]) -> None:
    assert command_template.parse_command(shlex.join(words), "x") == words


@pytest.mark.parametrize("command", ["", "'open", [], [1], {"a": 1}, ["a\0b"]])
def test_invalid_commands_are_refused(command: object) -> None:
    with pytest.raises(JobSpecError, match=r"x\.yaml"):
        command_template.parse_command(command, "x.yaml")


def test_exit_codes(tmp_path: Path) -> None:
    def run(code: str) -> str:
        return external_program.run({"COMMAND": [sys.executable, "-c", code]}, str(tmp_path), lambda: None)
    assert run("") == "completed"
    with pytest.raises(command_template.CommandFailed, match="exit status 3"):
        run("raise SystemExit(3)")
    with pytest.raises(command_template.CommandFailed, match=r"^python.* was killed by signal 9 \(out of mem"):
        run("import os; print('epoch 3', flush=True); os.kill(os.getpid(), 9)")
    with pytest.raises(command_template.CommandFailed, match="No such file"):
        external_program.run({"COMMAND": ["/no/such/program"]}, str(tmp_path), lambda: None)


def test_a_program_that_has_its_epoch_already_is_not_started_again(tmp_path: Path) -> None:
    """As if the start before was killed before it recorded its pause, or a listing shows that record late."""
    def run(pause_after: int) -> str:
        command = [sys.executable, "-c", "open('started', 'a').write('x')"]
        return external_program.run({"COMMAND": command, "CWD": str(tmp_path)}, str(tmp_path), lambda: None,
                                    pause_after=pause_after)
    (tmp_path / "stats.csv").write_text("epoch,score\n1,0.5\n2,0.6\n")
    assert run(2) == "paused"
    assert not (tmp_path / "started").exists()
    assert run(3) == "completed"
    assert (tmp_path / "started").read_text() == "x"


PRINTS_AND_FAILS = "import sys; print({line!r}, file=sys.stderr); print('half'); sys.exit(4)"


def test_error_of_a_program_is_what_it_printed(tmp_path: Path) -> None:
    """Each start is searched alone, as all of them append to one file."""
    for program, error in (("raise ValueError('no 7')", r"^ValueError: no 7 \(exit status 1\)$"),
                           ("raise OSError", r"^OSError \(exit status 1\)$"),
                           ("raise SystemExit(3)", r"^python.* ended with exit status 3$")):
        with pytest.raises(command_template.CommandFailed, match=error):
            external_program.run({"COMMAND": [sys.executable, "-c", program]}, str(tmp_path), lambda: None)


@pytest.mark.parametrize(("redirection", "error"), [
    ("> {folder}/out 2> {folder}/err", "first error"),  # a submit script with --error
    ("2>&1 | cat >> {folder}/7.out", "half")])  # srun, which writes the log of the Slurm job
def test_output_is_found_where_slurm_writes_it(redirection: str, error: str, tmp_path: Path) -> None:
    (tmp_path / "7.out").write_text("an earlier start\n")
    code = PRINTS_AND_FAILS.format(line="first error")
    program = ("from src.submission.job import external_program as e\n"
               f"try: e.run({{'COMMAND': [{sys.executable!r}, '-c', {code!r}]}}, {str(tmp_path)!r}, lambda: None)\n"
               f"except e.CommandFailed as error: open({str(tmp_path / 'error')!r}, 'w').write(str(error))")
    command = f"{shlex.join([sys.executable, '-c', program])} {redirection.format(folder=tmp_path)}"
    subprocess.run(["bash", "-c", command], cwd=ROOT, env={**os.environ, "SLURM_JOB_ID": "7"}, check=False)
    assert (tmp_path / "error").read_text() == f"{error} (exit status 4)"


def test_program_ends_when_its_run_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_program, "_CHECK_INTERVAL", 0.01)
    pid = tmp_path / "pid"

    def check() -> None:
        if pid.exists() and pid.read_text():
            raise RuntimeError("taken over")
    program = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    with pytest.raises(RuntimeError, match="taken over"):
        external_program.run({"COMMAND": [sys.executable, "-c", program]}, str(tmp_path), check)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_only_a_program_with_a_handler_is_warned_of_the_time_limit(tmp_path: Path) -> None:
    with_handler = "import signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75)); time.sleep(30)"
    without_handler = "import time; time.sleep(2.5)"
    for program, how in ((with_handler, "requeued"), (without_handler, "completed")):
        spec = {"COMMAND": [sys.executable, "-c", program]}
        assert external_program.run(spec, str(tmp_path), lambda: None, lambda: True) == how


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), HOSTILE, max_size=5), HOSTILE)
def test_placeholders_are_replaced_once(spec: dict[str, str],
                                        other: str) -> None:
    spec = {key: value for key, value in spec.items() if key not in ("spec", "folder", "sweep", "args")}
    words = ["tool", *(f"-{key}={{{key}}}.x" for key in spec), "{NONE}", "{", "}{", "{}", other.replace("{", "")]
    assert command_template.fill_command(words, spec, "/r") == [
        "tool", *(f"-{key}={value}.x" for key, value in spec.items()), *words[len(spec) + 1:]]


def test_path_placeholders_override_parameters() -> None:
    spec = {"folder": "mine", "a": 1e-5, "b": "{a}"}
    assert command_template.fill_command(["{folder}/{a}-{b}"], spec, "/r") == ["/r/1.0e-05-{a}"]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a program that imports a module beside it, and a run folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("NAME = 'result.json'\n")
    (tmp_path / "mine.py").write_text("import os, sys, beside\nopen(beside.NAME, 'w').write("
                                      "f\"{sys.argv[1:]} {os.environ['GRIDIRON_RUN_FOLDER']}\")\n")
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.mark.parametrize("command", [["mine.py"], ["-m", "mine"]])
@pytest.mark.parametrize("cwd", ["{folder}", "results/{depth}", None])
def test_program_runs_in_its_cwd_or_the_project(command: list[str], cwd: str | None, mine: Path) -> None:
    """Paths of the project in the command, and its modules, are found from anywhere."""
    (mine / "results" / "3").mkdir(parents=True)
    run, expected = str(mine / "run"), {"{folder}": "run", None: "."}.get(cwd, "results/3")
    spec = {"COMMAND": [sys.executable, *command, "results", "mine", "{depth}"], "depth": 3, **(
        {"CWD": cwd} if cwd else {})}
    assert external_program.run(spec, run, lambda: None) == "completed"
    results = str(mine / "results") if cwd else "results"
    assert (mine / expected / "result.json").read_text() == f"{[results, 'mine', '3']} {run}"


def test_cwd_that_does_not_exist_fails_with_its_path(mine: Path) -> None:
    with pytest.raises(command_template.CommandFailed, match=f"^cwd {mine}/none: no such folder$"):
        external_program.run({"COMMAND": ["true"], "CWD": "none"}, str(mine / "run"), lambda: None)


@pytest.mark.parametrize(("command", "cwd", "shared"), [
    (["a", "{args}"], None, True), (["a", "${args}"], None, True), (["a", "--out={folder}/x"], None, False),
    (["a", "{spec}"], None, False), (["a", "${args_json_file}"], None, False), (["a"], "{folder}", False)])
def test_runs_that_share_the_project_folder_are_recognised(command: list[str], cwd: str | None, shared: bool) -> None:
    assert command_template.share_folder({"COMMAND": command, **({"CWD": cwd} if cwd else {})}) == shared
