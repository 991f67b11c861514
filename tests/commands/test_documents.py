"""--json: each command prints the document that src/commands/documents.py describes, and errors in the same way."""
from __future__ import annotations

import json
import os
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest

import experiments
import submit_multiple
from src.commands import documents
from src.commands.command_output import print_document
from src.submission.status import states
from tests.analysis.make_batch import DIGITS, make_batch
from tests.submission.conftest import Project, project

__all__ = ["project"]  # the fixture


def matches(value: Any, form: Any) -> bool:
    """Return whether a JSON value has the form of a type: a TypedDict, list[…], dict[str, …], a union or a scalar."""
    if form is Any:
        return True
    if typing.is_typeddict(form):
        forms = typing.get_type_hints(form)
        return isinstance(value, dict) and value.keys() <= forms.keys() and form.__required_keys__ <= value.keys() \
            and all(matches(item, forms[key]) for key, item in value.items())
    origin, arguments = typing.get_origin(form), typing.get_args(form)
    if origin is types.UnionType:
        return any(matches(value, argument) for argument in arguments)
    if origin is list:
        return isinstance(value, list) and all(matches(item, arguments[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(matches(item, arguments[1]) for item in value.values())
    return isinstance(value, (int, float) if form is float else form) and (form is bool or not isinstance(value, bool))


@pytest.mark.parametrize(("value", "form", "expected"), [
    ({"missing": ["a"]}, documents.Missing, True), ({"missing": [1]}, documents.Missing, False),
    ({}, documents.Missing, False), ({"missing": [], "more": 1}, documents.Missing, False),
    (None, str | None, True), (1, float, True), (True, int, False), ({"a": 1}, dict[str, int], True),
    ({"a": "b"}, dict[str, int], False), ({}, documents.BatchStatus, True)])
def test_matches(value: object, form: object, expected: bool) -> None:
    assert matches(value, form) == expected


class Commands:
    """Runs commands with --json in a folder with two batches of the same job spec, and checks their documents."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "results").mkdir()
        self.folder, self._capsys = folder, capsys
        self.batches = [make_batch(folder / "results", [{**DIGITS, "base_lr": rate} for rate in (0.1, 0.5)], name)
                        for name in ("26-11-20-digits", "26-11-21-digits")]

    def run(self, *arguments: str, exit_code: int = 0) -> Any:
        """Return the document that a command prints; those on several lines as a list."""
        self._capsys.readouterr()
        assert experiments.main([*arguments, "--json"]) == exit_code
        printed = self._capsys.readouterr().out
        values = [json.loads(line) for line in printed.splitlines()]
        form = documents.Error if exit_code == 2 else documents.DOCUMENTS[arguments[0]]
        if arguments[0] == "logs" and "-f" in arguments:
            form = documents.LogText
        assert all(matches(value, form) for value in values), (arguments, printed)
        return values[0] if len(values) == 1 else values


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    monkeypatch.chdir(tmp_path)
    return Commands(tmp_path, capsys)


def test_every_command_has_a_document() -> None:
    assert documents.DOCUMENTS.keys() == experiments.COMMANDS.keys()


def test_states_in_the_description_of_a_run_exist() -> None:
    source = Path(documents.__file__).read_text("utf-8")
    comment = re.search(r"class RunStatus.*?    state: str  # (.*?), …", source, re.DOTALL)
    assert comment and set(comment[1].split(", ")) <= set(states.ALL)


def test_documents_of_commands_that_read(commands: Commands) -> None:
    batch, other = commands.batches
    status, = commands.run("status", batch)
    assert status["batch"] == batch
    assert [run["state"] for run in status["runs"]] == ["done", "done"]
    assert commands.run("watch", batch, "--every", "0.01")[0]["counts"] == {"done": 2}
    assert commands.run("wait", batch, other, "--every", "0.01") == [
        {"batch": path, "counts": {"done": 2}, "failures": [], "unfinished_search": None} for path in commands.batches]
    run = os.path.join(batch, status["runs"][0]["run"])
    Path(run, "training.log").write_text("first\nsecond \x1b[31mred\n")
    assert commands.run("logs", run)["logs"] == [
        {"file": f"{run}/training.log", "text": "first\nsecond red\n"}]
    assert commands.run("logs", run, "-f")[-1] == {"state": "done"}
    rows = commands.run("query", batch, "base_lr > 0.2")
    assert (rows["matching"], rows["of"]) == (1, 2)
    assert rows["runs"][0]["base_lr"] == 0.5
    best = commands.run("best", batch, "--limit", "1")
    assert (len(best["settings"]), best["of"], best["metric"]) == (1, 2, ["val/last/accuracy"])
    assert best["settings"][0]["low"] is None, "a single run has no interval"
    assert commands.run("best", batch, "--where", "base_lr > 0.2")["of"] == 1
    assert commands.run("best", batch, "--metric", "val/last/los", "--by", "mdel", exit_code=2)["hint"]
    comparison = commands.run("compare", batch, other)
    assert [group["batch"] for group in comparison["best"]] == commands.batches
    assert comparison["settings"] == 2
    assert Path(commands.run("report", batch)["report"]).read_text().startswith("<!doctype html>")
    assert commands.run("doctor", exit_code=experiments.main(["doctor"]))


def test_documents_of_commands_that_change_batches(commands: Commands) -> None:
    batch, other = commands.batches
    assert commands.run("note", batch, "it works")[0]["text"] == "it works"
    assert [note["text"] for note in commands.run("note", batch)] == ["it works"]
    assert commands.run("cancel", batch, "-y") == {"cancelled": [], "exceptions": [], "gone": [], "ending": []}
    assert commands.run("clean", batch, "-y") == {"removed": 0, "batches": {}}
    renamed = commands.run("rename", batch, "better")
    assert renamed["source"] == batch
    moved, = commands.run("move", renamed["target"], "elsewhere")
    assert moved["target"].startswith("elsewhere/")
    files = commands.run("export", other, "--to", "csv")["files"]
    assert all(map(os.path.isfile, files))
    run = os.path.join(other, commands.run("query", other, "epochs > 0")["runs"][0]["run"])
    deleted, = commands.run("delete", run, "-y")
    assert deleted["run"] == run and os.path.isfile(deleted["kept"])
    deleted, = commands.run("delete", other, "-y")
    assert deleted["batch"] == other
    assert os.path.isfile(deleted["kept"])


@pytest.mark.parametrize(("arguments", "where", "hint"), [
    (("status", "nowhere"), "nowhere", None),
    (("delete", "BATCH"), "command line", "--yes"),
    (("query", "BATCH", "base_lt > 1"), None, "base_lr"),
    (("status", "--state", "asleep"), "command line", "--help"),
    (("logs",), "command line", "--help")])
def test_errors_are_documents(commands: Commands, arguments: tuple[str, ...], where: str | None,
                              hint: str | None) -> None:
    arguments = tuple(commands.batches[0] if word == "BATCH" else word for word in arguments)
    try:
        error = commands.run(*arguments, exit_code=2)
    except SystemExit:
        pytest.fail("argparse ended the process")
    assert error["error"]
    assert where in (None, error["where"])
    assert hint is None or hint in str(error)


def test_missing_points(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert experiments.main(["missing", str(project.spec), "--json"]) == 1
    missing = json.loads(capsys.readouterr().out)
    assert matches(missing, documents.Missing)
    assert len(missing["missing"]) == 4


def test_submission_prints_one_document_and_its_text_on_standard_error(project: Project,
                                                                       capfd: pytest.CaptureFixture[str]) -> None:
    project.write_spec("[8, 13]")
    assert project.submit(project.spec, "--local", "--json", "-y") == 1
    printed = capfd.readouterr()
    document = json.loads(printed.out)
    assert matches(document, documents.Submission)
    assert (document["batch"], document["exit_code"]) == (f"re sults/{project.batch.name}", 1)
    assert [run["state"] for run in document["runs"]] == ["done", "done", "failed", "failed"]
    assert "4 runs: 2 batch_size x 2 base_lr" in printed.err
    assert project.submit("-r", project.batch, "--local", "-d", "--json") == 0
    planned = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert len(planned) == 2
    assert all(matches(run, documents.PlannedRun) for run in planned)


def test_submission_errors_are_documents(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_spec("[a, b]")
    assert submit_multiple.main([str(project.spec), "--local", "--json", "-d"]) == 2
    error = json.loads(capsys.readouterr().out)
    assert matches(error, documents.Error)
    assert "batch_size" in error["where"]
    assert submit_multiple.main([str(project.spec), "--local", "--json"]) == 2
    assert "--yes" in json.loads(capsys.readouterr().out)["error"]


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_document({"a": [float("nan"), float("inf"), 1.5], 3: (None, True, "é")})
    assert capsys.readouterr().out == '{"a": [null, null, 1.5], "3": [null, true, "é"]}\n'
