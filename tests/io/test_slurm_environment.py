"""Slurm's environment variables: what they say, and that one module alone names them."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

from src.io import slurm_environment
from tests.conftest import ROOT


@pytest.mark.parametrize(("environment", "job"), [
    ({}, None), ({"SLURM_JOB_ID": "7"}, "7"),
    ({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}, "7_2")])
def test_job_id_names_array_tasks_as_squeue_does(environment: dict[str, str], job: str | None) -> None:
    assert slurm_environment.job_id(environment) == job


@pytest.mark.parametrize(("text", "task"), [("0", 0), ("12", 12), ("", None), (None, None), ("%4", None)])
def test_array_task_is_none_outside_an_array(text: str | None, task: int | None) -> None:
    assert slurm_environment.array_task({} if text is None else {"SLURM_ARRAY_TASK_ID": text}) == task


@pytest.mark.parametrize(("variable", "of_job"), [
    ("SLURM_JOB_ID", True), ("SLURM_RESTART_COUNT", True), ("SLURM_CONF", False), ("SLURM_CLUSTERS", False),
    ("SLURM_JWT", False), ("PATH", False)])
def test_settings_of_the_cluster_do_not_describe_the_job(variable: str, of_job: bool) -> None:
    assert slurm_environment.is_of_job(variable) is of_job


def test_no_other_module_names_a_slurm_variable() -> None:
    home = Path(slurm_environment.__file__)
    sources = [path for path in [*(ROOT / "src").rglob("*.py"), *ROOT.glob("*.py")] if path != home]
    assert [str(path.relative_to(ROOT)) for path in sources
            if re.search(r"\bSLURMD?_", path.read_text())] == []
