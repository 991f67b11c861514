"""--right-size on a real Slurm: what sbatch got, for new batches, extensions and retries."""
from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from src.submission.batch import journal
from tests.conftest import Slurm
from tests.submission.conftest import Project, project
from tests.test_slurm_ways import wait_for

__all__ = ["project"]  # the fixture

SCRIPT = """#!/bin/bash
#SBATCH --time=1:00:00 --requeue --open-mode=append --cpus-per-task=1 --mem=1200 --signal=B:USR1@180
exec {python} train.py "$@"
"""
JOB_SPEC = """\
job_details: {{name: {name}, output_dir: re sults}}
parameters: {{batch_size: [8, 13], base_lr: {rates}}}
"""


@pytest.mark.usefixtures("slurm")
def test_jobs_get_what_earlier_runs_needed_and_no_more(project: Project, slurm: Slurm,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    (project.folder / "s.sh").write_text(SCRIPT.format(python=sys.executable))

    def submit(name: str, rates: str, *options: str) -> list[tuple[str, ...]]:
        """Submit a grid. Return time limit and memory of the job of each of its runs."""
        project.spec.write_text(JOB_SPEC.format(name=name, rates=rates))
        assert project.submit(project.spec, "-s", "s.sh", "-y", *options) == 0
        return requests(name)

    def requests(name: str) -> list[tuple[str, ...]]:
        tickets = journal.read_history(str(batch(name))).tickets
        shown = [slurm.run("scontrol", "show", "job", ticket.slurm_jobs[-1]) for _, ticket in sorted(tickets.items())]
        return [tuple(re.findall(r"(?:TimeLimit|MinMemoryNode)=(\S+)", text)) for text in shown]

    def batch(name: str) -> Path:
        return next(path for path in project.results.iterdir() if path.name.endswith(f"-{name}"))

    def done(name: str) -> int:
        return len(list(batch(name).glob("00*/done")))

    whole, small = ("01:00:00", "1200M"), ("00:05:00", "500M")
    project.spec.write_text(JOB_SPEC.format(name="first", rates="1"))
    assert project.submit(project.spec, "-s", "s.sh", "-y", "--no-submit") == 0
    (batch("first") / "mended").touch()  # batch size 13 fails otherwise
    assert project.submit("-r", batch("first"), "-y", "--right-size") == 0
    assert requests("first") == [whole, whole]
    wait_for(lambda: done("first") == 2)

    assert submit("next", "1", "--right-size") == [small, small]
    assert "earlier runs took at most" in capsys.readouterr().out
    assert submit("next", "[1, 2]", "--extend", "--right-size", "--array") == [small] * 4
    wait_for(lambda: done("next") == 2)
    (batch("next") / "mended").touch()
    wait_for(lambda: project.submit("-r", batch("next"), "-y") == 0 and done("next") == 4)
    assert requests("next") == [small] * 4  # a retry requests them anew
    plans = journal.read_history(str(batch("next"))).recorded_plans
    assert all("sizes" in plan for plan in plans)
