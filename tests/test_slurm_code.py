"""On a real Slurm: edits while runs are queued are recorded, and do not reach a snapshot; and messages come."""
from __future__ import annotations

import sys

import pytest

import experiments
from src import run_folder
from tests.conftest import Slurm
from tests.submission.conftest import Project, project
from tests.submission.status.test_notify import for_slurm, received, titles, want_messages
from tests.test_slurm_ways import counts, script, wait_for

__all__ = ["project", "received", "script"]  # fixtures
pytest.importorskip("apprise")


def test_edited_code_does_not_reach_runs_and_messages_are_sent(slurm: Slurm, project: Project, script: str,
                                                               received: list[dict[str, str]]) -> None:
    project.write_spec("[8, 13]")
    project.spec.write_text(project.spec.read_text().replace("sults}", "sults, snapshot: true, notify: true}"))
    for_slurm(project)
    assert project.submit(project.spec, "-s", script, "-y", "--sbatch", "begin=now+3") == 0
    (project.folder / "train.py").write_text("raise SystemExit('edited')\n")
    wait_for(lambda: counts(project) == {"done": 2, "failed": 2})
    wait_for(lambda: len(received) == 2)
    assert {message["title"] for message in received} == {
        f"{project.batch.name}: a run failed", f"{project.batch.name} has ended"}
    log = next(project.runs()[0].glob("*.out")).read_text()
    assert "training 8" in log and "edited" not in log


def test_code_edited_while_queued_is_recorded(slurm: Slurm, project: Project, script: str,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    (project.folder / "own.py").write_text("raise SystemExit(1)\n")
    project.spec.write_text(f"job_details: {{name: own, output_dir: re sults, command: [{sys.executable}, own.py]}}\n"
                            "parameters: {a: [1, 2]}\n")
    assert project.submit(project.spec, "-s", script, "-y", "--sbatch", "begin=now+3") == 0
    (project.folder / "own.py").write_text("print('edited')\n")
    assert experiments.main(["rename", str(project.batch), "other"]) == 2  # its runs are pending
    assert "cannot rename this batch: 2 runs of it may be pending" in capsys.readouterr().err
    wait_for(lambda: counts(project) == {"done": 2})
    facts = [run_folder.read_facts(run) for run in project.runs()]
    assert [fact["code_changed"] for fact in facts] == [["own.py"]] * 2
    assert experiments.main(["status", str(project.batch)]) == 0
    assert "code changed since submission: own.py (2 runs)" in capsys.readouterr().out


@pytest.mark.parametrize("way", ["--array", "--workers"])
def test_failure_is_sent_while_the_array_or_the_worker_runs(slurm: Slurm, project: Project, way: str,
                                                            received: list[dict[str, str]]) -> None:
    want_messages(project, "[13, 18]")
    script = for_slurm(project)
    assert project.submit(project.spec, "-s", script, "-y", way, *["1"] * (way == "--workers")) == 0
    wait_for(lambda: titles(received) == ["a run failed"])
    (project.batch / "go").touch()
    wait_for(lambda: titles(received) == ["a run failed", "has ended"])
    assert "2 done, 2 failed" in received[1]["message"]
