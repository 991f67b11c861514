"""A foreign program gets its argument list as written: nothing is ever given to a shell."""
from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import JobSpecError
from src.submission.job import external_program
from src.submission.spec import command_template

NASTY = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=300)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), NASTY, max_size=5),
       NASTY.map(lambda text: text.lstrip("/")))
def test_each_value_stays_one_argument(spec: dict[str, str], folder: str) -> None:
    words = command_template.fill_command(["tool", "{args}", "x={spec}", "{folder}"], spec, os.path.join("/r", folder))
    assert words == ["tool", *(f"--{key}={value}" for key, value in spec.items()),
                     f"x={os.path.join('/r', folder, 'spec.yaml')}",
                     os.path.join("/r", folder)]


def test_values_that_are_no_strings_stand_in_json_form_and_books_are_left_out() -> None:
    spec = {"a": 1e-5, "b": None, "c": [1, "x"], "SBATCH": {"mem": "1G"}, "TAGS": ["t"]}
    assert command_template.fill_command(["{args}"], spec, "f") == ["--a=1.0e-05", "--b=null", '--c=[1, "x"]']


@given(st.lists(NASTY.filter(bool), min_size=1, max_size=5))
def test_a_string_is_split_once_as_a_shell_would(words: list[str]) -> None:
    assert command_template.parse_command(shlex.join(words), "x") == words


@pytest.mark.parametrize("command", ["", "'open", [], [1], {"a": 1}, ["a\0b"]])
def test_bad_commands_are_told(command: object) -> None:
    with pytest.raises(JobSpecError, match=r"x\.yaml"):
        command_template.parse_command(command, "x.yaml")


def test_exit_codes(tmp_path: Path) -> None:
    def run(code: str) -> str:
        return external_program.run({"COMMAND": [sys.executable, "-c", code]}, str(tmp_path), lambda: None)
    assert run("") == "completed"
    with pytest.raises(command_template.CommandFailed, match="exit status 3"):
        run("raise SystemExit(3)")
    with pytest.raises(command_template.CommandFailed, match="signal 9"):
        run("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(command_template.CommandFailed, match="No such file"):
        external_program.run({"COMMAND": ["/no/such/program"]}, str(tmp_path), lambda: None)


def test_a_program_ends_when_its_run_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_program_with_a_handler_is_told_that_its_time_is_up_and_another_is_left_alone(tmp_path: Path) -> None:
    told = "import signal, sys, time; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75)); time.sleep(30)"
    untold = "import time; time.sleep(2.5)"
    for program, how in ((told, "requeued"), (untold, "completed")):
        spec = {"COMMAND": [sys.executable, "-c", program]}
        assert external_program.run(spec, str(tmp_path), lambda: None, lambda: True) == how


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), NASTY, max_size=5), NASTY)
def test_a_parameters_name_in_braces_is_its_value_and_nothing_is_filled_in_twice(spec: dict[str, str],
                                                                                 other: str) -> None:
    spec = {key: value for key, value in spec.items() if key not in ("spec", "folder", "sweep", "args")}
    words = ["tool", *(f"-{key}={{{key}}}.x" for key in spec), "{NONE}", "{", "}{", "{}", other.replace("{", "")]
    assert command_template.fill_command(words, spec, "/r") == [
        "tool", *(f"-{key}={value}.x" for key, value in spec.items()), *words[len(spec) + 1:]]


def test_a_path_of_the_run_is_no_parameter() -> None:
    spec = {"folder": "mine", "a": 1e-5, "b": "{a}"}
    assert command_template.fill_command(["{folder}/{a}-{b}"], spec, "/r") == ["/r/1.0e-05-{a}"]
