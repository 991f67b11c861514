"""The run that a user means, by every way of naming it."""
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from src.errors import BatchError
from src.submission.batch import batch_folder
from src.submission.batch.journal import ARRAY, ONE_EACH, SLURM, WORKERS, Journal, Units
from src.submission.status import run_lookup
from tests.fake_slurm.fixture import FakeSlurm, fake_slurm
from tests.submission.conftest import Project

__all__ = ["fake_slurm"]  # the fixture


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three batches of three runs, submitted in the order of their names' last letters: z is the newest."""
    # neither the project's own results are looked through, nor a Slurm that other tests may have
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("src.submission.slurm.client.query", lambda command: None)
    for name, token, units, jobs in (("26-01-02-x", "260102-1", Units(ONE_EACH), ["70", "71", "72"]),
                                     ("26-01-02-y", "260102-2", Units(ARRAY, [0, 3]), ["80"]),
                                     ("26-01-01-z", "260102-3", Units(WORKERS), ["90", "91"])):
        path = tmp_path / name
        runs = [f"{index:03d}_{name[-1]}" for index in range(3)]
        batch_folder.create(str(path), "job_details: {name: a}\n", runs, ["batch_size: 8\n"] * 3)
        book = Journal(str(path), token)
        book.record_plan(SLURM, dict.fromkeys(runs, 1), units)
        for unit, job in enumerate(jobs):
            book.record_sending(unit)
            book.record_job(unit, job)
    (tmp_path / "26-01-01-z" / "002_z" / "claim-1").write_text(json.dumps({"slurm_job": "91"}))
    return tmp_path


def found(word: str, results: Path) -> str:
    return os.path.relpath(run_lookup.find_run(word, str(results)), results)


@pytest.mark.parametrize(("word", "expected"), [
    ("001_x", "26-01-02-x/001_x"), ("26-01-02-x:1", "26-01-02-x/001_x"), ("26-01-02-y:001_y", "26-01-02-y/001_y"),
    ("0", "26-01-01-z/000_z"), ("2", "26-01-01-z/002_z"), ("71", "26-01-02-x/001_x"), ("80_2", "26-01-02-y/002_y"),
    ("91", "26-01-01-z/002_z"), ("x:1", "26-01-02-x/001_x"), ("jobs/x.yaml:1", "26-01-02-x/001_x")])
def test_run_is_found_by_name_index_and_slurm_job(word: str, expected: str, results: Path) -> None:
    batch_folder.create(str(results / "25-01-01-x"), "", ["001_older"], [""])  # of the same job spec
    (results / "jobs").mkdir()
    (results / "jobs" / "x.yaml").write_text("job_details: {name: x, output_dir: .}\nparameters: {base_lr: 1}\n")
    assert found(word, results) == expected


def test_batch_stands_for_its_only_run(results: Path) -> None:
    batch_folder.create(str(results / "26-01-03-long"), "", ["007_long"], ["batch_size: 8\n"])
    for word in ("long", "26-01-03-long", f"{results}/26-01-03-long/"):
        assert found(word, results) == "26-01-03-long/007_long"
    with pytest.raises(BatchError, match=r"this is a batch of 3 runs, not a run.* name one of them, for example x:0; "):
        found("x", results)


def test_run_and_batch_are_found_by_their_folders(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = results / "26-01-02-x" / "001_x"
    assert found(f"{folder}/", results) == "26-01-02-x/001_x"
    assert found(f"{folder.parent}:2", results) == "26-01-02-x/002_x"
    monkeypatch.chdir(folder.parent)
    assert run_lookup.find_run("001_x", "nowhere") == "001_x"


def test_index_is_that_of_the_run_and_not_of_its_repeats(results: Path) -> None:
    """After `reproduce` the same index can be reproduced again; a repeat is found by its name."""
    repeat = results / "26-01-01-z" / "001_z-repeat-1"
    repeat.mkdir()
    (repeat / "spec.yaml").write_text("batch_size: 8\n")
    assert found("1", results) == found("26-01-01-z:1", results) == "26-01-01-z/001_z"
    assert found("001_z-repeat-1", results) == "26-01-01-z/001_z-repeat-1"


@pytest.mark.parametrize("word", ["3", "70_1", "80_3", "90", "999", "000_q", "../x", "26-01-02-x:7", "x:1:2", ""])
def test_unknown_run_is_an_error_with_the_accepted_forms(word: str, results: Path) -> None:
    with pytest.raises(BatchError) as error:
        run_lookup.find_run(word, str(results))
    assert "BATCH:12" in str(error.value) or "no such folder" in str(error.value)


def test_ambiguous_name_lists_the_candidates(results: Path) -> None:
    with pytest.raises(BatchError, match="3 runs match.*26-01-02-y/000_y.*26-01-02-y/002_y"):
        run_lookup.find_run("80", str(results))
    (results / "26-01-02-x" / "000_z").mkdir()
    (results / "26-01-02-x" / "000_z" / "spec.yaml").touch()
    with pytest.raises(BatchError, match="2 runs match"):
        run_lookup.find_run("000_z", str(results))


def test_number_that_is_an_index_and_a_job_id_is_ambiguous(results: Path) -> None:
    newest = results / "26-01-01-z"
    for name in [f"{index:03d}_z" for index in (70,)]:
        (newest / name).mkdir()
        (newest / name / "spec.yaml").write_text("batch_size: 8\n")
    with pytest.raises(BatchError, match="26-01-01-z/070_z, .*26-01-02-x/000_x"):
        run_lookup.find_run("70", str(results))


@pytest.mark.parametrize(("way", "suffix"), [([], ""), (["--array"], "_1")])
def test_slurm_job_of_a_batch_in_another_folder_is_found(way: list[str], suffix: str, project: Project,
                                                         fake_slurm: FakeSlurm) -> None:
    (project.folder / "s.sh").write_text("#!/bin/sh\n")
    project.submit(project.spec, "-s", "s.sh", "-y", *way)
    job = fake_slurm.jobs()[0].partition("_")[0]
    run = project.runs()[1 if suffix else 0]
    assert run_lookup.find_run(job + suffix, "no-results-here") == str(run)


def test_run_in_the_output_dir_of_a_job_spec_is_found(results: Path, tmp_path_factory: pytest.TempPathFactory,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path_factory.mktemp("project")
    (project / "jobs").mkdir()
    (project / "jobs" / "a.yaml").write_text(f"job_details: {{name: a, output_dir: '{results}'}}\nparameters: [\n")
    monkeypatch.chdir(project)
    for word, expected in (("001_x", "26-01-02-x/001_x"), ("2", "26-01-01-z/002_z"), ("71", "26-01-02-x/001_x")):
        assert run_lookup.find_run(word, "results") == str(results / expected)
