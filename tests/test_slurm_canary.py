"""Canaries on a real Slurm: the good half of a grid trains, the bad half is cancelled with its reason, and mended."""
from __future__ import annotations

import time
from pathlib import Path

import pytest

import experiments
from src.submission.slurm import submit
from src.submission.status.observe import observe
from tests.conftest import Slurm
from tests.submission.conftest import Project, project
from tests.submission.planning.test_canary import GRID, MODES, canaries, executions, fix, forget_submitters
from tests.test_slurm_ways import counts, script, wait_for

__all__ = ["project", "script"]  # the fixtures

pytestmark = pytest.mark.usefixtures("slurm")


@pytest.mark.parametrize("way", MODES, ids=" ".join)
def test_runs_of_a_failed_canary_are_cancelled_and_the_others_train(way: list[str], project: Project, script: str,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text(GRID)
    assert project.submit(project.spec, "-s", script, "-y", "--canary", *way) == 0
    wait_for(lambda: counts(project) == {"done": 4, "cancelled": 4})
    assert canaries(project) == ["done", "failed"]
    assert executions(project.batch) == [1] * 4
    capsys.readouterr()
    assert experiments.main(["status", str(project.batch)]) == 0
    assert capsys.readouterr().out.count("its canary failed: RuntimeError: unlucky\\nnumber; see ") == 5
    done = min(path.stat().st_mtime for path in (project.batch / "canary").glob("*/done"))
    assert all(claim.stat().st_mtime >= done for claim in project.batch.glob("*/claim-1"))
    fix(project)
    assert project.submit("-r", project.batch, "-y") == 0
    wait_for(lambda: counts(project) == {"done": 6, "diverged": 2})
    assert executions(project.batch) == [1] * 8
    assert executions(project.batch / "canary") == [1, 1]


def test_submission_continues_after_a_crash_and_a_purged_canary_job(project: Project, script: str, slurm: Slurm,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    words = (project.spec, "-s", script, "-y", "--canary")
    project.spec.write_text(GRID)

    class Crash(Exception):
        pass

    def crash(*_: object) -> None:
        raise Crash
    with monkeypatch.context() as patch:
        patch.setattr(submit, "submit_all", crash)
        with pytest.raises(Crash):
            project.submit(*words)
    forget_submitters(project)
    wait_for(lambda: sorted(canaries(project)) == ["done", "failed"])
    assert project.submit(*words) == 0  # whose canary is done; the others are held back
    wait_for(lambda: counts(project).get("done") == 4)
    assert executions(project.batch) == [1] * 4
    assert counts(project) == {"done": 4, "new": 4} or counts(project) == {"done": 4, "cancelled": 4}
    fix(project)
    assert project.submit("-r", project.batch, "-y") == 0
    wait_for(lambda: counts(project) == {"done": 6, "diverged": 2})
    assert executions(project.batch) == [1] * 8


def test_sacct_lists_jobs_that_never_started(slurm: Slurm, tmp_path: Path) -> None:
    """By one call, tasks of an array one by one; without canaries, as for --after."""
    from src.submission.slurm import client as commands

    start = time.time()
    bad = slurm.run("sbatch", "--parsable", "--output=/dev/null", "--wrap=exit 1")
    waits = ["sbatch", "--parsable", "--output=/dev/null", "--kill-on-invalid-dep=yes", f"--dependency=afterok:{bad}"]
    one, many = (slurm.run(*waits, *more, "--wrap=true") for more in ([], ["--array=0-3"]))
    wanted = {one, *(f"{many}_{task}" for task in range(4))}
    wait_for(lambda: wanted <= {job for job, row in commands.sacct(start).jobs.items() if row.state == "CANCELLED"})
    assert commands.sacct(start).jobs[bad].state == "FAILED"


def test_batch_after_a_failed_batch_is_cancelled(slurm: Slurm, project: Project, script: str) -> None:
    project.write_spec("13")
    assert project.submit(project.spec, "-s", script, "-y", "--sbatch", "begin=now+3") == 0
    first = project.batch
    project.spec.write_text(project.spec.read_text().replace("tiny", "second").replace("13", "8"))
    assert project.submit(project.spec, "-s", script, "-y", "--after", first) == 0
    second, = project.results.glob("*-second")
    wait_for(lambda: {run.state.name for run in observe([str(second)])[0].runs.values()} == {"cancelled"})
