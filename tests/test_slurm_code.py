"""On a real Slurm: runs start from a snapshot, whatever is edited while they are queued, and messages come."""
from __future__ import annotations

import os
import sys

import pytest

from tests.conftest import Slurm
from tests.submission.conftest import Project, project
from tests.submission.test_notify import received
from tests.test_slurm_ways import counts, script, wait_for

__all__ = ["project", "received", "script"]  # fixtures
pytest.importorskip("apprise")

# the look-after program of a project whose code lies elsewhere
EXPERIMENTS = """\
import os, runpy, sys
sys.path.insert(0, os.environ["GRIDIRON_TEST_ROOT"])
sys.argv[0] = "experiments.py"
runpy.run_path(os.environ["GRIDIRON_TEST_ROOT"] + "/experiments.py", run_name="__main__")
"""


def test_an_edit_changes_nothing_and_messages_come(slurm: Slurm, project: Project, script: str,
                                                   received: list[dict[str, str]]) -> None:
    project.write_spec("[8, 13]")
    project.spec.write_text(project.spec.read_text().replace("sults}", "sults, snapshot: true, notify: true}"))
    (project.folder / "activate.sh").write_text(f"PATH={os.path.dirname(sys.executable)}:$PATH\n")
    (project.folder / "experiments.py").write_text(EXPERIMENTS)
    assert project.submit(project.spec, "-s", script, "-y", "--sbatch", "begin=now+3") == 0
    (project.folder / "train.py").write_text("raise SystemExit('edited')\n")
    wait_for(lambda: counts(project) == {"done": 2, "failed": 2})
    wait_for(lambda: len(received) == 2)
    assert {message["title"] for message in received} == {
        f"{project.batch.name}: a run failed", f"{project.batch.name} has ended"}
    log = next(project.runs()[0].glob("*.out")).read_text()
    assert "training 8" in log and "edited" not in log
