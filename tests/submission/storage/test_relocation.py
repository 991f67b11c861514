"""Batches are renamed, moved and deleted as a whole, and never while one of their runs may be alive."""
from __future__ import annotations

import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest

import experiments
from src import notes, run_folder
from src.submission.batch import batch_folder
from src.submission.system import process
from tests.analysis.test_report import read
from tests.submission.conftest import Project, project

__all__ = ["project"]  # fixture


@pytest.fixture
def batch(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A batch of four runs that have ended."""
    monkeypatch.setenv(batch_folder.RESULTS_VARIABLE, str(project.results))
    assert project.submit(project.spec, "--local", "-y") == 0
    return project.batch


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_rename_keeps_date_files_and_ids(project: Project, batch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, date = files_of(batch), batch.name[:9]
    ids = [run_folder.identity(str(path)) for path in (batch, *project.runs())]
    assert experiments.main(["rename", batch.name, "first-try"]) == 0
    target = project.results / f"{date}first-try"
    assert not batch.exists() and target.is_dir()
    out = capsys.readouterr().out
    assert f"renamed {batch} to {target}\n" in out and "submit_multiple.py -r" in out
    after = files_of(target)
    assert before.items() <= after.items() and after.keys() - before.keys() == {"notes.jsonl", "submissions/first-name"}
    assert [note.text for note in notes.read(str(target))] == [f"renamed from {batch.name}"]
    assert experiments.main(["rename", str(target), "26-01-31-again"]) == 0  # another date, and ids stay
    assert [run_folder.identity(str(path)) for path in (project.batch, *project.runs())] == ids
    assert project.batch.name == "26-01-31-again"


def test_renamed_batch_is_retried_and_its_command_makes_a_new_one(project: Project, batch: Path) -> None:
    assert experiments.main(["rename", str(batch), "old"]) == 0
    renamed = project.batch
    (renamed / project.runs()[0].name / "done").unlink()
    assert project.submit("-r", renamed, "-y") == 0
    assert project.executed() == [2, 1, 1, 1]
    assert project.submit(project.spec, "--local", "-y") == 0
    assert sorted(path.name[9:] for path in project.results.iterdir()) == ["old", "tiny"]


@pytest.mark.parametrize("other_file_system", [False, True])
def test_move_creates_the_folder(project: Project, batch: Path, other_file_system: bool,
                                 monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (batch / "link").symlink_to("000_x")
    before, rename = files_of(batch), os.rename

    def rename_within_a_folder(source: str, target: str) -> None:
        if os.path.dirname(source) != os.path.dirname(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    if other_file_system:
        monkeypatch.setattr(os, "rename", rename_within_a_folder)
    archive = project.folder / "archive" / "2026"
    assert experiments.main(["move", str(batch), str(archive)]) == 0
    target = archive / batch.name
    assert list(project.results.iterdir()) == [] and list(archive.iterdir()) == [target]
    assert files_of(target).items() >= before.items() and (target / "link").is_symlink()
    assert [note.text for note in notes.read(str(target))] == [f"moved from {project.results}"]
    out = capsys.readouterr().out
    assert "name these by their folder" in out
    assert "`missing`, --skip-done, --extend and `-r JOB_SPEC` look in" in out and str(project.results) in out
    next(target.glob("000_*/done")).unlink()
    assert project.submit("-r", target, "-y") == 0


def test_delete_asks_and_keeps_job_spec_and_notes(project: Project, batch: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    assert experiments.main(["note", str(batch), "a large rate wins"]) == 0
    spec = (batch / "job.yaml").read_text()
    outside = project.folder / "precious"
    outside.write_text("data")
    (batch / "link").symlink_to(outside)
    answers = iter(["n", "y"])
    monkeypatch.setattr("src.commands.common.ask", lambda question: next(answers))
    assert experiments.main(["delete", str(batch)]) == 2
    assert "nothing was deleted" in capsys.readouterr().err and batch.is_dir()
    assert experiments.main(["delete", str(batch)]) == 0
    out = capsys.readouterr().out
    assert "4 runs (4 done), 0.0 MiB\n" in out
    assert [path.name for path in project.results.iterdir()] == ["deleted.jsonl"]
    record, = [json.loads(line) for line in (project.results / "deleted.jsonl").read_text().splitlines()]
    assert (record["batch"], record["runs"], record["job_spec"]) == (batch.name, {"done": 4}, spec)
    assert [note["text"] for note in record["notes"]] == ["a large rate wins"]
    assert outside.read_text() == "data"


@pytest.mark.parametrize("by_hand", [False, True])
def test_deleted_run_is_left_alone_and_counts_as_nothing_to_do(project: Project, batch: Path, by_hand: bool,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    """Whether a command deleted it or its folder was removed: for status, wait, -r and the report."""
    run = project.runs()[2]
    if by_hand:
        shutil.rmtree(run)
    else:
        spec = (run / "spec.yaml").read_text()
        assert experiments.main(["delete", str(run), "-y"]) == 0
        assert f"deleted {run}; " in capsys.readouterr().out
        record = json.loads((project.results / "deleted.jsonl").read_text())
        assert (record["run"], record["state"], record["spec"]) == (run.name, "done", spec)
        assert [note.text for note in notes.read(str(batch))] == [f"deleted {run.name} (done)"]
    assert experiments.main(["wait", str(batch)]) == 0
    assert "3 done, 1 deleted" in capsys.readouterr().out
    assert project.submit("-r", batch, "--local", "-y") == 0
    assert "nothing to submit: 3 of 4 done, 1 deleted" in capsys.readouterr().out and not run.exists()
    assert experiments.main(["status", str(batch)]) == 0
    assert re.search(rf"^{re.escape(run.name)} +deleted", capsys.readouterr().out, re.MULTILINE)
    assert experiments.main(["report", str(batch)]) == 0
    document = read(str(batch / "report.html"))
    [part] = document["batches"]
    assert (part["failures"], part["active"]) == ([], None)
    assert document["runs"]["state"] == ["done"] * 3
    assert {"title": "Deleted runs", "lines": [run.name]} in part["messages"]
    assert experiments.main(["clean", str(batch), "--unfinished", "-y"]) == 0
    assert project.submit(project.spec, "--local", "-y") == 0
    assert run.is_dir()


def test_running_run_is_not_deleted(project: Project, batch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = project.runs()[0]
    (run / "done").unlink()
    record = {"ticket": 2, "number": 0, "who": process.identity(), "start": 1.0, "how": None}
    (run / "claim-2").write_text(json.dumps(process.identity()))
    (run / "attempt-2-0.json").write_text(json.dumps(record))
    assert experiments.main(["delete", str(run), "-y"]) == 2
    assert "cannot delete this run: 1 run of it may be pending" in capsys.readouterr().err and run.is_dir()
    assert experiments.main(["delete", str(project.runs()[1]), "-y"]) == 0
    assert experiments.main(["delete", "nothing", "-y"]) == 2
    assert "nothing: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["rename", "BATCH", "x"], ["move", "BATCH", "archive"], ["delete", "BATCH", "-y"]])
def test_living_runs_and_links_are_refused(project: Project, batch: Path, command: list[str],
                                           capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(batch)
    run = project.runs()[0]
    (run / "done").unlink()
    record = {"ticket": 2, "number": 0, "who": process.identity(), "start": 1.0, "how": None}
    (run / "claim-2").write_text(json.dumps(process.identity()))
    (run / "attempt-2-0.json").write_text(json.dumps(record))
    assert experiments.main([str(batch) if word == "BATCH" else word for word in command]) == 2
    error = capsys.readouterr().err
    assert f"cannot {command[0]} this batch: 1 run of it may be pending or running ({run.name}: running)" in error
    for name in ("claim-2", "attempt-2-0.json"):
        (run / name).unlink()
    (run / "done").write_text("completed\n")
    link = project.folder / "link"
    link.symlink_to(batch)
    assert experiments.main([str(link) if word == "BATCH" else word for word in command]) == 2
    assert "this is a link" in capsys.readouterr().err
    assert files_of(batch) == before


def test_taken_and_unsafe_names_are_refused(project: Project, batch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project.results / f"{batch.name[:9]}taken").mkdir()
    for command, message in ((["rename", str(batch), "taken"], "this name is taken"),
                             (["rename", str(batch), "a b"], "not safe for folders"),
                             (["rename", str(batch), "../x"], "not safe for folders"),
                             (["move", str(batch), str(project.results)], "this name is taken"),
                             (["move", str(batch), str(batch)], "this is a batch or a run"),
                             (["move", str(batch), str(batch / "inside")], "cannot be moved into itself"),
                             (["delete", "no-such-batch", "-y"], "no such folder")):
        assert experiments.main(command) == 2
        assert message in capsys.readouterr().err
    assert batch.is_dir() and not (batch / "inside").exists()
