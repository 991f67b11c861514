"""`reproduce` prints a shell's commands, of records that other people can write: nothing in them reaches the shell."""
from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import experiments
from src.io import ownership
from src.submission.batch import reproduce

PROJECT = "/nowhere"
PLAN = {"kind": "plan", "time": 1.0, "mode": "local", "who": {}, "way": "one each", "bounds": [], "code": "t-1",
        "tickets": {"000_a": 1}}


def make_run(folder: Path, record: dict[str, Any] | None = None, facts: str = "{}", plan: dict[str, Any] | None = None
             ) -> Path:
    """Write a batch with one run as somebody else could, and a repository. Return the run's folder."""
    batch, project = folder / "26-11-20-a", folder / "project"
    for path in (batch / "submissions", batch / "code" / "t-1" / "untracked", batch / "000_a", project):
        path.mkdir(parents=True)
    git = ["git", "-C", str(project), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "one"], check=True)
    commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    (batch / "job.yaml").write_text("{}\n")
    (batch / "submissions" / "t-1.jsonl").write_text(json.dumps({**PLAN, **(plan or {})}) + "\n")
    (batch / "code" / "t-1" / "code.json").write_text(json.dumps(
        {"commit": commit, "project": str(project), "prefix": "", **(record or {})}))
    (batch / "code" / "t-1" / "uncommitted.diff").write_text("")
    (batch / "000_a" / "spec.yaml").write_text("base_lr: 1.0\n")
    (batch / "000_a" / "config.yaml").write_text(
        f"base_lr: 1.0\noutput_dir: {json.dumps(str(batch / '000_a'))}\nfacts: {facts}\n")
    return batch / "000_a"


@pytest.mark.parametrize(("record", "facts", "message"), [
    ({}, '{threads: "1 true; touch pwned; X=1"}', "invalid threads '1 true; touch pwned"),
    ({}, "{threads: [1]}", "invalid threads"), ({}, "{threads: true}", "invalid threads"),
    ({"commit": "--upload-pack=touch pwned"}, "{}", "invalid commit"), ({"commit": "HEAD"}, "{}", "invalid commit"),
    ({"commit": "0" * 39}, "{}", "invalid commit"), ({"commit": ["x"]}, "{}", "invalid commit"),
    ({"prefix": "../../../home"}, "{}", "invalid prefix"), ({"prefix": "/root"}, "{}", "invalid prefix"),
    ({"prefix": "a\ntouch pwned"}, "{}", "invalid prefix"), ({"project": "project"}, "{}", "invalid project"),
    ({"project": "/x\ntouch pwned"}, "{}", "invalid project"), ({"project": None}, "{}", "invalid project"),
    ({"snapshot": "yes"}, "{}", "invalid snapshot"), ({"left_out": ["x"]}, "{}", "invalid left_out"),
    ({"sent_from": {"project": "x; touch pwned"}}, "{}", "invalid sent_from"),
    ({}, "{code_changed: [../../x]}", "invalid code_changed"), ({}, "{code_changed: [/etc/x]}", "invalid code_changed"),
    ({}, "{code_changed: x}", "invalid code_changed"), ({}, "{code: ../../x}", "invalid code"),
    ({}, "{scripts: {x: 3}}", "invalid scripts"), ({"branch": 3}, "{}", "invalid branch"),
    ({"sent_from": ["x"]}, "{}", "invalid sent_from"), ({"commit": None, "git": 5}, "{}", "invalid git")])
def test_values_of_another_form_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                            record: dict[str, Any], facts: str, message: str) -> None:
    run = make_run(tmp_path, record, facts)
    assert experiments.main(["reproduce", str(run)]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out


def test_printed_lines_are_commands_and_comments_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    """A line break in a text that becomes a comment would begin a command."""
    monkeypatch.chdir(tmp_path)
    evil = "x\ntouch pwned\r\ntouch pwned"
    run = make_run(tmp_path, {"left_out": {evil: evil}, "branch": evil}, json.dumps(
        {"threads": 2, "commit": evil, "host": evil, "python": evil, "container": evil}))
    assert experiments.main(["reproduce", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith("# ")] == [
        "cd", "git", "git", "cp", "GRIDIRON_THREADS=2", "git"]
    assert sum(line.startswith("# ") for line in lines) == 5
    script = "cd() { :; }; git() { :; }; cp() { :; }\n" + "\n".join(line for line in lines if "THREADS" not in line)
    subprocess.run(["sh", "-c", script], check=True)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("token", ["../../elsewhere", "/root/x", "a\nb", "", ".."])
def test_code_folder_outside_of_the_batch_is_not_read(tmp_path: Path, token: str) -> None:
    run = make_run(tmp_path, plan={"code": token})
    (run / "attempt-1-0.json").write_text(json.dumps({"start": 1.0, "code": token}))
    lines = reproduce.plan_steps(str(run), PROJECT).lines()
    assert f"git -C {tmp_path}" in lines[2] and str(run.parent / "code" / "t-1" / "uncommitted.diff") in lines[2]


def test_strange_folder_names_are_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "$(touch pwned); it's"
    steps = reproduce.plan_steps(str(make_run(folder)), PROJECT)
    assert shlex.split(steps.lines()[0]) == ["cd", str(folder / "project")]
    words = [word for line in steps.lines() for word in shlex.split(line)]
    assert {word for word in words if "pwned" in word} == {word for word in words if word.startswith(str(folder))}


def test_code_of_another_user_needs_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path)
    executed: list[object] = []
    monkeypatch.setattr(reproduce.Steps, "run", lambda self: executed.append(self) or 0)
    assert experiments.main(["reproduce", str(run), "--run"]) == 0 and len(executed) == 1
    monkeypatch.setattr(ownership, "other_owner", lambda *paths: "mallory")
    assert experiments.main(["reproduce", str(run)]) == 0
    assert "# these files belong to mallory: read their code before you run it" in capsys.readouterr().out
    assert experiments.main(["reproduce", str(run), "--run"]) == 2 and len(executed) == 1
    assert "this executes code of mallory" in capsys.readouterr().err
    assert experiments.main(["reproduce", str(run), "--run", "--trust"]) == 0 and len(executed) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owner_is_who_owns_a_file(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert reproduce.plan_steps(str(run), PROJECT).owner is None
    os.chown(run / "config.yaml", 12345, -1)
    assert reproduce.plan_steps(str(run), PROJECT).owner == "user 12345"
