"""The file of a script's --error: where it is named, and which files its pattern stands for."""
from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import pytest

from src.submission.slurm import error_log


@pytest.mark.parametrize(("script", "plan", "expected"), [
    ("#SBATCH -e logs/%j.err", {}, "/project/logs/%j.err"), ("#SBATCH --mem=8G", {}, None),
    ("#SBATCH --error=/logs/%x.err", {"sbatch": {"error": "a.err"}}, "/project/a.err"),
    ("#SBATCH -e x", {"sbatch": {"error": "a.err"}, "command_line": {"error": "/b.err"}}, "/b.err"),
    ("", {"environment": {"error": "/c.err"}}, "/c.err"), ("", {"command_line": {"error": True}}, None)])
def test_error_file_is_that_of_the_last_layer(script: str, plan: dict[str, Any], expected: str | None,
                                              tmp_path: Path) -> None:
    (tmp_path / "s.sh").write_text(f"#!/bin/sh\n{script}\ntrue\n")
    record = {"script": str(tmp_path / "s.sh"), "project": "/project", **plan}
    assert error_log.pattern_of_plan(record) == expected
    assert error_log.pattern_of_plan({}) is None
    assert error_log.pattern_of_plan({"script": str(tmp_path / "gone.sh")}) is None


@pytest.mark.parametrize(("pattern", "job", "name"), [
    ("%j.err", "12", "12.err"), ("%A_%a.err", "12_3", "12_3.err"), ("%j.err", "12_3", "15.err"),
    ("%x-%N.%8j.err", "12", "run-node1.00000012.err"), ("a%%[1].err", "12", "a%[1].err"),
    ("%A.err", "12;c2", "12.err")])
def test_pattern_matches_the_file_of_the_job(pattern: str, job: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    (tmp_path / "other.txt").touch()
    assert glob.glob(error_log.expand(f"{tmp_path}/{pattern}", job)) == [str(tmp_path / name)]
