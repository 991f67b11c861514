"""Reading run folders."""
from __future__ import annotations

import json
from pathlib import Path

import pytest

from src import run_folder
from src.run_folder import RunFolder


def test_claims_and_attempts_are_in_numeric_order(tmp_path: Path) -> None:
    for name in ("claim-2", "claim-10", "claim-x", "attempt-2-10.json", "attempt-2-9.json", "attempt-1-0.json",
                 "attempt-1-0.json.tmp"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "attempt-2-10.json").write_text(json.dumps({"how": "failed"}))
    run = RunFolder.read(tmp_path)
    assert run.claims == (2, 10)
    assert run.attempts == ((1, 0), (2, 9), (2, 10))
    assert run.last_attempt() == {"ticket": 2, "number": 10, "how": "failed"}
    assert run.name == tmp_path.name


def test_incomplete_attempt_record_still_has_its_number(tmp_path: Path) -> None:
    (tmp_path / "attempt-3-1.json").write_text('{"tick')
    assert RunFolder.read(tmp_path).last_attempt() == {"ticket": 3, "number": 1}
    assert RunFolder.read(tmp_path).claim(3) == {}


@pytest.mark.parametrize(("text", "end"), [("completed\n", "completed"), ("", "completed"), ("diverged", "diverged")])
def test_done(text: str, end: str, tmp_path: Path) -> None:
    assert RunFolder.read(tmp_path).ended is None
    (tmp_path / "done").write_text(text)
    assert RunFolder.read(tmp_path).ended == end


@pytest.mark.parametrize("text", ["", "3", "[]", '{"pid": '])
def test_invalid_claim_and_attempt_records_are_empty(text: str, tmp_path: Path) -> None:
    (tmp_path / "claim-1").write_text(text)
    (tmp_path / "attempt-1-0.json").write_text(text)
    run = RunFolder.read(tmp_path)
    assert (run.claim(1), run.last_attempt()) == ({}, {"ticket": 1, "number": 0})


def test_run_names_are_in_numeric_order(tmp_path: Path) -> None:
    for name in ("submissions", "code", ".hidden", "1000_a", "999_a", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "job.yaml").touch()
    assert run_folder.run_names(tmp_path) == ["notes", "999_a", "1000_a"]


def test_missing_run_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RunFolder.read(tmp_path / "gone")
