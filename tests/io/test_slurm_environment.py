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
    ("SLURM_CONF_SERVER", False), ("SLURM_JWT", False), ("SLURM_SACK_KEY", False), ("PATH", False)])
def test_settings_of_the_cluster_do_not_describe_the_job(variable: str, of_job: bool) -> None:
    assert slurm_environment.is_of_job(variable) is of_job


@pytest.mark.parametrize("name", ["SQUEUE_PARTITION", "SACCT_FORMAT", "SCANCEL_STATE", "SCONTROL_FEDERATION",
                                  "SINFO_PARTITION"])
def test_queries_run_without_the_defaults_of_the_user(name: str) -> None:
    site = {"SLURM_CONF": "/s", "SLURM_CLUSTERS": "c2", "SLURM_JWT": "x", "PATH": "/bin"}
    assert slurm_environment.for_queries({**site, name: "x", "TZ": "Asia/Tokyo"}) == {
        **site, "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0", "TZ": "UTC0"}


@pytest.mark.parametrize(("environment", "options", "variable"), [
    ({}, {}, "SBATCH_CLUSTERS"), ({"SLURM_CLUSTERS": "c2"}, {"clusters": "c2"}, "SLURM_CLUSTERS"),
    ({"SLURM_CLUSTERS": "c2", "SBATCH_CLUSTERS": "c3"}, {"clusters": "c3"}, "SBATCH_CLUSTERS")])
def test_clusters_of_the_environment_are_an_option_of_sbatch(environment: dict[str, str], options: dict[str, str],
                                                             variable: str) -> None:
    assert slurm_environment.sbatch_defaults(environment) == options
    assert slurm_environment.sbatch_variable("clusters", environment) == variable
    assert slurm_environment.without_sbatch_defaults(environment) == {}


def test_no_other_module_names_a_slurm_variable() -> None:
    home = Path(slurm_environment.__file__)
    sources = [path for path in [*(ROOT / "src").rglob("*.py"), *ROOT.glob("*.py")] if path != home]
    assert [str(path.relative_to(ROOT)) for path in sources
            if re.search(r"\bSLURMD?_", path.read_text())] == []
