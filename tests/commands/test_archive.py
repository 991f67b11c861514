"""experiments.py archive and unarchive: commands and submissions read archived runs as before, and start none."""
from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import experiments
from src import run_folder
from src.analysis.reading import arrays, runs
from src.analysis.reading.results import read_results
from src.config import Config
from src.errors import BatchError
from src.io import yaml_io
from src.submission.batch import batch_folder, claims
from src.submission.job import attempt
from src.submission.system import process
from tests.analysis.make_batch import curves
from tests.analysis.page.test_write import read_document
from tests.conftest import ROOT
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.searching import ASHA, assert_sound, decisions_of, states_of, write
from tests.submission.conftest import Project, project

__all__ = ["fake_slurm", "project"]  # fixtures


@pytest.fixture
def batch(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A batch of three runs that have ended, and one that has failed."""
    monkeypatch.setenv(batch_folder.RESULTS_VARIABLE, str(project.results))
    project.write_spec("[8, 13]")
    assert project.submit(project.spec, "--local", "-y", "--set", "base_lr=[0.1, 1]") == 1
    return project.batch


class Commands:
    """Runs commands and returns what they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def run(self, *arguments: str | Path, code: int = 0) -> str:
        self._capsys.readouterr()
        assert experiments.main(list(map(str, arguments))) == code, self._capsys.readouterr()
        return self._capsys.readouterr().out

    def clear(self) -> str:
        """Return what was printed since the last command."""
        return self._capsys.readouterr().out


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


def names(batch: Path) -> list[str]:
    return sorted(path.name for path in batch.iterdir() if path.name[0].isdigit())


def test_commands_read_archived_runs_as_before(batch: Path, commands: Commands) -> None:
    run = run_folder.run_names(batch)[0]
    (batch / run / "stats.csv").write_text("epoch,val/last/accuracy\n1,0.5\n2,0.75\n")
    (batch / run / "training.log").write_text("a line\n")
    ways = [("status", batch), ("query", batch, "base_lr > 0"), ("logs", f"{batch}:0"), ("logs", f"{batch}:2"),
            ("best", batch), ("status", batch, "--state", "failed"), ("note", batch), ("compare", batch, batch),
            ("query", batch, "end == 'completed'", "--names")]
    before, missing = [commands.run(*way) for way in ways], commands.run("missing", batch / "job.yaml", code=1)
    results, document = read_results(batch), json.loads(commands.run("status", batch, "--json"))
    out = commands.run("archive", batch)
    assert "4 runs archived" in out and "unarchive" in out and names(batch) == []
    assert [commands.run(*way) for way in ways] == before
    assert commands.run("missing", batch / "job.yaml", code=1) == missing
    assert json.loads(commands.run("status", batch, "--json"))[0]["runs"] == document[0]["runs"]
    archived = read_results(batch)
    assert archived.config.equals(results.config) and archived.long.equals(results.long)
    assert commands.run("report", batch) and commands.run("clean", batch, "--yes") == "nothing to remove\n"
    commands.run("note", batch, "archived")
    moved = batch.with_name(f"{batch.name[:9]}other")
    commands.run("rename", batch, "other")
    assert commands.run("status", moved).count("done") == before[0].count("done")
    assert commands.run("unarchive", f"{moved}:0") == f"{moved}: 1 run brought back\n"
    assert names(moved) == [run]


def report_document(batch: Path, commands: Commands) -> dict[str, Any]:
    """Write the report on a batch. Return the document in it, without the time at which it was written."""
    path = commands.run("report", batch).removeprefix("report: ").strip()
    document = read_document(Path(path).read_text(encoding="utf-8"))
    assert document.pop("written")
    return document


def test_report_on_archived_runs_is_the_same_document(project: Project, batch: Path, commands: Commands) -> None:
    """With the details of each run: config, curves of epochs, steps and the system, log, failure and files."""
    for number, name in enumerate(run_folder.run_names(batch)):
        folder = batch / name
        spec = run_folder.read_spec(folder / "spec.yaml")
        facts = {"host": "node1", "commit": "abc", "classes": 10, "input_shape": [1, 8, 8]}
        (folder / "config.yaml").write_text(yaml_io.dump_flat({**Config.from_dict(spec).to_dict(), "facts": facts}))
        (folder / "stats.csv").write_text(curves(spec, 3 + number, number))
        (folder / "steps.csv").write_text(f"step,epoch,timestamp,loss\n1,1,1.8e9,0.{number}\n2,1,1.8e9,0.1\n")
        (folder / "system.csv").write_text(f"time,cpu\n1.8e9,{number}\n1.8e9,9\n")
        (folder / "training.log").write_text(f"line of {name}\n")
        (folder / "best_checkpoint.pt").write_bytes(b"1" * 1000)
        (folder / "arrays").mkdir()
        (folder / "arrays" / "epoch-00001.npz").write_bytes(b"2")
    commands.run("note", batch, "base_lr 0.1 is best")
    before = report_document(batch, commands)
    assert len(before["details"]) == 4 and len(before["batches"][0]["failures"]) == 1
    assert all(details["log"] and len(details["series"]) == 2 and len(details["files"]) > 8
               for details in before["details"].values())
    documents = [("best", batch), ("query", batch, "base_lr > 0"), ("compare", batch, batch), ("status", batch)]
    answers = [commands.run(*words, "--json") for words in documents]
    frame = read_results(batch, cache=False).big_df()
    plan = retry_plan(project, batch, commands)
    assert "4 runs archived" in commands.run("archive", batch) and names(batch) == []
    assert report_document(batch, commands) == before
    assert [commands.run(*words, "--json") for words in documents] == answers
    archived = read_results(batch, cache=False).big_df()
    assert archived.astype(str).equals(frame.astype(str))
    assert retry_plan(project, batch, commands) == plan


def retry_plan(project: Project, batch: Path, commands: Commands) -> str:
    """Return the plan of a retry."""
    commands.clear()
    assert project.submit("-r", batch, "--local", "--dry-run") == 0
    return commands.clear()


def test_search_that_is_over_is_archived_read_and_extended(project: Project, commands: Commands,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(batch_folder.RESULTS_VARIABLE, str(project.results))
    (project.folder / "train.py").write_text((ROOT / "tests" / "submission" / "search_entry.py").read_text())
    write(project)
    assert project.submit(project.spec, "--local", "-y") == 0
    batch, decisions = project.batch, decisions_of(project.batch)
    ways = [("status", batch), ("search", batch), ("search", batch, "--replay"), ("query", batch, "base_lr > 0"),
            ("best", batch), ("wait", batch)]
    before, results, states = [commands.run(*way) for way in ways], read_results(batch), states_of(batch)
    document = report_document(batch, commands)
    search = json.loads(commands.run("status", batch, "--json"))[0]["search"]
    out = commands.run("archive", batch)
    assert "18 runs archived" in out and "left alone" not in out and names(batch) == []
    assert [commands.run(*way) for way in ways] == before and states_of(batch) == states
    assert json.loads(commands.run("status", batch, "--json"))[0]["search"] == search
    archived = read_results(batch)
    assert archived.config.equals(results.config) and archived.long.equals(results.long)
    assert report_document(batch, commands) == document and commands.run("compare", batch, batch)
    for again in (("-r", batch), (project.spec,)):
        assert project.submit(*again, "--local", "-y") == 0 and names(batch) == []
    write(project, ASHA.replace("18", "30"))
    assert project.submit(project.spec, "--local", "-y", "--extend") == 0
    ended = {run.name for run in map(run_folder.RunFolder.read, map(batch.joinpath, run_folder.run_names(batch)[:18]))
             if run.ended and not (batch / run.name).exists()}
    assert 1 <= len(ended) < 18, "only trials that were done stay in the archive"
    promoted = {record["trial"] for record in decisions_of(batch)[len(decisions):] if record["kind"] == "promote"}
    assert any(trial < 18 for trial in promoted), "a trial that was archived was resumed"
    commands.run("unarchive", batch)
    assert decisions_of(batch)[:len(decisions)] == decisions
    assert_sound(batch, 30)


def test_search_that_is_not_over_keeps_trials_that_may_continue(project: Project, commands: Commands) -> None:
    (project.folder / "train.py").write_text((ROOT / "tests" / "submission" / "search_entry.py").read_text())
    write(project)
    assert project.submit(project.spec, "--local", "-y") == 0
    batch, (done, paused) = project.batch, map(states_of(project.batch).get, ("done", "paused"))
    (batch / "search" / "finished.json").unlink()  # as if its workers had been killed before they recorded it
    out = commands.run("archive", batch)
    assert f"{done} run" in out and f"{paused} runs left alone: its search is not over, and may continue it" in out
    assert len(names(batch)) == paused
    assert project.submit("-r", batch, "--local", "-y") == 0
    assert f"{paused} runs archived" in commands.run("archive", batch) and names(batch) == []


def test_documents(batch: Path, commands: Commands) -> None:
    *others, last = run_folder.run_names(batch)
    attempt_of_last = run_folder.RunFolder.read(batch / last).attempts[-1]
    (batch / last / run_folder.attempt_name(*attempt_of_last)).unlink()
    (batch / last / run_folder.claim_name(attempt_of_last[0])).unlink()
    assert json.loads(commands.run("archive", batch, "--json")) == [{
        "batch": str(batch), "archived": others, "left": {last: "new"}, "files": [str(batch / "archive" / "1.zip")]}]
    assert json.loads(commands.run("archive", batch, "--json"))[0]["left"] == {last: "new"}
    assert json.loads(commands.run("unarchive", batch, "--json")) == [{"batch": str(batch), "runs": others}]
    assert "--yes" in commands.run("archive", batch, "--drop-checkpoints", "--json", code=2)


def test_a_running_batch_is_left_alone(batch: Path, commands: Commands) -> None:
    last = batch / run_folder.run_names(batch)[-1]
    record = last / run_folder.attempt_name(1, 0)
    ended = record.read_text()
    record.write_text(json.dumps({**json.loads(ended), "who": process.identity(), "how": None, "end": None}))
    before = names(batch)
    assert "0 runs archived" in (out := commands.run("archive", batch)) and "3 runs left alone: a run of" in out
    assert names(batch) == before and not (batch / "archive").exists()
    record.write_text(ended)
    assert "4 runs archived" in commands.run("archive", batch)


def test_archived_runs_are_never_started_again(project: Project, batch: Path, commands: Commands,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    archived, failed = run_folder.run_names(batch)[:2], run_folder.run_names(batch)[2:]
    commands.run("archive", batch)
    (batch / "mended").write_text("")
    assert project.submit("-r", batch, "--local", "--dry-run") == 0 and names(batch) == []
    assert project.submit("-r", batch, "--local", "-y") == 0
    assert project.executed() == [1, 1] and names(batch) == failed  # those that had failed
    assert [run_folder.RunFolder.read(batch / name).attempts for name in failed] == [((1, 0), (2, 0))] * 2
    assert run_folder.run_names(batch) == archived + failed
    same = (project.spec, "--local", "-y", "--set", "base_lr=[0.1, 1]")
    assert project.submit(*same) == 0
    assert "4 of 4 done" in capsys.readouterr().out
    project.write_spec("[8, 13, 32]")
    assert project.submit(*same, "--extend") == 0
    assert len(run_folder.run_names(batch)) == 6 and not any((batch / name).exists() for name in archived)
    assert commands.run("archive", batch).startswith(f"{batch}: 4 runs archived")
    assert project.submit(*same, "--extend") == 0 and names(batch) == []
    assert not any(claims.can_start(str(batch / name), 1, "a job that was restarted") for name in archived)
    spec = str(batch / archived[0] / "spec.yaml")
    assert attempt.main([spec], train=lambda *_: "completed", warm_up=lambda _: None) == 0
    assert "this run has ended already (completed)" in capsys.readouterr().out
    assert attempt.main(["--fresh", spec], train=lambda *_: "completed", warm_up=lambda _: None) == 2
    assert "this run is archived, and cannot be started" in capsys.readouterr().err
    assert names(batch) == []


def test_slurm_starts_an_archived_run_that_failed(project: Project, fake_slurm: FakeSlurm, commands: Commands) -> None:
    project.write_spec("[8, 13]")
    (project.folder / "s.sh").write_text(f'#!/bin/bash\nexec {sys.executable} train.py "$@"\n')
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--set", "base_lr=0.1") == 0
    fake_slurm.run_all()
    for path in project.batch.glob("*/*"):
        os.utime(path, (1e9, 1e9))
    assert "2 runs archived" in commands.run("archive", project.batch) and names(project.batch) == []
    (project.batch / "mended").write_text("")
    assert project.submit("-r", project.batch, "-y") == 0
    assert names(project.batch) == run_folder.run_names(project.batch)[1:]
    fake_slurm.run_all()
    states = [run["state"] for run in json.loads(commands.run("status", project.batch, "--json"))[0]["runs"]]
    assert project.executed() == [1] and states == ["done", "done"]


def test_an_archived_run_is_deleted(project: Project, batch: Path, commands: Commands) -> None:
    first, *others = run_folder.run_names(batch)
    commands.run("archive", batch)
    assert "deleted" in commands.run("delete", batch / first, "-y")
    assert first not in run_folder.run_names(batch) and "deleted" in commands.run("status", batch)
    kept = json.loads((project.results / "deleted.jsonl").read_text())
    assert kept["run"] == first and "base_lr" in kept["spec"]
    for name in others:
        commands.run("delete", batch / name, "-y")
    assert not (batch / "archive").exists()
    commands.run("delete", batch, "-y")
    assert not batch.exists()


def test_python_reads_arrays_artifacts_and_runs(batch: Path, commands: Commands) -> None:
    import numpy as np

    folder = batch / run_folder.run_names(batch)[0]
    (folder / "arrays").mkdir()
    np.savez(folder / "arrays" / "epoch-00003.npz", counts=np.arange(4))
    runs.save_artifact({"a": 1}, folder, "note.json")
    found = runs.find_runs({"base_lr": 0.1, "end": "completed"}, batch)
    commands.run("archive", batch)
    assert arrays.epochs_with_arrays(folder) == [3]
    assert arrays.read_array(folder, "counts").tolist() == [0, 1, 2, 3]
    assert runs.load_artifact(folder, "note.json") == {"a": 1}
    assert runs.find_runs({"base_lr": 0.1, "end": "completed"}, batch)["run"].tolist() == found["run"].tolist()
    assert runs.is_done({"base_lr": 0.1}, batch)
    with pytest.raises(BatchError, match="archived, and cannot be changed"):
        runs.save_artifact({"a": 1}, folder, "other.json")
    assert not folder.exists()


def test_a_batch_of_several_machines_is_not_archived(batch: Path, commands: Commands) -> None:
    (batch / "submissions" / "from-far.json").write_text(json.dumps({"host": "far", "time": 1.8e9, "journals": []}))
    commands.run("archive", batch, code=2)
    assert not (batch / "archive").exists()


def test_a_damaged_archive_is_named(batch: Path, commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    commands.run("archive", batch)
    volume = batch / "archive" / "1.zip"
    data = volume.read_bytes()
    volume.write_bytes(data[:100])
    os.utime(volume, (1, 1))
    assert experiments.main(["status", str(batch)]) == 2
    assert f"{volume}: this archive is not read" in capsys.readouterr().err
    done = data.index(b"completed\n")
    volume.write_bytes(data[:done] + b"diverged!" + data[done + 9:])
    assert "cannot be read: damaged in the archive" in commands.run("status", batch)
