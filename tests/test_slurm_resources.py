"""Resources instead of a script, on a real Slurm: what it is asked for, what is kept, and what a retry uses."""
from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.conftest import Slurm
from tests.submission.conftest import Project, project
from tests.test_slurm_ways import all_jobs, counts, wait_for

__all__ = ["project"]  # the fixture

JOB_SPEC = """\
job_details:
  name: tiny
  output_dir: re sults
  resources:
    {{gpus: 2, cpus_per_gpu: 1, mem: 100M, time: 5, constraint: tesla_v100|a5000, setup: ["PATH={path}:$PATH"]}}
parameters:
  batch_size: [1, 13]
"""


@pytest.mark.usefixtures("slurm")
def test_resources_make_a_script_that_a_retry_uses_too(project: Project, slurm: Slurm,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    project.spec.write_text(JOB_SPEC.format(path=Path(sys.executable).parent))
    assert project.submit(project.spec, "-d") == 0
    out = capsys.readouterr().out
    assert "    #SBATCH --constraint=tesla_v100|a5000\n" in out
    assert "--test-only" not in out
    assert not project.results.exists()
    assert project.submit(project.spec, "-y") == 0
    assert re.search(r"^starts     \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, says Slurm$", capsys.readouterr().out, re.M)
    wait_for(lambda: counts(project) == {"done": 1, "failed": 1})
    script, = (project.batch / "submissions").glob("*.sh")
    assert script.read_text() in out.replace("\n    ", "\n").replace("    #!", "#!")
    shown = slurm.run("scontrol", "show", "job", sorted(all_jobs(project))[0])
    assert re.search(r"NumCPUs=2 NumTasks=1 CPUs/Task=2", shown)
    assert f"Command={script} " in shown
    assert "gpu:2" in shown
    (project.batch / "mended").touch()
    assert project.submit("-r", project.batch, "-y") == 0
    wait_for(lambda: counts(project) == {"done": 2})
    assert project.executed() == [1, 1]
    assert len(list((project.batch / "submissions").glob("*.sh"))) == 1


@pytest.mark.usefixtures("slurm")
def test_a_batch_that_was_only_written_is_submitted_by_its_own_script(project: Project) -> None:
    project.spec.write_text(JOB_SPEC.format(path=Path(sys.executable).parent))
    assert project.submit(project.spec, "-y", "--no-submit") == 0
    project.batch.rename(project.results / "moved")
    assert project.submit("-r", project.batch, "-y", "--max-runs", "1") == 0
    wait_for(lambda: counts(project) == {"done": 1, "new": 1})
