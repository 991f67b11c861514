"""Room in a real queue, a batch that is stopped because its first runs all fail alike, and what doctor says of it."""
from __future__ import annotations

from pathlib import Path

import pytest

from src.submission.doctor import probes
from src.submission.slurm import circuit_breaker, queue_limits
from tests.conftest import ROOT, Slurm
from tests.submission.conftest import Project, project
from tests.test_slurm_ways import all_jobs, counts, script, wait_for

__all__ = ["project", "script"]  # the fixtures

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_limits, "PAUSES", (0.2,))
    monkeypatch.setattr(circuit_breaker, "_PAUSE", 0.2)
    monkeypatch.setattr(circuit_breaker, "_SLURM_PAUSE", 0.2)


@pytest.mark.parametrize("way", [[], ["--array"]], ids=" ".join)
def test_same_command_continues_after_max_queued(way: list[str], project: Project, script: str,
                                                 capsys: pytest.CaptureFixture[str], slurm: Slurm) -> None:
    project.write_spec("[15, 15.0, 1]")
    arguments = [project.spec, "-s", script, "-y", "--max-queued", "4", *way]
    assert project.submit(*arguments) == 3
    assert "4 of 6 Slurm jobs submitted" in (out := capsys.readouterr().out) or "1 of 2 Slurm jobs submitted" in out
    assert project.submit(*arguments) == 3
    assert "0 of " in capsys.readouterr().out
    slurm.run("scancel", *all_jobs(project))
    wait_for(lambda: not slurm.run("squeue", "--noheader"))
    assert project.submit(*arguments) == 0
    wait_for(lambda: counts(project).get("done") == 2)
    assert project.executed() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("way", [[], ["--array"]], ids=" ".join)
def test_wait_keeps_the_queue_within_max_queued(way: list[str], project: Project, script: str, slurm: Slurm,
                                                quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    queued: list[int | None] = []
    count = queue_limits.count_queued
    monkeypatch.setattr(queue_limits, "count_queued", lambda *arguments: queued.append(count(*arguments)) or queued[-1])
    project.write_spec("[1, 2, 3, 4]")
    assert project.submit(project.spec, "-s", script, "-y", "--wait", "--max-queued", "3", *way) == 0
    wait_for(lambda: counts(project) == {"done": 8})
    assert project.executed() == [1] * 8
    assert max(filter(None, queued)) == 3


def test_batch_whose_first_runs_fail_is_stopped(project: Project, script: str, quick: None,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text(project.spec.read_text().replace("[8, 32]", "13").replace("[0.1, 1]", "range(1, 9)"))
    arguments = ["-s", script, "-y", "--max-queued", "2", "--wait"]
    assert project.submit(project.spec, *arguments, "--max-failures", "4") == 2
    error = capsys.readouterr().err
    assert "the first 4 runs that ended all failed alike: RuntimeError: unlucky" in error
    assert "of 8 submitted, stopped at 00" in error
    wait_for(lambda: "running" not in counts(project) and "pending" not in counts(project))
    assert counts(project).get("new", 0) >= 2
    (project.batch / "mended").touch()
    assert project.submit("-r", project.batch, *arguments) == 0
    wait_for(lambda: counts(project) == {"done": 8})


def test_script_that_fails_before_python_trips_the_breaker(project: Project, quick: None, tmp_path: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    (project.folder / "s.sh").write_text("#!/bin/bash\n#SBATCH --mem=100\necho no conda here >&2; exit 2\n")
    project.write_spec("[1, 2, 3]")
    arguments = ["-y", "--max-queued", "1", "--wait", "--max-failures", "2"]
    assert project.submit(project.spec, "-s", "s.sh", *arguments) == 2
    assert "failed alike: no conda here" in capsys.readouterr().err


def test_breaker_stops_local_runs(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text(project.spec.read_text().replace("[8, 32]", "13").replace("[0.1, 1]", "range(1, 30)"))
    assert project.submit(project.spec, "--local", "-y", "--workers", "1") == 2
    assert "the first 5 runs that ended all failed alike" in capsys.readouterr().err
    assert counts(project).get("new", 0) > 5
    (project.batch / "mended").touch()
    assert project.submit("-r", project.batch, "--local", "--workers", "2", "-y") == 0
    assert project.executed() == [1] * 29


def test_doctor_validates_scripts_with_slurm(slurm: Slurm, tmp_path: Path) -> None:
    for name in ("submit_cpu.sh", "submit_2080.sh"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "submit_2080.sh").write_text((ROOT / "submit_2080.sh").read_text().replace(
        "--partition=", "--partition=no-such-"))
    findings = {finding.check: finding for finding in probes.examine(str(tmp_path))}
    assert findings["slurm"].result == "the controller answers" and findings["accounting"].result == "sacct answers"
    assert findings["submit_cpu.sh"].result == "Slurm would accept it"
    assert findings["submit_2080.sh"].verdict == "warning"
    assert "invalid partition" in findings["submit_2080.sh"].result
    assert "cpu-killable" in findings["submit_2080.sh"].result
